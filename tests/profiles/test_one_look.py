"""A prediction reads each file once; the next one reads them anew."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import dflash_sim.profiles
from dflash_sim.cli import run
from dflash_sim.profiles import one_look as one_look_module
from dflash_sim.profiles.find import read_sheet
from dflash_sim.profiles.load import load_model, load_published
from dflash_sim.profiles.one_look import listed, one_look
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario

SHEETS = f"{Path(dflash_sim.profiles.__path__[0])}/"
ASKED = Scenario.parse(conc=2, num_prompts=4, max_new_tokens=32, runs=1)
watched: list[Counter[str]] = []


def watch(event: str, args: tuple[object, ...]) -> None:
    name = args[0] if event == "open" and args else None
    if watched and isinstance(name, str) and name.startswith(SHEETS) and ".py" not in name:
        watched[-1][name.removeprefix(SHEETS)] += 1


sys.addaudithook(watch)


@contextmanager
def files_read() -> Iterator[Counter[str]]:
    """Count the sheets that are opened in the block."""
    watched.append(Counter())
    try:
        yield watched[-1]
    finally:
        watched.pop()


@pytest.fixture(autouse=True)
def _as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_look_module, "_LASTING", {})


def test_a_prediction_reads_each_file_once() -> None:
    with files_read() as first:
        predict(ASKED)
    with files_read() as second:
        predict(ASKED)
    assert {name: n for name, n in first.items() if n > 1} == {}
    assert {name: n for name, n in second.items() if n > 1} == {}
    assert {"devices/b200.toml", "workloads/humaneval.toml"} <= set(first)
    assert set(second) == {name for name in second if name.endswith(".csv")}


def test_what_is_shipped_is_read_again_where_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_look_module, "_SHIPPED", str(tmp_path))
    sheet = tmp_path / "sheet.toml"

    def written(text: str, when: float) -> None:
        sheet.write_text(text, encoding="utf-8")
        for path in (sheet, tmp_path):
            os.utime(path, (when, when))

    written("a = 1", 1e9)
    read_sheet(sheet)["a"] = 7
    assert read_sheet(sheet) == {"a": 1}
    assert listed(tmp_path, ".toml") == (sheet,)
    sheet.write_text("a = 2", encoding="utf-8")  # of the same size, just now
    assert read_sheet(sheet) == {"a": 2}
    sheet.write_text("a = 3", encoding="utf-8")
    assert read_sheet(sheet) == {"a": 3}
    sheet.rename(tmp_path / "other.toml")
    assert listed(tmp_path, ".toml") == (tmp_path / "other.toml",)


def test_so_does_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--conc", "1,2", "--num-prompts", "4", "--max-new-tokens", "32", "--runs", "1"]
    with files_read() as found:
        assert run(["predict", *asked, "--format", "jsonl"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert found["devices/b200.toml"] == 1
    # Operator tables are read for their times and for the hash of their bytes, which a row states.
    once = {name: n for name, n in found.items() if not name.startswith("ops/")}
    assert {name: n for name, n in once.items() if n > 1 and not name.endswith(".csv")} == {}


def test_without_a_look_it_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: of files that are not shipped."""
    monkeypatch.setattr(one_look_module, "_SHIPPED", "/nowhere")
    with files_read() as found:
        load_published()
        load_published()
    assert found["published/throughput.csv"] == 2


def test_a_look_ends(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.toml"
    sheet.write_text("a = 1", encoding="utf-8")
    with one_look():
        assert read_sheet(sheet) == {"a": 1}
        sheet.write_text("a = 2", encoding="utf-8")
        with one_look():
            assert read_sheet(sheet) == {"a": 1}
    assert read_sheet(sheet) == {"a": 2}


def test_nobody_changes_what_the_next_one_sees(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.toml"
    sheet.write_text("[a]\nb = 1", encoding="utf-8")
    with one_look():
        read_sheet(sheet)["a"]["b"] = 2
        assert read_sheet(sheet) == {"a": {"b": 1}}


def test_a_file_that_cannot_be_read_is_told_each_time(tmp_path: Path) -> None:
    with one_look():
        for _ in range(2):
            with pytest.raises(Exception, match="cannot read"):
                read_sheet(tmp_path / "missing.toml")


def test_a_network_is_built_once_in_a_look_and_anew_in_the_next() -> None:
    with one_look():
        model = load_model("qwen3-8b")
        assert load_model("qwen3-8b") is model
    assert load_model("qwen3-8b") is not model
