"""Rows are fitted where answers are straight lines in the unknowns: Gaussians, in closed form.

Near a point ``x`` the logs of what was measured are ``y = f + J (X - x) + setting + row + noise``:
``X`` the unknowns with their prior, one deviation that the rows of a setting share and one of
each row (the model's discrepancy), and the error of the measurement. A row that is slower than
foreseen has a lower throughput and a longer time per token: one deviation moves both. Prefills that
take longer than foreseen move every metric by their share of it, the gap between tokens by none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.fit.first_tokens import exchanged, unsure_medians
from dflash_sim.calibrate.fit.prior import Prior
from dflash_sim.calibrate.fit.rows import FITTED, SIGN, Row

Floats = npt.NDArray[np.float64]

FAR = 3.0  # sds from what the other rows say; beyond it a row counts for less, and is named
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
    """The rows as one vector: the speed of each, then what else was measured of them.

    Parameters
    ----------
    answers
        Logs of the simulated metrics [rows, metrics], which say how sure first tokens are; None
        takes them for what they say.
    index
        Row and metric of each entry.
    sign
        By entry: 1 where more is faster, -1 where more is slower, 0 for acceptance.
    """

    def __init__(self, rows: Sequence[Row], prior: Prior, answers: Floats | None = None) -> None:
        self.rows, self.prior, self.answers = tuple(rows), prior, answers
        self.index = [(i, row.speed) for i, row in enumerate(rows)]
        self.index += [
            (i, metric)
            for metric in FITTED
            for i, row in enumerate(rows)
            if metric != row.speed and np.isfinite(row.logs[metric])
        ]
        self.y = np.array([rows[i].logs[m] for i, m in self.index])
        self.noise = np.array([rows[i].errors[m] for i, m in self.index])
        self.exchanged = np.zeros((len(self.y), len(self.y)))
        if answers is not None:
            self.noise = np.hypot(self.noise, unsure_medians(self.index, answers))
            self.exchanged = exchanged(rows, self.index, answers)
        self.sign = np.array([SIGN[m] for _, m in self.index])
        self.precision = prior.precision
        self.shared = self._alike([row.setting for row in rows])
        self.own = self._alike(range(len(rows)))

    def _alike(self, groups: Sequence[object]) -> Floats:
        members = self.members(groups)
        return np.asarray(members @ members.T)

    def members(self, groups: Sequence[object]) -> Floats:
        """Return which speed belongs to which of the rows' groups, shape [entries, groups].

        A time is the inverse of a speed: it counts with the other sign.
        """
        levels = {group: k for k, group in enumerate(dict.fromkeys(groups))}
        out = np.zeros((len(self.index), len(levels)))
        for entry, (i, _) in enumerate(self.index):
            out[entry, levels[groups[i]]] = self.sign[entry]
        return out

    def take(self, answers: Floats) -> Floats:
        """From arrays by row and metric to the vector of the problem."""
        return np.array([answers[i, m] for i, m in self.index])

    def residual(self, spread: Spread) -> Floats:
        """Covariance of measured and fitted, were the unknowns and all prefills known."""
        shared, own = spread.discrepancy
        alone = self.noise**2 + spread.slack
        ours = shared**2 * self.shared + own**2 * self.own + self.exchanged
        return np.asarray(ours + np.diag(alone))


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
        return np.asarray(p.y - self.f + self.slopes @ (self.x - p.prior.mean))

    @cached_property
    def explained(self) -> Floats:
        """Covariance of the rows that the priors of the unknowns account for."""
        return np.asarray(self.slopes @ self.problem.prior.covariance @ self.slopes.T)

    @cached_property
    def prefills(self) -> Floats:
        """Covariance that prefills of a row's own account for: they move all that it measured."""
        p = self.problem
        theirs = self.slopes[:, [q.kind == "prefill" for q in p.prior.parameters]]
        if not theirs.size:
            return np.zeros((len(p.y), len(p.y)))
        share = theirs[np.arange(len(theirs)), np.argmax(np.abs(theirs), axis=1)]
        of = np.array([i for i, _ in p.index])
        return np.asarray(p.prior.prefills**2 * np.outer(share, share) * (of[:, None] == of))

    def residual(self, spread: Spread) -> Floats:
        """Covariance of measured and fitted, were the unknowns known."""
        return np.asarray(self.problem.residual(spread) + self.prefills)

    def covariance(self, spread: Spread) -> Floats:
        """Covariance of ``miss``."""
        return self.explained + self.residual(spread)

    def precision(self, spread: Spread) -> Floats:
        """The inverse of that."""
        return np.asarray(np.linalg.inv(self.covariance(spread)), dtype=float)

    def evidence(self, spread: Spread) -> float:
        """Log density of the rows and of the discrepancy, the unknowns integrated out [1]."""
        root = np.linalg.cholesky(self.covariance(spread))
        rows = np.log(np.diagonal(root)).sum() + (np.linalg.solve(root, self.miss) ** 2).sum() / 2
        *usual, within = self.problem.prior.discrepancy
        parts = np.log(np.array(spread.discrepancy) / usual) / within
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

        shared, own, _ = self.problem.prior.discrepancy
        best, factor = (shared, own), _COARSE
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
        prior = self.problem.prior
        reach = prior.covariance @ self.slopes.T
        gain = np.linalg.solve(self.covariance(spread), reach.T).T
        covariance = prior.covariance - gain @ reach.T
        return prior.mean + gain @ self.miss, np.asarray((covariance + covariance.T) / 2)

    def objective(self, x: Floats, f: Floats, spread: Spread) -> float:
        """Twice what is minimised, at a point where the answers are ``f``."""
        p = self.problem
        miss = p.y - f
        fit = miss @ np.linalg.solve(self.residual(spread), miss)
        away = x - p.prior.mean
        return float(fit + away @ p.precision @ away)

    def promise(self, goal: Floats, spread: Spread) -> float:
        """How far the objective would fall on the way to ``goal``, were answers straight lines."""
        there = self.f + self.slopes @ (goal - self.x)
        return self.objective(self.x, self.f, spread) - self.objective(goal, there, spread)
