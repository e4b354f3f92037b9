"""``crossover``: where speculation stops beating plain decoding, and what to serve instead."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from rich.console import RenderableType

from dflash_sim.api.question import Config, File, Question, asked, takes_question
from dflash_sim.api.show import Paged, counted
from dflash_sim.api.spoken import spoken
from dflash_sim.studies.crossover.advice import sentence
from dflash_sim.studies.crossover.behind import facts
from dflash_sim.studies.crossover.leads import answer
from dflash_sim.studies.crossover.page import CrossoverPage
from dflash_sim.studies.crossover.paste import settings
from dflash_sim.studies.crossover.question import question as crossover_question
from dflash_sim.studies.crossover.rows import crossover_rows, points, to_json, warnings
from dflash_sim.studies.crossover.search import Crossover as Found
from dflash_sim.studies.crossover.search import steps
from dflash_sim.studies.show.files import check_writable

if TYPE_CHECKING:
    import pandas as pd


class Crossover(Paged):
    """Where each method beats plain decoding along an axis."""

    def __init__(self, found: Found) -> None:
        self.found = found

    @cached_property
    def ends(self) -> "pd.DataFrame":
        """One row for each server: from where and until where it pays, with 90 % intervals."""
        from dflash_sim.api.frames import table

        return table(crossover_rows(self.found))

    @cached_property
    def curves(self) -> "pd.DataFrame":
        """Every position that was tried: throughput, plain throughput, and their ratio."""
        from dflash_sim.api.frames import table

        return table([row for curve in self.found.curves for row in points(curve)])

    @property
    def answer(self) -> str:
        """What to use where, in a sentence."""
        return sentence(self.found)

    @property
    def settings(self) -> dict[str, str]:
        """What to paste, by the engine and the stretch that it is for."""
        return {setting.engine: setting.text for setting in settings(self.found)}

    @property
    def facts(self) -> list[str]:
        """What stands behind each server: requests that run at once, and its accept length."""
        return facts(self.found)

    @property
    def warnings(self) -> list[str]:
        """Warnings to keep in mind."""
        return warnings(self.found)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as ``--format json`` prints it."""
        return to_json(self.found)

    @spoken
    def report(self, path: File) -> Path:
        """Write the answer as one HTML page with a chart, and return its path."""
        from dflash_sim.studies.crossover.report import write_report

        check_writable(Path(path))
        write_report(Path(path), self.found)
        return Path(path)

    def _page(self) -> RenderableType:
        return CrossoverPage(self.found)

    def __repr__(self) -> str:
        return f"<Crossover over {self.found.axis.name}: {self.answer}>"


@takes_question
def crossover(
    config: Config | None = None,
    *,
    over: str = "conc",
    values: str | Sequence[float] | None = None,
    interval: bool = True,
    progress: bool = False,
    **question: Unpack[Question],
) -> Crossover:
    """Find where each method stops beating plain decoding of the same requests.

    Lists of ``method``, ``block`` and ``steps`` are compared; by default DFlash at the drafter's
    block and MTP with three steps.

    Parameters
    ----------
    config
        Where to start from: a dict of fields, a scenario, or the path of a .yaml file.
    over
        What changes: ``conc``, ``context``, ``accept`` (tokens a cycle) or ``temperature``.
    values
        Where to look, as numbers or as text such as ``"1-64:x2"``; by default 1 to 256 requests.
    interval
        Also 90 % intervals: draws of what is uncertain that move both servers at once.
    progress
        Tell on stderr how far it is.
    **question
        As for :func:`predict`.

    Raises
    ------
    UsageError
        There is nothing to compare, or a list that is about something else.
    InfeasibleError
        Nothing fits anywhere along the axis.

    Examples
    --------
    >>> ds.crossover(gpu="h200", model="qwen3-8b", block=[8, 16]).ends
    """
    made = crossover_question(asked(config, question), over=over, values=values)
    with counted(steps(made, interval=interval), show=progress) as advance:
        return Crossover(answer(made, interval=interval, on_run=advance))
