"""``calibrate live`` as a command: a page, files, exit codes, and a line for what is wrong."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("httpx")

from in_process import stand_in

from dflash_sim.cli import run
from dflash_sim.profiles.releases.calibration import read_calibration
from dflash_sim.studies.live import question

URL = "http://twin"


def test_a_server_is_calibrated_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stand_in(monkeypatch)
    output = tmp_path / "mine.toml"
    asked = ["calibrate", "live", "--url", URL, "--assume", "gpu=b200", "-o", str(output)]
    assert run([*asked, "--format", "table", "--jobs", "1"]) == 0
    told = capsys.readouterr()
    assert "predicted over measured" in told.out
    assert "4 in flight, 64 in, 64 out" in told.out
    assert "3 cells" in told.err
    assert read_calibration(output).name == "mine"
    rows = tmp_path / "mine.rows.jsonl"
    assert rows.read_text(encoding="utf-8").count("\n") == 3
    assert run(["calibrate", "fit", str(rows), "-o", str(tmp_path / "fit.toml")]) == 0
    again = read_calibration(tmp_path / "fit.toml")
    assert again.values == pytest.approx(read_calibration(output).values)
    assert run([*asked, "--format", "json", "--jobs", "1"]) == 0  # nothing is left to measure
    assert "nothing is left to measure" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["--assume", "gpu=b200"], 1, "http://127.0.0.1:1 cannot be reached"),
        (["--format", "csv"], 2, "--format csv"),
        (["--minutes", "0"], 2, "--minutes"),
    ],
)
def test_what_is_wrong_is_a_line(
    words: list[str], code: int, why: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "x.toml"
    asked = ["calibrate", "live", "--url", "http://127.0.0.1:1", "-o", str(output)]
    assert run([*asked, *words]) == code
    assert why in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_says_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stand_in(monkeypatch)

    def interrupted(*args: Any, **rest: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(question, "experiment", interrupted)
    output = tmp_path / "mine.toml"
    asked = ["calibrate", "live", "--url", URL, "--assume", "gpu=b200", "-o", str(output)]
    assert run([*asked, "--jobs", "1"]) == 130
    assert "run this again" in capsys.readouterr().err.splitlines()[-1]
    assert not output.exists()
