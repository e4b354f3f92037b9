"""Small numerics the model needs, in numpy alone.

scipy has all of it, but importing ``scipy.optimize`` would make a cold ``predict`` a third longer.
Tests compare with scipy.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BEND = 6  # search bound: beyond exp(6) the curve is a step function


def root(f: Callable[[float], float], a: float, b: float) -> float:
    """A root bracketed by ``a`` and ``b`` to machine precision (Chandrupatla 1997)."""
    fa, fb = f(a), f(b)
    c, fc, t = a, fa, 0.5
    eps = float(np.finfo(float).eps)
    while True:
        x = a + t * (b - a)
        fx = f(x)
        if math.copysign(1, fx) == math.copysign(1, fa):
            c, fc = a, fa
        else:
            c, b, fc, fb = b, a, fb, fa
        a, fa = x, fx
        best, f_best = (a, fa) if abs(fa) < abs(fb) else (b, fb)
        tolerance = 2 * eps * abs(best) + eps**2
        margin = tolerance / abs(b - c) if b != c else 1.0
        if f_best == 0 or margin > 0.5:
            return best
        t = 0.5
        if fc == fb:  # values too small to differ show no curve to follow
            continue
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        if phi * phi < xi and (1 - phi) ** 2 < 1 - xi:
            t = fa / (fb - fa) * fc / (fb - fc)
            t += (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        t = min(max(t, margin), 1 - margin)


def gauss_newton(
    residuals: Callable[[Floats], Floats], x: Floats, iterations: int = 64
) -> tuple[Floats, Floats]:
    """Minimise the sum of squares from ``x``; returns the minimum and J'J there."""
    step = np.cbrt(np.finfo(float).eps)

    def jacobian(x: Floats) -> Floats:
        sides = [residuals(x + d) - residuals(x - d) for d in np.eye(x.size) * step]
        return np.asarray(np.stack(sides, axis=1) / (2 * step))

    damping = 0.0
    r, j = residuals(x), jacobian(x)
    for _ in range(iterations):
        normal = j.T @ j
        move = -np.linalg.solve(normal + damping * np.diag(np.diag(normal)), j.T @ r)
        trial = residuals(x + move)
        if trial @ trial > r @ r:
            if np.abs(move).max() < step**2:
                break
            damping = max(2 * damping, step)
            continue
        damping /= 2
        x = x + move
        r, j = trial, jacobian(x)
        if np.abs(move).max() < step**2:
            break
    return x, j.T @ j


def gamma_quadrature(theta: float, nodes: int = 32) -> tuple[Floats, Floats]:
    """Nodes and weights of E[f(Z)], Z ~ Gamma(1/theta, theta) (Golub and Welsch 1969)."""
    i = np.arange(nodes, dtype=np.float64)
    diagonal = (2 * i + 1 / theta) * theta
    off = np.sqrt(i[1:] * (i[1:] + 1 / theta - 1)) * theta
    z, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    return np.maximum(z, 0), vectors[0] ** 2


def non_increasing(values: Floats, weights: Floats) -> Floats:
    """Weighted least-squares projection onto non-increasing sequences (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        pool = (value, weight, 1)
        while pools and pools[-1][0] < pool[0]:
            v, w, n = pools.pop()
            total = w + pool[1]
            pool = ((v * w + pool[0] * pool[1]) / total, total, n + pool[2])
        pools.append(pool)
    return np.concatenate([np.full(n, v) for v, _, n in pools])


def fill_log_linear(means: Floats, blocks: Floats) -> Floats:
    """Non-increasing positions with the given mean over each gap between blocks, log-linear inside.

    The run starts at ``S_0 = 1``; neighbouring gaps meet where the log-linear line between their
    middles crosses the border. Bending a run by a power of the position moves its mean over the
    whole range between its ends, so some bend restores the mean that was measured.
    """
    tiny = np.finfo(float).eps
    safe, gaps = np.maximum(means, tiny), np.diff(blocks)
    share = gaps[:-1] / (gaps[:-1] + gaps[1:])
    ends = np.concatenate([np.ones(1), safe[:-1] ** (1 - share) * safe[1:] ** share])
    ends = np.append(ends, safe[-1] ** 2 / ends[-1])
    edges = np.concatenate([np.zeros(1), blocks[1:] - 1 / 2])
    runs = []
    for i, mean in enumerate(safe):
        x = (np.arange(blocks[i], blocks[i + 1]) - edges[i]) / (edges[i + 1] - edges[i])
        high, low = ends[i], ends[i + 1]

        def run(bend: float, x: Floats = x, high: float = high, low: float = low) -> Floats:
            return np.asarray(high * (low / high) ** (x ** math.exp(bend)))

        def excess(bend: float, mean: float = mean, run: Callable[..., Floats] = run) -> float:
            return float(run(bend).mean() - mean)

        level = x.size == 1 or not low < mean < high
        runs.append(np.full(x.size, mean) if level else run(root(excess, -BEND, BEND)))
    s = np.concatenate(runs)
    return np.minimum.accumulate(np.where(s <= tiny, 0, s))
