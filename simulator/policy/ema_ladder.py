"""SGLang's adaptive speculative decoding: a ladder of draft counts, climbed by a moving mean."""

from collections.abc import Sequence
from dataclasses import dataclass

from dflash_sim.profiles.policies import LadderSlot
from dflash_sim.simulator.engine.scheduler import Req
from dflash_sim.simulator.policy.interface import Plan, Prices
from dflash_sim.simulator.requests.draws import Draws


@dataclass(frozen=True)
class EmaLadder:
    """SGLang's adaptive speculative decoding.

    Source: ``adaptive_spec_params.py`` and ``adaptive_step_router.py`` of
    ``sglang/srt/speculative``, without its optional ceiling.

    Parameters
    ----------
    slots : ladders by batch size
    alpha, update_interval, warmup_batches : as in :class:`PolicySheet`
    """

    slots: tuple[LadderSlot, ...]
    alpha: float
    update_interval: int
    warmup_batches: int
    spread: float | None = None

    def start(self, prices: Prices, draws: Draws) -> "EmaClimber":
        return EmaClimber(self, prices)


@dataclass
class _Slot:
    """One ladder, where it stands, and the mean of accepted drafts it goes by [token]."""

    ladder: LadderSlot
    drafts: int
    mean: float
    steps: int = 0


@dataclass
class EmaClimber:
    """The ladders of one run; they start at the block's drafts, or in the middle."""

    policy: EmaLadder
    prices: Prices

    def __post_init__(self) -> None:
        self.slots = [self._slot(ladder) for ladder in self.policy.slots]

    def _slot(self, ladder: LadderSlot) -> _Slot:
        rungs, most = ladder.drafts, self.prices.block - 1
        start = most if most in rungs else rungs[len(rungs) // 2]
        return _Slot(ladder, start, start - 1.0)

    def slot(self, batch: int) -> _Slot:
        """The ladder of a batch: the last whose ``least_batch`` its graph reaches."""
        padded = self.prices.graph_of(batch)
        reached = [s for s in self.slots if s.ladder.least_batch <= padded]
        return reached[-1] if reached else self.slots[0]

    def plan(self, reqs: Sequence[Req], kv_tokens: int) -> Plan:
        return Plan.uniform(len(reqs), self.slot(len(reqs)).drafts + 1)

    def processed(self, batch: int, accepted: Sequence[int]) -> None:
        if not accepted:
            return
        slot, p = self.slot(batch), self.policy
        if slot.drafts:
            newest = sum(accepted) / len(accepted)
            slot.mean = (1 - p.alpha) * slot.mean + p.alpha * newest
        slot.steps += 1
        since = slot.steps - p.warmup_batches
        if since > 0 and since % p.update_interval == 0:
            _climb(slot)


def _climb(slot: _Slot) -> None:
    """Move to the rung that the mean asks for; from no drafts at all, always try the next."""
    rungs = slot.ladder.drafts
    at = rungs.index(slot.drafts)
    if slot.drafts == 0:
        slot.drafts = rungs[min(at + 1, len(rungs) - 1)]
        if slot.drafts and slot.mean < 0:
            slot.mean = slot.drafts - 1.0
        return
    before = at
    while at and slot.mean <= _falls_at(rungs[at - 1]) + slot.ladder.down_hysteresis:
        at -= 1
    if at == before:
        top = len(rungs) - 1
        while at < top and slot.mean > rungs[at] - 1 / 2 + slot.ladder.up_hysteresis:
            at += 1
    slot.drafts = rungs[at]


def _falls_at(lower: int) -> float:
    """Accepted drafts below which ``lower`` drafts are enough [token]."""
    return lower - 1 / 2 if lower else 1 / 2
