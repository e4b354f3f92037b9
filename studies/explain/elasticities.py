"""Local elasticities: how an answer follows one quantity at a time.

An elasticity is the relative change of speed per relative change of one quantity, by a central
difference of two replays with common random numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import log, sqrt

import numpy as np

from dflash_sim.profiles.sheets import Quantity
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.other_laws import accept_length, with_accept_length
from dflash_sim.simulator.setup import Setup
from dflash_sim.simulator.trial import with_engine
from dflash_sim.simulator.whatif import Rate, host_stages, with_faster_gpu, with_host
from dflash_sim.studies.explain.replay import Replay

STEP = 0.01  # relative change of a quantity, up and down
WIDE_STEP = 0.05  # of the accept length: other commits end requests in other steps, which is noise
WAVES = 8  # requests of a client that tell the slope of a time
LEAST = 1e-4  # smaller elasticities are left out
_SIDES = (1 + STEP, 1 / (1 + STEP))
# What a faster machine has more of, its field of the sheet, and its entry there.
_RATES: dict[str, tuple[Rate, str]] = {
    "memory bandwidth": ("mem_bw_byte_s", "mem_bw"),
    "compute rate": ("bf16_flop_s", "bf16"),
    "link bandwidth": ("link_byte_s", "link"),
}


@dataclass(frozen=True)
class Elasticity:
    """The change of the speed with one quantity.

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
        sides = [with_faster_gpu(setup, rate, k) for k in _SIDES]
        yield _elasticity(name, setup.device.quantities[entry], few, sides, law)
    sides = [with_engine(setup, with_host(engine, k)) for k in _SIDES]
    whole = Quantity(result.values["host_ms"], "ms", "all stages together", "assumed")
    host = _elasticity("host time", whole, few, sides, law)
    yield host
    hidden = host_stages(engine) if abs(host.elasticity) < LEAST else set()
    for name in sorted(_read(setup, law, few) - hidden):
        sides = [
            with_engine(setup, engine.with_constants(**{name: k * engine[name]})) for k in _SIDES
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


def _read(setup: Setup, law: Expectation | None, replay: Replay) -> set[str]:
    """Constants that this scenario looks up and that could be other; zero has no per cent."""
    engine = setup.engine.with_constants()
    replay.speed(replace(setup, engine=engine), law)  # with prices of its own, which look
    return {name for name in engine.read if engine[name] and engine.constants[name].rel_err}
