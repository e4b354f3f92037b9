"""Every command has a call, and both say the same, to the last digit."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from questions import SMALL, printed, words

import dflash_sim as ds
from dflash_sim.api.frames import frame
from dflash_sim.cli import app

CALLS = {
    "predict": "predict",
    "sweep": "sweep",
    "plan": "plan",
    "crossover": "crossover",
    "explain": "explain",
    "trace": "trace",
    "compare": "compare",
    "validate": "validate",
    "run": "run",
    "list": "lists",
    "measure": "measure",
    "compare-profiles": "compare_profiles",
    "import-silicon": "import_silicon",
    "fit": "fit",
}
SERVERS = ("serve", "ui", "live")  # run until they are stopped, or ask one that does
OTHERS = [{}, {"method": "none", "acceptance": None}, {"rate": 4}, {"block": 8, "conc": 4}]


def commands(group: Any) -> set[str]:
    """Names of the commands, those of a group among them."""
    inner: dict[str, Any] = getattr(group, "commands", {})
    return {n for n, c in inner.items() if not getattr(c, "commands", {})}.union(
        *(commands(c) for c in inner.values())
    )


def test_every_command_has_a_call() -> None:
    assert commands(typer.main.get_command(app)) == {*CALLS, *SERVERS}
    assert all(callable(getattr(ds, name)) for name in CALLS.values())


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_predict(other: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    question = {n: v for n, v in (SMALL | other).items() if v is not None}
    result = ds.predict(**question, tag="a")
    assert result.row == printed(capsys, "predict", *words(question), "--tag", "a")
    assert capsys.readouterr().out == capsys.readouterr().err == ""


def test_crossover(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    question = {**SMALL, "block": [4, 8], "conc": [1, 8]}
    found = ds.crossover(**question, interval=False)
    flags = [*words(question), "--interval", "none"]
    assert found.to_dict() == printed(capsys, "crossover", *flags)
    assert found.answer in repr(found)
    assert found.ends["block"].tolist() == [4, 8]
    assert len(found.curves) >= 4
    assert found.report(tmp_path / "x.html").stat().st_size > 10_000
    with pytest.raises(ds.UsageError, match="8 is one place"):
        ds.crossover(**SMALL, values=[8])


def test_options_of_predict(capsys: pytest.CaptureFixture[str]) -> None:
    result = ds.predict(**SMALL, simulator="event", baseline=False, interval=False)
    flags = ("--simulator", "event", "--no-baseline", "--interval", "none")
    assert result.row == printed(capsys, "predict", *words(SMALL), *flags)
    assert result.baseline is None
    assert all(map(math.isnan, result.interval("output_throughput")))


def test_a_grid_and_a_sweep(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Values in the order of the command line, one scenario that does not fit among them."""
    question = SMALL | {"conc": [2, 1], "gpu": ["b200", "l40s"], "model": "qwen3.5-27b"}
    rows = printed(capsys, "predict", *words(question), "--interval", "none")
    found = ds.predict(**question, interval=False)
    assert [row["gpu"] for row in rows] == ["b200", "b200", "l40s", "l40s"]
    pd.testing.assert_frame_equal(found, frame(rows))
    assert found["error"].notna().tolist() == [False, False, True, True]
    assert "does not fit" in found["error"][2] or "GB" in found["error"][2]
    for options in ({}, {"folder": tmp_path / "runs"}, {"jobs": 2}):
        swept = ds.sweep(**question, interval=False, **options)
        pd.testing.assert_frame_equal(swept, found)
    assert capsys.readouterr().out == ""


def test_one_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ds.InfeasibleError, match="does not fit on l40s"):
        ds.predict(**SMALL | {"gpu": "l40s", "model": "qwen3.5-27b"})


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    question = SMALL | {"conc": 2}
    found = ds.explain(**question)
    assert found.to_dict() == printed(capsys, "explain", *words(question))
    assert found.waterfall["speed_tok_s"].iloc[-1] == pytest.approx(
        found.result.output_throughput, rel=1e-3
    )
    assert found.phases["share"].sum() == pytest.approx(1, rel=1e-4)
    assert {"table_factor", "accept length"} <= set(found.elasticities["name"])
    assert repr(found).startswith("<Explanation: qwen3-8b")


@pytest.mark.parametrize("phase", ["draft", "host"])
def test_a_phase(phase: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = ds.predict(**SMALL, baseline=False, interval=False).phase(phase)
    rows = printed(capsys, "explain", *words(SMALL), "--phase", phase)
    assert found["op"].tolist() == [row["op"] for row in rows]
    assert found["seconds"].tolist() == [row["seconds"] for row in rows]


def test_trace(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    assert ds.trace(**SMALL, iterations=4, output=path) == path
    from dflash_sim.cli import run

    run(["trace", *words(SMALL), "--iterations", "4", "-o", str(tmp_path / "cli.json")])
    assert path.read_bytes() == (tmp_path / "cli.json").read_bytes()
    assert ds.trace(**SMALL, iterations=4) == json.loads(path.read_text())
    with pytest.raises(ds.UsageError, match="iterations 0: it is a whole"):
        ds.trace(**SMALL, iterations=0)


def test_plan_and_tune(capsys: pytest.CaptureFixture[str]) -> None:
    question = {n: v for n, v in SMALL.items() if n != "num_prompts"} | {
        "rate": 4, "method": ["none", "dflash"], "max_running_requests": [8, 16],
    }  # fmt: skip
    limits = {"tpot": 30, "ttft": 1000, "duration": 30, "max_gpus": 8}
    found = ds.plan(**question, **limits)
    flags = words(question | limits)
    assert found.to_dict() == printed(capsys, "plan", *flags, "--jobs", 1)
    assert found.fleets["num_gpus"].min() == found.found.fewest.gpus
    assert found.candidates["max_running_requests"].tolist() == [8, 16, 8, 16]
    assert "GPUs" in repr(found)

    one = {n: v for n, v in SMALL.items() if n != "num_prompts"} | {"block": [4, 8]}
    tuned = ds.tune(**one)
    from dflash_sim.cli import run

    assert run(["plan", *words(one), "--tune", "block"]) == 0
    assert tuned.as_vllm() == json.loads(capsys.readouterr().out)
    assert tuned.throughput.columns.tolist() == [4, 8]
    assert (tuned.throughput.loc[1] == tuned.found.tok_s[0]).all()


@pytest.mark.parametrize("kind", ["gpus", "models", "presets", "engines"])
def test_lists(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    listed = printed_list(capsys, "list", kind)
    found = ds.lists(kind)
    assert found["name"].tolist() == [row["name"] for row in listed]
    assert set(found.columns) == set(listed[0])


def benchmark(path: Path) -> Path:
    """A file of plain decoding at four loads, made up."""
    lines = [
        {"model": "qwen3-8b", "method": "none", "block": 1, "gpu": "b200", "tp": 1, "isl": 64,
         "osl": 32, "conc": conc, "num_prompts": 2 * conc, "output_tok_s": 250.0 * conc**0.9}
        for conc in (1, 2, 4, 8)
    ]  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def test_compare(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = benchmark(tmp_path / "bench.csv")
    found = ds.compare(path, on="conc>=2")
    assert found.to_dicts() == printed(capsys, "compare", path, "--on", "conc>=2")
    assert found.rows["output_throughput_error"].abs().mean() == pytest.approx(found.mape, abs=1e-6)
    assert found.metrics.groupby("row").size().tolist() == [1, 1, 1]
    assert set(found.causes.columns) >= {"row", "cause", "share"}
    assert found.too_far(1e9) is None
    assert "off by more" in str(found.too_far(0))
    assert found.notes
    own = ds.compare(pd.read_csv(path), on="conc>=2", causes=False, interval=False)
    assert own.mape == found.mape
    assert own.rows["row"].tolist() == ["DataFrame:3", "DataFrame:4", "DataFrame:5"]


def test_fit_and_validate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, out = benchmark(tmp_path / "bench.csv"), tmp_path / "cli.toml"
    found = ds.fit(path, name="cli")
    fitted = ("calibrate", "fit", path, "-o", out, "--jobs", 1)
    assert found.to_dict() == printed(capsys, *fitted, code=0 if found.converged else 4)
    temporary = Path(found)
    with_temporary = ds.predict(**SMALL, calibration=found)
    assert found.save(tmp_path / "mine.toml").read_bytes() == out.read_bytes()
    assert Path(found) == tmp_path / "mine.toml" != temporary
    saved = ds.predict(**SMALL, calibration=tmp_path / "mine.toml")
    assert with_temporary.output_throughput == saved.output_throughput
    assert with_temporary.calibration == "cli"
    assert saved.output_throughput != ds.predict(**SMALL, calibration="none").output_throughput
    assert found.constants.set_index("key")["value"]["table_factor"] == pytest.approx(
        found.calibration["constant:table_factor"]
    )

    words_ = ("--observations", path, "--fit-on", "conc<=4", "--allow-partial", "--jobs", 1)
    judged = ds.validate(path, fit_on="conc<=4", allow_partial=True)
    assert judged.to_dicts() == printed_list(capsys, "validate", *words_)
    assert judged.rows["error"].abs().mean() == pytest.approx(judged.mape, abs=1e-6)
    assert judged.by("concurrency")["rows"].sum() == len(judged.rows)
    with pytest.raises(ds.UsageError, match="unknown factor 'gp'"):
        judged.by("gp")


def printed_list(capsys: pytest.CaptureFixture[str], *command: Any) -> list[Any]:
    found = printed(capsys, *command)
    return found if isinstance(found, list) else [found]
