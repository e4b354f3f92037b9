"""Interpolation between measured points.

Plain Python on purpose: a lookup is one number, and ``bisect`` on a tuple beats an array.
Every rule here stays between its two neighbours, so a table that rises is read as one that rises.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

from dflash_sim.profiles.units import BF16_BYTES


def bracket(axis: Sequence[float], log_axis: Sequence[float], x: float) -> tuple[int, int, float]:
    """Neighbours of ``x`` and the weight of the upper one in log space, clamped to the axis."""
    if x <= axis[0]:
        return 0, 0, 0.0
    if x >= axis[-1]:
        return len(axis) - 1, len(axis) - 1, 0.0
    hi = bisect_right(axis, x)
    lo = hi - 1
    if axis[lo] == x:
        return lo, lo, 0.0
    return lo, hi, (log(x) - log_axis[lo]) / (log_axis[hi] - log_axis[lo])


def beyond(x: float, x0: float, x1: float, y0: float, y1: float) -> float:
    """Straight line through the last two points: past them the work grows with the bytes."""
    return y1 + max(0.0, (y1 - y0) / (x1 - x0)) * (x - x1)


class Line:
    """Time against one size: held below the first point, straight past the last.

    Parameters
    ----------
    x : sizes, rising [1]
    seconds : time at each size [s]; ``None`` where nothing was measured
    linear : join points with straight lines instead of power laws
    """

    __slots__ = ("_linear", "_log_x", "seconds", "x")

    def __init__(
        self, x: Sequence[float], seconds: Sequence[float | None], *, linear: bool = False
    ) -> None:
        known = [(a, b) for a, b in zip(x, seconds, strict=True) if b is not None]
        self.x = tuple(a for a, _ in known)
        self.seconds = tuple(b for _, b in known)
        self._log_x = tuple(log(a) for a in self.x)
        self._linear = linear

    def at(self, x: float) -> tuple[float, bool]:
        """Time at ``x`` [s], and whether ``x`` lies inside the measured range."""
        t = self.seconds
        if x > self.x[-1]:
            if len(t) == 1:
                return t[0] * x / self.x[0], False
            return beyond(x, self.x[-2], self.x[-1], t[-2], t[-1]), False
        lo, hi, weight = bracket(self.x, self._log_x, x)
        if lo == hi:
            return t[lo], x >= self.x[0]
        if self._linear:
            weight = (x - self.x[lo]) / (self.x[hi] - self.x[lo])
            return t[lo] + weight * (t[hi] - t[lo]), True
        return t[lo] * (t[hi] / t[lo]) ** weight, True


class Sheet:
    """Time against two sizes, one :class:`Line` per value of the first; lines may end early.

    Parameters
    ----------
    lines : time against the second size, by value of the first
    """

    __slots__ = ("_across", "lines")

    def __init__(self, lines: Mapping[float, Line]) -> None:
        self._across = tuple(sorted(lines))
        self.lines = tuple(lines[a] for a in self._across)

    def at(self, across: float, along: float) -> tuple[float, bool]:
        """Time at (``across``, ``along``) [s], and whether every point used was measured."""
        axis = self._across
        hi = min(bisect_right(axis, across), len(axis) - 1)
        lo = max(hi - 1, 0)
        if across <= axis[0]:
            seconds, inside = self.lines[0].at(along)
            return seconds, inside and across == axis[0]
        t0, inside0 = self.lines[lo].at(along)
        t1, inside1 = self.lines[hi].at(along)
        if across == axis[lo]:
            return t0, inside0
        if across == axis[hi]:
            return t1, inside1
        if across > axis[hi]:
            return beyond(across, axis[lo], axis[hi], t0, t1) if lo < hi else t1, False
        weight = log(across / axis[lo]) / log(axis[hi] / axis[lo])
        return t0 * (t1 / t0) ** weight, inside0 and inside1


@dataclass(frozen=True)
class GemmCurve:
    """A roofline with a rounded knee and a floor: ``t0 + ((bytes/bw)^p + (flop/rate)^p)^(1/p)``.

    Parameters
    ----------
    floor_s : time of an empty product [s]
    bw_byte_s : achieved memory bandwidth [byte/s]
    rate_flop_s : achieved arithmetic rate [FLOP/s]
    knee : p; larger is sharper [1]
    """

    floor_s: float
    bw_byte_s: float
    rate_flop_s: float
    knee: float

    def seconds(self, *, m: float, n: float, k: float) -> float:
        """Time of a bf16 ``[m, k] x [k, n]`` product [s]."""
        memory_s = BF16_BYTES * (m * k + n * k + m * n) / self.bw_byte_s
        math_s = 2 * m * n * k / self.rate_flop_s
        return float(self.floor_s + (memory_s**self.knee + math_s**self.knee) ** (1 / self.knee))


class GemmGrid:
    """Measured products and the curve between them.

    Off the grid the time is the curve times the interpolated ratio of table to curve, held
    constant past the edges: the curve carries the scaling, the table the shape-specific error.

    Parameters
    ----------
    m : row counts of every table line, rising [1]
    table : ``(n, k)`` to times [s], one per ``m``; ``None`` where nothing was measured
    curve : the fit that carries the scaling
    """

    def __init__(
        self,
        m: Sequence[int],
        table: Mapping[tuple[int, int], Sequence[float | None]],
        curve: GemmCurve,
    ) -> None:
        self.curve = curve
        self.table = table
        self._m = tuple(m)
        self._n = tuple(sorted({n for n, _ in table}))
        self._k = tuple(sorted({k for _, k in table}))
        self._log_m, self._log_n, self._log_k = (
            tuple(log(v) for v in axis) for axis in (self._m, self._n, self._k)
        )

    def at(self, *, m: float, n: float, k: float) -> tuple[float, bool]:
        """Time [s], and whether this ``(n, k)`` was measured."""
        total = weights = 0.0
        for mi, wm in _ends(bracket(self._m, self._log_m, m)):
            for ni, wn in _ends(bracket(self._n, self._log_n, n)):
                for ki, wk in _ends(bracket(self._k, self._log_k, k)):
                    ratio = self._log_ratio(mi, self._n[ni], self._k[ki])
                    if ratio is not None:
                        weight = wm * wn * wk
                        total += weight * ratio
                        weights += weight
        base = self.curve.seconds(m=m, n=n, k=k)
        measured = (n, k) in self.table and self._m[0] <= m <= self._m[-1] and weights > 0
        return (base * exp(total / weights) if weights else base), measured

    def _log_ratio(self, mi: int, n: int, k: int) -> float | None:
        times = self.table.get((n, k))
        seconds = times[mi] if times is not None else None
        if seconds is None:
            return None
        return log(seconds / self.curve.seconds(m=self._m[mi], n=n, k=k))


def _ends(found: tuple[int, int, float]) -> tuple[tuple[int, float], ...]:
    lo, hi, weight = found
    return ((lo, 1.0),) if lo == hi else ((lo, 1 - weight), (hi, weight))
