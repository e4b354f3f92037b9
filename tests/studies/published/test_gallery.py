"""Every script of the gallery runs, prints what lies beside it, and concludes from its numbers."""

import difflib
import math
import os
import re
import runpy
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dflash_sim.profiles.releases.calibration import load_calibration
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine
from dflash_sim.profiles.releases.server_levels import FACTORS
from dflash_sim.profiles.sheets import UNITS
from dflash_sim.simulator.predict import Result
from dflash_sim.studies.published import exhibit
from dflash_sim.studies.published.findings import Findings
from dflash_sim.studies.show.plain_table import Table

ROOT = Path(__file__).parents[3]
GALLERY = ROOT / "studies/gallery"
# Minutes each, so not run here; where a part of them is.
LONG = {
    "01_published_cards": "test_published.py::test_study_reproduces_all_of_its_output",
    "02_gh200_phases": "test_gh200.py::test_study_reproduces_its_tables",
    "03_held_out": "test_gallery.py::test_held_out_study_is_what_the_shipped_constants_say",
    "13_servers": "test_gallery.py::test_the_study_of_servers_is_what_the_shipped_levels_say",
    "14_field_rows": "test_field_rows.py::test_the_study_counts_every_row",
    "15_sample": "test_sample.py::test_the_study_judged_every_set",
    "16_crossings": "test_crossings.py::test_the_study_judged_every_crossing",
}
STRICT = """
import runpy, sys, warnings
warnings.filterwarnings("error", module="dflash_sim|__main__")
warnings.filterwarnings("default", category=DeprecationWarning)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SCRIPTS = sorted(GALLERY.glob("[0-9][0-9]_*.py"))
EXHIBITS = [path for path in SCRIPTS if path.stem not in LONG]
SHORT = "04_why_four_times"  # a second or two; the others wait for -m slow
TITLE = re.compile(r"^== (.+) ==$", re.MULTILINE)


def run(script: Path) -> str:
    """What a reader sees who runs it; a warning of ours is an error."""
    done = subprocess.run(
        [sys.executable, "-c", STRICT, str(script)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def difference(was: str, now: str, script: Path) -> str:
    """The first line that differs and the command that takes the new text; empty if none does."""
    if was == now:
        return ""
    before, after = was.splitlines(), now.splitlines()
    same = [a == b for a, b in zip(before, after, strict=False)]
    where = 1 + (same.index(False) if False in same else len(same))
    changed = [line for line in difflib.ndiff(before, after) if line[0] in "-+"]
    return "\n".join(
        [
            f"{script.stem}.out differs from line {where} on. If the model was meant to change:",
            f"    python {script.relative_to(ROOT)} --write",
            *changed[:12],
        ]
    )


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, id=path.stem, marks=[] if path.stem == SHORT else pytest.mark.slow)
        for path in EXHIBITS
    ],
)
def test_output_is_what_is_checked_in(script: Path) -> None:
    found = difference(script.with_suffix(".out").read_text(encoding="utf-8"), run(script), script)
    assert not found, found


def test_a_changed_figure_is_told() -> None:
    script, was = EXHIBITS[0], "question?\n\n== t ==\na  b\n1  2\n"
    assert difference(was, was, script) == ""
    told = difference(was, was.replace("1  2", "1  3"), script)
    assert "from line 5 on" in told
    assert "- 1  2" in told
    assert f"python studies/gallery/{script.name} --write" in told
    assert "from line 6 on" in difference(was, was + "more\n", script)


def test_every_script_has_its_output_and_a_test() -> None:
    assert len(EXHIBITS) >= 6
    assert {path.stem for path in GALLERY.glob("*.out")} == {path.stem for path in SCRIPTS}
    assert LONG.keys() == {path.stem for path in SCRIPTS} - {path.stem for path in EXHIBITS}
    for stem, test in LONG.items():
        file, _, name = test.partition("::")
        text = Path(__file__).with_name(file).read_text(encoding="utf-8")
        assert f"def {name}(" in text
        assert stem in text


@pytest.mark.parametrize("script", EXHIBITS, ids=lambda path: path.stem)
def test_a_script_asks_and_says_what_it_rests_on(script: Path) -> None:
    source = script.read_text(encoding="utf-8")
    assert "?" in source.removeprefix('"""').partition("\n\n")[0]
    assert f"python {script.relative_to(ROOT)}" in source
    out = script.with_suffix(".out").read_text(encoding="utf-8")
    assert TITLE.search(out)
    assert re.search(r"rests on|sources:", out, flags=re.IGNORECASE)
    assert callable(runpy.run_path(str(script))["story"])  # what it imports is there


@pytest.mark.slow
def test_conclusions_follow_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fit every table and every verdict reads otherwise: nothing is known by heart."""
    monkeypatch.setattr(exhibit, "predicted", partial(exhibit.predicted, calibration="none"))
    parts = list(runpy.run_path(str(GALLERY / f"{SHORT}.py"))["story"]())
    now = exhibit.as_text(parts)
    was = (GALLERY / f"{SHORT}.out").read_text(encoding="utf-8")
    for part in parts[:-1]:
        assert exhibit.as_text([part]).strip() not in was
    assert len(TITLE.findall(was)) >= 1
    assert TITLE.findall(now) == TITLE.findall(was)


# ---- the long ones ------------------------------------------------------------------------


def test_held_out_study_is_what_the_shipped_constants_say() -> None:
    """The fits of 03 take minutes; what they wrote hangs together."""
    shipped = ROOT / "profiles/calibrations/sglang-0.5.14.toml"
    fitted = tomllib.loads(shipped.read_text(encoding="utf-8"))["parameters"]
    table = Findings.read(GALLERY / "03_held_out.json")["fitted constants"]
    constants = {p["key"]: p["value"] for p in fitted if p["kind"] == "constant"}
    assert constants.keys() == {row[0] for row in table.rows}
    for key, value in constants.items():
        shown = float(table.cell(key, "fitted")) * UNITS[table.cell(key, "unit")]
        assert shown == pytest.approx(value, rel=5e-3), key


def test_the_study_of_servers_is_what_the_shipped_levels_say() -> None:
    """The fits of 13_servers take minutes; what they wrote hangs together."""
    shipped = load_calibration("shipped", load_engine(HOME))
    assert shipped is not None
    table = Findings.read(GALLERY / "13_servers.json")["levels of servers"]
    told = {(row[0], row[1]): row[2] for row in table.rows}
    values = {
        (p.key, FACTORS[p.kind].words): f"{p.value(x):.2f}"
        for p, x in zip(shipped.parameters, shipped.mean.tolist(), strict=True)
        if p.kind in FACTORS
    }
    assert told == values


# ---- what exhibits are made of ------------------------------------------------------------


@pytest.fixture(scope="module")
def blocks() -> tuple[Result, Result]:
    """Blocks 8 and 16 of one model, with plain decoding."""
    asked: dict[str, Any] = {"model": "qwen3.6-35b-a3b", "num_prompts": 16, "baseline": True}
    eight, sixteen = (exhibit.predicted(block=block, **asked) for block in (8, 16))
    return eight, sixteen


def test_ratio_to_plain_decoding_is_the_speedup(blocks: tuple[Result, Result]) -> None:
    eight, _ = blocks
    assert eight.baseline is not None
    assert exhibit.ratio(eight, eight.baseline) == eight.speedup
    assert exhibit.ratio_span(eight, eight.baseline) == eight.intervals["speedup"]


def test_what_two_answers_share_cancels_in_their_ratio(blocks: tuple[Result, Result]) -> None:
    eight, sixteen = blocks
    low, high = exhibit.ratio_span(sixteen, eight)
    assert low < exhibit.ratio(sixteen, eight) < high
    alone = [math.log(b / a) for a, b in (r.intervals["output_throughput"] for r in blocks)]
    assert math.log(high / low) < math.hypot(*alone)


def test_published_is_of_the_same_build() -> None:
    asked: dict[str, Any] = {
        "model": "qwen3.6-35b-a3b",
        "block": 16,
        "interval": False,
        "num_prompts": 16,
    }
    home, first_release = (exhibit.predicted(conc=conc, **asked) for conc in (1, 16))
    point = home.published
    assert point is not None
    assert point.source_id == "HF_Q36_35B_retrain"
    assert first_release.published is None
    assert exhibit.error(first_release) is None
    assert exhibit.published_ratio(home, first_release) is None


def test_crossings() -> None:
    assert exhibit.crossings({1: 2.0, 4: 0.5, 16: 2.0}) == [
        "2 (between 1 and 4)",
        "8 (between 4 and 16)",
    ]
    assert exhibit.crossings({1: 1.2, 64: 1.01}) == []


def test_text_keeps_numbers_with_their_units_and_tables_whole() -> None:
    table = Table("t", ("a", "b"), (("1", "2"),))
    text = exhibit.as_text(["word " * 19 + "12 % more", table, "end"])
    assert "12 %" in text
    assert max(map(len, text.splitlines())) <= exhibit.WIDTH
    assert f"\n\n{table.text()}\n\n" in text
    assert text.endswith("\n\nend\n")


def test_lists_in_words() -> None:
    assert exhibit.listed([1, 2, 4]) == "1, 2 and 4"
    assert exhibit.listed(["a"]) == "a"
    assert exhibit.listed([]) == "none"


def test_rests_on_counts_published_rows_and_fitted_ones(blocks: tuple[Result, Result]) -> None:
    told = exhibit.rests_on(blocks)
    assert "2 of the predictions have a published row, 2 of which" in told
    assert "HF_Q36_35B_retrain" in told
    assert "measured" in told
    given = exhibit.predicted(acceptance="al:3", interval=False, num_prompts=4, max_new_tokens=64)
    told = exhibit.rests_on([given])
    assert "as given" in told
    assert "Nothing published" in told


def test_write_puts_the_text_beside_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "99_x.py"
    monkeypatch.setattr(sys, "argv", [str(script)])
    exhibit.show(str(script), "Why?\n\nmore", lambda: ["because"])
    assert capsys.readouterr().out == "Why?\n\nbecause\n"
    assert not script.with_suffix(".out").exists()
    monkeypatch.setattr(sys, "argv", [str(script), "--write"])
    exhibit.show(str(script), "Why?\n\nmore", lambda: ["because"])
    assert script.with_suffix(".out").read_text(encoding="utf-8") == "Why?\n\nbecause\n"
