"""Tables with a column for each method: a row of each, as if written below each other."""

from pathlib import Path

import pytest

from dflash_sim.calibrate.observations.method_columns import by_method
from dflash_sim.calibrate.observations.observation import ReadReport
from dflash_sim.calibrate.readers.read import read_observations

SIDE_BY_SIDE = """
| Concurrency | {} | Accept len | Speedup |
|---|---|---|---|---|
| 1 | 180 | 610 | 5.1 | 3.4x |
| 8 | 1,300 | - | 5.0 | |
"""


def read(tmp_path: Path, text: str, **assumed: int) -> ReadReport:
    path = tmp_path / "issue.md"
    path.write_text(text)
    server = {"gpu": "b200", "model": "qwen3-8b", "isl": 1000, "osl": 500}
    report = read_observations([path], server | assumed)
    assert report.refused == ()
    return report


@pytest.mark.parametrize(
    "heads",
    ["Baseline (tok/s) | DFlash (tok/s)", "No spec tok/s | DFlash tok/s",
     "tok/s (vanilla) | tok/s (DFlash)", "Throughput plain (tok/s) | Throughput DFlash (tok/s)"],
)  # fmt: skip
def test_methods_side_by_side(tmp_path: Path, heads: str) -> None:
    report = read(tmp_path, SIDE_BY_SIDE.format(heads), block=8)
    found = [
        (row.fields["conc"], row.fields["method"], row.metrics["output_throughput"])
        for row in report.observations
    ]
    assert found == [(1, "none", 180), (1, "dflash", 610), (8, "none", 1300)]
    plain, drafted, _ = report.observations
    assert drafted.metrics["accept_length"] == 5.1
    assert "accept_length" not in plain.metrics


def test_an_assumption_of_one_method_leaves_the_rows_of_others_alone(tmp_path: Path) -> None:
    text = SIDE_BY_SIDE.replace("Accept len", "Note").format("EAGLE-3 tok/s | DFlash tok/s")
    chain, block, other = read(tmp_path, text, steps=3).observations
    assert [row.fields["method"] for row in (chain, block, other)] == ["eagle3", "dflash", "eagle3"]
    assert chain.fields["steps"] == 3
    assert "steps" not in block.fields


def test_a_measured_column_of_no_method_is_nobodys(tmp_path: Path) -> None:
    text = SIDE_BY_SIDE.replace("Accept len", "TTFT (ms)").format("Baseline tok/s | DFlash tok/s")
    report = read(tmp_path, text, block=8)
    assert all(set(row.metrics) == {"output_throughput"} for row in report.observations)
    assert any("TTFT (ms) (of which method?)" in note for note in report.notes)


def test_a_width_is_that_of_the_method_that_drafts(tmp_path: Path) -> None:
    text = SIDE_BY_SIDE.replace("Speedup", "Block").replace("3.4x", "8")
    report = read(tmp_path, text.format("Baseline tok/s | DFlash tok/s"))
    found = [(row.fields["method"], row.fields.get("block")) for row in report.observations]
    assert found == [("none", None), ("dflash", 8), ("none", None)]


def test_a_table_with_a_method_in_each_row_stays_as_it_is() -> None:
    rows = [["Method", "conc", "DFlash tok/s", "MTP tok/s"], ["dflash", "1", "600", "400"]]
    assert by_method(rows) == rows
    one = [["conc", "DFlash tok/s", "TTFT (ms)"], ["1", "600", "40"]]
    assert by_method(one) == one
