"""A live calibration on a page: each cell as measured, and as predicted before and after."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from dflash_sim.calibrate.live.experiment import Cell
from dflash_sim.studies.compare import fit_page
from dflash_sim.studies.live.question import SHOWN, Outcome, Plan
from dflash_sim.studies.show.figures import number, percent, signed
from dflash_sim.studies.show.plain_table import Table

_HEADS = {"output_throughput": "tok/s", "mean_tpot_ms": "TPOT", "mean_ttft_ms": "TTFT"}


def plan_line(plan: Plan, kept: int) -> str:
    """What will be measured, how long it takes and what it is worth."""
    there = f", {kept} are there already" if kept else ""
    if not plan.cells:
        return f"nothing is left to measure that would tell much{there}"
    seconds, requests = sum(plan.cost_s), sum(cell.asked for cell in plan.cells)
    worth = f"{percent(plan.choice.prior_sd)} to {percent(plan.choice.after[-1])}"
    return (
        f"{len(plan.cells)} cells{there}: {requests} requests in about {seconds:.0f} s; the doubt "
        f"about a speed falls from {worth} (1 sd)"
    )


def row_line(cell: Cell, row: dict[str, Any]) -> str:
    """A cell as it was measured."""
    length = row.get("accept_length")
    accepted = f", accept length {length:.2f}" if length else ""
    return f"{cell}: {number(row['output_throughput'])} tok/s{accepted}"


def page(outcome: Outcome) -> str:
    """The whole page."""
    return "\n".join([cells(outcome).text(), "", *worth(outcome), ""]) + fit_page.page(
        outcome.fit, outcome.chosen
    )


def cells(outcome: Outcome) -> Table:
    """Return what was measured, and how far predictions are from it."""
    lines = []
    for k, row in enumerate(outcome.fit.rows):
        s, seen = row.scenario, row.observation.metrics
        cell = Cell(int(s.conc or 0), int(s.isl or 0), int(s.osl or 0))
        errors = [
            signed(float(part[k, m]))
            for m in range(len(SHOWN))
            for part in (outcome.before, outcome.after)
        ]
        lines.append((str(cell), number(seen["output_throughput"]), *errors))
    names = [f"{_HEADS[m]} {when}" for m in SHOWN for when in ("before", "after")]
    return Table("predicted over measured", ("cell", "tok/s", *names), tuple(lines))


def worth(outcome: Outcome) -> Iterator[str]:
    """Mean errors before and after, a sentence each."""
    for m, metric in enumerate(SHOWN):
        parts = (outcome.before, outcome.after)
        before, after = (percent(float(np.abs(part[:, m]).mean())) for part in parts)
        yield f"{_HEADS[metric]}: off by {before} before, {after} after"


def summary(outcome: Outcome) -> dict[str, Any]:
    """Return the page as data."""
    names = [row.observation.row for row in outcome.fit.rows]
    return fit_page.summary(outcome.fit, outcome.chosen) | {
        "kind": "live calibration",
        "before": {n: dict(zip(SHOWN, e, strict=True)) for n, e in _pairs(names, outcome.before)},
        "after": {n: dict(zip(SHOWN, e, strict=True)) for n, e in _pairs(names, outcome.after)},
    }


def _pairs(names: list[str], errors: Any) -> Iterator[tuple[str, list[float]]]:
    return zip(names, errors.tolist(), strict=True)
