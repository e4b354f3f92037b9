"""Constants of the GEMM curve, and how far interpolation misses points it has not seen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dflash_sim.profiles.errors import MissingProfileError
from dflash_sim.profiles.times.interpolation import GemmCurve, GemmGrid, Line
from dflash_sim.profiles.units import BF16_BYTES, MEGA

FIT_MAX_M = 512  # a verify step seldom has more rows, and past it arithmetic alone decides
FIT_MIN_NK = 512
BIG_WEIGHT_BYTES = 16 * MEGA  # smaller weights are launch-bound
FULL_RATE = 4096  # every side this long or more runs at the arithmetic rate
START = (3e-6, 3e12, 2.0)
TIGHT = 1e-14  # so that four digits do not depend on the solver's last step

FloatArray = NDArray[np.float64]
GemmCells = Mapping[tuple[int, int, int], float]
GemmTimes = Mapping[tuple[int, int], Sequence[float | None]]


@dataclass(frozen=True)
class Miss:
    """Relative errors of a prediction, without sign.

    Parameters
    ----------
    points : how many were predicted
    median, p90 : of the absolute relative error [1]
    """

    points: int
    median: float
    p90: float

    @classmethod
    def of(cls, pairs: Iterable[tuple[float, float]]) -> "Miss":
        """Errors over (predicted, measured) pairs."""
        error = np.array([abs(predicted / measured - 1) for predicted, measured in pairs])
        if not error.size:
            return cls(points=0, median=0.0, p90=0.0)
        median, p90 = (rounded(float(np.quantile(error, q)), 3) for q in (0.5, 0.9))
        return cls(points=error.size, median=median, p90=p90)


def rounded(value: float, digits: int = 4) -> float:
    """``value`` to ``digits`` significant digits, so that files repeat byte for byte."""
    return float(f"{value:.{digits}g}")


def fit_curve(
    cells: GemmCells, *, weight_bytes: float = BF16_BYTES, input_bytes: float = BF16_BYTES
) -> GemmCurve:
    """Curve through the cells with small M and large N, K, in relative error, outliers damped.

    Small M says little about the arithmetic rate: it is the median of the largest products.

    Parameters
    ----------
    cells : (m, n, k) to time [s]
    weight_bytes, input_bytes : of one weight and of one value of the left matrix [byte]
    """
    from scipy.optimize import least_squares

    chosen = sorted(key for key in cells if in_fit(key))
    work = [2.0 * m * n * k / t for (m, n, k), t in cells.items() if min(m, n, k) >= FULL_RATE]
    if not chosen or not work:
        msg = f"a GEMM curve needs M <= {FIT_MAX_M} with N, K >= {FIT_MIN_NK}, and all {FULL_RATE}"
        raise MissingProfileError(msg)
    rate = float(np.median(work))
    m, n, k = np.array(chosen, dtype=float).T
    log_time = np.log([cells[key] for key in chosen])
    read = input_bytes * (m * k) + weight_bytes * (n * k)
    log_bytes = np.log(read + BF16_BYTES * (m * n))
    log_math = np.log(2 * m * n * k / rate)

    def residual(point: FloatArray) -> FloatArray:
        floor, bandwidth, log_knee = point
        knee = np.exp(log_knee)
        slope = np.logaddexp(knee * (log_bytes - bandwidth), knee * log_math) / knee
        return np.asarray(np.logaddexp(floor, slope) - log_time)

    best = least_squares(
        residual,
        np.log(START),
        bounds=([-np.inf, -np.inf, 0.0], np.inf),  # knee 1: nothing overlaps
        loss="soft_l1",
        f_scale=0.05,
        xtol=TIGHT,
        ftol=TIGHT,
        gtol=TIGHT,
    )
    floor, bandwidth, knee = (rounded(float(v)) for v in np.exp(best.x))
    return GemmCurve(floor, bandwidth, rounded(rate), knee, weight_bytes, input_bytes)


def in_fit(key: tuple[int, int, int]) -> bool:
    """Return True if (m, n, k) belongs to the fitted region."""
    m, n, k = key
    return m <= FIT_MAX_M and min(n, k) >= FIT_MIN_NK


def curve_misses(curve: GemmCurve, cells: GemmCells) -> dict[str, Miss]:
    """Return how far the curve alone is off: where it was fitted, on big weights, at large M."""
    regions: dict[str, list[tuple[float, float]]] = {"fit": [], "big_weights": [], "large_m": []}
    for (m, n, k), measured in cells.items():
        pair = (curve.seconds(m=m, n=n, k=k), measured)
        if in_fit((m, n, k)):
            regions["fit"].append(pair)
            if curve.weight_bytes * n * k > BIG_WEIGHT_BYTES:
                regions["big_weights"].append(pair)
        elif min(n, k) >= FIT_MIN_NK:
            regions["large_m"].append(pair)
    return {name: Miss.of(pairs) for name, pairs in regions.items()}


def grid_miss(m: Sequence[int], table: GemmTimes, curve: GemmCurve) -> Miss:
    """Predict the shapes left out when every other n and k is dropped from the grid."""
    ns, ks = (sorted({key[i] for key in table}) for i in (0, 1))
    kept_n, kept_k = {*ns[::2], ns[-1]}, {*ks[::2], ks[-1]}
    kept = {key for key in table if key[0] in kept_n and key[1] in kept_k}
    return _left_out(m, table, curve, kept=kept, asked=table.keys() - kept)


def edge_miss(m: Sequence[int], table: GemmTimes, curve: GemmCurve) -> Miss:
    """Predict the largest n and k from a grid that ends at a quarter of them."""
    last_n, last_k = (max(key[i] for key in table) for i in (0, 1))
    kept = {(n, k) for n, k in table if 4 * n <= last_n and 4 * k <= last_k}
    asked = {(n, k) for n, k in table if (n == last_n) != (k == last_k) and min(n, k) > FIT_MIN_NK}
    return _left_out(m, table, curve, kept=kept, asked=asked - kept if kept else set())


def line_miss(lines: Sequence[Line], *, power: bool = False) -> Miss:
    """Predict each interior point of each line from its two neighbours."""
    pairs = []
    for line in lines:
        for i in range(1, len(line.x) - 1):
            around = slice(i - 1, i + 2, 2)
            ends = Line(line.x[around], line.seconds[around], power=power)
            pairs.append((ends.at(line.x[i])[0], line.seconds[i]))
    return Miss.of(pairs)


def _left_out(
    m: Sequence[int],
    table: GemmTimes,
    curve: GemmCurve,
    *,
    kept: set[tuple[int, int]],
    asked: set[tuple[int, int]],
) -> Miss:
    grid = GemmGrid(m, {key: table[key] for key in kept}, curve)
    return Miss.of(
        (grid.at(m=rows, n=n, k=k)[0], seconds)
        for n, k in sorted(asked)
        for rows, seconds in zip(m, table[n, k], strict=True)
        if seconds is not None
    )
