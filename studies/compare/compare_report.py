"""A comparison as one HTML page: how far off, why, and every metric."""

from collections.abc import Collection, Sequence
from pathlib import Path

from dflash_sim.calibrate.compare.causes import CAUSES
from dflash_sim.calibrate.compare.compare import Comparison, Summary
from dflash_sim.studies.compare.compare_page import (
    row_title,
    said_of_own,
    said_of_owns,
    summary_line,
    unnamed_gpu,
)
from dflash_sim.studies.show.chart_style import Axis
from dflash_sim.studies.show.charts import Bar, bars
from dflash_sim.studies.show.figures import signed
from dflash_sim.studies.show.html_report import Cell, Report
from dflash_sim.studies.show.palette import Palette

_THROUGHPUT = "output_throughput"
_CHARTED = 12  # rows; more are in the table only


def write_report(
    path: Path, found: Sequence[Comparison], total: Summary, said: Collection[str] = ()
) -> None:
    """Write the page; ``said`` are conditions that the asker said to assume."""
    summary = summary_line(total)
    lead = [f"{summary[:1].upper()}{summary[1:]}."]
    missing = unnamed_gpu(found, said)
    own = said_of_own(found[0]) if len(found) == 1 else said_of_owns(found)
    words = " ".join(filter(None, [*lead, missing, own and f"{own.rstrip('.')}."]))
    report = Report("Measured and predicted", words, Palette(["predicted"], measured=["measured"]))
    rows = []
    for c in found[:_CHARTED]:
        m = c.metric(_THROUGHPUT)
        if m is not None:
            low, high = m.interval if m.interval else (None, None)
            name = c.observation.row
            rows.append(Bar(name=f"{name} measured", value=m.observed, group="measured"))
            rows.append(
                Bar(name="predicted", value=m.predicted, low=low, high=high, group="predicted")
            )
    if rows:
        report.section("Throughput", "Whiskers are 90 % intervals of the prediction.")
        figure = bars(rows, axis=Axis("output throughput", "tok/s"), palette=report.palette)
        report.figure(figure, "Throughput, measured and predicted.")
    causes: list[list[Cell]] = [
        [c.observation.row, CAUSES[cause.name], signed(cause.share), cause.evidence]
        for c in found
        if c.diagnosis is not None
        for cause in c.diagnosis.causes
    ]
    report.section("Why they differ")
    if causes:
        head = ("row", "cause", "share of the measurement", "evidence")
        report.table(head, causes, "Causes that the files show, row by row.")
    else:
        report.text("The files show no cause of a gap.")
    report.section("Every metric")
    metrics: list[list[Cell]] = [
        [c.observation.row, m.name, m.observed, m.predicted, signed(m.rel_err)]
        for c in found
        for m in c.metrics
    ]
    report.table(("row", "metric", "measured", "predicted", "error"), metrics, "Row by row.")
    report.section("What was compared")
    report.facts({c.observation.row: row_title(c) for c in found[:_CHARTED]})
    report.write(path)
