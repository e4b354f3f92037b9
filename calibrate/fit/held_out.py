"""Predictions of rows from constants that were fitted without them, and what they are worth."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np

from dflash_sim.calibrate.fit.fit import Fit, fit
from dflash_sim.calibrate.fit.rows import THROUGHPUT, Row
from dflash_sim.jobs.pool import Pool
from dflash_sim.profiles.calibration import Calibration
from dflash_sim.profiles.engine_sheet import EngineSheet
from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

LEAVE_OUT = ("model", "method", "gpu", "dataset", "source")
RUNS = 2
MIN_GAP = 0.03  # published throughputs closer than this are not ranked: repeated runs scatter

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Outcome:
    """A row, and its prediction with the 90 % interval [token/s].

    Parameters
    ----------
    held
        What was left out of the fit behind it.
    accept_length
        Simulated mean over turns [token]; 1 without speculation.
    """

    row: Row
    held: str
    predicted: float
    low: float
    high: float
    accept_length: float

    @property
    def observed(self) -> float:
        return float(np.exp(self.row.logs[THROUGHPUT]))

    @property
    def error(self) -> float:
        """Relative error; positive is too fast [1]."""
        return self.predicted / self.observed - 1

    @property
    def inside(self) -> bool:
        """Whether the interval holds what was observed."""
        return self.low <= self.observed <= self.high

    @property
    def factors(self) -> dict[str, str]:
        """What errors are grouped by."""
        return {**self.row.factors, "left out": self.held}


@dataclass(frozen=True)
class Stats:
    """Relative errors of ``n`` rows; ``bias`` is their mean, the others are of absolute ones [1].

    Parameters
    ----------
    coverage
        Share of rows inside their 90 % interval.
    """

    n: int
    mape: float
    bias: float
    p95: float
    coverage: float


@dataclass(frozen=True)
class Validation:
    """All outcomes, and the fits behind them."""

    outcomes: tuple[Outcome, ...]
    fits: tuple[Fit, ...]
    calibrations: tuple[Calibration, ...]
    question: str

    def worst(self, n: int) -> list[Outcome]:
        """The rows furthest off."""
        return sorted(self.outcomes, key=lambda o: -abs(o.error))[:n]


def stats(outcomes: Sequence[Outcome]) -> Stats:
    """Mean and 95th percentile of the absolute errors, mean error, coverage."""
    errors = np.array([o.error for o in outcomes])
    size = np.abs(errors)
    return Stats(
        n=len(errors),
        mape=float(size.mean()),
        bias=float(errors.mean()),
        p95=float(np.quantile(size, 0.95)),
        coverage=float(np.mean([o.inside for o in outcomes])),
    )


def by_factor(outcomes: Iterable[Outcome], factor: str) -> dict[str, list[Outcome]]:
    """Outcomes by the level of one factor, numbers in order."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for o in outcomes:
        groups[o.factors[factor]].append(o)
    return dict(sorted(groups.items(), key=lambda g: (len(g[0]) if g[0].isdigit() else 99, g[0])))


def ranked_right(outcomes: Iterable[Outcome]) -> tuple[int, int]:
    """``(right, pairs)`` of configurations that share all but method, block and engine mode.

    Only pairs whose observed throughputs differ by more than ``MIN_GAP``.
    """
    groups: dict[Hashable, list[Outcome]] = defaultdict(list)
    for o in outcomes:
        s = o.row.scenario
        groups[
            s.model, s.gpu, s.tp, s.dataset, s.isl, s.osl, s.conc, s.rate, s.thinking, s.generation
        ].append(o)
    right = pairs = 0
    for group in groups.values():
        for pair in combinations(group, 2):
            low, high = sorted(pair, key=lambda o: o.observed)
            if high.observed > (1 + MIN_GAP) * low.observed:
                pairs += 1
                right += high.predicted > low.predicted
    return right, pairs


def held_out(
    fitted: Sequence[Row],
    tested: Sequence[Row],
    *,
    engine: EngineSheet,
    held: str,
    jobs: int,
    on_row: Callable[[], None] | None = None,
) -> tuple[Fit, list[Outcome]]:
    """Fit on some rows and predict others.

    The fit starts at the priors: one that had seen the other rows would tell of them.

    Raises
    ------
    UsageError
        A row is in both sets.
    """
    refuse_overlap(fitted, tested)
    found = fit(fitted, engine=engine, name=held, jobs=jobs, on_row=on_row)
    return found, predicted(tested, found.calibration, engine=engine, held=held, jobs=jobs)


def refuse_overlap(fitted: Sequence[Row], tested: Sequence[Row]) -> None:
    """A number used for fitting proves nothing."""
    used = {row.observation.row for row in fitted}
    both = [row.observation.row for row in tested if row.observation.row in used]
    if both:
        msg = (
            f"{len(both)} of {len(tested)} test rows are also fitted on, such as {both[0]}; "
            'make --fit-on and --test-on exclude each other, or use "--leave-out model".'
        )
        raise UsageError(msg)


def leave_one_out(
    rows: Sequence[Row],
    factor: str,
    *,
    engine: EngineSheet,
    jobs: int,
    on_row: Callable[[], None] | None = None,
) -> Validation:
    """Every level of a factor predicted from all the others.

    Raises
    ------
    UsageError
        No such factor, or it has one level only.
    """
    if factor not in LEAVE_OUT:
        raise unknown(kind="--leave-out", value=factor, allowed=LEAVE_OUT)
    levels = sorted({str(row.observation.value(factor)) for row in rows})
    if len(levels) < 2:
        msg = f"all rows have {factor} {levels[0]}: nothing to fit on when it is left out"
        raise UsageError(msg)
    outcomes, fits = [], []
    for level in levels:
        inside = [str(row.observation.value(factor)) == level for row in rows]
        fitted = [row for row, out in zip(rows, inside, strict=True) if not out]
        tested = [row for row, out in zip(rows, inside, strict=True) if out]
        found, some = held_out(fitted, tested, engine=engine, held=level, jobs=jobs, on_row=on_row)
        fits.append(found)
        outcomes += some
    return Validation(
        outcomes=tuple(outcomes),
        fits=tuple(fits),
        calibrations=tuple(f.calibration for f in fits),
        question=f"each {factor} from constants fitted without it",
    )


def predicted(
    rows: Sequence[Row],
    calibration: Calibration | None,
    *,
    engine: EngineSheet,
    held: str,
    jobs: int,
) -> list[Outcome]:
    """Predict rows with a calibration, or with the priors alone."""
    together = max(1, len(rows) // (4 * jobs))
    tasks = [(row, calibration, engine, held) for row in rows]
    with Pool(jobs) as pool:
        return list(pool.map(_predicted, tasks, together=together))


def _predicted(
    row: Row, calibration: Calibration | None, engine: EngineSheet, held: str
) -> Outcome:
    scenario = Scenario.parse(**(row.scenario.model_dump(exclude_unset=True) | {"runs": RUNS}))
    fitted = calibration.applied(engine, scenario.generation) if calibration else engine
    setup = resolve(scenario, engine=fitted, calibration=calibration)
    result = predict(scenario, with_baseline=False, setup=setup)
    low, high = result.intervals["output_throughput"]
    return Outcome(
        row=row,
        held=held,
        predicted=result.values["output_throughput"],
        low=low,
        high=high,
        accept_length=result.values.get("accept_length", 1.0),
    )
