"""Rows of a table can be told apart, whatever it is that they differ in."""

import re
from pathlib import Path

import pytest

from dflash_sim.cli import run
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.row import to_row
from dflash_sim.simulator.scenario import ONLY_SPECULATION, Scenario
from dflash_sim.studies.ask.answers import Answer
from dflash_sim.studies.predict.report import write_rows
from dflash_sim.studies.predict.table import GridTable
from dflash_sim.studies.predict.varied import varied
from dflash_sim.studies.show.terminal import as_page
from dflash_sim.studies.sweep.ending import fastest

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer")  # a word in any field
WHY = UsageError("it was not tried.")
OF_ROWS = {"output_tput_per_gpu": 1.0, "output_throughput": 1.0, "profile_hash": "x"}


def pair(name: str, method: str) -> list[Answer]:
    """Two questions that differ in one field, unanswered: a row of each has what was asked."""
    one = Scenario.parse(gpu="h200", model="qwen3-8b", isl=64, osl=8, conc=None, rate=None)
    one = one.model_copy(update={"method": method, "policy": "batch:4"})
    value = "dspark" if name == "method" else "another"
    return [Answer(s, WHY) for s in (one, one.model_copy(update={name: value}))]


@pytest.mark.parametrize("name", Scenario.model_fields)
def test_any_field_that_differs_has_a_column(name: str) -> None:
    takers = [m.name for m in METHODS.values() if name in m.takes]
    answers = pair(name, takers[0] if name in ONLY_SPECULATION else "dflash")
    table = GridTable(answers)
    assert len(table.varying) == 1
    assert "another" in as_page(table, to_file=True) or name == "method"
    ending = fastest([row | OF_ROWS for row in table.rows], None, table.varying)
    assert ending is not None
    first, second = ending.rows
    assert first != second


def test_what_a_method_does_not_take_is_no_difference() -> None:
    table = GridTable(pair("policy", "none"))
    assert not table.varying
    assert "another" not in as_page(table, to_file=True)


def test_a_policy_that_all_rows_have_is_above_them() -> None:
    same = "policy batch:4"
    assert same in as_page(GridTable(pair("isl", "dflash")), to_file=True)
    assert same not in as_page(GridTable(pair("policy", "dflash")), to_file=True)


def test_a_page_names_what_it_varies(tmp_path: Path) -> None:
    """In its table and in the names of its series, with all digits."""
    asked = Scenario.parse(gpu="h200", model="qwen3-8b", isl=64, osl=8, num_prompts=2, runs=1)
    row = to_row(predict(asked, with_baseline=False, with_interval=False))
    shares = ("0.801", "0.802")
    rows, differing = varied([row, row], [{"mem_fraction_static": float(s)} for s in shares])
    write_rows(tmp_path / "page.html", rows, differing=differing)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    names = re.findall(r'"name":"(mem fraction [^"]+)"', text)
    assert set(names) == {f"mem fraction {share}" for share in shares}
    assert re.findall(r"<td[^>]*>(?:<i[^>]*></i>)?(0\.80\d)</td>", text) == [*shares]


@pytest.mark.slow
def test_a_sweep_names_what_it_varies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the table of the terminal, in that of the page, and in the names of its series."""
    page = tmp_path / "page.html"
    fixed = {"gpu": "h200", "model": "qwen3-8b", "isl": 64, "osl": 8, "num_prompts": 4, "runs": 1}
    axes = {"policy": "fixed,batch:8", "mem_fraction_static": "0.801,0.802", "acceptance": "al:3"}
    words = [f"--set={name}={value}" for name, value in (fixed | axes).items()]
    more = ["--no-baseline", "--interval=none", "--jobs=1", f"--html={page}"]
    assert run(["sweep", *words, *more, "-o", str(tmp_path / "runs")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines[0][:3] == ["policy", "mem", "fraction"]
    pairs = {(policy, share) for policy in ("fixed", "batch:8") for share in ("0.801", "0.802")}
    assert {(line[0], line[1]) for line in lines[1:]} == pairs
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(r'"name":"(policy [^"]+)"', text))
    assert names == {f"policy {policy}, mem fraction {share}" for policy, share in pairs}
    cells = re.findall(r"<td[^>]*>(?:<i[^>]*></i>)?([^<]*)</td><td[^>]*>(0\.80\d)</td>", text)
    assert set(cells) == pairs
