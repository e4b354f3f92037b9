"""What owned GPUs carry, as one HTML page: the answer, every kind of server, how to start it."""

from pathlib import Path

from dflash_sim.studies.ask.prices import paid
from dflash_sim.studies.plan.most import Most
from dflash_sim.studies.plan.most_page import (
    HEADS,
    UNITS,
    amount,
    assumed,
    cells,
    notes,
    said,
    setup_of,
)
from dflash_sim.studies.plan.verdict import gpus, percent_of
from dflash_sim.studies.show.chart_style import Axis
from dflash_sim.studies.show.charts import Bar, bars, not_drawn
from dflash_sim.studies.show.html_report import Report
from dflash_sim.studies.show.launch import launch_command
from dflash_sim.studies.show.palette import SERIES, Palette


def write_report(path: Path, found: Most) -> None:
    """Write the page."""
    q, unit = found.question, UNITS[found.what]
    answered = [c for c in found.carried if c.error is None]
    plain = [c for c in answered if not q.candidates[c.index].speculation.speculative]
    others = [c for c in answered if c not in plain]
    drawn = [c for c in answered if c in plain or c in others[:SERIES]]
    palette = Palette((c.title for c in others[:SERIES]), plain=[c.title for c in plain])
    model = q.candidates[0].model
    title = f"What {gpus(found.gpus)} carry: {model}"
    report = Report(title, "\n\n".join(said(found)), palette)
    report.facts({"Objective": str(q.slo), "Confidence": percent_of(q.confidence),
        "Router": q.router, "Prices": paid(q.prices) or "typical list prices"})  # fmt: skip
    report.section(
        "What each kind of server carries",
        f"As many servers as {gpus(found.gpus)} make. A bar is what they carry at "
        f"{percent_of(q.confidence)} confidence of their own.",
    )
    rows = [
        Bar(name=f"{c.replicas:,} x ({c.title})", value=c.most, group=c.title,
            note=f"{amount(found, c.most)} {unit}; {c.binds}")
        for c in drawn
    ]  # fmt: skip
    more = not_drawn(len(answered) - len(drawn))
    figure = bars(rows, axis=Axis(f"the most {unit}"), palette=palette)
    report.figure(figure, f"The most {unit} that {gpus(found.gpus)} carry.{more}")
    shown = [[None if x == "-" else x for x in cells(found, c)] for c in answered]
    things = [c.title if c in drawn else None for c in answered]
    report.table((*HEADS, "binds"), shown, "Every kind of server, those that carry most first.",
        things=things)  # fmt: skip
    for c in found.carried:
        if c.error is not None:
            report.text(f"Left out: {c.error}")
    report.section("Start it", f"`{launch_command(setup_of(found))}`")
    report.section("What it rests on")
    report.text("\n\n".join(f"Assumed: {note}." for note in assumed(found)))
    report.text("\n\n".join(f"Note: {note}." for note in notes(found)))
    report.write(path)
