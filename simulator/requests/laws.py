"""Laws that say how many tokens each verify cycle commits.

Every sampler inverts one exponential draw per cycle, ``accepted = #{k < block : E >= H_k}`` with
``H_k = -ln S_k``. The draws do not depend on the block, nor the first cycles on how many follow, so
two runs with one seed share one latent run: ``accepted(B) = min(accepted(inf), B - 1)`` in every
cycle, and differences between block sizes are not noise.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.simulator.requests.survival import FrailtyWeibull, Survival

Floats = npt.NDArray[np.float64]
Commits = npt.NDArray[np.signedinteger[Any]]

METHODS = ("match-expected", "multinomial")
GROUP = 1024  # requests that share one stream of draws


class Acceptance(Protocol):
    """The law of commit lengths at one verify width."""

    shared_batch_draw: ClassVar[bool]
    """True if one draw serves all requests of a step, as in SGLang's synthetic mode."""

    @property
    def name(self) -> str:
        """Short text for reports."""

    @property
    def block(self) -> int:
        """Verify width: the longest commit [token]."""

    def survival(self) -> Survival:
        """P(accepted >= k), each request counted once."""

    def draw(self, rng: np.random.Generator, *, requests: int, cycles: int) -> Commits:
        """Commit lengths in 1..block, shape [requests, cycles] or [1, cycles] when shared."""


@dataclass(frozen=True)
class ParametricAcceptance:
    """The frailty Weibull: each request draws its own factor on the rejection rate first.

    Parameters
    ----------
    length_correlation
        Correlation of the normal scores of a request's length and acceptance: above 0 long answers
        accept more. The mean over requests stays, tokens over cycles moves [1].
    """

    params: FrailtyWeibull
    block: int
    length_correlation: float = 0.0
    shared_batch_draw: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not -1 <= self.length_correlation <= 1:
            msg = f"length correlation {self.length_correlation} is outside [-1, 1]"
            raise UsageError(msg)

    @property
    def name(self) -> str:
        p = self.params
        return f"weibull:q={p.q:.4g},beta={p.beta:.4g},theta={p.theta:.4g}"

    @property
    def by_length(self) -> bool:
        """True if a request's length tells something about it; False where all are alike."""
        return self.length_correlation != 0 and self.params.theta > 0

    def survival(self) -> Survival:
        return self.params.survival(self.block - 1)

    def draw(self, rng: np.random.Generator, *, requests: int, cycles: int) -> Commits:
        factors = self._factors(rng, requests) if self.params.theta > 0 else None
        hazards = self.params.cumulative_hazard(self.block - 1)
        return _invert(rng, hazards, requests=requests, cycles=cycles, factors=factors)

    def rows_by_length(self, seed: int, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return which row of the draw seeded with ``seed`` serves each request, given its length.

        The rows are dealt out again, a Gaussian copula between length and acceptance; what each
        row holds does not change, so the mean over requests does not either.
        """
        n = tokens.size
        factors = self._factors(np.random.default_rng(seed), n)
        noise = np.random.default_rng([seed, 1])
        normal = np.sort(noise.standard_normal(n))
        by_length, by_acceptance = np.empty(n), np.empty(n)
        by_length[np.lexsort((noise.random(n), tokens))] = normal
        # Without correlation every request keeps its own row: slopes at 0 are not noise.
        by_acceptance[np.argsort(-factors, kind="stable")] = normal
        rho = self.length_correlation
        score = rho * by_length + math.sqrt(1 - rho**2) * by_acceptance
        rows = np.empty(n, np.int64)
        rows[np.argsort(score, kind="stable")] = np.argsort(-factors, kind="stable")
        return rows

    def _factors(self, rng: np.random.Generator, requests: int) -> Floats:
        return rng.standard_gamma(1 / self.params.theta, requests) * self.params.theta


@dataclass(frozen=True, eq=False)
class TableAcceptance:
    """A survival given position by position; all requests alike."""

    table: Survival
    block: int
    shared_batch_draw: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", self.table.truncate(self.block))

    @property
    def name(self) -> str:
        return "table:" + ",".join(f"{s:.3g}" for s in self.table.s)

    def survival(self) -> Survival:
        return self.table

    def draw(self, rng: np.random.Generator, *, requests: int, cycles: int) -> Commits:
        return _invert(rng, _hazards(self.table.s), requests=requests, cycles=cycles)


@dataclass(frozen=True, eq=False)
class HistogramAcceptance:
    """Replay of recorded counts: ``counts[..., j]`` steps accepted j drafts.

    With one row per recorded request, each simulated request takes a row at random, which keeps
    the spread between requests (and the sampling noise of rows with few steps).
    """

    counts: Floats
    block: int
    shared_batch_draw: ClassVar[bool] = False

    def __post_init__(self) -> None:
        rows = np.atleast_2d(np.asarray(self.counts, dtype=np.float64))
        if not np.all(rows >= 0) or not np.all(rows.sum(axis=1) > 0):
            msg = "a histogram needs counts >= 0 and at least one step per request"
            raise UsageError(msg)
        if not 1 <= self.block <= rows.shape[1]:
            msg = f"histogram covers blocks 1..{rows.shape[1]}; cannot replay block {self.block}"
            raise UsageError(msg)
        object.__setattr__(self, "counts", rows)

    @property
    def name(self) -> str:
        steps = self.counts.sum()
        return f"histogram of {steps:.0f} steps, {len(self.counts)} requests"

    @property
    def cut(self) -> float:
        """Share of the recorded steps that accepted more drafts than the block has [1]."""
        return float(self.counts[:, self.block :].sum() / self.counts.sum())

    def survival(self) -> Survival:
        return Survival(self._by_request().mean(axis=0))

    def draw(self, rng: np.random.Generator, *, requests: int, cycles: int) -> Commits:
        hazards = _hazards(self._by_request())
        rows = (
            hazards[rng.integers(len(hazards), size=requests)].T if len(hazards) > 1 else hazards[0]
        )
        return _invert(rng, rows, requests=requests, cycles=cycles)

    def _by_request(self) -> Floats:
        tail = np.cumsum(self.counts[:, ::-1], axis=1)[:, ::-1]
        return np.asarray(tail[:, 1 : self.block] / tail[:, :1])


@dataclass(frozen=True)
class MinVarianceAcceptance:
    """Floor or ceil of a mean, drawn per request: vLLM and ATOM synthetic acceptance."""

    accept_length: float
    block: int
    shared_batch_draw: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.survival()

    @property
    def name(self) -> str:
        return f"vllm-synthetic:{self.accept_length:g}"

    def survival(self) -> Survival:
        return Survival.min_variance(self.accept_length, self.block - 1)

    def draw(self, rng: np.random.Generator, *, requests: int, cycles: int) -> Commits:
        return _invert(rng, _hazards(self.survival().s), requests=requests, cycles=cycles)


@dataclass(frozen=True)
class SglangSimulated:
    """``SGLANG_SIMULATE_ACC_LEN``: one commit length per step for the whole batch.

    Parameters
    ----------
    value : commit length including the bonus token, clamped to [1, block] [token]
    method : ``match-expected`` draws floor or ceil; ``multinomial`` rounds a unit normal

    Source: ``_sample_simulated_acc_len`` in sglang/srt/speculative/spec_utils.py.
    """

    value: float
    block: int
    method: str = "match-expected"
    shared_batch_draw: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.value > 0:
            msg = f"simulated accept length must be positive, got {self.value}"
            raise UsageError(msg)
        if self.method not in METHODS:
            raise unknown(kind="method", value=self.method, allowed=METHODS)

    @property
    def name(self) -> str:
        return f"sglang-simulated:{self.value:g},{self.method}"

    def survival(self) -> Survival:
        if self.method == "match-expected":
            return Survival.min_variance(min(max(self.value, 1), self.block), self.block - 1)
        # commit >= k + 1 when the normal reaches k + 1/2; the clamp moves nothing across it.
        edges = (np.arange(1, self.block) + 1 / 2 - self.value) / math.sqrt(2)
        return Survival(np.array([math.erfc(x) / 2 for x in edges]))

    def draw(self, rng: np.random.Generator, *, requests: int, cycles: int) -> Commits:
        if self.method == "match-expected":
            return _invert(rng, _hazards(self.survival().s), requests=1, cycles=cycles)
        values = np.clip(self.value + rng.standard_normal((1, cycles)), 1, self.block)
        return np.rint(values).astype(dtype_of(self.block))


@dataclass(frozen=True)
class FixedAcceptance:
    """Every cycle commits the same number of tokens."""

    commit: int
    block: int
    shared_batch_draw: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 <= self.commit <= self.block:
            msg = f"commit length {self.commit} is outside [1, {self.block}] at block {self.block}"
            raise UsageError(msg)

    @property
    def name(self) -> str:
        return f"fixed:{self.commit}"

    def survival(self) -> Survival:
        return Survival.min_variance(self.commit, self.block - 1)

    def draw(self, rng: np.random.Generator, *, requests: int, cycles: int) -> Commits:
        return np.full((requests, cycles), self.commit, dtype=dtype_of(self.block))


@dataclass(frozen=True)
class NoSpeculation(FixedAcceptance):
    """Plain decoding: one token per step."""

    commit: int = 1
    block: int = 1

    @property
    def name(self) -> str:
        return "none"


def _hazards(s: Floats) -> Floats:
    """``-ln S``, infinite where nothing survives."""
    return -np.log(s, out=np.full_like(s, -np.inf), where=s > 0)


def dtype_of(block: int) -> type[np.signedinteger[Any]]:
    """Return the smallest type that holds the commits of a verify width."""
    return np.int8 if block <= np.iinfo(np.int8).max else np.int16


def _invert(
    rng: np.random.Generator,
    hazards: Floats,
    *,
    requests: int,
    cycles: int,
    factors: Floats | None = None,
) -> Commits:
    """Commits [requests, cycles]; ``hazards`` is [gamma] or [gamma, requests].

    Drawn cycle by cycle, so that a longer draw begins with a shorter one. Comparing with each
    threshold in turn is 15 times faster than searchsorted at block 16.
    """
    latent = rng.standard_exponential((cycles, requests), dtype=np.float32)
    if factors is not None:
        latent /= np.maximum(factors, np.finfo(np.float32).tiny * 2**10).astype(np.float32)
    commits = np.ones(latent.shape, dtype=dtype_of(len(hazards) + 1))
    hit = np.empty(latent.shape, dtype=bool)
    ceiling = np.finfo(np.float32).max
    for threshold in np.where(hazards < ceiling, hazards, np.inf).astype(np.float32):
        np.greater_equal(latent, threshold, out=hit)
        np.add(commits, hit.view(np.int8), out=commits)
    return np.ascontiguousarray(commits.T)
