"""Penalised least squares on log throughput, shared constants and acceptance at once.

With ``y`` the logs of what was measured and ``f(x)`` the simulator's at the parameters ``x``, the
fit minimises ``(y - f)' S^-1 (y - f) + sum ((x - prior) / sd)^2`` by Gauss-Newton steps. ``S``
holds the error of each row and the model's own discrepancy, one part shared by the rows of a
setting (a model, method, block and concurrency), which five data sets do not average away. Both
parts are the most likely ones given the rows (the evidence of the linearised model). Rows that
lie far out count less (Huber) and are named.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.evaluate import Evaluator
from dflash_sim.calibrate.fit_rows import ACCEPT_LENGTH, THROUGHPUT, Row, unknowns
from dflash_sim.profiles.calibration import Calibration, Parameter
from dflash_sim.profiles.enginesheet import EngineSheet
from dflash_sim.profiles.errors import UsageError

Floats = npt.NDArray[np.float64]

_FAR = 3.5  # prior sds beyond which no constant goes
_HUBER = 2.5  # sds beyond which a row counts less
_OUTLIER = 3.0  # sds beyond which it is named
_CONVERGED = 0.1  # posterior sds that the last step may have
_DISCREPANCIES = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12)


@dataclass(frozen=True)
class Fit:
    """A fit and what to know about it.

    Parameters
    ----------
    errors
        Relative error of the throughput of each row at the end, in the order of ``rows``.
    pulls
        The same in standard deviations, before outliers were discounted.
    converged
        Whether the last step was small.
    steps
        Largest move of each iteration in posterior standard deviations.
    """

    calibration: Calibration
    rows: tuple[Row, ...]
    errors: Floats
    pulls: Floats
    converged: bool
    steps: tuple[float, ...]

    @property
    def outliers(self) -> list[tuple[Row, float]]:
        """Rows far from the fit, with their relative error, the worst first."""
        far = [i for i in np.argsort(-np.abs(self.pulls)) if abs(self.pulls[i]) > _OUTLIER]
        return [(self.rows[i], float(self.errors[i])) for i in far]

    @property
    def learned(self) -> dict[str, float]:
        """By parameter, the share of its prior variance that the rows removed."""
        c = self.calibration
        prior = np.array([p.sd for p in c.parameters])
        share = 1 - (c.sd / prior) ** 2
        return {p.name: float(s) for p, s in zip(c.parameters, share, strict=True)}

    @property
    def undetermined(self) -> list[tuple[str, str, float]]:
        """Pairs of parameters that the rows cannot tell apart, and their correlation."""
        c = self.calibration
        unit = c.covariance / np.outer(c.sd, c.sd)
        pairs = []
        for i, j in zip(*np.triu_indices(len(unit), 1), strict=True):
            if abs(unit[i, j]) > 0.9:
                names = c.parameters[i].name, c.parameters[j].name
                pairs.append((*names, float(unit[i, j])))
        return sorted(pairs, key=lambda p: -abs(p[2]))


@dataclass
class Problem:
    """The rows as one vector: throughputs, then the accept lengths that were measured."""

    rows: Sequence[Row]
    parameters: tuple[Parameter, ...]
    index: list[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        n = range(len(self.rows))
        self.index = [(i, THROUGHPUT) for i in n]
        self.index += [
            (i, ACCEPT_LENGTH) for i in n if np.isfinite(self.rows[i].logs[ACCEPT_LENGTH])
        ]
        self.y = np.array([self.rows[i].logs[m] for i, m in self.index])
        self.noise = np.array([self.rows[i].errors[m] for i, m in self.index])
        self.prior = np.array([p.prior for p in self.parameters])
        self.sd = np.array([p.sd for p in self.parameters])
        settings = [(*self.rows[i].setting, m) for i, m in self.index]
        self.shared = np.array([[a == b for b in settings] for a in settings], dtype=float)
        self.modelled = np.array([m == THROUGHPUT for _, m in self.index], dtype=float)

    def take(self, answers: Floats) -> Floats:
        """From arrays by row and metric to the vector of the problem."""
        return np.array([answers[i, m] for i, m in self.index])

    def spread(self, discrepancy: tuple[float, float], weights: Floats) -> Floats:
        """Covariance of the residuals; accept lengths carry their own error only."""
        shared, own = discrepancy
        m = self.modelled
        total = shared**2 * self.shared * np.outer(m, m)
        total[np.diag_indices_from(total)] += (own * m) ** 2 + self.noise**2
        scale = 1 / np.sqrt(weights)
        return total * np.outer(scale, scale)


def fit(
    rows: Sequence[Row],
    *,
    engine: EngineSheet,
    name: str,
    jobs: int = 1,
    iterations: int = 8,
    start: Calibration | None = None,
    about: dict[str, Any] | None = None,
    on_row: Callable[[], None] | None = None,
) -> Fit:
    """Fit the constants of an engine and the acceptance behind some rows.

    Parameters
    ----------
    engine
        The sheet with the priors.
    jobs
        Processes; the result does not depend on it.
    start
        A fit nearby, such as one to more rows: begin there.

    Raises
    ------
    UsageError
        No row.
    """
    if not rows:
        msg = "no row to fit; see the reasons above, or widen --fit-on"
        raise UsageError(msg)
    parameters = unknowns(rows, engine)
    problem = Problem(rows, parameters)
    x = _start(problem, start)
    weights = np.ones(len(problem.y))
    steps: list[float] = []
    with Evaluator(rows, engine, parameters, jobs=jobs, on_row=on_row) as price:
        f = problem.take(price.answers(x))
        slopes = problem.take(price.slopes(x))
        discrepancy = (_DISCREPANCIES[3], _DISCREPANCIES[3])
        for iteration in range(iterations):
            if iteration in (2, 4):  # the slopes have moved with the constants
                slopes = problem.take(price.slopes(x))
            discrepancy = _likely_discrepancy(problem, f, slopes, x, weights)
            moved, covariance = _solve(problem, f, slopes, x, discrepancy, weights)
            moved, f = _search(problem, price, x, moved, f, discrepancy, weights)
            steps.append(float(np.max(np.abs(moved - x) / np.sqrt(np.diagonal(covariance)))))
            x = moved
            weights = _weights(problem, f, discrepancy)
            if steps[-1] < _CONVERGED and iteration > 0:
                break
    pulls = _pulls(problem, f, discrepancy)
    n = len(rows)
    found = Calibration(
        name=name,
        engine=engine.name,
        parameters=parameters,
        mean=x,
        covariance=covariance,
        discrepancy=discrepancy,
        rows=tuple(row.observation.row for row in rows),
        about=about or {},
    )
    return Fit(
        calibration=found,
        rows=tuple(rows),
        errors=np.expm1(f - problem.y)[:n],
        pulls=pulls[:n],
        converged=steps[-1] < _CONVERGED,
        steps=tuple(steps),
    )


def _start(problem: Problem, start: Calibration | None) -> Floats:
    known = {}
    if start is not None:
        names = (p.name for p in start.parameters)
        known = dict(zip(names, start.mean.tolist(), strict=True))
    return np.array([known.get(p.name, p.prior) for p in problem.parameters])


def _solve(
    problem: Problem,
    f: Floats,
    slopes: Floats,
    x: Floats,
    discrepancy: tuple[float, float],
    weights: Floats,
) -> tuple[Floats, Floats]:
    """The minimum of the linearised objective, and the posterior covariance there."""
    inverse = np.linalg.inv(problem.spread(discrepancy, weights))
    information = slopes.T @ inverse @ slopes + np.diag(1 / problem.sd**2)
    pull = slopes.T @ inverse @ (problem.y - f) - (x - problem.prior) / problem.sd**2
    covariance = np.linalg.inv(information)
    far = _FAR * problem.sd
    moved = np.clip(x + covariance @ pull, problem.prior - far, problem.prior + far)
    return moved, covariance


def _search(
    problem: Problem,
    price: Evaluator,
    x: Floats,
    moved: Floats,
    f: Floats,
    discrepancy: tuple[float, float],
    weights: Floats,
) -> tuple[Floats, Floats]:
    """Go the whole way if the objective falls, else half of it, twice at most."""
    inverse = np.linalg.inv(problem.spread(discrepancy, weights))

    def objective(at: Floats, answers: Floats) -> float:
        miss = problem.y - answers
        return float(miss @ inverse @ miss + (((at - problem.prior) / problem.sd) ** 2).sum())

    before = objective(x, f)
    for share in (1.0, 0.5, 0.25):
        there = x + share * (moved - x)
        answers = problem.take(price.answers(there))
        if objective(there, answers) <= before:
            return there, answers
    return x, f


def _likely_discrepancy(
    problem: Problem, f: Floats, slopes: Floats, x: Floats, weights: Floats
) -> tuple[float, float]:
    """The pair with the highest evidence, the parameters integrated out of the linear model."""
    miss = problem.y - f - slopes @ (problem.prior - x)
    explained = slopes @ np.diag(problem.sd**2) @ slopes.T

    def evidence(pair: tuple[float, float]) -> float:
        total = explained + problem.spread(pair, weights)
        sign, log_det = np.linalg.slogdet(total)
        return float(-log_det - miss @ np.linalg.solve(total, miss)) if sign > 0 else -np.inf

    return max(product(_DISCREPANCIES, _DISCREPANCIES), key=evidence)


def _pulls(problem: Problem, f: Floats, discrepancy: tuple[float, float]) -> Floats:
    spread = np.diagonal(problem.spread(discrepancy, np.ones(len(problem.y))))
    return np.asarray((f - problem.y) / np.sqrt(spread), dtype=float)


def _weights(problem: Problem, f: Floats, discrepancy: tuple[float, float]) -> Floats:
    far = np.abs(_pulls(problem, f, discrepancy))
    return np.minimum(1.0, _HUBER / np.maximum(far, _HUBER))
