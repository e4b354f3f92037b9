"""One phase of a step on its own: every op with where its price is from, or the host's stages."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.sheets import Quantity
from dflash_sim.profiles.units import MS, US
from dflash_sim.simulator.cost.cycle import PHASES
from dflash_sim.simulator.cost.origin import CONSTANT
from dflash_sim.simulator.engine.host_stages import Stage
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.simulator.slopes import requests_of
from dflash_sim.simulator.trial import run_engine
from dflash_sim.studies.explain.step_anatomy import OpTime, anatomy, typical_step
from dflash_sim.studies.show.figures import number, percent
from dflash_sim.studies.show.narrow_table import FittedTable
from dflash_sim.studies.show.styles import STRONG
from dflash_sim.studies.show.titles import phase_title

HOST = "host"
NAMES = (*PHASES, HOST)
_SHOWN_AS = {  # pages' words, where they are not the name
    "decode": "verify",
    "kv-injection": "materialise",
    "draft-extend": "materialise",
    "state-commit": "commit",
    "outside-graphs": "other",
}


@dataclass(frozen=True)
class PhaseDetail:
    """A phase of the typical step of a scenario.

    Parameters
    ----------
    name
        One of :data:`NAMES`.
    requests, ctx
        Running requests of the step, and cached tokens of each.
    seconds
        Time of the phase [s].
    ops
        What runs on the GPU, in order; empty for the host.
    stages
        What the scheduler thread does in a cycle, hidden or not; empty for a phase of the GPU.
    title
        The word of pages for it, such as ``KV injection``.
    """

    name: str
    requests: int
    ctx: float
    seconds: float
    ops: tuple[OpTime, ...] = ()
    stages: tuple[Stage, ...] = ()
    title: str = HOST


def phase_detail(scenario: Scenario, name: str) -> PhaseDetail:
    """Return the phase ``name`` of the step that the scenario takes most often.

    A name may also be the word that pages use, such as ``KV injection``.

    Raises
    ------
    UsageError
        There is no phase of that name, or this scenario's step has none.
    """
    shown = name.lower().replace(" ", "-").replace("_", "-")
    name = _SHOWN_AS.get(shown, name)
    if name not in NAMES:
        raise unknown(kind="phase", value=name, allowed=NAMES)
    setup = resolve(scenario)
    requests = requests_of(setup, 0)
    record = run_engine(setup, requests.workload, requests.draws(setup.expectation))
    batch, ctx = typical_step(record)
    if name == HOST:
        stages = host_stages_of(setup)
        seconds = sum(stage.seconds(batch) for stage in stages)
        return PhaseDetail(name, batch, ctx, seconds, stages=stages)
    step = anatomy(setup, requests=batch, ctx=ctx)
    found = {p.name: p for p in step.phases}
    if name not in found:
        have = ", ".join([*found, HOST])
        msg = f"a step of method {scenario.method} has no phase '{name}'; it has {have}."
        raise UsageError(msg)
    ops = tuple(op for op in step.ops if op.phase == name)
    return PhaseDetail(name, batch, ctx, found[name].seconds, ops, title=phase_title(name, setup))


def host_stages_of(setup: Setup) -> tuple[Stage, ...]:
    """The host stages of a decode cycle, with the constants behind them."""
    v1 = setup.scenario.engine_mode == "v1" and setup.speculative
    return setup.host.stages(v1=v1, sheet=setup.engine)


def phase_page(detail: PhaseDetail) -> RenderableType:
    """The phase as a page of terminal text."""
    requests = f"{detail.requests} request" + ("s" if detail.requests > 1 else "")
    size = f"{requests} at {detail.ctx:,.0f} cached tokens each"
    head = Text(f"{detail.title}: {number(detail.seconds / MS)} ms of a step of {size}", STRONG)
    if detail.name == HOST:
        return Group(head, Text(), _stages(detail))
    told = dict.fromkeys(said[0] for op in detail.ops for said in CONSTANT.finditer(op.origin))
    constants = Text(f"constants: {', '.join(told)}" if told else "", style="dim")
    return Group(head, Text(), _ops(detail), Text(), constants)


def _ops(detail: PhaseDetail) -> FittedTable:
    heads = ("op", "times", "ms", "share", "bound by", "rests on", "from")
    words = frozenset(("op", "bound by", "rests on", "from"))
    table = FittedTable(heads, words, spare=("bound by", "share", "times"), folded="from")
    for op in detail.ops:
        times = str(op.launches) if op.launches else ""
        share = percent(op.seconds / detail.seconds)
        figures = (times, number(op.seconds / MS), share, op.bound, op.evidence)
        origin = CONSTANT.sub(r"\1", op.origin)  # with values below the table, once
        table.add(op.op, *figures, Text(origin, style="dim"))
    return table


def stage_table(stages: tuple[Stage, ...], requests: int) -> FittedTable:
    """The host stages of a cycle of ``requests``, with evidence and source."""
    heads = ("stage", "us", "per request", "rests on", "source")
    words = frozenset(("stage", "rests on", "source"))
    table = FittedTable(heads, words, spare=("per request",), folded="source")
    for stage in stages:
        each = number(stage.per_request_s / US) if stage.per_request_s else ""
        rests = " and ".join(stage.evidence)
        us = number(stage.seconds(requests) / US)
        table.add(stage.name, us, each, rests, Text("; ".join(stage.sources), style="dim"))
    total = sum(stage.seconds(requests) for stage in stages)
    factors = {name: q.value for s in stages for name, q in _factors(s)}
    said = " and ".join(f"{name} {value:.3g}" for name, value in factors.items())
    stretched = Text(f"each with {said}" if said else "", style="dim")
    table.add("all together", Text(number(total / US), style=STRONG), "", "", stretched)
    return table


def _factors(stage: Stage) -> Iterator[tuple[str, Quantity]]:
    """The constants without a unit, which stretch the time of every stage."""
    named = zip(stage.constants, stage.quantities, strict=True)
    return ((name, q) for name, q in named if q.unit == "1")


def _stages(detail: PhaseDetail) -> FittedTable:
    return stage_table(detail.stages, detail.requests)


def phase_rows(detail: PhaseDetail) -> Iterator[dict[str, Any]]:
    """One flat row an op or stage, for files."""
    step = {"phase": detail.name, "requests": detail.requests, "ctx": detail.ctx}
    for op in detail.ops:
        yield step | {k: v for k, v in asdict(op).items() if k != "phase"}
    for stage in detail.stages:
        yield step | {
            "op": stage.name,
            "seconds": stage.seconds(detail.requests),
            "per_request_s": stage.per_request_s,
            "evidence": " and ".join(stage.evidence),
            "origin": "; ".join(stage.sources),
        }
