"""Distributions of the drafts that survive a verify, and the two numbers that pin one down.

With ``accepted`` the drafts accepted in one verify cycle, ``S_k = P(accepted >= k)`` and the cycle
commits ``accepted + 1`` tokens, so the accept length at block ``B`` is ``1 + S_1 + ... + S_{B-1}``.
A block size only truncates ``S`` here. Real drafters bend that: one DFlash drafter run at block 16
and cut to 8 falls 4-10 % short of itself run at 8. A fit to accept lengths at both blocks takes
that up in beta: it is right at the two, and 1.7 % off at block 4.

The default family is a discrete Weibull whose log-hazard scale varies between requests,
``S_k | Z = exp(-Z lam k^beta)`` with ``Z ~ Gamma(1/theta, theta)`` of mean one, so that
``S_k = (1 + theta lam k^beta)^(-1/theta)``. ``Z`` is drawn once per request, which makes two
accept lengths:

* the **request mean**, the unweighted mean over requests of tokens per cycle, which is what DFlash
  model cards publish. For long requests it is ``E_Z[1 + sum S_k(Z)] = 1 + sum S_k``: the marginal.
* the **cycle mean**, all tokens over all cycles. A request of N tokens spends ``N / AL(Z)`` cycles,
  so for equal N it is the harmonic mean ``1 / E_Z[1 / AL(Z)]``, which is lower and
  which throughput follows.

The fits target the request mean, for long requests or for given token counts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.requests.numerics import (
    fill_log_linear,
    gamma_quadrature,
    gauss_newton,
    non_increasing,
    root,
)
from dflash_sim.simulator.requests.renewal import request_accept_length

Floats = npt.NDArray[np.float64]

MAX_THETA = 4  # variance of a factor whose mean is one; published ones are below a tenth
_ALIKE = 1e-9  # variances below are none
MAX_BETA = 64  # beyond it the distribution is a step function at any block in use


@dataclass(frozen=True, eq=False)
class Survival:
    """P(accepted >= k) for k = 1..gamma: ``s[k-1]``, non-increasing in [0, 1]."""

    s: Floats

    def __post_init__(self) -> None:
        s = np.array(self.s, dtype=np.float64)
        if s.ndim != 1 or not np.all((s >= 0) & (s <= 1)) or np.any(np.diff(s) > 0):
            msg = f"survival must be non-increasing within [0, 1], got {s.tolist()}"
            raise UsageError(msg)
        s.flags.writeable = False
        object.__setattr__(self, "s", s)

    @classmethod
    def table(cls, s: npt.ArrayLike) -> "Survival":
        """Per-position survival as vLLM logs it ("Per-position acceptance rate")."""
        return cls(np.asarray(s, dtype=np.float64))

    @classmethod
    def min_variance(cls, accept_length: float, gamma: int) -> "Survival":
        """Only floor and ceil of the accept length occur (the engines' synthetic acceptance)."""
        if not 1 <= accept_length <= gamma + 1:
            raise _outside(accept_length, gamma + 1)
        return cls.table(np.clip(accept_length - _positions(gamma), 0, 1))

    @classmethod
    def from_accept_lengths(cls, accept_lengths: Mapping[int, float]) -> "Survival":
        """The survival whose accept lengths at the given blocks are the given ones.

        Between two blocks the mean of ``S`` is the difference of their accept lengths over the
        difference of the blocks. Noise can make those means rise: they are projected onto
        non-increasing ones in [0, 1]. Inside a gap ``S`` runs log-linearly, keeping that mean.
        """
        blocks = np.array([1.0, *sorted(accept_lengths)])
        if blocks.size == 1 or np.any(np.diff(blocks) < 1):
            msg = f"need accept lengths at blocks of 2 or more, got {dict(accept_lengths)}"
            raise UsageError(msg)
        lengths = np.array([1.0, *(accept_lengths[int(b)] for b in blocks[1:])])
        if not np.all((lengths >= 1) & (lengths <= blocks)):
            msg = f"an accept length must lie in [1, block], got {dict(accept_lengths)}"
            raise UsageError(msg)
        gaps = np.diff(blocks)
        means = np.clip(non_increasing(np.diff(lengths) / gaps, gaps), 0, 1)
        return cls(fill_log_linear(means, blocks))

    @property
    def gamma(self) -> int:
        """Drafts per cycle, block - 1."""
        return int(self.s.size)

    @property
    def mean_accept_length(self) -> float:
        """E[commit] = 1 + sum S_k [token]."""
        return 1 + float(self.s.sum())

    def truncate(self, block: int) -> "Survival":
        """Return the same drafter verified at a smaller block; a larger one is not extrapolated."""
        if not 1 <= block <= self.gamma + 1:
            msg = f"block {block} is outside 1..{self.gamma + 1}, the range this survival covers"
            raise UsageError(msg)
        return Survival(self.s[: block - 1])


@dataclass(frozen=True)
class FrailtyWeibull:
    """``S_k = (1 + theta lam k^beta)^(-1/theta)``: a Weibull whose rate varies between requests.

    Parameters
    ----------
    lam : rate of rejection at the first draft, ``-ln q`` [1]
    beta : 1 is geometric, above 1 acceptance decays along the block [1]
    theta : variance of the per-request factor Z on ``lam``; 0 makes all requests alike [1]
    """

    lam: float
    beta: float
    theta: float = 0.0

    def __post_init__(self) -> None:
        if not (self.lam >= 0 and 0 <= self.beta <= MAX_BETA and 0 <= self.theta <= MAX_THETA):
            msg = (
                f"need lam >= 0, 0 <= beta <= {MAX_BETA} and 0 <= theta <= {MAX_THETA}, got "
                f"lam={self.lam}, beta={self.beta}, theta={self.theta}"
            )
            raise UsageError(msg)

    @property
    def q(self) -> float:
        """Weibull acceptance of the first draft in the average request, ``exp(-lam)``."""
        return math.exp(-self.lam)

    def cumulative_hazard(self, gamma: int) -> Floats:
        """``lam k^beta`` for k = 1..gamma: a request of factor Z survives with exp(-Z ...)."""
        return self.lam * _positions(gamma) ** self.beta

    def survival(self, gamma: int) -> Survival:
        """The marginal over requests, each counted once."""
        hazard = self.cumulative_hazard(gamma)
        if self.theta >= _ALIKE:
            hazard = np.log1p(self.theta * hazard) / self.theta
        return Survival(np.exp(-hazard))

    def accept_length(self, block: int, tokens: npt.ArrayLike | None = None) -> float:
        """Mean over requests of tokens per cycle, as model cards publish it.

        Parameters
        ----------
        block : verify width
        tokens : completion tokens of the requests [token]; None for the long-request limit
        """
        if tokens is None:
            return self.survival(block - 1).mean_accept_length
        factors, weights = self._factors()
        s = np.exp(-np.multiply.outer(factors, self.cumulative_hazard(block - 1)))
        counts = np.atleast_1d(np.asarray(tokens, dtype=np.float64))
        return float(weights @ request_accept_length(s, counts).mean(axis=-1))

    def _factors(self) -> tuple[Floats, Floats]:
        if self.theta < _ALIKE:
            return np.ones(1), np.ones(1)
        return gamma_quadrature(self.theta)


def fit_one(
    accept_length: float,
    block: int,
    *,
    beta: float,
    theta: float = 0.0,
    tokens: npt.ArrayLike | None = None,
) -> FrailtyWeibull:
    """The rate that gives one accept length when the shape is assumed."""
    if not 1 <= accept_length <= block:
        raise _outside(accept_length, block)

    def excess(log_lam: float) -> float:
        params = FrailtyWeibull(lam=math.exp(log_lam), beta=beta, theta=theta)
        return params.accept_length(block, tokens) - accept_length

    # S runs from 1 - 1e-16 everywhere to 1e-16 everywhere between these rates.
    floor = math.log(np.finfo(float).eps)
    low = floor - beta * math.log(block)
    high = math.log(-floor) if theta < _ALIKE else -theta * floor - math.log(theta) + math.log(2)
    high = max(high, math.log(-floor))
    if excess(low) <= 0:
        return FrailtyWeibull(lam=0.0, beta=beta, theta=theta)
    if excess(high) >= 0:
        return FrailtyWeibull(lam=math.inf, beta=beta, theta=theta)
    return FrailtyWeibull(lam=math.exp(root(excess, low, high)), beta=beta, theta=theta)


def fit_two(
    al1: float,
    b1: int,
    al2: float,
    b2: int,
    *,
    theta: float = 0.0,
    tokens: npt.ArrayLike | None = None,
) -> FrailtyWeibull:
    """The one Weibull with accept length ``al1`` at block ``b1`` and ``al2`` at ``b2``.

    At fixed ``al1`` the accept length at a larger block falls strictly as beta grows, from constant
    ``S`` down to a step, so a root inside a root finds it.

    Parameters
    ----------
    al1, al2 : accept lengths [token]
    b1, b2 : blocks, in either order
    theta : variance of the per-request factor; not identifiable from accept lengths [1]
    tokens : completion tokens of the requests behind the two means [token]
    """
    if b1 > b2:
        al1, b1, al2, b2 = al2, b2, al1, b1
    if not (2 <= b1 < b2 and 1 < al1 < b1):
        msg = (
            f"cannot fit accept lengths {al1} at block {b1} and {al2} at block {b2}; "
            f"need 2 <= b1 < b2 and 1 < al < block"
        )
        raise UsageError(msg)

    def excess(beta: float) -> float:
        params = fit_one(al1, b1, beta=beta, theta=theta, tokens=tokens)
        return params.accept_length(b2, tokens) - al2

    if not (excess(MAX_BETA) < 0 < excess(0.0)):
        top = 1 + (b2 - 1) * (al1 - 1) / (b1 - 1)
        msg = (
            f"accept length {al2} at block {b2} is infeasible beside {al1} at block {b1}: drafts "
            f"further along are never accepted more often, so it must lie strictly between "
            f"{al1:g} and {top:g}"
        )
        raise UsageError(msg)
    beta = root(excess, 0.0, MAX_BETA)
    return fit_one(al1, b1, beta=beta, theta=theta, tokens=tokens)


@dataclass(frozen=True, eq=False)
class Fit:
    """Fitted parameters and the 2x2 covariance of (ln lam, beta)."""

    params: FrailtyWeibull
    covariance: Floats


def fit_many(
    points: Sequence[tuple[int, float, float]],
    *,
    beta_prior: tuple[float, float],
    theta: float = 0.0,
    tokens: npt.ArrayLike | None = None,
) -> Fit:
    """Weighted least squares on accept lengths, with a Gaussian prior on beta.

    Parameters
    ----------
    points : (block, accept length [token], its standard error [token])
    beta_prior : mean and standard deviation of beta [1]
    theta, tokens : as in :func:`fit_two`
    """
    if not points or any(not (1 < al < block and se > 0) for block, al, se in points):
        msg = f"each point needs 1 < accept length < block and a standard error > 0, got {points}"
        raise UsageError(msg)
    prior_mean, prior_sd = beta_prior

    def residuals(x: Floats) -> Floats:
        params = FrailtyWeibull(lam=math.exp(x[0]), beta=float(x[1]), theta=theta)
        misfit = [(params.accept_length(b, tokens) - al) / se for b, al, se in points]
        return np.array([*misfit, (params.beta - prior_mean) / prior_sd])

    block, accept_length, _ = max(points)
    start = fit_one(accept_length, block, beta=prior_mean, theta=theta)
    x, information = gauss_newton(residuals, np.array([math.log(start.lam), prior_mean]))
    params = FrailtyWeibull(lam=math.exp(x[0]), beta=float(x[1]), theta=theta)
    return Fit(params=params, covariance=np.asarray(np.linalg.inv(information), np.float64))


def _positions(gamma: int) -> Floats:
    return np.arange(1, gamma + 1, dtype=np.float64)


def _outside(accept_length: float, block: int) -> UsageError:
    msg = f"accept length {accept_length} is outside [1, {block}] at block {block}"
    return UsageError(msg)
