"""One answer as plain data, which a worker process can send and a figure can be drawn from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dflash_sim.profiles.errors import DflashSimError, InfeasibleError
from dflash_sim.profiles.sheets import PriceRange
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.row import to_row
from dflash_sim.studies.ask.prices import own_price
from dflash_sim.studies.explain.explain import explain, to_json
from dflash_sim.studies.predict.memory import memory_row
from dflash_sim.studies.show.launch import launch_command
from dflash_sim.studies.show.titles import method_title, phase_title, title
from dflash_sim.ui.meanings import PHASES
from dflash_sim.ui.state import prices_of, scenario_of

SHORT, WHOLE = "short", "whole"  # one run without intervals, or as the command line answers


@dataclass(frozen=True)
class Answer:
    """A prediction.

    Parameters
    ----------
    quality
        ``short`` or ``whole``.
    row
        The row of the result schema, and ``plain`` that of plain decoding where it was asked.
    memory
        How the memory of a GPU is divided.
    names
        What pages call the phases, by field.
    launch
        The command that starts such a server.
    """

    quality: str
    row: Mapping[str, Any]
    plain: Mapping[str, Any] | None
    memory: Mapping[str, Any]
    title: str
    method: str
    names: Mapping[str, str]
    launch: str
    block: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the answer says against itself."""
        return tuple(self.row["warnings"])


@dataclass(frozen=True)
class Refusal:
    """No answer, and why; ``fits`` is False where the server has no room for it."""

    why: str
    fits: bool = True


@dataclass(frozen=True)
class Reasons:
    """From plain decoding to the answer: each rung's name, speed [token/s], factor and words."""

    title: str
    rungs: tuple[Mapping[str, Any], ...]
    elasticities: tuple[Mapping[str, Any], ...] = field(default=())
    open_loop: bool = False


def answered(
    fields: Mapping[str, Any], quality: str, *, baseline: bool = False
) -> Answer | Refusal:
    """Predict the scenario of ``fields``; an error that a user can cause is a refusal.

    Parameters
    ----------
    baseline
        Also plain decoding.
    """
    whole = quality == WHOLE
    asked = dict(fields) if whole else {**fields, "runs": 1}
    try:
        prices = prices_of(fields)
        found = predict(scenario_of(asked), with_interval=whole, with_baseline=baseline)
    except DflashSimError as error:
        return Refusal(str(error), fits=not isinstance(error, InfeasibleError))
    return _plainly(found, quality, own_price(found.setup.device, prices))


def reasons(fields: Mapping[str, Any]) -> Reasons | Refusal:
    """Explain the scenario of ``fields``."""
    try:
        scenario = scenario_of(fields)
        data = to_json(explain(scenario))
    except DflashSimError as error:
        return Refusal(str(error), fits=not isinstance(error, InfeasibleError))
    return Reasons(
        title=str(data["title"]),
        rungs=tuple(data["waterfall"]),
        elasticities=tuple(data["elasticities"]),
        open_loop=scenario.rate is not None,
    )


def _plainly(result: Result, quality: str, price: PriceRange | None) -> Answer:
    setup = result.setup
    phases = {name: phase_title(phase, setup) for name, phase, _ in PHASES}
    return Answer(
        quality=quality,
        row=to_row(result, price=price),
        plain=None if result.baseline is None else to_row(result.baseline, price=price),
        memory=memory_row(setup),
        title=title(result),
        method=method_title(setup),
        names=phases,
        launch=launch_command(setup),
        block=setup.block,
    )
