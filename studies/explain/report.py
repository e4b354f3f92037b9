"""An explanation as one HTML page: the waterfall first, then the step, and what it hangs on."""

from collections.abc import Mapping
from pathlib import Path

from dflash_sim.profiles.units import MS
from dflash_sim.studies.explain.explain import Explanation
from dflash_sim.studies.explain.page import Cells, tables, verdict_words
from dflash_sim.studies.show.chart_style import Axis
from dflash_sim.studies.show.charts import Bar, Curve, bars, lines
from dflash_sim.studies.show.figures import number, shares
from dflash_sim.studies.show.html_report import Cell, Report
from dflash_sim.studies.show.palette import PLAIN_DECODING, Palette
from dflash_sim.studies.show.titles import method_title, phase_title, title

_TABLES = {
    "waterfall": "From plain decoding to the answer, one change of the server at a time.",
    "ops": "Ops of a step, and how near they come to the ceilings of the GPU.",
    "elasticities": "What the answer hangs on.",
    "grounds": "What it rests on.",
}

_SIGNS = ("gains", "costs")  # what a change of the waterfall does


def write_report(path: Path, e: Explanation) -> None:
    """Write the page."""
    r = e.result
    tok_s = r.values["output_throughput"]
    low, high = r.intervals.get("output_throughput", (tok_s, tok_s))
    lead = f"{number(tok_s)} tokens a second, 90 % interval {number(low)} to {number(high)}."
    own = method_title(r.setup)
    palette = Palette([own, *reversed(_SIGNS)], plain=[] if r.setup.speculative else [own])
    report = Report(f"Why: {title(r)}", " ".join([lead, *verdict_words(e)]), palette)
    every = tables(e)
    if e.rungs:
        report.section("From plain decoding to the answer", "Each bar is the speed after a change.")
        rows = [
            Bar(name=rung.name, value=rung.speed_tok_s, note=rung.why,
                group=_SIGNS[rung.factor < 1] if k else PLAIN_DECODING)
            for k, rung in enumerate(e.rungs)
        ]  # fmt: skip
        rows.append(Bar(name="the answer", value=e.rungs[-1].speed_tok_s, group=own))
        figure = bars(rows, axis=Axis("speed", "tok/s"), palette=palette)
        report.figure(figure, "The waterfall.")
        _table(report, every, "waterfall")
    report.section("A step", f"{e.step.requests} requests in it: {number(e.step.seconds / MS)} ms.")
    phases = [
        Bar(name=phase_title(p.name, r.setup), value=p.seconds / MS, group=own)
        for p in e.step.phases
        if p.seconds
    ]
    figure = bars(phases, axis=Axis("time in a step", "ms"), palette=palette)
    report.figure(figure, "What a step is made of.")
    _table(report, every, "ops")
    if e.break_even is not None and len(e.break_even.blocks) > 1:
        report.section("Other blocks", "The same drafter, cut to other verify widths; first run.")
        blocks = e.break_even.blocks
        curve = Curve(
            name="x plain decoding",
            x=[float(b.block) for b in blocks],
            y=[b.speedup for b in blocks],
            notes=[f"accept length {b.accept_length:.2f}" for b in blocks],
            group=own,
        )
        x = Axis("block", log=True)
        figure = lines([curve], x=x, y=Axis("speed-up", "x"), palette=palette)
        report.figure(figure, "Speed-up by block.")
    report.section("What it hangs on")
    _table(report, every, "elasticities")
    report.section("What it rests on", "\n\n".join(f"Warning: {w}." for w in r.warnings))
    _table(report, every, "grounds")
    report.facts({"sources": shares(r.evidence)})
    report.write(path)


def _table(report: Report, every: Mapping[str, Cells], name: str) -> None:
    heads, rows = every[name]
    cells: list[list[Cell]] = [[cell or None for cell in row] for row in rows]
    report.table(heads, cells, _TABLES[name])
