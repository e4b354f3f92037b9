"""``compare``: a benchmark against the prediction of the same scenarios, and why they differ."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from dflash_sim.api.files import Assume, Files, assumed, sources
from dflash_sim.api.question import File, folders, truths
from dflash_sim.api.show import Paged, counted
from dflash_sim.api.spoken import spoken
from dflash_sim.calibrate.compare.causes import CAUSES
from dflash_sim.calibrate.compare.compare import Comparison as Compared
from dflash_sim.calibrate.compare.compare import summary
from dflash_sim.calibrate.observations.observation import ReadReport
from dflash_sim.calibrate.readers.read import read_observations
from dflash_sim.profiles.find import searching
from dflash_sim.studies.ask.answers import check_options
from dflash_sim.studies.compare.compare_page import overview, page, row_of, summary_line
from dflash_sim.studies.compare.compare_question import answers, chosen, too_far

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pandas as pd

_APART = ("metrics", "explained")  # have a data frame of their own


class Comparison(Paged):
    """Measured rows beside predicted ones.

    Parameters
    ----------
    notes
        What to keep in mind about how the files were read.
    said
        Conditions that the asker said to assume.
    """

    def __init__(
        self,
        found: "Sequence[Compared]",
        read: ReadReport,
        notes: list[str],
        said: "Collection[str]" = (),
    ) -> None:
        self.found, self.read, self.notes, self.said = found, read, notes, said
        self.total = summary(found)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as ``--format json`` prints them."""
        return [row_of(each) for each in self.found]

    @cached_property
    def rows(self) -> "pd.DataFrame":
        """One row for each measurement: its scenario, throughputs and their error."""
        from dflash_sim.api.frames import table

        return table([{n: v for n, v in row.items() if n not in _APART} for row in self.to_dicts()])

    @cached_property
    def metrics(self) -> "pd.DataFrame":
        """One row for each metric of each measurement: observed, predicted, error, interval."""
        from dflash_sim.api.frames import table

        return table(
            [
                {"row": row["row"], "metric": name} | values
                for row in self.to_dicts()
                for name, values in row["metrics"].items()
            ]
        )

    @cached_property
    def causes(self) -> "pd.DataFrame":
        """The causes of the gaps, each with its share in parts of the measurement [1]."""
        import pandas as pd

        head = ("row", "metric", "cause", "share", "evidence", "meaning")
        lines = [
            (each.observation.row, d.target, cause.name, cause.share, cause.evidence,
             CAUSES[cause.name])
            for each in self.found
            if (d := each.diagnosis) is not None
            for cause in d.causes
        ]  # fmt: skip
        return pd.DataFrame(lines, columns=list(head))

    @cached_property
    def refused(self) -> "pd.DataFrame":
        """Rows that could not be used, and why."""
        import pandas as pd

        return pd.DataFrame(self.read.refused, columns=["where", "why"])

    @property
    def mape(self) -> float:
        """Mean absolute error of the predicted throughput [1]."""
        return self.total.mape

    @property
    def bias(self) -> float:
        """Mean error of the predicted throughput [1]."""
        return self.total.bias

    def too_far(self, percent: float) -> str | None:
        """Say which throughputs are off by more, as ``--fail-above`` does; None if none is."""
        return too_far(self.found, percent)

    def _page(self) -> RenderableType:
        if len(self.found) == 1:
            return page(self.found[0], self.said)
        return overview(self.found, self.total, self.said)

    def __repr__(self) -> str:
        return f"<Comparison: {summary_line(self.total)}>"


@spoken
def compare(
    files: Files,
    *,
    assume: Assume | None = None,
    on: str | None = None,
    allow_partial: bool = False,
    simulator: str = "auto",
    causes: bool = True,
    interval: bool = True,
    profiles: "File | Sequence[File] | None" = None,
    progress: bool = False,
) -> Comparison:
    """Compare a benchmark with the prediction of the same scenario, and say why they differ.

    Parameters
    ----------
    files
        A path or a data frame, or several: results of any tool that is known, or columns of the
        result schema.
    assume
        What stands in where a row does not say, such as ``{"gpu": "b200"}``.
    on
        Only these rows, such as ``"conc==32 and method!='none'"``.
    allow_partial
        Compare what can be read if some rows cannot.
    simulator
        ``auto``, ``leap`` (fast) or ``event``.
    causes
        Look for causes of the gaps.
    interval
        Also the 90 % intervals of the predictions.
    profiles
        Folders of sheets to be searched first.
    progress
        Tell on stderr how far it is.

    Raises
    ------
    UsageError
        Nothing can be compared, or rows are refused and ``allow_partial`` is not given.

    Examples
    --------
    >>> ds.compare("bench.jsonl", assume={"gpu": "b200"}).causes
    """
    check_options(simulator)
    truths(allow_partial=allow_partial, causes=causes, interval=interval, progress=progress)
    with searching(folders(profiles)):
        read = read_observations(sources(files), assumed(assume))
        rows, remarks = chosen(read, on, allow_partial=allow_partial)
        with counted(len(rows), show=progress, what="rows") as advance:
            found = answers(
                rows,
                simulator=simulator,
                with_causes=causes,
                with_interval=interval,
                on_row=advance,
            )
    if len(found) == 1 and found[0].error is not None:
        raise found[0].error
    return Comparison(found, read, [*read.notes, *remarks], assumed(assume))
