"""``fit`` and ``validate``: constants from measurements, and what they are worth."""

import atexit
import hashlib
import os
from contextlib import ExitStack
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from dflash_sim.api.files import Assume, Files, assumed, sources
from dflash_sim.api.question import File, folders, truths, whole
from dflash_sim.api.show import Paged, counted
from dflash_sim.api.spoken import spoken
from dflash_sim.calibrate.fit.fit import Fit as Found
from dflash_sim.calibrate.fit.held_out import Validation as Validated
from dflash_sim.jobs.scratch import scratch_folder
from dflash_sim.profiles.errors import unknown
from dflash_sim.profiles.find import searching
from dflash_sim.profiles.releases.calibration import Calibration
from dflash_sim.studies.compare.fit_page import page, summary
from dflash_sim.studies.compare.fit_question import Chosen, choose, require, run_fit
from dflash_sim.studies.compare.validate_question import Question, Rows, answer
from dflash_sim.studies.show.files import check_writable, write_whole
from dflash_sim.studies.show.plain_table import text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


class Fit(Paged):
    """Constants of an engine, fitted to measurements; a ``calibration=`` for every question."""

    def __init__(self, found: Found, chosen: Chosen) -> None:
        self.found, self.chosen = found, chosen
        self._path: Path | None = None

    @property
    def calibration(self) -> Calibration:
        """The constants with their covariance."""
        return self.found.calibration

    @cached_property
    def constants(self) -> "pd.DataFrame":
        """Every parameter: before and after (SI), how far it went, and how much was learned."""
        from dflash_sim.api.frames import table

        return table(self.to_dict()["parameters"])

    @property
    def converged(self) -> bool:
        """True if the fit came to rest; else take the constants as rough."""
        return self.found.converged

    @cached_property
    def refused(self) -> "pd.DataFrame":
        """Rows that could not be used, and why."""
        import pandas as pd

        return pd.DataFrame(self.chosen.refused, columns=["where", "why"])

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as ``--format json`` prints it."""
        return summary(self.found, self.chosen)

    @spoken
    def save(self, path: File) -> Path:
        """Write the constants for ``--calibration``, and return the path."""
        target = Path(path)
        write_whole(target, self.calibration.to_toml())
        self._path = target
        return target

    def __fspath__(self) -> str:
        """Return the file that holds the constants, a temporary one until they are saved."""
        if self._path is None or not self._path.is_file():
            content = hashlib.sha256(self.calibration.to_toml().encode()).hexdigest()
            self.save(_scratch() / f"{content[:16]}.toml")  # an id may come again
        return str(self._path)

    def _page(self) -> RenderableType:
        return Text(page(self.found, self.chosen))

    def __repr__(self) -> str:
        c, rough = self.calibration, "" if self.converged else ", NOT converged"
        return f"<Fit {c.name}: {len(self.found.rows)} rows, {c.engine}{rough}>"


@cache
def _scratch() -> Path:
    """Return a folder that lives as long as the process."""
    folder = ExitStack()
    atexit.register(folder.close)
    return folder.enter_context(scratch_folder())


@spoken
def fit(
    files: Files,
    *,
    fit_on: str | None = None,
    assume: Assume | None = None,
    allow_partial: bool = False,
    prior: "File" = "shipped",
    name: str = "fit",
    engine: str | None = None,
    jobs: int = 1,
    profiles: "File | Sequence[File] | None" = None,
    progress: bool = False,
) -> Fit:
    """Fit a server, engine constants and acceptance to measured speed: ``calibrate fit``.

    Where the rows say nothing, what was known before holds.

    Parameters
    ----------
    files
        A path or a data frame, or several: results of any tool that is known.
    fit_on
        Only these rows, such as ``"concurrency==1"``.
    assume
        What stands in where a row does not say, such as ``{"gpu": "b200"}``.
    allow_partial
        Fit what can be fitted if some rows cannot.
    prior
        What is known before: ``shipped``, ``sheet``, a file, or an earlier :class:`Fit`.
    name
        Of the calibration.
    engine
        Release of rows that name no build, such as ``sglang-0.5.9``; None if nobody knows it.
    jobs
        Processes.
    profiles
        Folders of sheets to be searched first.
    progress
        Tell on stderr how far it is.

    Raises
    ------
    UsageError
        No row can be fitted, or some cannot and ``allow_partial`` is not given.

    Examples
    --------
    >>> mine = ds.fit("bench.csv", assume={"gpu": "b200"})
    >>> ds.predict(calibration=mine, conc=32), mine.save("mine.toml")
    """
    truths(allow_partial=allow_partial, progress=progress)
    jobs = whole("jobs", jobs)
    with searching(folders(profiles)):
        words = [f"{key}={value}" for key, value in assumed(assume).items()]
        chosen = choose(
            sources(files), engine=engine, fit_on=fit_on, assume=words, prior=os.fspath(prior)
        )
        require(chosen, allow_partial=allow_partial)
        with counted(chosen.passes, show=progress, what="looks at a row") as advance:
            found = run_fit(chosen, name=name, jobs=jobs, on_row=advance)
    return Fit(found, chosen)


class Validation(Paged):
    """Predictions of rows from constants that were fitted without them."""

    def __init__(self, found: Validated, rows: Rows) -> None:
        self.found, self._read = found, rows

    @cached_property
    def errors(self) -> "pd.DataFrame":
        """One line for each held-out measurement: factors, figures and the relative error [1]."""
        from dflash_sim.calibrate.fit.errors import error_table

        return error_table(self.found.outcomes)

    @cached_property
    def rows(self) -> "pd.DataFrame":
        """The held-out measurements as ``--format csv`` has them, rounded."""
        from dflash_sim.api.frames import table

        return table(self.to_dicts())

    @cached_property
    def refused(self) -> "pd.DataFrame":
        """Rows that could not be used, and why."""
        import pandas as pd

        lost = [*self._read.report.refused, *self._read.refused]
        return pd.DataFrame(lost, columns=["where", "why"])

    @property
    def calibrations(self) -> tuple[Calibration, ...]:
        """The constants that rows were predicted from."""
        return self.found.calibrations

    @property
    def mape(self) -> float:
        """Mean absolute error [1]."""
        return float(self.errors["error"].abs().mean())

    @property
    def bias(self) -> float:
        """Mean error [1]."""
        return float(self.errors["error"].mean())

    @property
    def coverage(self) -> float:
        """Share of the rows that lie in their 90 % interval [1]."""
        return float(self.errors["inside"].mean())

    def by(self, factor: str) -> "pd.DataFrame":
        """Return errors by ``model``, ``method``, ``concurrency``, ``block`` or ``data set``.

        Raises
        ------
        UsageError
            Rows have no such factor.
        """
        from dflash_sim.calibrate.fit.errors import in_order, summed

        known = [name for o in self.found.outcomes[:1] for name in o.factors]
        if factor not in known:
            raise unknown(kind="factor", value=factor, allowed=known)
        return summed(in_order(self.errors, factor), [factor])

    def to_dicts(self) -> list[dict[str, object]]:
        """Return the rows as ``--format json`` prints them."""
        from dflash_sim.studies.compare.validation_tables import as_rows

        return as_rows(self.found)

    @spoken
    def report(self, path: File) -> Path:
        """Write the validation as one HTML page, and return its path."""
        from dflash_sim.studies.compare import validation_report

        check_writable(Path(path))
        validation_report.write(self.found, Path(path), read=self._read.report.counts)
        return Path(path)

    def _page(self) -> RenderableType:
        from dflash_sim.studies.compare.validation_tables import tables

        return Text(text_of(tables(self.found)))

    def __repr__(self) -> str:
        rows = len(self.found.outcomes)
        return f"<Validation: {rows} rows, MAPE {self.mape:.1%}, {self.coverage:.0%} inside 90 %>"


@spoken
def validate(
    observations: "Files | None" = None,
    *,
    fit_on: str | None = None,
    test_on: str | None = None,
    leave_out: str | None = None,
    assume: Assume | None = None,
    calibration: File | None = None,
    prior: File | None = None,
    allow_partial: bool = False,
    engine: str | None = None,
    jobs: int = 1,
    profiles: "File | Sequence[File] | None" = None,
    progress: bool = False,
) -> Validation:
    """Predict what was measured, from constants that were fitted without it.

    With nothing given: every model of the published rows from the others. A row is never both
    fitted and tested. For runs on this machine see :func:`validate_real`.

    Parameters
    ----------
    observations
        A path or a data frame, or several; left out, the published rows of this build.
    fit_on, test_on
        Fit and predict these rows, such as ``"concurrency==1"``.
    leave_out
        Predict each ``model``, ``method``, ``gpu``, ``dataset`` or ``source`` from the others.
    assume
        What stands in where a row does not say, such as ``{"gpu": "b200"}``.
    calibration
        Constants in place of a fit: ``shipped``, ``none``, a file, or a :class:`Fit`.
    prior
        Where fits begin: ``shipped``, ``sheet``, a file, or an earlier :class:`Fit`; left out,
        ``shipped`` for observations, and ``sheet`` for the published rows.
    allow_partial
        Go on if some rows cannot be used.
    engine
        Release of rows that name no build, such as ``sglang-0.5.9``; None if nobody knows it.
    jobs
        Processes.
    profiles
        Folders of sheets to be searched first.
    progress
        Tell on stderr how far it is.

    Raises
    ------
    UsageError
        Options exclude each other, or no row is left.
    """
    truths(allow_partial=allow_partial, progress=progress)
    jobs = whole("jobs", jobs)
    question = Question.of(
        fit_on=fit_on,
        test_on=test_on,
        leave_out=leave_out,
        calibration=None if calibration is None else os.fspath(calibration),
        prior=None if prior is None else os.fspath(prior),
    )
    with searching(folders(profiles)):
        rows = Rows.read(
            None if observations is None else sources(observations),
            engine=engine,
            assume=[f"{key}={value}" for key, value in assumed(assume).items()],
            allow_partial=allow_partial,
        )
        with counted(rows.passes, show=progress, what="looks at a row") as advance:
            return Validation(answer(question, rows, jobs=jobs, on_row=advance), rows)
