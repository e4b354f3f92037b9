"""Many scenarios answered: one after the other, or by several processes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

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
WORTH_A_PROCESS = 4  # scenarios: one takes about as long as a process does to begin


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


Asked: TypeAlias = tuple[Scenario, Setup | DflashSimError]


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
    jobs: int = 1,
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
        Where to keep them, for calls that follow; with one job.
    jobs
        Processes at most; scenarios with the same baseline are answered by one of them.
    prices
        What the asker pays, by GPU [USD/h].
    on_run
        Called with the number of each finished run; with several jobs as their results arrive.

    Raises
    ------
    UsageError
        At once, before any run: a scenario is malformed. What does not fit, or what nothing is
        known about, becomes an answer.
    """
    files: Looks = {}  # read once for all; no look is open while an answer is used
    with one_look(files):
        asked = [(scenario, _setup(scenario)) for scenario in scenarios]
    how = partial(
        _answered,
        simulator=simulator,
        with_baseline=with_baseline,
        with_interval=with_interval,
        prices=prices or {},
    )
    parts = _parts(asked) if jobs > 1 else []
    if len(parts) > 1:
        yield from _by_several(asked, parts, how, jobs=min(jobs, len(parts)), on_run=on_run or int)
    else:
        known = {} if baselines is None else baselines
        yield from how(asked, files=files, baselines=known, on_run=on_run)


def worthwhile(scenarios: int, cores: int) -> int:
    """How many processes answer so many scenarios sooner than one would, on so many cores."""
    return max(1, min(cores, scenarios // WORTH_A_PROCESS))


def _answered(
    asked: Iterable[Asked],
    *,
    simulator: str,
    with_baseline: bool,
    with_interval: bool,
    prices: Mapping[str, float],
    files: Looks,
    baselines: MutableMapping[str, Result],
    on_run: Callable[[int], None] | None = None,
) -> Iterator[Answer]:
    for scenario, setup in asked:
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
        yield Answer(scenario, result, own_price(setup.device, prices))


def _parts(asked: Sequence[Asked]) -> list[list[int]]:
    """Numbers of the scenarios that have an answer, those with one baseline together."""
    parts: dict[str, list[int]] = {}
    for number, (_, setup) in enumerate(asked):
        if isinstance(setup, Setup):
            parts.setdefault(_baseline_key(setup), []).append(number)
    return list(parts.values())


def _by_several(
    asked: Sequence[Asked],
    parts: Sequence[Sequence[int]],
    how: Callable[..., Iterator[Answer]],
    *,
    jobs: int,
    on_run: Callable[[int], object],
) -> Iterator[Answer]:
    from dflash_sim.jobs.pool import Pool  # one scenario begins no process

    found: dict[int, Answer] = {}
    with Pool(jobs) as pool:
        tasks = [(how, [asked[number] for number in part]) for part in parts]
        for part, answers_of_part in zip(parts, pool.map(_part, tasks), strict=True):
            found.update(zip(part, answers_of_part, strict=True))
            for run in range(sum(asked[number][0].runs for number in part)):
                on_run(run)
    for number, (scenario, setup) in enumerate(asked):
        if isinstance(setup, Setup):
            yield found[number]
        else:
            yield Answer(scenario, setup)


def _part(how: Callable[..., Iterator[Answer]], asked: Sequence[Asked]) -> list[Answer]:
    return list(how(asked, files={}, baselines={}))


def _setup(scenario: Scenario) -> Setup | DflashSimError:
    try:
        return resolve(scenario)
    except (InfeasibleError, MissingProfileError) as error:
        return error


def _baseline_key(setup: Setup) -> str:
    fields = setup.scenario.model_dump(exclude={*OF_SPECULATION, "tp", "num_gpus"})
    return f"{setup.tp} {sorted(fields.items())}"
