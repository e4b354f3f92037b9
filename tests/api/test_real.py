"""Real runs from Python: the row of the command, the answers, and what is refused."""

import json
from pathlib import Path

import pandas as pd
import pytest

import dflash_sim as ds
from dflash_sim.cli import run

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from instant_clock import InstantClock  # noqa: E402

from dflash_sim.calibrate.measure import measure as measuring  # noqa: E402

# Times differ from run to run; what was asked and what was decoded do not.
SAME = ("kind", "model", "draft_model", "method", "block", "num_prompts", "completed",
        "total_output_tokens", "max_concurrency", "accept_histogram")  # fmt: skip


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"num_prompts": 3, "max_new_tokens": 8, "conc": 2, "block": 4}
    found = ds.run(**asked)
    assert capsys.readouterr().out == ""
    out = tmp_path / "row.jsonl"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    assert run(["run", *flags, "-o", str(out)]) == 0
    row = json.loads(out.read_text(encoding="utf-8"))
    assert {n: found.row[n] for n in SAME} == {n: row[n] for n in SAME}
    assert set(found.row) == set(row)
    assert found.accept_length > 1
    assert found.to_frame()["output_throughput"][0] == found.output_throughput
    assert len(found.requests) == 3
    assert found.requests["finish_s"].gt(found.requests["first_token_s"]).all()
    assert found.trace()["traceEvents"]
    assert repr(found).startswith("<RealRun: ")
    with pytest.raises(AttributeError, match="did you mean accept_length"):
        found.accept_lenght  # noqa: B018


def test_a_run_that_nobody_can_do() -> None:
    with pytest.raises(ds.UsageError, match="unknown keyword 'blocks'; did you mean block"):
        ds.run(blocks=4)
    with pytest.raises(ds.UsageError, match="give one of prompts=FILE and isl=N"):
        ds.run(isl=3, prompts="x.jsonl")
    with pytest.raises(ds.UsageError, match="unknown keyword 'block'"):
        ds.validate_real(block=4)
    with pytest.raises(ds.UsageError, match="blocks=1: expected numbers from 2 on"):
        ds.validate_real(blocks=[1])


@pytest.mark.slow
def test_a_profile_is_measured_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "clock_for", lambda *_, **__: InstantClock())
    monkeypatch.setattr(measuring, "SWEEPS", {"cpu": 1})
    path = ds.measure(tmp_path / "mine.profile", model="tiny", device="cpu", quick=True,
                      block=[4], conc=[1], ctx=[64])  # fmt: skip
    assert not path.with_name("mine.profile.partial").exists()
    ratios = ds.compare_profiles(path, path)
    assert isinstance(ratios, pd.DataFrame)
    assert ratios["ratio"].eq(1).all()
    result = ds.predict(gpu=path, model="tiny", block=4, isl=32, osl=16, num_prompts=4, runs=1,
                        acceptance="al:2", baseline=False, interval=False)  # fmt: skip
    assert result.gpu == "mine"


def test_tables_that_cannot_be_compared_or_made(tmp_path: Path) -> None:
    with pytest.raises(ds.UsageError, match="are both GPUs with tables"):
        ds.compare_profiles("b200", "h200")
    with pytest.raises(ds.UsageError, match="unknown system 'abacus'"):
        ds.import_silicon("abacus", tmp_path, data_dir=tmp_path)
