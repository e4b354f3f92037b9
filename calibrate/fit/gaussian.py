"""Rows are fitted where answers are straight lines in the unknowns: Gaussians, in closed form.

Near a point ``x`` the logs of what was measured are ``y = f + J (X - x) + setting + row + noise``:
``X`` the unknowns with their priors, one deviation that the rows of a setting share and one of
each row (the model's discrepancy), and the error of the measurement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.fit.rows import ACCEPT_LENGTH, THROUGHPUT, Row
from dflash_sim.profiles.calibration import Parameter

Floats = npt.NDArray[np.float64]

FAR = 3.0  # sds from what the other rows say; beyond it a row counts for less, and is named
_DISCREPANCY = 0.02  # prior of either part, within a factor of e
_COARSE, _FINE = 2.0, 1.05  # factors in which the discrepancy is searched
_ROUNDS = 10


class Spread(NamedTuple):
    """The distance of measured rows from straight lines.

    Parameters
    ----------
    discrepancy
        Standard deviations of what a setting shares, and of what a row has of its own [1].
    slack
        By entry, the variance added where a row lies far out [1].
    """

    discrepancy: tuple[float, float]
    slack: Floats


class Problem:
    """The rows as one vector: throughputs, then the accept lengths that were measured.

    Parameters
    ----------
    index
        Row and metric of each entry.
    """

    def __init__(self, rows: Sequence[Row], parameters: Sequence[Parameter]) -> None:
        self.rows, self.parameters = tuple(rows), tuple(parameters)
        told = [i for i, row in enumerate(rows) if np.isfinite(row.logs[ACCEPT_LENGTH])]
        self.index = [(i, THROUGHPUT) for i in range(len(rows))]
        self.index += [(i, ACCEPT_LENGTH) for i in told]
        self.y = np.array([rows[i].logs[m] for i, m in self.index])
        self.noise = np.array([rows[i].errors[m] for i, m in self.index])
        self.prior = np.array([p.prior for p in parameters])
        self.sd = np.array([p.sd for p in parameters])
        # The model computes times; accept lengths are off by their own error only.
        self.modelled = np.array([m == THROUGHPUT for _, m in self.index], dtype=float)
        self.shared = self.members([row.setting for row in rows])
        self.shared = self.shared @ self.shared.T

    def members(self, groups: Sequence[object]) -> Floats:
        """Return which throughput belongs to which of the rows' groups, shape [entries, groups]."""
        levels = {group: k for k, group in enumerate(dict.fromkeys(groups))}
        out = np.zeros((len(self.index), len(levels)))
        for entry, (i, metric) in enumerate(self.index):
            if metric == THROUGHPUT:
                out[entry, levels[groups[i]]] = 1
        return out

    def take(self, answers: Floats) -> Floats:
        """From arrays by row and metric to the vector of the problem."""
        return np.array([answers[i, m] for i, m in self.index])

    def residual(self, spread: Spread) -> Floats:
        """Covariance of measured and fitted, were the unknowns known."""
        shared, own = spread.discrepancy
        alone = (own * self.modelled) ** 2 + self.noise**2 + spread.slack
        return shared**2 * self.shared + np.diag(alone)


@dataclass(frozen=True)
class Linear:
    """A problem with answers ``f`` and slopes at ``x``."""

    problem: Problem
    x: Floats
    f: Floats
    slopes: Floats

    @cached_property
    def miss(self) -> Floats:
        """Measured less expected before any row was seen."""
        p = self.problem
        return np.asarray(p.y - self.f + self.slopes @ (self.x - p.prior))

    @cached_property
    def explained(self) -> Floats:
        """Covariance of the rows that the priors of the unknowns account for."""
        scaled = self.slopes * self.problem.sd
        return np.asarray(scaled @ scaled.T)

    def covariance(self, spread: Spread) -> Floats:
        """Covariance of ``miss``."""
        return self.explained + self.problem.residual(spread)

    def precision(self, spread: Spread) -> Floats:
        """The inverse of that."""
        return np.asarray(np.linalg.inv(self.covariance(spread)), dtype=float)

    def evidence(self, spread: Spread) -> float:
        """Log density of the rows and of the discrepancy, the unknowns integrated out [1]."""
        root = np.linalg.cholesky(self.covariance(spread))
        rows = np.log(np.diagonal(root)).sum() + (np.linalg.solve(root, self.miss) ** 2).sum() / 2
        parts = np.log(np.array(spread.discrepancy) / _DISCREPANCY)
        return float(-(parts**2).sum() / 2 - rows)

    def likely(self) -> Spread:
        """The likeliest discrepancy, and as much slack as puts no row further out than ``FAR``."""
        slack = np.zeros(len(self.miss))
        for _ in range(_ROUNDS):
            spread = self._likely_discrepancy(slack)
            away, sd = self.apart(spread)
            slack = np.maximum(0.0, (away / FAR) ** 2 - sd**2)
            if np.allclose(slack, spread.slack, rtol=0.05, atol=1e-9):
                break
        return spread

    def _likely_discrepancy(self, slack: Floats) -> Spread:
        """Search a lattice of factors that gets finer where nothing around is better.

        A general optimiser ends within 4 % of the same place, but its last digits follow those of
        the rows; on a lattice a calibration repeats byte for byte.
        """
        seen: dict[tuple[float, float], float] = {}

        def evidence(at: tuple[float, float]) -> float:
            if at not in seen:
                seen[at] = self.evidence(Spread(at, slack))
            return seen[at]

        best, factor = (_DISCREPANCY, _DISCREPANCY), _COARSE
        while factor > _FINE:
            steps = 1.0, factor, 1 / factor
            around = [(best[0] * a, best[1] * b) for a, b in product(steps, steps)]
            found = max(around, key=evidence)
            if found == best:
                factor **= 0.5
            best = found
        return Spread(best, slack)

    def apart(self, spread: Spread) -> tuple[Floats, Floats]:
        """``(away, sd)``: each entry less what all others say of it, and how well they can."""
        inverse = self.precision(spread)
        alone = np.diagonal(inverse)
        away: Floats = inverse @ self.miss / alone
        return away, np.sqrt(1 / alone - spread.slack)

    def unseen(self, spread: Spread) -> Floats:
        """Each entry less what the unknowns would be without it say of it.

        Other rows of its setting then tell of the constants, not of the setting's own deviation,
        which no prediction knows.
        """
        inverse, prior = self.precision(spread), self.explained
        weights = inverse @ self.miss
        told = prior @ weights - np.diagonal(prior @ inverse) * weights / np.diagonal(inverse)
        return np.asarray(self.miss - told)

    def posterior(self, spread: Spread) -> tuple[Floats, Floats]:
        """Mean and covariance of the unknowns."""
        p = self.problem
        weighed = np.linalg.solve(p.residual(spread), self.slopes)
        information = weighed.T @ self.slopes + np.diag(1 / p.sd**2)
        pull = weighed.T @ (p.y - self.f) - (self.x - p.prior) / p.sd**2
        covariance = np.asarray(np.linalg.inv(information), dtype=float)
        return self.x + covariance @ pull, covariance

    def objective(self, x: Floats, f: Floats, spread: Spread) -> float:
        """Twice what is minimised, at a point where the answers are ``f``."""
        p = self.problem
        miss = p.y - f
        fit = miss @ np.linalg.solve(p.residual(spread), miss)
        return float(fit + (((x - p.prior) / p.sd) ** 2).sum())
