"""Predictions of rows from constants that were fitted without them, and what they are worth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan

from dflash_sim.calibrate.fit.fit import Fit, fit
from dflash_sim.calibrate.fit.prior import refuse_fitted
from dflash_sim.calibrate.fit.rows import Row
from dflash_sim.calibrate.fit.unstated import run_as
from dflash_sim.jobs.pool import Pool
from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.one_look import one_look
from dflash_sim.profiles.releases.calibration import Calibration
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

LEAVE_OUT = ("model", "method", "gpu", "dataset", "source")
RUNS = 2


@dataclass(frozen=True)
class Outcome:
    """A row, and its prediction with the 90 % interval [token/s].

    Parameters
    ----------
    held
        What was left out of the fit behind it.
    accept_length
        Simulated mean over turns [token]; 1 without speculation.
    low, high
        Both are nan where no interval was asked for.
    """

    row: Row
    held: str
    predicted: float
    accept_length: float = 1.0
    low: float = nan
    high: float = nan

    @property
    def observed(self) -> float:
        """Return the measured throughput [token/s]."""
        return self.row.observation.metrics["output_throughput"]

    @property
    def error(self) -> float:
        """Relative error; positive is too fast [1]."""
        return self.predicted / self.observed - 1

    @property
    def inside(self) -> bool:
        """Return True if the interval holds what was observed."""
        return self.low <= self.observed <= self.high

    @property
    def factors(self) -> dict[str, str]:
        """Return what errors are grouped by."""
        return {**self.row.factors, "left out": self.held}


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


def held_out(
    fitted: Sequence[Row],
    tested: Sequence[Row],
    *,
    engine: EngineSheet,
    held: str,
    jobs: int,
    known: Calibration | None = None,
    on_row: Callable[[], None] | None = None,
) -> tuple[Fit, list[Outcome]]:
    """Fit on some rows and predict others.

    The fit starts at its prior: one that had seen the other rows would tell of them, and ``known``
    may be a posterior of neither.

    Raises
    ------
    UsageError
        A row is in both sets.
    """
    refuse_overlap(fitted, tested)
    if known is not None:
        refuse_fitted(tested, known)
    found = fit(fitted, engine=engine, name=held, jobs=jobs, known=known, on_row=on_row)
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
    known: Calibration | None = None,
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
        found, some = held_out(
            fitted, tested, engine=engine, held=level, jobs=jobs, known=known, on_row=on_row
        )
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
    held: str = "",
    jobs: int,
    runs: int = RUNS,
    interval: bool = True,
    on_row: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Predict rows with a calibration, or with the constants of the sheet alone.

    Parameters
    ----------
    jobs
        Processes; the answer does not depend on it.
    runs
        Independent runs per row.
    interval
        True if intervals are wanted; they take several times as long.
    on_row
        Called with the number of rows that are done, as they are.
    """
    if calibration is not None and (release := calibration.about.get("release")):
        rows = run_as(rows, release, engine)
    tasks = [(row, calibration, engine, held, runs, interval) for row in rows]
    together = max(1, len(rows) // (4 * jobs))
    with one_look(), Pool(jobs) as pool:
        return list(pool.map(_predicted, tasks, together=together, on_done=on_row))


def _predicted(
    row: Row,
    calibration: Calibration | None,
    engine: EngineSheet,
    held: str,
    runs: int,
    interval: bool,
) -> Outcome:
    scenario = Scenario.parse(**(row.scenario.model_dump(exclude_unset=True) | {"runs": runs}))
    sheet = row.sheet(engine)
    setup = resolve(scenario, engine=sheet, dataset=row.dataset)
    if calibration is not None:
        fitted = calibration.applied(sheet, setup.server.owned_by(row.owner))
        setup = resolve(scenario, engine=fitted, calibration=calibration, dataset=row.dataset)
    result = predict(scenario, with_baseline=False, with_interval=interval, setup=setup)
    low, high = result.intervals.get("output_throughput", (nan, nan))
    return Outcome(
        row=row,
        held=held,
        predicted=result.values["output_throughput"],
        accept_length=result.values.get("accept_length", 1.0),
        low=low,
        high=high,
    )
