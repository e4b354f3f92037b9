"""Interpolation between measured points.

Plain Python on purpose: a lookup is one number, and ``bisect`` on a tuple beats an array.
Times are joined by straight lines, because work is a launch plus bytes over bandwidth; held-out
points say so too. Every rule stays between its neighbours, so a rising table is read as rising.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

from dflash_sim.profiles.units import BF16_BYTES

Found = tuple[float, bool]


class Line:
    """Time against one size: held below the first point, straight past the last.

    Parameters
    ----------
    x : sizes, rising [1]
    seconds : time at each size [s]; ``None`` where nothing was measured
    power : join points by power laws, for work that grows faster than its size
    """

    __slots__ = ("_power", "seconds", "x")

    def __init__(
        self, x: Sequence[float], seconds: Sequence[float | None], *, power: bool = False
    ) -> None:
        known = [(a, b) for a, b in zip(x, seconds, strict=True) if b is not None]
        self.x = tuple(a for a, _ in known)
        self.seconds = tuple(b for _, b in known)
        self._power = power

    def at(self, x: float) -> Found:
        """Time at ``x`` [s], and whether ``x`` lies inside the measured range."""
        axis, t = self.x, self.seconds
        hi = bisect_left(axis, x)
        if hi < len(axis) and axis[hi] == x:
            return t[hi], True
        if hi == 0:
            return t[0], False
        if len(axis) == 1:
            return t[0] * x / axis[0], False
        hi = min(hi, len(axis) - 1)
        join = _power_law if self._power else _straight
        return join(x, axis[hi - 1], axis[hi], t[hi - 1], t[hi]), x <= axis[-1]


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

    def at(self, across: float, along: float) -> Found:
        """Time at (``across``, ``along``) [s], and whether every point used was measured."""
        axis = self._across
        hi = bisect_left(axis, across)
        if hi < len(axis) and axis[hi] == across:
            return self.lines[hi].at(along)
        if hi == 0 or len(axis) == 1:
            return self.lines[0].at(along)[0], False
        hi = min(hi, len(axis) - 1)
        t0, inside0 = self.lines[hi - 1].at(along)
        t1, inside1 = self.lines[hi].at(along)
        inside = inside0 and inside1 and across <= axis[-1]
        return _straight(across, axis[hi - 1], axis[hi], t0, t1), inside


@dataclass(frozen=True)
class GemmCurve:
    """A roofline with a rounded knee and a floor: ``t0 + ((bytes/bw)^p + (flop/rate)^p)^(1/p)``.

    Parameters
    ----------
    floor_s : time of an empty product [s]
    bw_byte_s : achieved memory bandwidth [byte/s]
    rate_flop_s : achieved arithmetic rate [FLOP/s]
    knee : p; larger is sharper [1]
    weight_bytes, input_bytes : of one weight and of one value of the left matrix [byte]
    """

    floor_s: float
    bw_byte_s: float
    rate_flop_s: float
    knee: float
    weight_bytes: float = BF16_BYTES
    input_bytes: float = BF16_BYTES

    def seconds(self, *, m: float, n: float, k: float) -> float:
        """Time of a ``[m, k] x [k, n]`` product with a bf16 result [s]."""
        read = self.input_bytes * (m * k) + self.weight_bytes * (n * k)
        memory_s = (read + BF16_BYTES * (m * n)) / self.bw_byte_s
        math_s = 2 * m * n * k / self.rate_flop_s
        slow, fast = max(memory_s, math_s), min(memory_s, math_s)
        knee: float = (1 + (fast / slow) ** self.knee) ** (1 / self.knee)
        return self.floor_s + slow * knee


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

    def covers(self, *, n: int, k: int) -> bool:
        """Return True if (n, k) lies between measured shapes."""
        return n <= self._n[-1] and k <= self._k[-1]

    def at(self, *, m: float, n: int, k: int) -> Found:
        """Time [s], and whether this (n, k) was measured at row counts around ``m``."""
        total = weights = 0.0
        for mi, wm in _ends(self._m, m):
            for ni, wn in _ends(self._n, n):
                for ki, wk in _ends(self._k, k):
                    ratio = self._log_ratio(mi, self._n[ni], self._k[ki])
                    if ratio is not None:
                        total += wm * wn * wk * ratio
                        weights += wm * wn * wk
        base = self.curve.seconds(m=m, n=n, k=k)
        if not weights:
            return base, False
        return base * exp(total / weights), (n, k) in self.table and m <= self._m[-1]

    def _log_ratio(self, mi: int, n: int, k: int) -> float | None:
        times = self.table.get((n, k))
        seconds = times[mi] if times is not None else None
        if seconds is None:
            return None
        return log(seconds / self.curve.seconds(m=self._m[mi], n=n, k=k))


def _ends(axis: Sequence[float], x: float) -> tuple[tuple[int, float], ...]:
    """Neighbours of ``x`` with their weights in log space, clamped to the axis."""
    hi = bisect_right(axis, x)
    if hi == 0:
        return ((0, 1.0),)
    if hi == len(axis) or axis[hi - 1] == x:
        return ((hi - 1, 1.0),)
    upper = log(x / axis[hi - 1]) / log(axis[hi] / axis[hi - 1])
    return ((hi - 1, 1 - upper), (hi, upper))


def _straight(x: float, x0: float, x1: float, y0: float, y1: float) -> float:
    """Line through two points; past the second it does not fall."""
    slope = (y1 - y0) / (x1 - x0)
    return y0 + slope * (x - x0) if x <= x1 else y1 + max(0.0, slope) * (x - x1)


def _power_law(x: float, x0: float, x1: float, y0: float, y1: float) -> float:
    """Power law through two points; past the second it does not fall."""
    power = log(y1 / y0) / log(x1 / x0)
    return y0 * exp(power * log(x / x0)) if x <= x1 else y1 * exp(max(0.0, power) * log(x / x1))
