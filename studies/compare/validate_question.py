"""The question behind ``validate``: which rows are fitted, which are predicted, and the answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files

from dflash_sim.calibrate.fit.fit import PASSES
from dflash_sim.calibrate.fit.held_out import Validation, held_out, leave_one_out, predicted
from dflash_sim.calibrate.fit.prior import known_before
from dflash_sim.calibrate.fit.rows import Row, rows_of
from dflash_sim.calibrate.fit.unstated import marked
from dflash_sim.calibrate.observations.observation import ReadReport
from dflash_sim.calibrate.observations.row_filter import Selection, parse_filter
from dflash_sim.calibrate.readers.read import Source, read_observations
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.calibration import load_calibration
from dflash_sim.profiles.releases.engine_sheet import HOME, EngineSheet, load_engine


@dataclass(frozen=True)
class Rows:
    """Observations that can be simulated, and what became of the others."""

    engine: EngineSheet
    rows: list[Row]
    report: ReadReport
    refused: list[tuple[str, str]]
    ours: bool = False  # the published rows, on which what ships was fitted

    @classmethod
    def read(
        cls,
        sources: Sequence[Source] | None,
        *,
        engine: str | None,
        assume: Sequence[str] | None = None,
        allow_partial: bool = False,
    ) -> "Rows":
        """Read files, or the published rows of the engine's own build.

        Parameters
        ----------
        engine
            The engine sheet of rows that name no build; None if nobody says, as a fit has it.

        Raises
        ------
        UsageError
            A row cannot be used and ``allow_partial`` is not given; or none can.
        """
        sheet = load_engine(engine or HOME)
        if sources:
            report = read_observations(sources, assumptions(assume or ()))
            if engine is None:
                report = replace(report, observations=tuple(marked(report.observations)[0]))
        else:
            report = _published(sheet)
            allow_partial = True
        rows, refused = rows_of(report.observations, sheet)
        lost = [*report.refused, *refused]
        if lost and not allow_partial:
            where, why = lost[0]
            msg = (
                f"{len(lost)} of {report.read} rows cannot be used, such as {where}: {why} "
                "Repair them, or give --allow-partial to go on without them."
            )
            raise UsageError(msg)
        if not rows:
            msg = f"no row can be used: {report.counts}; give files with an output throughput"
            raise UsageError(msg)
        return cls(sheet, rows, report, refused, ours=not sources)

    @property
    def passes(self) -> int:
        """Return how often fits look at a row, all in all, for a progress bar."""
        return PASSES * len(self.rows)

    def where(self, selection: Selection) -> list[Row]:
        """The rows that an expression selects."""
        return [row for row in self.rows if selection(row.observation)]


def assumptions(words: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE`` words as scenario fields.

    Raises
    ------
    UsageError
        A word is none, or names a key again.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not value.strip() or name in found:
            why = "given twice" if name in found else "expected KEY=VALUE, such as gpu=b200"
            msg = f"--assume {word}: {why}."
            raise UsageError(msg)
        found[name] = value.strip()
    return found


def published(table: str = "throughput.csv") -> ReadReport:
    """Return a table of published rows that ships with the profiles."""
    with as_file(files("dflash_sim.profiles") / "published" / table) as path:
        return read_observations([path])


def _published(sheet: EngineSheet) -> ReadReport:
    """The open rows of the sheet's own build; other builds are not read."""
    build = sheet.fit.build
    own = tuple(o for o in published().observations if o.build == build)
    note = f"published rows of build {build}; other builds are left out"
    return ReadReport(observations=own, read=len(own), refused=(), notes=(note,))


@dataclass(frozen=True)
class Question:
    """The question of a validation: rows to fit, and rows to predict."""

    fit_on: Selection | None
    test_on: Selection | None
    leave_out: str | None
    calibration: str | None
    prior: str | None = None

    @classmethod
    def of(
        cls,
        *,
        fit_on: str | None,
        test_on: str | None,
        leave_out: str | None,
        calibration: str | None,
        prior: str | None = None,
    ) -> "Question":
        """Parse the flags.

        Raises
        ------
        UsageError
            An expression is malformed, or flags exclude each other.
        """
        if leave_out and (fit_on or test_on or calibration):
            msg = "--leave-out excludes --fit-on, --test-on and --calibration; give one"
            raise UsageError(msg)
        if fit_on and calibration:
            msg = "--fit-on makes a calibration, and --calibration names one; give one"
            raise UsageError(msg)
        if prior and calibration:
            msg = "--prior is where a fit begins, and --calibration needs no fit; give one"
            raise UsageError(msg)
        if not (fit_on or leave_out or calibration):
            leave_out = None if test_on else "model"
            calibration = "shipped" if test_on else None
        fitted = parse_filter(fit_on) if fit_on else None
        tested = parse_filter(test_on) if test_on else None
        return cls(fitted, tested, leave_out, calibration, prior)


def answer(
    question: Question, rows: Rows, *, jobs: int, on_row: Callable[[], None] | None = None
) -> Validation:
    """Fit and predict; a fit calls ``on_row``, in all about ``rows.passes`` times."""
    tested = rows.where(question.test_on) if question.test_on else rows.rows
    known = known_before(question.prior or ("sheet" if rows.ours else "shipped"), rows.engine)
    if question.calibration is not None:
        return _with_constants(question.calibration, tested, rows.engine, jobs)
    if question.leave_out:
        return leave_one_out(
            tested, question.leave_out, engine=rows.engine, jobs=jobs, known=known, on_row=on_row
        )
    assert question.fit_on is not None
    fitted = rows.where(question.fit_on)
    if question.test_on is None:
        tested = [row for row in rows.rows if row not in fitted]
    if not tested:
        msg = "--fit-on selects every row: nothing is left to predict; narrow it"
        if question.test_on is not None:
            msg = "--test-on selects no row; see the conditions that rows have in the file"
        raise UsageError(msg)
    found, outcomes = held_out(
        fitted,
        tested,
        engine=rows.engine,
        held="the test rows",
        jobs=jobs,
        known=known,
        on_row=on_row,
    )
    text = f"fitted where {question.fit_on.text}"
    return Validation(tuple(outcomes), (found,), (found.calibration,), text)


def _with_constants(name: str, tested: Sequence[Row], engine: EngineSheet, jobs: int) -> Validation:
    """Rows that a finished calibration has not seen."""
    calibration = load_calibration(name, engine)
    seen = calibration.sources if calibration else frozenset()
    known = [row for row in tested if row.observation.source in seen]
    if known:
        msg = (
            f"{len(known)} of {len(tested)} rows are from sources that calibration {name} was "
            f"fitted on ({', '.join(sorted({r.observation.source for r in known}))}); "
            "narrow --test-on, or use --leave-out model."
        )
        raise UsageError(msg)
    if not tested:
        msg = "--test-on selects no row; see the conditions that rows have in the file"
        raise UsageError(msg)
    outcomes = predicted(tested, calibration, engine=engine, held="", jobs=jobs)
    found = (calibration,) if calibration else ()
    return Validation(tuple(outcomes), (), found, f"constants {name}, not fitted on these rows")
