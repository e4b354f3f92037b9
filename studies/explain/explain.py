"""Why a prediction is what it is: how it came about, where its time goes, what would change it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from dflash_sim.jobs.meanwhile import apart, meanwhile
from dflash_sim.profiles.sheets import Quantity
from dflash_sim.simulator.cost.parts import EVIDENCE
from dflash_sim.simulator.engine.host_stages import Stage
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.row import DECIMALS
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup
from dflash_sim.simulator.whatif import host_stages
from dflash_sim.studies.explain.break_even import BreakEven, break_even
from dflash_sim.studies.explain.burden import Burden, burden
from dflash_sim.studies.explain.elasticities import Elasticity, elasticities
from dflash_sim.studies.explain.phase import host_stages_of
from dflash_sim.studies.explain.replay import Replay
from dflash_sim.studies.explain.step_anatomy import Anatomy, anatomy, typical_step
from dflash_sim.studies.explain.waterfall import Rung, waterfall
from dflash_sim.studies.show.titles import published_note, title

SCHEMA_VERSION = 1
_DOUBTS = 3  # constants whose sources are told: those whose errors move the answer most
# Replays of an explanation: per run of the scenario, and once.
_RUNS_EACH, _RUNS_ONCE = 11, 75


@dataclass(frozen=True)
class Ground:
    """A part of the answer, and the evidence and source that it rests on."""

    part: str
    evidence: str
    source: str


@dataclass(frozen=True)
class Explanation:
    """A prediction with its reasons.

    Parameters
    ----------
    rungs
        From plain decoding to the answer; none without speculation.
    speedup
        Speed-up in what ``rungs`` follow: throughput, or in an open loop the speed of one
        request.
    break_even
        None without speculation.
    stages
        Stages of the scheduler thread in a decode cycle, hidden or not.
    burdens
        What the cycle takes beyond a plain step, of one request and of as many as ``step`` has;
        none without speculation.
    """

    result: Result
    speedup: float | None
    rungs: tuple[Rung, ...]
    step: Anatomy
    elasticities: tuple[Elasticity, ...]
    break_even: BreakEven | None
    grounds: tuple[Ground, ...]
    stages: tuple[Stage, ...] = ()
    burdens: tuple[Burden, ...] = ()


def simulations(scenario: Scenario) -> int:
    """About how many runs an explanation takes."""
    return _RUNS_EACH * scenario.runs + _RUNS_ONCE


def explain(scenario: Scenario, *, on_run: Callable[[int], None] | None = None) -> Explanation:
    """Predict a scenario and say why.

    Parameters
    ----------
    on_run
        Called with the number of each finished run.
    """
    result = predict(scenario, keep_runs=True, on_run=on_run)
    replay = Replay(result.setup, lambda run: on_run(run) if on_run and not apart() else None)
    for known in (result, result.baseline):
        if known is not None and known.setup.policy is None:
            replay.know(known)
    rungs: tuple[Rung, ...] = ()
    speedup = even = None
    if result.baseline is None:
        found = elasticities(result, replay)
    else:
        with meanwhile(lambda: waterfall(result, replay)) as the_rungs:
            speedup = replay.of(result) / replay.of(result.baseline)
            even = break_even(result, replay)
            found = elasticities(result, replay)
            rungs = the_rungs()
    step = _step(result)
    return Explanation(
        result=result,
        speedup=speedup,
        rungs=rungs,
        step=step,
        elasticities=found,
        break_even=even,
        grounds=tuple(_grounds(result, found)),
        stages=host_stages_of(result.setup),
        burdens=tuple(_burdens(result, step)),
    )


def _burdens(result: Result, step: Anatomy) -> Iterator[Burden]:
    if result.baseline is None:
        return
    for requests in dict.fromkeys((1, step.requests)):
        own = requests == step.requests  # whose exposed host time is known
        yield burden(result, requests=requests, ctx=step.ctx, host=own)


def _step(result: Result) -> Anatomy:
    batch, ctx = typical_step(result.runs[0])
    return anatomy(result.setup, requests=batch, ctx=ctx)


def _grounds(result: Result, found: tuple[Elasticity, ...]) -> Iterator[Ground]:
    setup, s = result.setup, result.scenario
    kind = "published" if result.published else "unconfirmed"
    yield Ground("throughput", kind, published_note(result))
    if result.expectation is not None:
        e = result.expectation
        yield Ground("accept length", e.evidence, e.source)
    yield _operators(setup)
    yield _quoted("memory bandwidth", setup.device.quantities["mem_bw"])
    yield _quoted("compute rate", setup.device.quantities["bf16"])
    if setup.tp > 1:
        yield _quoted("link bandwidth", setup.device.quantities["link"])
    if (dataset := setup.dataset) is not None:
        yield _quoted("answer lengths", dataset.osl[s.thinking].mean)
        yield _quoted("prompt lengths", dataset.isl[0].mean)
    yield _host(setup)
    constants = [x for x in found if x.name in setup.engine.constants]
    fit = setup.calibration
    fitted = {p.key for p in fit.parameters if p.kind == "constant"} if fit else set()
    for x in sorted(constants, key=lambda x: -x.effect)[:_DOUBTS]:
        rows = f"fit to {len(fit.rows)} measured rows; before it: " if fit else ""
        yield Ground(x.name, x.evidence, f"{rows if x.name in fitted else ''}{x.source}")


def _quoted(part: str, quantity: Quantity) -> Ground:
    return Ground(part, quantity.evidence, quantity.source)


def _operators(setup: Setup) -> Ground:
    t, own = setup.tables, setup.measured
    if own is not None:
        source = f"{len(own.ops)} times of this machine's own kernels in {own.path.name}"
        return Ground("operator times", "measured", f"{source}, {own.made['on']}; {own.digest}")
    if t is None:
        return Ground("operator times", "roofline", f"no table for {setup.device.name}")
    cells = sum(f["cells"] for f in t.meta.values() if isinstance(f, Mapping) and "cells" in f)
    lent = f", scaled from {t.device}" if t.device != setup.device.name else ""
    source = f"{t.meta['origin']}, {cells:,} times of {t.device}{lent}; digest {t.digest}"
    return Ground("operator times", "fitted" if lent else "measured", source)


def _host(setup: Setup) -> Ground:
    """All stages of the scheduler at once; their sources differ, their evidence seldom."""
    stages = [setup.engine.constants[name] for name in host_stages(setup.engine)]
    kinds = sorted({q.evidence for q in stages})
    return Ground("host stages", " and ".join(kinds), f"{setup.engine.title}, {len(stages)} stages")


def to_json(e: Explanation) -> dict[str, Any]:
    """The explanation as one JSON object; floats rounded, SI units and tokens per second."""
    r = e.result
    shared = {"measured": 0.0, "fitted": 0.0, "roofline": 0.0, "assumed": 0.0}
    phases = [
        {
            "phase": p.name,
            "seconds": p.seconds,
            "share": p.seconds / e.step.seconds,
            "comm_s": p.comm_s,
            "source_share": shared | dict(zip(EVIDENCE, _shares(p.by_evidence), strict=True)),
        }
        for p in e.step.phases
    ]
    found = {
        "schema_version": SCHEMA_VERSION,
        "kind": "explanation",
        "title": title(r),
        "scenario_hash": r.scenario.hash,
        "scenario": r.scenario.model_dump(),
        "output_throughput": r.values["output_throughput"],
        "baseline_output_throughput": r.baseline.values["output_throughput"]
        if r.baseline
        else None,
        "speedup": e.speedup,
        "speedup_of": "speed of one request" if r.scenario.rate else "throughput",
        "waterfall": [asdict(rung) for rung in e.rungs],
        "step": {
            "requests": e.step.requests,
            "ctx": e.step.ctx,
            "seconds": e.step.seconds,
            "phases": phases,
            "ops": [asdict(op) for op in e.step.ops],
        },
        "host_stages": [
            {
                "stage": stage.name,
                "seconds": stage.seconds(e.step.requests),
                "per_request_s": stage.per_request_s,
                "evidence": list(stage.evidence),
                "sources": list(stage.sources),
            }
            for stage in e.stages
        ],
        "elasticities": [asdict(x) | {"effect": x.effect} for x in e.elasticities],
        "break_even": asdict(e.break_even) if e.break_even else None,
        "burdens": [asdict(b) | {"steps": b.steps} for b in e.burdens],
        "evidence": [asdict(g) for g in e.grounds],
        "source_share": r.evidence,
        "warnings": list(r.warnings),
    }
    rounded: dict[str, Any] = _rounded(found)
    return rounded


def _shares(parts: tuple[float, ...]) -> list[float]:
    total = sum(parts) or 1.0
    return [x / total for x in parts]


def _rounded(value: Any) -> Any:
    """Nested data with floats of ``DECIMALS`` significant digits, and null for what is none."""
    if isinstance(value, float):
        return float(f"{value:.{DECIMALS}g}") if isfinite(value) else None
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
