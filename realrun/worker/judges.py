"""Acceptance besides the greedy one: sampled, and synthetic."""

from random import Random

import torch
from torch import Tensor

from dflash_sim.kernels.models.cycle import Judge, Running, Verified, greedy
from dflash_sim.kernels.models.target import TargetModel
from dflash_sim.kernels.reference.accept import Accepted, assemble, chain_rejection_sample
from dflash_sim.kernels.reference.sampling import target_distribution

# Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014: SplitMix64.
GAMMA = 0x9E3779B97F4A7C15
MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
MANTISSA = 53
DRAWN = 1  # a third counter, which the numbers of verdicts have not


def _signed(x: int) -> int:
    """The int64 with the bits of a 64-bit number."""
    x &= 2**64 - 1
    return x - 2**64 if x >= 2**63 else x


def uniforms(seed: int, *counters: Tensor) -> Tensor:
    """Numbers in [0, 1), float64, that depend on the seed and the counters [int64] alone.

    What a request draws at a place of its text is then the same in every batch, mode and rank.
    """
    x = torch.full_like(counters[0], _signed(seed * GAMMA))
    for counter in counters:
        x = (x ^ counter) + _signed(GAMMA)
        for shift, factor in MIXERS:
            x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return ((x >> (64 - MANTISSA)) & ((1 << MANTISSA) - 1)).to(torch.float64) * 2.0**-MANTISSA


class Sampled:
    """Rejection sampling along the chain: every token is distributed as the target's own.

    Parameters
    ----------
    temperature, top_k, top_p
        As for :func:`~dflash_sim.kernels.reference.sampling.target_distribution`.
    """

    def __init__(
        self, temperature: float, seed: int, *, top_k: int | None = None, top_p: float = 1.0
    ) -> None:
        self.temperature, self.seed = temperature, seed
        self.top_k, self.top_p = top_k, top_p

    def __call__(self, target: TargetModel, verified: Verified, running: Running) -> Accepted:
        """Two random numbers per row: one to keep its proposal, one for what follows the last."""
        draft = verified.draft
        logits = target.logits(verified.out.final)
        chances = target_distribution(
            logits, self.temperature, top_k=self.top_k, top_p=self.top_p
        ).view(*draft.shape, -1)
        owner, places = places_of(running, draft.shape[1])
        keep = uniforms(self.seed, owner, 2 * places)
        follow = uniforms(self.seed, owner[:, 0], 2 * places[:, 0] + 1)
        odds = verified.odds and verified.odds.dense(chances.shape[-1])
        return chain_rejection_sample(draft, chances, keep[:, :-1], follow, odds)


def places_of(running: Running, count: int) -> tuple[Tensor, Tensor]:
    """Whose they are and where they stand, each [R, count], from the anchors on."""
    steps = torch.arange(count, device=running.context_lens.device)
    places = running.context_lens.to(torch.int64)[:, None] + steps
    keys = running.context_lens.new_zeros(()) if running.keys is None else running.keys
    return keys.to(torch.int64).view(-1, 1).expand_as(places), places


def drafting_numbers(seed: int, running: Running, count: int) -> Tensor:
    """Numbers [R, count] that proposals are drawn with: others than any verdict's."""
    owner, places = places_of(running, count)
    return uniforms(seed, owner, places, torch.full_like(places, DRAWN))


class Synthetic:
    """A given mean commit length, floor or ceil, one draw per step for the whole batch.

    The verdict of the judge behind it is made, and ignored: proposals stand in for tokens.

    Source: SGLang ``SGLANG_SIMULATE_ACC_LEN``, method ``match-expected``
    (``_sample_simulated_acc_len`` in ``speculative/spec_utils.py``).
    """

    def __init__(
        self, accept_length: float, seed: int, device: torch.device | str, judge: Judge = greedy
    ) -> None:
        self.floor = int(accept_length)
        self.above = accept_length - self.floor
        self.random, self.judge = Random(seed), judge
        self.commit_len = torch.ones((), dtype=torch.int64, device=device)

    def draw(self) -> None:
        """The commit length of the next step; outside a captured graph."""
        self.commit_len.fill_(self.floor + (self.random.random() < self.above))

    def __call__(self, target: TargetModel, verified: Verified, running: Running) -> Accepted:
        """The drawn number of proposals, and a bonus; of one row (a prefill), the bonus alone."""
        draft = verified.draft
        real = self.judge(target, verified, running)
        if draft.shape[1] == 1:
            return real
        return assemble(draft, (self.commit_len - 1).expand(draft.shape[0]), real.bonus)
