"""Widths of each request's own: a budget of drafts for the step, and who gets them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dflash_sim.simulator.engine.scheduler import Req
from dflash_sim.simulator.policy.interface import Plan, Prices
from dflash_sim.simulator.requests.draws import ConfidenceHead, Draws


@dataclass(frozen=True)
class Confidence:
    """The drafts of the highest survival, as many as maximise expected tokens per second.

    The host is ahead of the GPU: a budget is sized from each request's moving mean of survival,
    the newest of it ``lag`` steps old, and its slots are dealt out by the survival of now. A
    request without a past counts as certain. (vLLM smooths the factors of survival; here one
    factor rules a whole cycle, and a product of means would fall short of the mean.)

    Source: DSpark (arXiv 2607.05147) algorithm 1, and ``adaptive_verification.py`` of vLLM pull
    request 47808.

    Parameters
    ----------
    smoothing : weight of past confidences against the newest [1]
    """

    spread: float
    lag: int
    smoothing: float

    def start(self, prices: Prices, draws: Draws) -> "ConfidencePlanner":
        return ConfidencePlanner(self, prices, draws)


@dataclass
class ConfidencePlanner:
    """Sizes and deals out the budget of each step; ``mean`` holds what it has seen by request."""

    policy: Confidence
    prices: Prices
    draws: Draws

    def __post_init__(self) -> None:
        self.mean = np.ones((len(self.draws.cycles), self.prices.block - 1))

    def plan(self, reqs: Sequence[Req], kv_tokens: int) -> Plan:
        head = self.draws.head
        assert head is not None
        rows = np.array([r.rid for r in reqs])
        cycles = np.array([r.launched for r in reqs])
        rest, draft = self.prices.curve(len(reqs), kv_tokens)
        past = self._seen(head, rows, cycles - self.policy.lag)
        budget = best_budget(past, rest + draft[-1])
        widths = 1 + top_slots(head.survival(rows, cycles), budget)
        return Plan(widths.tolist(), self.prices.block)

    def _seen(
        self, head: ConfidenceHead, rows: npt.NDArray[np.int64], newest: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """Fold in the newest confidences that have arrived."""
        there = newest >= 0
        old = self.policy.smoothing
        arrived = head.survival(rows[there], newest[there])
        self.mean[rows[there]] = old * self.mean[rows[there]] + (1 - old) * arrived
        return self.mean[rows]

    def processed(self, batch: int, accepted: Sequence[int]) -> None:
        """Confidences come from the draft, not from what was accepted."""


def best_budget(survival: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64]) -> int:
    """Drafts to verify in a step for the most expected tokens per second.

    Parameters
    ----------
    survival : ``[requests, k]`` of each draft [1]
    seconds : of a step that verifies 0, 1, .. drafts beside a token of each request [s]
    """
    best = np.sort(survival, axis=None)[::-1]
    tokens = len(survival) + np.concatenate([np.zeros(1), np.cumsum(best)])
    return int(np.argmax(tokens / seconds))


def top_slots(survival: npt.NDArray[np.float64], budget: int) -> npt.NDArray[np.int64]:
    """Drafts of each request among the ``budget`` of highest survival.

    Survival falls along a draft, so they are the first ones of each.
    """
    n, k = survival.shape
    best = np.argsort(-survival, axis=None, kind="stable")[:budget]
    return np.bincount(best // k, minlength=n)


@dataclass(frozen=True)
class Oracle:
    """Knows the latent run of every request and verifies of it what pays.

    In each step it maximises tokens less rate times seconds, with the rate so far of
    batches of this size: that maximises tokens over seconds of many steps, where the best ratio of
    each step by itself does not. It drafts no wider than it verifies.
    """

    spread: float | None = None

    def start(self, prices: Prices, draws: Draws) -> "OraclePlanner":
        return OraclePlanner(prices, draws)


@dataclass
class OraclePlanner:
    """An oracle at work; ``done`` holds tokens and seconds so far, by batch size."""

    prices: Prices
    draws: Draws
    done: dict[int, tuple[float, float]] = field(default_factory=dict)
    _widths: npt.NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._widths = np.arange(1, self.prices.block + 1)

    def plan(self, reqs: Sequence[Req], kv_tokens: int) -> Plan:
        n = len(reqs)
        runs = self.draws.commits[[r.rid for r in reqs], [r.launched for r in reqs]].astype(int)
        useful = np.minimum.outer(self._widths, runs).sum(axis=1) - n  # drafts, by width
        rest, draft = self.prices.curve(n, kv_tokens)
        drafts = np.arange(int(useful[-1]) + 1)
        width = 1 + np.searchsorted(useful, drafts)  # the narrowest that has so many to accept
        seconds = rest[: len(drafts)] + draft[width - 1]
        tokens = n + drafts
        before, spent = self.done.get(n, (0.0, 0.0))
        rate = before / spent if spent else float((tokens / seconds).max())
        at = int(np.argmax(tokens - rate * seconds))
        self.done[n] = before + float(tokens[at]), spent + float(seconds[at])
        widest = int(width[at])
        widths = np.minimum(runs, widest)
        spare = int(useful[widest - 1]) - at
        widths[np.flatnonzero(widths == widest)[:spare]] -= 1
        return Plan(widths.tolist(), widest)

    def processed(self, batch: int, accepted: Sequence[int]) -> None:
        """It knew."""
