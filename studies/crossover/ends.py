"""Where a gain along an axis passes 0, and how sure that is.

A gain is the log of the throughput over that of plain decoding. It is known at some positions and
linear between them. What is uncertain moves both servers at once: draws of it are paired, so that
what they share cancels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from dflash_sim.simulator.intervals import Sensitivity

Floats = npt.NDArray[np.float64]
METRIC = "output_throughput"
DRAWS = 2000
Z90 = 1.645  # two-sided 90 % point of the normal law
_SHARE = 0.9  # of the draws inside an interval
_DIP = 0.02  # of the gain: a shallower dip, as between sizes of CUDA graphs, ends no stretch


@dataclass(frozen=True)
class Ends:
    """Where the last stretch that pays begins and ends, on the scale of the axis.

    Parameters
    ----------
    since
        Minus infinity if it pays from the first position on, infinity if it pays nowhere.
    until
        Infinity if it pays up to the last position, minus infinity if it pays nowhere.
    """

    since: Floats
    until: Floats


@dataclass(frozen=True)
class Span:
    """An end and its 90 % interval; infinite where that is beyond the positions looked at."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """What is uncertain about a gain: shared parameters at a few positions, and an offset.

    Parameters
    ----------
    at
        Positions, rising.
    slopes
        ``[position, parameter]``: d gain / d parameter, of one server less that of the other.
    covariance
        Of the parameters.
    offset_variance
        Of what each pair of servers has of its own, the same at all positions [1].
    """

    at: Floats
    slopes: Floats
    covariance: Floats
    offset_variance: float

    @classmethod
    def between(
        cls,
        at: Floats,
        own: list[Sensitivity],
        plain: list[Sensitivity],
        *,
        offset_variance: float,
    ) -> "Spread":
        """The spread of a server's gain over another's, from the sensitivities of both."""
        names, covariance = together(own[0], plain[0])
        rows = []
        for one, other in zip(own, plain, strict=True):
            ours, theirs = (
                dict(zip([p.name for p in each.parameters], each.vector(METRIC), strict=True))
                for each in (one, other)
            )
            rows.append([ours.get(name, 0.0) - theirs.get(name, 0.0) for name in names])
        return cls(at, np.array(rows), covariance, offset_variance)

    def sd(self, x: Floats) -> Floats:
        """Standard deviation of the gain at each position [1]."""
        g = self._slopes_at(x)
        shared = np.einsum("xp,pq,xq->x", g, self.covariance, g)
        found: Floats = np.sqrt(np.maximum(shared, 0.0) + self.offset_variance)
        return found

    def draws(self, x: Floats, *, seed: int, draws: int = DRAWS) -> Floats:
        """``[draw, position]``: what adds to the gain, the same parameters at every position."""
        rng = np.random.default_rng(seed)
        zero = np.zeros(len(self.covariance))
        moved = rng.multivariate_normal(zero, self.covariance, size=draws, method="eigh")
        offset = rng.normal(0.0, np.sqrt(self.offset_variance), size=(draws, 1))
        found: Floats = moved @ self._slopes_at(x).T + offset
        return found

    def _slopes_at(self, x: Floats) -> Floats:
        """``[position, parameter]``, linear between the positions that are known."""
        columns = [np.interp(x, self.at, column) for column in self.slopes.T]
        return np.array(columns).T


def together(one: Sensitivity, other: Sensitivity) -> tuple[list[str], Floats]:
    """``(names, covariance)`` of the parameters of both, those of ``one`` first.

    What is one's alone and what is the other's alone, as the acceptance of two methods, go together
    by what they share and no further.
    """
    names, theirs = ([p.name for p in each.parameters] for each in (one, other))
    added = [i for i, name in enumerate(theirs) if name not in names]
    if not added:
        return names, one.covariance
    shared = [i for i, name in enumerate(theirs) if name in names]
    here = [names.index(theirs[i]) for i in shared]
    within, across = (other.covariance[np.ix_(shared, some)] for some in (shared, added))
    cross = one.covariance[:, here] @ np.linalg.pinv(within, hermitian=True) @ across
    whole = np.block([[one.covariance, cross], [cross.T, other.covariance[np.ix_(added, added)]]])
    return [*names, *(theirs[i] for i in added)], whole


def ends(x: Floats, gain: Floats) -> Ends:
    """Find the ends of the last stretch that pays, for each draw.

    Parameters
    ----------
    x
        Positions, rising.
    gain
        ``[draw, position]``.
    """
    pays = gain > 0
    count, places = len(x), np.arange(len(x))
    last = np.where(pays, places, -1).max(axis=1)
    fails_before = (gain < -_DIP) & (places < last[:, None])
    start = np.where(fails_before, places, -1).max(axis=1) + 1
    until = _passes(x, gain, np.minimum(last, count - 2))
    since = _passes(x, gain, np.maximum(start - 1, 0))
    until = np.where(last == count - 1, np.inf, until)
    since = np.where(start == 0, -np.inf, since)
    nowhere = last < 0
    return Ends(np.where(nowhere, np.inf, since), np.where(nowhere, -np.inf, until))


def stretches(x: Floats, gain: Floats) -> list[tuple[float, float]]:
    """Return every stretch that pays, from the first on; its ends may be infinite."""
    found: list[tuple[float, float]] = []
    left = len(x)
    while left:
        each = ends(x[:left], gain[None, :left])
        since, until = float(each.since[0]), float(each.until[0])
        if since > until:
            break
        if left < len(x) and until == np.inf:
            until = float(_passes(x, gain[None], np.array([left - 1]))[0])
        found.insert(0, (since, until))
        left = int(np.searchsorted(x, since, side="right")) if since > -np.inf else 0
    return found


def doubtful(values: Sequence[float], gain: Floats, sd: Floats) -> tuple[tuple[float, float], ...]:
    """Return the stretches of values, ends included, whose 90 % interval of the gain holds 0."""
    within = (np.abs(gain) < Z90 * sd).tolist()
    runs = groupby(zip(values, within, strict=True), key=lambda pair: pair[1])
    places = [[value for value, _ in run] for doubt, run in runs if doubt]
    return tuple((each[0], each[-1]) for each in places)


def spans(x: Floats, gain: Floats, spread: Spread | None, *, seed: int) -> tuple[Span, Span]:
    """Return since when and until when it pays, with intervals; without a spread they are none.

    Also where the middle says that it pays nowhere, the interval says how far it might.
    """
    middle = ends(x, gain[None])
    sampled = middle
    if spread is not None:
        sampled = ends(x, gain + spread.draws(x, seed=seed))
    since, until = (
        Span(float(value[0]), *_interval(sample))
        for value, sample in (
            (middle.since, sampled.since),
            (middle.until, sampled.until),
        )
    )
    return since, until


def _passes(x: Floats, gain: Floats, before: npt.NDArray[np.int64]) -> Floats:
    """Return where each draw passes 0 between position ``before`` and the next one."""
    if len(x) == 1:
        return np.full(len(gain), x[0])
    rows = np.arange(len(gain))
    i = np.clip(before, 0, len(x) - 2)
    a, b = gain[rows, i], gain[rows, i + 1]
    span = np.where(a == b, 1.0, a - b)
    share = np.clip(a / span, 0.0, 1.0)
    found: Floats = x[i] + share * (x[i + 1] - x[i])
    return found


def _interval(sample: Floats) -> tuple[float, float]:
    """Ends of the middle nine tenths of a sample, some of which may be infinite."""
    ordered = np.sort(sample)
    out = int(np.floor((1 - _SHARE) / 2 * len(ordered)))
    return float(ordered[out]), float(ordered[len(ordered) - 1 - out])
