"""Constants of the GEMM curve, and how far interpolation misses points it has not seen."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from dflash_sim.profiles.interp import GemmCurve, GemmGrid, Line, Sheet
from dflash_sim.profiles.units import BF16_BYTES, MEGA

FIT_MAX_M = 512  # beyond it arithmetic rules and the verify step never goes
FIT_MIN_NK = 512
BIG_WEIGHT_BYTES = 16 * MEGA  # smaller weights are launch-bound and partly cached
START = (3e-6, 3e12, 1e15, 2.0)

FloatArray = NDArray[np.float64]
Cells = Mapping[tuple[int, int, int], float]


@dataclass(frozen=True)
class Miss:
    """Absolute relative errors of a prediction.

    Parameters
    ----------
    points : how many were predicted
    median, p90 : of the absolute relative error [1]
    """

    points: int
    median: float
    p90: float

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> "Miss":
        """Errors of ``predicted`` against ``measured``."""
        if not measured:
            return cls(points=0, median=0.0, p90=0.0)
        error = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
        return cls(
            points=len(measured),
            median=float(np.median(error)),
            p90=float(np.quantile(error, 0.9)),
        )


def rounded(value: float, digits: int = 4) -> float:
    """``value`` to ``digits`` significant digits, so that files repeat byte for byte."""
    return float(f"{value:.{digits}g}")


def fit_curve(cells: Cells) -> GemmCurve:
    """Curve through the cells with small M and large N, K; robust to outliers.

    Parameters
    ----------
    cells : (m, n, k) to time [s]
    """
    from scipy.optimize import least_squares

    chosen = {key: t for key, t in cells.items() if in_fit(key)}
    m, n, k = np.array(sorted(chosen), dtype=float).T
    measured = np.log([chosen[key] for key in sorted(chosen)])
    log_traffic = np.log(BF16_BYTES * (m * k + n * k + m * n))
    log_work = np.log(2 * m * n * k)

    def residual(point: FloatArray) -> FloatArray:
        floor, bandwidth, rate, log_knee = point
        knee = np.exp(log_knee)
        knees = np.logaddexp(knee * (log_traffic - bandwidth), knee * (log_work - rate)) / knee
        return np.logaddexp(floor, knees) - measured

    best = least_squares(
        residual, np.log(START), loss="soft_l1", f_scale=0.05, xtol=1e-14, ftol=1e-14, gtol=1e-14
    )
    floor, bandwidth, rate, knee = (rounded(float(v)) for v in np.exp(best.x))
    return GemmCurve(floor_s=floor, bw_byte_s=bandwidth, rate_flop_s=rate, knee=knee)


def in_fit(key: tuple[int, int, int]) -> bool:
    """Whether (m, n, k) belongs to the fitted region."""
    m, n, k = key
    return m <= FIT_MAX_M and min(n, k) >= FIT_MIN_NK


def curve_misses(curve: GemmCurve, cells: Cells) -> dict[str, Miss]:
    """How far the curve alone is off: where it was fitted, on big weights, and at large M."""
    regions: dict[str, list[tuple[float, float]]] = {"fit": [], "big_weights": [], "large_m": []}
    for (m, n, k), measured in cells.items():
        pair = (curve.seconds(m=m, n=n, k=k), measured)
        if in_fit((m, n, k)):
            regions["fit"].append(pair)
            if BF16_BYTES * n * k > BIG_WEIGHT_BYTES:
                regions["big_weights"].append(pair)
        elif m > FIT_MAX_M and min(n, k) >= FIT_MIN_NK:
            regions["large_m"].append(pair)
    return {name: Miss.of(*_columns(pairs)) for name, pairs in regions.items()}


def gemm_misses(
    m: Sequence[int],
    table: Mapping[tuple[int, int], Sequence[float | None]],
    curve: GemmCurve,
) -> Miss:
    """Predict the (n, k) left out when every other n and k is dropped from the grid."""
    ns = sorted({n for n, _ in table})
    ks = sorted({k for _, k in table})
    kept = {*_every_other(ns)}, {*_every_other(ks)}
    grid = GemmGrid(m, {key: t for key, t in table.items() if _in(key, kept)}, curve)
    pairs = [
        (grid.at(m=mi, n=n, k=k)[0], t)
        for (n, k), times in table.items()
        if not _in((n, k), kept)
        for mi, t in zip(m, times, strict=True)
        if t is not None
    ]
    return Miss.of(*_columns(pairs))


def line_misses(lines: Sequence[Line], *, linear: bool = False) -> Miss:
    """Predict each interior point of each line from its two neighbours."""
    pairs = []
    for line in lines:
        for i in range(1, len(line.x) - 1):
            ends = Line(line.x[i - 1 : i + 2 : 2], line.seconds[i - 1 : i + 2 : 2], linear=linear)
            pairs.append((ends.at(line.x[i])[0], line.seconds[i]))
    return Miss.of(*_columns(pairs))


def sheet_misses(sheets: Sequence[Sheet], *, linear: bool = False) -> Miss:
    """Predict each interior point of each line of each sheet from its two neighbours."""
    return line_misses([line for sheet in sheets for line in sheet.lines], linear=linear)


def spikes(line: Line, factor: float) -> list[int]:
    """Interior points slower than both neighbours by ``factor``: no load explains them."""
    t = line.seconds
    return [i for i in range(1, len(t) - 1) if t[i] > factor * max(t[i - 1], t[i + 1])]


def curve_record(curve: GemmCurve) -> dict[str, float]:
    """Constants as they are written to ``meta.toml``."""
    return asdict(curve)


def spread(values: Sequence[float]) -> float:
    """Second smallest over smallest: what a lucky minimum may hide."""
    low, second = sorted(values)[:2]
    return second / low


def geometric_middle(before: float, after: float) -> float:
    """Mean of two times on a log scale [s]."""
    return float(np.exp((log(before) + log(after)) / 2))


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [p for p, _ in pairs], [m for _, m in pairs]


def _every_other(axis: Sequence[int]) -> list[int]:
    return [*axis[::2], axis[-1]]


def _in(key: tuple[int, int], kept: tuple[set[int], set[int]]) -> bool:
    return key[0] in kept[0] and key[1] in kept[1]
