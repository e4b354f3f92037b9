"""A crossing as one HTML page: speed-up along the axis, where it ends, what to paste."""

from collections.abc import Sequence
from math import exp
from pathlib import Path

from dflash_sim.studies.crossover.advice import reason, sentence
from dflash_sim.studies.crossover.behind import facts
from dflash_sim.studies.crossover.page import beats, interval, overtaken, title
from dflash_sim.studies.crossover.paste import settings
from dflash_sim.studies.crossover.rows import points, warnings
from dflash_sim.studies.crossover.search import Crossover, Curve
from dflash_sim.studies.show.chart_style import Axis
from dflash_sim.studies.show.charts import Curve as Line
from dflash_sim.studies.show.charts import lines, not_drawn
from dflash_sim.studies.show.html_report import Report
from dflash_sim.studies.show.palette import PLAIN, SERIES, Palette


def write_report(path: Path, found: Crossover) -> None:
    """Write the page."""
    drawn = found.curves[:SERIES]
    palette = Palette(curve.title for curve in drawn)
    report = Report("Where speculation pays", f"{sentence(found)}\n\n{title(found)}", palette)
    report.section(
        "Speed-up over plain decoding",
        "Above 1 a method beats plain decoding of the same requests on the same server. Both are "
        "moved by the same draws of what is uncertain, so that what they share cancels.",
    )
    axis = found.axis
    curves = [_line(curve) for curve in drawn]
    x, y = Axis(axis.title, log=axis.log), Axis("speed-up", "x")
    figure = lines(curves, x=x, y=y, palette=palette)
    figure.add_hline(y=1, line={"color": PLAIN, "dash": "dot", "width": 1})
    more = not_drawn(len(found.curves) - len(drawn))
    report.figure(figure, f"Speed-up by {axis.title}; the dotted line is plain decoding.{more}")
    head = ("method", "beats plain", "90 % interval", "why it stops")
    rows = [(c.title, beats(c), interval(c), reason(c) or None) for c in found.curves]
    told = f"Where each method beats plain decoding, in {axis.title}."
    report.table(head, rows, told, things=[_thing(c, drawn) for c in found.curves])
    for line in (*overtaken(found), *facts(found)):
        report.text(f"{line}.")
    paste = {s.engine + (f" ({s.note})" if s.note else ""): f"`{s.text}`" for s in settings(found)}
    if paste:
        report.section("Settings to paste")
        report.facts(paste)
    report.section("Every position that was tried")
    tried = ("method", axis.title, "tok/s", "plain tok/s", "speed-up", "90 % interval")
    each = [(_thing(c, drawn), row) for c in found.curves for row in _table(c)]
    report.table(tried, [row for _, row in each], "As simulated.", things=[t for t, _ in each])
    for line in warnings(found, caps=False):
        report.text(f"Warning: {line}")
    report.write(path)


def _thing(curve: Curve, drawn: Sequence[Curve]) -> str | None:
    return curve.title if curve in drawn else None


def _line(curve: Curve) -> Line:
    rows = points(curve)
    spans = [row["speedup_ci90"] for row in rows if row["speedup_ci90"] is not None]
    return Line(
        name=curve.title,
        x=list(curve.values),
        y=[exp(g) for g in curve.gain.tolist()],
        low=[low for low, _ in spans],
        high=[high for _, high in spans],
        notes=[f"{row['output_throughput']:,.0f} tok/s" for row in rows],
    )


def _table(curve: Curve) -> list[tuple[str | float | None, ...]]:
    said = curve.server.axis.said
    rows: list[tuple[str | float | None, ...]] = []
    for row in points(curve):
        span = row["speedup_ci90"]
        rows.append(
            (
                curve.title,
                said(row["value"]),
                row["output_throughput"],
                row["plain_output_throughput"],
                f"{row['speedup']:.2f}",
                f"{span[0]:.2f} to {span[1]:.2f}" if span else None,
            )
        )
    return rows
