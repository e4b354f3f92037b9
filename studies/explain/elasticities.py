"""What an answer hangs on: local elasticities, one quantity at a time.

An elasticity is the relative change of speed per relative change of one quantity, by a central
difference of two replays with common random numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from math import log, sqrt
from typing import Any

import numpy as np

from dflash_sim.profiles.sheets import Device, Quantity
from dflash_sim.simulator.cost.ops import Collective, Op
from dflash_sim.simulator.cost.price import EVIDENCE, Cost, CostModel
from dflash_sim.simulator.cost.step_table import StepModel
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.explain.counterfactual import Altered, Replay, host_stages, with_host
from dflash_sim.studies.explain.other_laws import accept_length, with_accept_length

STEP = 0.01  # relative change of a quantity, up and down
WIDE_STEP = 0.05  # of the accept length: other commits end requests in other steps, which is noise
WAVES = 8  # requests of a client that tell the slope of a time
LEAST = 1e-4  # smaller elasticities are left out
_TIMED = ("measured", "fitted")
_SIDES = (1 + STEP, 1 / (1 + STEP))
# What a faster machine has more of, its field of the sheet, and its entry there.
_RATES = {
    "memory bandwidth": ("mem_bw_byte_s", "mem_bw"),
    "compute rate": ("bf16_flop_s", "bf16"),
    "link bandwidth": ("link_byte_s", "link"),
}


@dataclass(frozen=True)
class Elasticity:
    """How the speed follows one quantity.

    Parameters
    ----------
    value, unit
        Where the derivative is taken.
    elasticity
        Per cent of speed per per cent of the quantity.
    rel_err
        One standard error of the quantity, after a fit if there was one [1]; 0: none is stated.
    evidence, source
        What the quantity rests on.
    """

    name: str
    value: float
    unit: str
    elasticity: float
    rel_err: float
    evidence: str
    source: str

    @property
    def effect(self) -> float:
        """Relative change of speed for one standard error of the quantity [1]."""
        return abs(self.elasticity) * self.rel_err


@dataclass
class FasterCost(CostModel):
    """Prices on a device whose peak rates are multiplied.

    What a table holds was timed on the real one: its time beyond a kernel's launch is divided by
    the factor of the ceiling it is nearest to.
    """

    real: Device = field(kw_only=True)
    _faster: dict[Op, Cost] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, cost: CostModel, device: Device) -> "FasterCost":
        parts = {f.name: getattr(cost, f.name) for f in fields(CostModel) if f.init}
        fresh: dict[str, Any] = {name: {} for name in parts if name.startswith("_")}
        return cls(**(parts | fresh | {"device": device}), real=cost.device)

    def op(self, op: Op) -> Cost:
        """The cost of one launch, the gap to the next kernel included."""
        if op not in self._faster:
            cost = super().op(op)
            timed = sum(cost.by_evidence[EVIDENCE.index(name)] for name in _TIMED)
            self._faster[op] = self._divided(op, cost, timed) if timed else cost
        return self._faster[op]

    def _divided(self, op: Op, cost: Cost, timed_s: float) -> Cost:
        factor = self._factor(op)
        launch = min(timed_s, self.engine["roofline_launch"])
        k = (launch + (timed_s - launch) / factor) / timed_s
        measured, fitted, roofline, assumed = cost.by_evidence
        return Cost((k * measured, k * fitted, roofline, assumed), k * cost.comm_s, cost.idle_s)

    def _factor(self, op: Op) -> float:
        real, fast = self.real, self.device
        if isinstance(op, Collective):
            return fast.link_byte_s / real.link_byte_s
        if op.nbytes / real.mem_bw_byte_s >= op.flops / real.bf16_flop_s:
            return fast.mem_bw_byte_s / real.mem_bw_byte_s
        return fast.bf16_flop_s / real.bf16_flop_s


def elasticities(result: Result, replay: Replay) -> tuple[Elasticity, ...]:
    """Elasticities of the result's speed, the largest first; the smallest are left out."""
    found = [e for e in _all(result, replay) if abs(e.elasticity) >= LEAST]
    known = _certainty(result)
    found = [replace(e, rel_err=known.get(e.name, e.rel_err)) for e in found]
    return tuple(sorted(found, key=lambda e: (-abs(e.elasticity), e.name)))


def _certainty(result: Result) -> dict[str, float]:
    """Relative standard errors after a fit, where the prediction carries one [1]."""
    own = result.sensitivity
    if own is None:
        return {}
    found = {}
    for p, sd in zip(own.parameters, np.sqrt(np.diagonal(own.covariance)).tolist(), strict=True):
        if p.kind == "constant":
            share = result.setup.engine[p.key] if p.scale == "logit" else 0.0
            found[p.key] = sd * (1 - share)
    if result.setup.speculative:
        found["accept length"] = sqrt(own.variance("accept_length"))
    return found


def _all(result: Result, replay: Replay) -> Iterator[Elasticity]:
    setup, law = result.setup, result.expectation
    engine, few = setup.engine, replay.shorter(WAVES)
    if law is not None:
        yield _of_accept_length(result, law, replay)
    for name, (rate, entry) in _RATES.items():
        sides = [_faster(setup, rate, k) for k in _SIDES]
        yield _elasticity(name, setup.device.quantities[entry], few, sides, law)
    sides = [replace(setup, engine=with_host(engine, k)) for k in _SIDES]
    whole = Quantity(result.values["host_ms"], "ms", "all stages together", "assumed")
    host = _elasticity("host time", whole, few, sides, law)
    yield host
    hidden = host_stages(engine) if abs(host.elasticity) < LEAST else set()
    for name in sorted(_read(setup, law, few) - hidden):
        sides = [
            replace(setup, engine=engine.with_constants(**{name: k * engine[name]})) for k in _SIDES
        ]
        yield _elasticity(name, engine.constants[name], few, sides, law)


def _elasticity(
    name: str,
    quantity: Quantity,
    replay: Replay,
    sides: Sequence[Setup],
    law: Expectation | None,
) -> Elasticity:
    up, down = (log(replay.speed(side, law)) for side in sides)
    return Elasticity(
        name=name,
        value=quantity.value,
        unit=quantity.unit,
        elasticity=(up - down) / (2 * log(1 + STEP)),
        rel_err=quantity.rel_err,
        evidence=quantity.evidence,
        source=quantity.source,
    )


def _of_accept_length(result: Result, law: Expectation, replay: Replay) -> Elasticity:
    length, block = accept_length(law), law.acceptance.block
    ends = [min(length * (1 + WIDE_STEP), block), max(length / (1 + WIDE_STEP), 1.0)]
    laws = [with_accept_length(law, end) for end in ends]
    runs = result.scenario.runs
    up, down = (log(replay.speed(result.setup, other, runs=runs)) for other in laws)
    span = log(ends[0]) - log(ends[1])
    slope = (up - down) / span if span else 0.0
    name, unit = "accept length", "token"
    return Elasticity(name, length, unit, slope, law.rel_err, law.evidence, law.source)


def _faster(setup: Setup, rate: str, factor: float) -> Setup:
    """The setup with one peak rate of its GPU multiplied."""
    step = setup.step
    fast = replace(setup.device, **{rate: factor * getattr(setup.device, rate)})
    parts = {f.name: getattr(step, f.name) for f in fields(StepModel) if f.name[0] != "_"}
    return Altered.of(setup, StepModel(**(parts | {"cost": FasterCost.of(step.cost, fast)})))


def _read(setup: Setup, law: Expectation | None, replay: Replay) -> set[str]:
    """Constants that this scenario looks up and that could be other; zero has no per cent."""
    engine = setup.engine.with_constants()
    replay.speed(replace(setup, engine=engine), law)
    return {name for name in engine.read if engine[name] and engine.constants[name].rel_err}
