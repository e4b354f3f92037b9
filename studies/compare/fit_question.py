"""The question behind ``calibrate fit``: which rows are fitted, and what becomes of the others."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from dflash_sim.calibrate.fit.fit import PASSES, Fit, fit
from dflash_sim.calibrate.fit.prior import known_before
from dflash_sim.calibrate.fit.rows import Row, rows_of
from dflash_sim.calibrate.fit.unstated import marked
from dflash_sim.calibrate.observations.observation import Observation, ReadReport
from dflash_sim.calibrate.observations.row_filter import parse_filter
from dflash_sim.calibrate.readers.read import Source, read_observations
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.calibration import Calibration
from dflash_sim.profiles.releases.engine_sheet import HOME, EngineSheet, load_engine
from dflash_sim.profiles.releases.engine_versions import match_engine, releases
from dflash_sim.studies.compare.validate_question import assumptions

FEWEST = 3  # rows that say more than the priors


@dataclass(frozen=True)
class Chosen:
    """Rows to fit.

    Parameters
    ----------
    files, fit_on
        Where they are from, and the expression that selected them.
    passed
        Rows that it did not select.
    unusable
        Rows that were read and selected but say nothing to a fit, and why.
    known
        The posterior that the fit begins at; None is the priors of the engine sheet.
    """

    engine: EngineSheet
    rows: tuple[Row, ...]
    read: ReadReport
    files: tuple[Source, ...]
    fit_on: str | None
    passed: int
    unusable: tuple[tuple[str, str], ...]
    known: Calibration | None = None

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """Every row that cannot be used, and why."""
        return (*self.read.refused, *self.unusable)

    @property
    def counts(self) -> str:
        """Tell what became of every row."""
        parts = [f"{len(self.rows)} used"]
        if self.fit_on is not None:
            parts.append(f"{self.passed} not selected")
        parts.append(f"{len(self.read.refused)} refused by the reader")
        parts.append(f"{len(self.unusable)} by the fit")
        rows = "row" if self.read.read == 1 else "rows"
        return f"{self.read.read} {rows} read: {', '.join(parts)}"

    @property
    def passes(self) -> int:
        """Return how often a fit looks at a row, all in all, for a progress bar."""
        return PASSES * len(self.rows)

    @property
    def about(self) -> dict[str, object]:
        """Return what a calibration file says of its rows."""
        return {
            "fit_on": self.fit_on or "all rows",
            "files": sorted({path.name for path in self.files}),
            "sources": sorted({row.observation.source for row in self.rows}),
        }


def choose(
    files: Sequence[Source],
    *,
    engine: str | None,
    fit_on: str | None,
    assume: Sequence[str],
    prior: str = "shipped",
) -> Chosen:
    """Read files and select the rows to fit.

    Parameters
    ----------
    engine
        The engine sheet of rows that name no build; None if nobody says which release they are
        of. Then they are run as the home release is, and their build is a level of its own that
        may be as far from home as builds are.

    Raises
    ------
    UsageError
        An expression or an assumption is malformed; never because of what a file holds.
    """
    sheet = load_engine(engine or HOME)
    selected = parse_filter(fit_on) if fit_on is not None else None
    read = read_observations(files, assumptions(assume))
    chosen = [o for o in read.observations if selected is None or selected(o)]
    named, unstated = marked(chosen) if engine is None else (chosen, 0)
    if unstated:
        note = (
            f"{unstated} of {len(chosen)} rows name no release of the engine, which may be "
            "any: --engine sglang-0.5.9, or --assume build=0.5.9, says which"
        )
        read = replace(read, notes=(*read.notes, note))
    chosen = named
    read = replace(read, notes=(*read.notes, *_unheard_of(chosen)))
    rows, unusable = rows_of(chosen, sheet)
    return Chosen(
        engine=sheet,
        rows=tuple(rows),
        read=read,
        files=tuple(files),
        fit_on=fit_on,
        passed=read.used - len(chosen),
        unusable=tuple(unusable),
        known=known_before(prior, sheet),
    )


def _unheard_of(rows: Sequence[Observation]) -> Iterator[str]:
    """Say of builds with the number of no release what they are read as."""
    for build, number in Counter(o.build for o in rows if o.build).items():
        try:
            match = match_engine(build)
        except UsageError:  # of another engine: refused with its row
            continue
        if match is not None and match.version not in releases():
            yield (
                f"{number} of {len(rows)} rows name build {build}, which is no release that is "
                f"known: read as {match.engine}, the nearest; --engine or --assume build says other"
            )


def require(chosen: Chosen, *, allow_partial: bool) -> None:
    """Refuse to fit less than was asked for.

    Raises
    ------
    UsageError
        No row is left; or some are refused, or very few are left, without ``allow_partial``.
    """
    number = len(chosen.rows)
    first = ": ".join(chosen.refused[0]).rstrip(".?") if chosen.refused else ""
    if not number:
        why = f"; --fit-on '{chosen.fit_on}' passes over {chosen.passed}" if chosen.passed else ""
        why += f"; refused {first}" if first else ""
        msg = f"no row to fit{why}. A row needs a scenario, and a throughput or a time per token."
        raise UsageError(msg)
    if first and not allow_partial:
        msg = (
            f"{len(chosen.refused)} of {chosen.read.read} rows cannot be fitted, the first "
            f"{first}. Repair them, or give --allow-partial to go on without them."
        )
        raise UsageError(msg)
    if number < FEWEST and not allow_partial:
        msg = (
            f"{number} of {FEWEST} rows that a fit needs at least: the priors would say the rest. "
            "Give more, or --allow-partial to go on."
        )
        raise UsageError(msg)


def run_fit(
    chosen: Chosen, *, name: str, jobs: int, on_row: Callable[[], None] | None = None
) -> Fit:
    """Fit the chosen rows; ``on_row`` is called about ``chosen.passes`` times."""
    return fit(
        chosen.rows,
        engine=chosen.engine,
        name=name,
        jobs=min(jobs, len(chosen.rows)),
        about=chosen.about,
        known=chosen.known,
        on_row=on_row,
    )
