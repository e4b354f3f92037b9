"""Published crossings: what a row says, how it is judged, and that the study judged all."""

import csv
from dataclasses import replace
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.studies.crossover.ends import Span
from dflash_sim.studies.published import crossings as study
from dflash_sim.studies.published.crossings import Crossing, Judged, crossings, question_of
from dflash_sim.studies.published.findings import Findings

ROOT = Path(__file__).parents[3]
WRITTEN = ROOT / "studies/gallery/16_crossings.json"
SOURCES = ROOT / "profiles/published/sources.csv"


def row(paying: float | None, failing: float | None, gains: Any) -> Crossing:
    return replace(crossings()[0], paying=paying, failing=failing, gains=gains)


def curve(until: float, low: float, high: float) -> Any:
    gain = SimpleNamespace(until=Span(until, low, high), gain_at=lambda _: 0.0)
    return gain


def test_there_are_enough_of_them() -> None:
    both = [c for c in crossings() if c.both]
    assert len(both) >= 20
    assert len({c.source for c in both}) >= 4
    assert len(crossings()) - len(both) >= 30
    assert len({c.name for c in crossings()}) == len(crossings())


def test_sides_are_those_of_the_measured_speedups() -> None:
    """The two sides are read off the series: above 1 up to the one, at most 1 at the other."""
    for c in crossings():
        pairs = (point.split(":") for point in c.cells["measured"].split())
        series = {float(value): float(gain) for value, gain in pairs}
        pays = [v for v, g in series.items() if g > 1]
        fails = [v for v in series if v > max(pays, default=0)]
        assert c.paying == max(pays, default=None), c.name
        assert c.failing == min(fails, default=None), c.name
        if c.at is not None:
            assert c.paying <= c.at <= c.failing, c.name


def test_sources_are_known() -> None:
    with SOURCES.open(encoding="utf-8") as file:
        known = {line["source_id"] for line in csv.DictReader(file)}
    assert {c.source for c in crossings()} <= known


def test_a_crossing_lies_between_its_sides() -> None:
    assert row(8, 32, (2.0, 0.5)).at == pytest.approx(16)
    assert row(8, 32, (1.2, 1.0)).at == pytest.approx(32)
    assert row(8, None, (2.0, None)).at is None


@pytest.mark.parametrize(
    ("crossing", "span", "inside", "factor"),
    [
        (row(8, 32, (2.0, 0.5)), (20, 10, 30), True, 1.25),
        (row(8, 32, (2.0, 0.5)), (40, 17, 60), False, 2.5),
        (row(8, 32, (2.0, 0.5)), (inf, 12, inf), True, inf),
        (row(32, None, (1.2, None)), (20, 10, 31), False, None),
        (row(32, None, (1.2, None)), (20, 10, 33), True, None),
        (row(None, 1, (None, 0.6)), (0, 0, 0), True, None),
        (row(None, 1, (None, 0.6)), (9, 3, 20), False, None),
    ],
)
def test_judgement(crossing: Crossing, span: Any, inside: bool, factor: float | None) -> None:
    found = Judged(crossing, curve(*span))
    assert found.inside is inside
    assert found.factor == (None if factor is None else pytest.approx(factor))


def test_figures_are_counted() -> None:
    both, bound = row(8, 32, (2.0, 0.5)), row(32, None, (1.2, None))
    found = study.findings(
        [
            Judged(both, curve(20, 10, 30)),
            Judged(both, curve(40, 20, 60)),
            Judged(bound, curve(inf, 40, inf)),
            Judged(both, None, "unknown"),
        ]
    )
    assert found.words == {
        "crossings": "4",
        "crossings two-sided": "2",
        "crossings inside": "1 of 2",
        "crossings near": "1 of 2",
        "crossing bounds kept": "1 of 1",
        "crossings refused": "1",
    }
    assert found["crossings that are not asked"].rows == ((both.name, "unknown"),)


def test_a_row_is_asked_as_it_was_served() -> None:
    rows = {c.name: c for c in crossings()}
    setup = question_of(rows["gh200-dflash-b8-triton"]).candidates[0]
    s = setup.scenario
    assert (s.gpu, s.attention_backend, s.block, s.radix_cache) == ("gh200", "triton", 8, False)
    assert (s.max_running_requests, s.mem_fraction_static) == (128, 0.85)
    assert setup.expectation is not None
    assert setup.expectation.acceptance.survival().mean_accept_length == pytest.approx(4.75)
    plain = question_of(rows["gh200-dflash-b8-triton"]).plain
    assert (plain.scenario.method, plain.backend) == ("none", "triton")


def test_most_rows_are_asked() -> None:
    """What cannot be asked is a drafter or a tree that is not modelled, and is told by name."""
    refused = {}
    for c in crossings():
        try:
            study._fields(c.cells, study.axis_of(c.cells["over"]))
        except DflashSimError as error:
            refused[c.name] = error
    assert len(refused) <= 10
    assert all(isinstance(error, UsageError) for error in refused.values())


@pytest.mark.slow
def test_a_crossing_is_predicted_from_its_row() -> None:
    chosen = [c for c in crossings() if c.name == "gh200-dflash-b8-fa4-draft"]
    (found,) = study.judged(chosen)
    assert found.curve is not None
    assert found.inside
    assert 1 <= (found.factor or inf) < 2
    at = found.curve.until
    assert 0 < at.low < at.value < at.high
    assert at.value / at.low < 8  # an interval that says something, though it has no upper end


def test_the_study_judged_every_crossing() -> None:
    written = Findings.read(WRITTEN)  # studies/gallery/16_crossings.json
    told = [line[0] for table in written.tables[1:] for line in table.rows]
    assert sorted(told) == sorted(c.name for c in crossings())
    asked = len(crossings()) - int(written.words["crossings refused"])
    assert sum(len(t.rows) for t in written.tables[1:3]) == asked
