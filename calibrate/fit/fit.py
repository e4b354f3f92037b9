"""Penalised least squares on log throughput, shared constants and acceptance at once.

With ``y`` the logs of what was measured and ``f(x)`` the simulator's at the parameters ``x``, the
fit minimises ``(y - f)' S^-1 (y - f) + sum ((x - prior) / sd)^2`` by Gauss-Newton steps, with
slopes that every answer corrects. ``S`` holds the error of each row and the model's own
discrepancy, one part shared by the rows of a setting (a model, method, block and concurrency),
which five data sets do not average away. Both parts are the likeliest ones given the rows, the
unknowns integrated out. A row far from what the others say is taken to be as noisy as it looks,
and named.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.fit.gaussian import Linear, Problem, Spread
from dflash_sim.calibrate.fit.identifiability import alike, learned
from dflash_sim.calibrate.fit.parallel_answers import Evaluator
from dflash_sim.calibrate.fit.prior import Prior, prior_of
from dflash_sim.calibrate.fit.residual_patterns import SUSPECT, Pattern, patterns
from dflash_sim.calibrate.fit.rows import Row, refuse_tests
from dflash_sim.calibrate.fit.unstated import likeliest_release, run_as
from dflash_sim.calibrate.fit.verdict import Stray, strays
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.calibration import Calibration
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.releases.server_levels import FACTORS, UNSTATED
from dflash_sim.simulator.slopes import METRICS

Floats = npt.NDArray[np.float64]

PASSES = 8  # over the rows, in a typical fit
# A fit is at rest where a step lowers twice the negative log posterior by less: no parameter is
# then half its standard deviation from where the rows put it, and simulated runs are that rough.
_FALL = 0.25
# With many parameters their roughness adds up: a fit is at rest too where a step promises less than
# this for each of them, a quarter of its standard deviation, and no less than half of what the step
# before it did. From there on it would follow the noise of runs.
_EACH = 1 / 16
_STRIDE = 2.0  # prior sds that no constant exceeds in one step
# Slopes that failed to foresee an answer by this much [1] are taken anew this far [prior sd] from
# where they were taken; a fit comes to rest no further from there than the second.
_BENT, _AWAY, _NEAR = 0.01, 1.0, 0.25


class Price(Protocol):
    """Answers to rows at given parameters, as :class:`~.evaluate.Evaluator` gives them."""

    def answers(self, x: Floats) -> Floats:
        """Logs of the metrics, shape [rows, metrics]."""

    def slopes(self, x: Floats, of: Sequence[int] | None = None) -> Floats:
        """Their derivatives, shape [rows, metrics, parameters], by all parameters or by some."""


class Outlier(NamedTuple):
    """A row whose ``metric`` lies far from what the other rows say, so that it counts for less.

    Parameters
    ----------
    error
        Predicted from the others, relative to measured, less one [1].
    pull
        The same in standard deviations [1].
    """

    row: Row
    error: float
    pull: float
    metric: str


@dataclass(frozen=True)
class Fit:
    """A fit and what to know about it.

    Parameters
    ----------
    errors
        Relative error of the speed of each row at the end, in the order of ``rows``.
    left_out
        The same, were the row predicted from all others.
    pulls
        The latter in standard deviations, before outliers were discounted.
    discounted
        Rows that lie far out, the worst first.
    patterns
        Of what is left over, by factor, the least likely first.
    strays
        What of its own rows it does not follow within their noise, the furthest first.
    settled
        True if little was left to go.
    steps
        What each step was to gain in twice the log posterior, were answers straight lines [1].
    """

    calibration: Calibration
    rows: tuple[Row, ...]
    errors: Floats
    left_out: Floats
    pulls: Floats
    discounted: tuple[Outlier, ...]
    patterns: tuple[Pattern, ...]
    strays: tuple[Stray, ...]
    settled: bool
    steps: tuple[float, ...]

    @property
    def converged(self) -> bool:
        """Return True if it came to rest where its own rows are reached within their noise."""
        return self.settled and not self.strays

    @property
    def outliers(self) -> list[tuple[Row, float]]:
        """Rows whose speed was discounted, with its relative error, the worst first."""
        return [(o.row, o.error) for o in self.discounted if o.metric == METRICS[o.row.speed]]

    @property
    def suspect(self) -> list[Pattern]:
        """Patterns that a right model would hardly leave."""
        return [p for p in self.patterns if p.chance < SUSPECT]

    @property
    def learned(self) -> dict[str, float]:
        """By parameter, the share of its prior variance that the rows removed."""
        return learned(self.calibration)

    @property
    def undetermined(self) -> list[tuple[str, str, float]]:
        """Pairs of parameters that the rows cannot tell apart, and their correlation."""
        return alike(self.calibration)


def fit(
    rows: Sequence[Row],
    *,
    engine: EngineSheet,
    name: str,
    jobs: int = 1,
    iterations: int = 16,
    about: dict[str, Any] | None = None,
    known: Calibration | None = None,
    on_row: Callable[[], None] | None = None,
) -> Fit:
    """Fit the constants of an engine and the acceptance behind some rows.

    Parameters
    ----------
    engine
        The sheet with the priors.
    known
        A posterior that takes the place of the sheet's priors, for what it speaks of.
    jobs
        Processes; the result does not depend on it.
    on_row
        Called for each row in each of about ``PASSES`` passes.

    Raises
    ------
    UsageError
        No row, one that ``known`` was fitted on, or one that only tests.
    """
    if not rows:
        msg = "no row to fit; see the reasons above, or widen --fit-on"
        raise UsageError(msg)
    refuse_tests(rows)
    if (release := likeliest_release(rows, engine, known, jobs=jobs)) is not None:
        rows = run_as(rows, release, engine)
    prior = prior_of(rows, engine, known)
    with Evaluator(rows, engine, prior.parameters, jobs=jobs, on_row=on_row) as price:
        found = solve(rows, prior, price, iterations=iterations)
    named = replace(
        found.calibration,
        name=name,
        engine=engine.name,
        about={
            **_told(rows, release),
            "prior": prior.name,
            **(about or {}),
            **found.calibration.about,
        },
    )
    return replace(found, calibration=named)


def _told(rows: Sequence[Row], release: str | None) -> dict[str, Any]:
    """The GPUs that rows were measured on, and their build if it is one other than the sheet's."""
    found: dict[str, Any] = {"gpus": sorted({row.scenario.gpu for row in rows})}
    builds = {row.scenario.build for row in rows}
    build = builds.pop() if len(builds) == 1 else None
    if build is not None:
        found["build"] = build
    releases = {row.scenario.engine for row in rows}
    if build == UNSTATED and (release is not None or len(releases) == 1):
        found["release"] = release or releases.pop()
    return found


def solve(
    rows: Sequence[Row],
    prior: Prior,
    price: Price,
    *,
    iterations: int = 16,
) -> Fit:
    """The fit of some parameters to rows, whatever prices them."""
    at = x = prior.mean
    before = price.answers(x)
    problem, sd = Problem(rows, prior, before), prior.sd
    f, slopes = problem.take(before), problem.take(price.slopes(x))
    stride, gained, bent, steps = _STRIDE, math.inf, False, list[float]()
    promised, rough = math.inf, _EACH * len(sd)
    while True:
        line = Linear(problem, x, f, slopes)
        spread = line.likely()
        goal, covariance = line.posterior(spread)
        promise = line.promise(goal, spread)
        away = float(np.max(np.abs(x - at) / sd))
        settled = bool(steps) and min(promise, gained) < _FALL
        settled = settled or promised / 2 < promise < rough
        if bent and away > (_NEAR if settled else _AWAY):
            of = _to_look_at(prior, np.abs(x - at) / sd)
            slopes = slopes.copy()
            slopes[:, of] = problem.take(price.slopes(x, of))
            at, gained, bent, promised = at.copy(), math.inf, False, math.inf
            at[of] = x[of]
            continue
        steps.append(promise)
        promised = promise
        size = float(np.max(np.abs(goal - x) / sd))
        if settled or not size or len(steps) > iterations:
            break
        step = (goal - x) * min(1.0, stride / size)
        answers = problem.take(price.answers(x + step))
        missed = answers - f - slopes @ step
        slopes = slopes + _secant(step / sd**2, missed, step)
        bent = bent or bool(np.max(np.abs(missed)) > _BENT)
        fell = line.objective(x, f, spread) - line.objective(x + step, answers, spread)
        gained = abs(fell) if size <= stride else math.inf
        if fell > 0:
            x, f, stride = x + step, answers, _STRIDE
        else:
            stride = min(stride, size) / 2
    return _outcome(line, spread, covariance, tuple(steps), settled=settled or not size)


def _to_look_at(prior: Prior, away: Floats) -> list[int]:
    """The parameters whose slopes are taken anew: factors of servers, and all if others moved."""
    every = range(len(prior.parameters))
    factors = [i for i in every if prior.parameters[i].kind in FACTORS]
    others = [i for i in every if i not in factors]
    return factors if factors and all(away[i] <= _AWAY for i in others) else list(every)


def _secant(along: Floats, miss: Floats, step: Floats) -> Floats:
    """The least change of slopes that accounts for an answer (Broyden 1965)."""
    return np.asarray(np.outer(miss, along) / (along @ step))


def _outcome(
    line: Linear, spread: Spread, covariance: Floats, steps: tuple[float, ...], *, settled: bool
) -> Fit:
    problem = line.problem
    n = len(problem.rows)
    away, sd = line.apart(spread)
    far = [i for i in np.argsort(-np.abs(away / sd)) if spread.slack[i] > 0]
    discounted = tuple(
        Outlier(
            row=problem.rows[problem.index[i][0]],
            error=float(np.expm1(-away[i] * (problem.sign[i] or 1.0))),
            pull=float(-away[i] / sd[i]),
            metric=METRICS[problem.index[i][1]],
        )
        for i in far
    )
    stray = strays(line)
    found = Calibration(
        name="",
        engine="",
        parameters=problem.prior.parameters,
        mean=line.x,
        covariance=covariance,
        discrepancy=spread.discrepancy,
        rows=tuple(row.observation.row for row in problem.rows),
        about={
            "converged": settled and not stray,
            "outliers": list(dict.fromkeys(o.row.observation.row for o in discounted)),
        },
    )
    return Fit(
        calibration=found,
        rows=problem.rows,
        errors=np.expm1(problem.sign * (line.f - problem.y))[:n],
        left_out=np.expm1(-problem.sign * line.unseen(spread))[:n],
        pulls=(-away / sd)[:n],
        discounted=discounted,
        patterns=tuple(patterns(problem.rows, line, spread)),
        strays=stray,
        settled=settled,
        steps=steps,
    )
