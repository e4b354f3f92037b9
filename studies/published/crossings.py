"""Published crossings: where measured speculation stopped beating plain decoding, and ours.

``profiles/published/crossings.csv`` has a row for each series of one server and data set that was
measured with and without speculation: up to where it paid, and from where it did not. Most series
end before it stops: those are bounds. No constant is fitted on a row of it.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import exp, inf, isinf, log
from typing import Any

from dflash_sim.calibrate.observations.conditions import ALIASES, COLUMNS, read_conditions
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.profiles.releases.server_levels import UNSTATED
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.simulator.trial import beside
from dflash_sim.studies.crossover.axis import Axis, axis_of
from dflash_sim.studies.crossover.question import Question
from dflash_sim.studies.crossover.search import Curve, crossover
from dflash_sim.studies.published.findings import Findings
from dflash_sim.studies.show.plain_table import Table

Cells = Mapping[str, str]
WITHIN = 1.5  # times the published crossing, or a part of it: what is called near
_KNOWN = COLUMNS | ALIASES.keys()
_FIRST, _LAST = 1, 256  # requests at once
_SHORTEST, _LONGEST = 512, 65_536  # tokens of context


@dataclass(frozen=True)
class Crossing:
    """A published series, and where it crosses.

    Parameters
    ----------
    paying, failing
        The last value that pays and the first that does not; None where the series has none.
    gains
        Published speed-ups there [1].
    """

    cells: Cells
    paying: float | None
    failing: float | None
    gains: tuple[float | None, float | None]

    @property
    def name(self) -> str:
        """Return the id of the row."""
        return self.cells["id"]

    @property
    def source(self) -> str:
        """Return the id of the source."""
        return self.cells["source_id"]

    @property
    def both(self) -> bool:
        """Return True if it was measured on either side of its crossing."""
        return self.paying is not None and self.failing is not None

    @property
    def at(self) -> float | None:
        """Return the crossing, on logarithmic scales between its two sides; None of a bound."""
        if self.paying is None or self.failing is None:
            return None
        above, below = (log(gain) if gain else 0.0 for gain in self.gains)
        share = above / (above - below) if above > below else 1.0
        return exp(log(self.paying) + share * log(self.failing / self.paying))

    def inside(self, low: float, high: float) -> bool:
        """Return True if an interval of the crossing holds it, or what is known of it."""
        if self.at is not None:
            return low <= self.at <= high
        if self.paying is not None:
            return high >= self.paying
        assert self.failing is not None
        return low <= self.failing


@dataclass(frozen=True)
class Judged:
    """A published crossing beside the predicted one, or beside why it is not asked."""

    crossing: Crossing
    curve: Curve | None
    refusal: str | None = None

    @property
    def inside(self) -> bool:
        """Return True if the published crossing is inside the predicted interval."""
        assert self.curve is not None
        return self.crossing.inside(self.curve.until.low, self.curve.until.high)

    @property
    def factor(self) -> float | None:
        """Return how far the two are apart, at least 1; None of a bound."""
        if self.curve is None or self.crossing.at is None:
            return None
        found = self.curve.until.value
        if found == 0 or isinf(found):
            return inf
        return exp(abs(log(found / self.crossing.at)))


@cache
def crossings() -> tuple[Crossing, ...]:
    """Return the rows of the file, in their order."""
    text = files("dflash_sim.profiles").joinpath("published/crossings.csv").read_text("utf-8")
    return tuple(_crossing(cells) for cells in csv.DictReader(text.splitlines()))


def _crossing(cells: Cells) -> Crossing:
    paying, there, failing, behind = (
        float(cells[name]) if cells[name] else None
        for name in ("last_paying", "speedup_there", "first_failing", "speedup_failing")
    )
    return Crossing(cells, paying, failing, (there, behind))


def question_of(crossing: Crossing) -> Question:
    """Return what a row asks.

    Raises
    ------
    DflashSimError
        Its conditions cannot be said, or are not simulated.
    """
    cells = crossing.cells
    axis = axis_of(cells["over"])
    scenario = Scenario.parse(**_fields(cells, axis))
    setup = resolve(scenario)
    plain = beside(setup, setup.scenario.without_speculation(tp=setup.tp))
    return Question(axis, plain, (setup,), _values(crossing, axis))


def _values(crossing: Crossing, axis: Axis) -> tuple[float, ...]:
    """Return every doubling along the axis, and the values that were measured."""
    first, last = (_FIRST, _LAST) if axis.name == "conc" else (_SHORTEST, _LONGEST)
    measured = {float(point.split(":")[0]) for point in crossing.cells["measured"].split()}
    doubled, value = set[float](), float(first)
    while value <= last:
        doubled.add(value)
        value *= 2
    return tuple(sorted(doubled | {value for value in measured if first <= value <= last}))


def _fields(cells: Cells, axis: Axis) -> dict[str, Any]:
    if cells["topk"] not in ("", "1"):
        msg = f"a tree of drafts, topk {cells['topk']} and {cells['draft_tokens']} tokens"
        raise UsageError(msg)
    read = read_conditions({k: v for k, v in cells.items() if k in _KNOWN}, Names())
    found = {**read.fields, "build": cells["build"] or UNSTATED, "runs": 1}
    if cells["accept_len"]:
        found["acceptance"] = f"al:{cells['accept_len']}"
    if axis.name == "conc":
        found["conc"] = _FIRST
    return found


def judged(
    rows: Iterable[Crossing], *, on_row: Callable[[Judged], None] | None = None
) -> list[Judged]:
    """Predict the crossing of each row, one after the other."""
    out = []
    for row in rows:
        try:
            found = Judged(row, crossover(question_of(row)).curves[0])
        except DflashSimError as error:
            found = Judged(row, None, str(error).splitlines()[0])
        out.append(found)
        if on_row is not None:
            on_row(found)
    return out


def findings(found: Sequence[Judged]) -> Findings:
    """Return the tables and the figures that pages quote."""
    asked = [j for j in found if j.curve is not None]
    both = [j for j in asked if j.crossing.both]
    bounds = [j for j in asked if not j.crossing.both]
    near = [j for j in both if (j.factor or inf) <= WITHIN]
    words = {
        "crossings": str(len(found)),
        "crossings two-sided": str(len(both)),
        "crossings inside": f"{sum(j.inside for j in both)} of {len(both)}",
        "crossings near": f"{len(near)} of {len(both)}",
        "crossing bounds kept": f"{sum(j.inside for j in bounds)} of {len(bounds)}",
        "crossings refused": str(len(found) - len(asked)),
    }
    tables = [by_source(both, bounds), two_sided(both), one_sided(bounds)]
    refused = [(j.crossing.name, _short(j.refusal or "")) for j in found if j.curve is None]
    if refused:
        tables.append(Table("crossings that are not asked", ("row", "reason"), tuple(refused)))
    return Findings(tuple(tables), words)


def by_source(both: Sequence[Judged], bounds: Sequence[Judged]) -> Table:
    """Return how many are inside, and how many near, source by source."""
    rows = []
    for source in dict.fromkeys(j.crossing.source for j in (*both, *bounds)):
        own = [j for j in both if j.crossing.source == source]
        ends = [j for j in bounds if j.crossing.source == source]
        near = sum((j.factor or inf) <= WITHIN for j in own)
        rows.append(
            (
                source,
                f"{sum(j.inside for j in own)} of {len(own)}" if own else "-",
                f"{near} of {len(own)}" if own else "-",
                f"{sum(j.inside for j in ends)} of {len(ends)}" if ends else "-",
            )
        )
    head = ("source", "inside the interval", f"within {WITHIN:g} x", "bounds kept")
    return Table("crossings by source", head, tuple(rows))


def two_sided(both: Sequence[Judged]) -> Table:
    """Return the crossings that were measured on either side."""
    rows = []
    for j in both:
        c, curve = j.crossing, j.curve
        assert curve is not None
        rows.append(
            (
                c.name,
                f"{c.paying:g} to {c.failing:g}",
                _said(c.at or inf),
                _said(curve.until.value),
                f"{_said(curve.until.low)} to {_said(curve.until.high)}",
                "yes" if j.inside else "no",
                "-" if j.factor is None or isinf(j.factor) else f"{j.factor:.2f}",
            )
        )
    head = ("row", "measured between", "published", "predicted", "90 % interval", "inside", "times")
    return Table("crossings with both sides", head, tuple(rows))


def one_sided(bounds: Sequence[Judged]) -> Table:
    """Return the series that end on one side of their crossing."""
    rows = []
    for j in bounds:
        c, curve = j.crossing, j.curve
        assert curve is not None
        if c.paying is not None:
            measured, gain = f"pays at {c.paying:g}", c.gains[0]
        else:
            measured, gain = f"does not pay at {c.failing:g}", c.gains[1]
        place = c.paying if c.paying is not None else c.failing
        rows.append(
            (
                c.name,
                measured,
                f"{gain:.2f}",
                f"{exp(curve.gain_at(place or _FIRST)):.2f}",
                _said(curve.until.value),
                f"{_said(curve.until.low)} to {_said(curve.until.high)}",
                "yes" if j.inside else "no",
            )
        )
    head = ("row", "measured", "speed-up there", "predicted there", "pays until", "90 % interval",
            "kept")  # fmt: skip
    return Table("crossings known from one side", head, tuple(rows))


def _said(value: float) -> str:
    if isinf(value):
        return "always"
    return "never" if value == 0 else f"{value:,.0f}"


def _short(reason: str) -> str:
    return reason if len(reason) <= 110 else reason[:107] + "..."
