"""Many scenarios answered one after the other."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

from dflash_sim.profiles.errors import (
    DflashSimError,
    InfeasibleError,
    MissingProfileError,
    unknown,
)
from dflash_sim.profiles.one_look import Looks, one_look
from dflash_sim.profiles.sheets import PriceRange
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.scenario import OF_SPECULATION, Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.studies.ask.prices import own_price

SIMULATORS = ("auto", "leap", "event")
INTERVALS = ("90", "none")


def check_options(simulator: str, interval: str = INTERVALS[0]) -> None:
    """Refuse a simulator or an interval that there is not.

    Raises
    ------
    UsageError
        It names those that there are.
    """
    if simulator not in SIMULATORS:
        raise unknown(kind="--simulator", value=simulator, allowed=SIMULATORS)
    if interval not in INTERVALS:
        raise unknown(kind="--interval", value=interval, allowed=INTERVALS)


@dataclass(frozen=True)
class Answer:
    """A scenario with its result, or with the reason why there is none.

    Parameters
    ----------
    price
        What the asker pays for such a GPU; None where its sheet says what is paid.
    """

    scenario: Scenario
    outcome: Result | DflashSimError
    price: PriceRange | None = None

    @property
    def result(self) -> Result | None:
        return self.outcome if isinstance(self.outcome, Result) else None

    @property
    def error(self) -> DflashSimError | None:
        return None if isinstance(self.outcome, Result) else self.outcome


def answers(
    scenarios: Sequence[Scenario],
    *,
    simulator: str = "auto",
    with_baseline: bool = True,
    with_interval: bool = True,
    baselines: MutableMapping[str, Result] | None = None,
    prices: Mapping[str, float] | None = None,
    on_run: Callable[[int], None] | None = None,
) -> Iterator[Answer]:
    """Answer scenarios in order; each plain-decoding baseline is predicted once.

    Parameters
    ----------
    with_interval
        Also the 90 % intervals.
    simulator
        ``auto``, ``leap`` or ``event``.
    baselines
        Where to keep them, for calls that follow.
    prices
        What the asker pays, by GPU [USD/h].
    on_run
        Called with the number of each finished run.

    Raises
    ------
    UsageError
        At once, before any run: a scenario is malformed. What does not fit, or what nothing is
        known about, becomes an answer.
    """
    files: Looks = {}  # read once for all; no look is open while an answer is used
    with one_look(files):
        setups = [_setup(scenario) for scenario in scenarios]
    baselines = {} if baselines is None else baselines
    for scenario, setup in zip(scenarios, setups, strict=True):
        if not isinstance(setup, Setup):
            yield Answer(scenario, setup)
            continue
        key = _baseline_key(setup)
        try:
            with one_look(files):
                result = predict(
                    scenario,
                    simulator=simulator,
                    with_baseline=with_baseline,
                    with_interval=with_interval,
                    baseline=baselines.get(key) if with_baseline and setup.speculative else None,
                    setup=setup,
                    on_run=on_run,
                )
        except (InfeasibleError, MissingProfileError) as error:
            yield Answer(scenario, error)
            continue
        if not setup.speculative:
            if scenario.hash == scenario.without_speculation().hash:
                baselines.setdefault(key, result)
        elif result.baseline is not None:
            baselines[key] = result.baseline
        yield Answer(scenario, result, own_price(setup.device, prices or {}))


def _setup(scenario: Scenario) -> Setup | DflashSimError:
    try:
        return resolve(scenario)
    except (InfeasibleError, MissingProfileError) as error:
        return error


def _baseline_key(setup: Setup) -> str:
    fields = setup.scenario.model_dump(exclude={*OF_SPECULATION, "tp", "num_gpus"})
    return f"{setup.tp} {sorted(fields.items())}"
