"""What a speculative cycle takes beyond a plain step, part by part: what drafts have to win back.

A cycle that takes three plain steps pays only with more than three tokens. Which part makes it so
long, and which part grows as requests do, is what makes speculation stop paying.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dflash_sim.profiles.units import MS
from dflash_sim.simulator.cost.latent_ops import (
    IndexerScores,
    MlaBmm,
    MlaDecode,
    SparseAttention,
    SparseModule,
)
from dflash_sim.simulator.cost.ops import Attention, Collective, GdnConv, GdnRecurrent, Gemm, Moe
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.explain.step_anatomy import anatomy

DRAFTS, STATES, HEAD, HOST = "drafting", "GDN states", "logits and their maximum", "host"
SMALL, OUTSIDE = "small kernels and gaps", "outside the graphs"
SAMPLING = "sampling at the temperature"
_KINDS: Mapping[str, tuple[type, ...]] = {
    "attention": (
        Attention, MlaDecode, MlaBmm, SparseAttention, SparseModule, IndexerScores,
    ),
    "experts": (Moe,),
    STATES: (GdnRecurrent, GdnConv),
    "products": (Gemm,),
    "collectives": (Collective,),
}  # fmt: skip
_HEAD = ("lm_head", "logits_cast", "argmax", "logits_all_gather")
_PHASES = {"draft": DRAFTS, "materialise": DRAFTS, "commit": STATES, "other": OUTSIDE}


@dataclass(frozen=True)
class Burden:
    """A cycle of ``requests`` at ``ctx`` cached tokens each, beside a plain step of as many.

    Parameters
    ----------
    plain_s, cycle_s
        What either takes, exposed host time included [s].
    parts
        What the cycle takes beyond the plain step, by part [s]; together the difference of both.
    """

    requests: int
    ctx: float
    plain_s: float
    cycle_s: float
    parts: Mapping[str, float]

    @property
    def steps(self) -> float:
        """Plain steps that the cycle takes: tokens of a request that it has to commit [1]."""
        return self.cycle_s / self.plain_s

    def share(self, part: str) -> float:
        """Plain steps that a part adds to the cycle [1]."""
        return self.parts.get(part, 0.0) / self.plain_s

    @property
    def heaviest(self) -> list[str]:
        """The parts, the longest first."""
        return sorted(self.parts, key=lambda part: -self.parts[part])


def burden(result: Result, *, requests: int, ctx: float, host: bool = True) -> Burden:
    """Return what a cycle of a speculative result, which has a baseline, takes beyond a step.

    Parameters
    ----------
    host
        True if the exposed host time of the results counts, which is that of their own batches.
    """
    plain = result.baseline
    assert plain is not None
    mine, theirs = (_parts(r.setup, requests, ctx) for r in (result, plain))
    if host:
        for parts, r in ((mine, result), (theirs, plain)):
            parts[HOST] = MS * r.values["host_exposed_ms"]
    more = {part: mine.get(part, 0.0) - theirs.get(part, 0.0) for part in (*mine, *theirs)}
    return Burden(requests, ctx, sum(theirs.values()), sum(mine.values()), more)


def growth(small: Burden, large: Burden) -> tuple[str, float]:
    """The part that grows most from one batch to another, in plain steps [1]."""
    parts = set(small.parts) | set(large.parts)
    by = {part: large.share(part) - small.share(part) for part in sorted(parts)}
    part = max(by, key=lambda name: by[name])
    return part, by[part]


def _parts(setup: Setup, requests: int, ctx: float) -> dict[str, float]:
    """Seconds of a step by part."""
    kinds = {
        call.op.name: next((k for k, types in _KINDS.items() if isinstance(call.op, types)), SMALL)
        for phase in setup.step.cycle.decode(requests=requests, ctx=0)
        if phase.name == "verify"
        for call in phase.calls
    }
    kinds |= dict.fromkeys(_HEAD, HEAD) | {"gated_norm": STATES}
    drawn = {call.op.name for call in setup.step.cycle.sampled(requests)}
    found: dict[str, float] = {}
    for op in anatomy(setup, requests=requests, ctx=ctx).ops:
        part = _PHASES.get(op.phase) or kinds.get(op.op, SMALL)
        part = SAMPLING if op.op in drawn else part
        found[part] = found.get(part, 0.0) + op.seconds
    return found
