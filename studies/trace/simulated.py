"""The timeline of simulated steps: stages from the event engine, phases and collectives inside."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.cost.cycle import PHASES, Phase
from dflash_sim.simulator.cost.ops import Collective
from dflash_sim.simulator.cost.parts import COMM, EVIDENCE, by_evidence, seconds_of
from dflash_sim.simulator.cost.step_table import StepModel
from dflash_sim.simulator.engine.records import Run
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.slopes import requests_of
from dflash_sim.simulator.trial import run_engine
from dflash_sim.studies.show.titles import title
from dflash_sim.studies.trace.perfetto import MOST_EVENTS, Interval, Timeline, trace_json

RUN_ORDER = ("draft", "verify", "other", "commit", "materialise")  # of PHASES within a cycle
_STAGES = 16  # events of an iteration besides collectives, at most
_SHARE_DECIMALS = 4
_Collectives: TypeAlias = tuple[str, int, float]  # kind, launches, seconds of all of them


@dataclass(frozen=True)
class Trace:
    """A window of a simulated run.

    Parameters
    ----------
    record
        The run as far as it was simulated.
    first
        Number of the window's first iteration.
    """

    result: Result
    record: Run
    timeline: Timeline
    first: int

    def to_json(self) -> str:
        """Text for the viewers."""
        result = self.result
        about = {
            "program": "dflash-sim",
            "kind": "simulated",
            "scenario": result.scenario.model_dump(exclude_none=True),
            "scenario_hash": result.scenario.hash,
            "collectives": "drawn evenly over their phase",
            "source_share": {k: round(v, _SHARE_DECIMALS) for k, v in result.evidence.items()},
        }
        return trace_json([self.timeline], about)


def simulated_trace(scenario: Scenario, *, iterations: int, skip: int = 0) -> Trace:
    """Iterations ``skip`` to ``skip + iterations`` of the first run of a scenario.

    Raises
    ------
    UsageError
        The window holds more events than a viewer takes, or begins after the run.
    """
    once = scenario.model_copy(update={"runs": 1})
    result = predict(once, with_baseline=False, with_interval=False)
    setup = result.setup
    batch = min(scenario.conc or 1, setup.limits.max_running_requests)
    _refuse_large(setup.step, batch, iterations)
    raw, window = Timeline(f"{title(result)} (simulated)"), range(skip, skip + iterations)

    def note(lane: str, name: str, start_s: float, end_s: float, iteration: int) -> None:
        if iteration in window:
            raw.interval(lane, name, start_s, end_s, iteration)

    requests = requests_of(setup, 0)
    record = run_engine(
        setup,
        requests.workload,
        requests.draws(result.expectation),
        on_interval=note,
        on_count=raw.count,
        stop_after=window.stop + 1,
    )
    if skip >= len(record.kind):
        msg = f"--skip {skip}: the run has {len(record.kind):,} iterations. Skip fewer."
        raise UsageError(msg)
    inner = [part for i in raw.intervals for part in _parts(i, record, setup.step)]
    start_s = min(i.start_s for i in inner)
    end_s = max(i.end_s for i in inner)
    samples = [s for s in raw.samples if start_s <= s.at_s <= end_s]
    return Trace(result, record, replace(raw, intervals=inner, samples=samples), skip)


def _refuse_large(step: StepModel, batch: int, iterations: int) -> None:
    phases = step.cycle.decode(requests=batch, ctx=0)
    each = _STAGES + sum(count for p in phases for _, count, _ in _collectives(p, step))
    if iterations * each > MOST_EVENTS:
        msg = (
            f"{iterations:,} iterations are about {iterations * each:,} events; at most "
            f"{MOST_EVENTS:,} open well in a browser. Try --iterations {MOST_EVENTS // each}."
        )
        raise UsageError(msg)


def _parts(i: Interval, record: Run, step: StepModel) -> Iterator[Interval]:
    """An interval, and on the GPU the phases and collectives inside it."""
    if i.lane != "gpu" or i.iteration >= len(record.kind):
        yield i
        return
    batch, kv = int(record.batch[i.iteration]), int(record.kv_tokens[i.iteration])
    yield replace(i, args={"requests": batch, "tokens": kv})
    if i.name == "prefill":
        prefix = float(record.prefix[i.iteration])
        priced = step.prefill_parts(requests=batch, tokens=kv, prefix=prefix)
        phases = step.cycle.prefill(requests=batch, seq=max(1, kv // batch), prefix=prefix)
        found = [c for phase in phases for c in _collectives(phase, step)]
        yield from _spread(i, found, float(priced[COMM]))
        return
    inside = i
    for name in RUN_ORDER if i.name == "decode" else (i.name,):
        spent, found = _phase(step, batch, name, kv / batch)
        seconds = float(seconds_of(spent))
        if not seconds:
            continue
        end_s = inside.start_s + seconds
        inside = replace(inside, name=name, end_s=end_s, args=_shares(spent))
        if i.name == "decode":
            yield inside
        yield from _spread(inside, found, float(spent[COMM]))
        inside = replace(inside, start_s=end_s)


def _phase(
    step: StepModel, batch: int, name: str, ctx: float
) -> tuple[np.ndarray, list[_Collectives]]:
    """Seconds of a phase, as in the step model's tables, and its collectives."""
    table = step.table(batch)
    parts = table.parts[PHASES.index(name)]
    spent = np.array([np.interp(ctx, table.ctx, y) for y in parts])
    if not spent[COMM]:
        return spent, []
    phases = step.cycle.decode(requests=table.padded, ctx=0)
    return spent, [c for p in phases if p.name == name for c in _collectives(p, step)]


def _shares(spent: np.ndarray) -> dict[str, float]:
    """Return the shares of evidence that a phase rests on."""
    by = dict(zip(EVIDENCE, by_evidence(spent) / seconds_of(spent), strict=True))
    return {name: round(float(x), _SHARE_DECIMALS) for name, x in by.items() if x}


def _collectives(phase: Phase, step: StepModel) -> Iterator[_Collectives]:
    for call in phase.calls:
        if isinstance(call.op, Collective):
            yield call.op.kind, call.count, step.cost.calls([call]).comm_s


def _spread(inside: Interval, found: list[_Collectives], comm_s: float) -> Iterator[Interval]:
    """Collectives of ``comm_s`` in all, evenly over an interval, gathers last."""
    total_s = sum(seconds for *_, seconds in found)
    if not total_s:
        return
    between_s = (inside.end_s - inside.start_s - comm_s) / sum(count for _, count, _ in found)
    at = inside.start_s
    for kind, count, seconds in sorted(found, key=lambda c: c[0] != "all_reduce"):
        each_s = seconds / count * comm_s / total_s
        for _ in range(count):
            at += between_s
            yield Interval("comm", kind, at, at + each_s, inside.iteration)
            at += each_s
