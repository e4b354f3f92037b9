"""``ds.live`` is ``calibrate live``: what it learned is a calibration for every question."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("httpx")

from in_process import Served

import dflash_sim as ds
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.live import question

URL = "http://twin"
TERMS = question.Terms


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """A simulated server in place of the one that the call connects to."""
    asked = {"gpu": "b200", "model": "qwen3-8b", "num_gpus": 1, "method": "none"}
    served = Served(resolve(Scenario.parse(**asked, isl=64, osl=64)))

    def terms(connect: Any, run: Any, **rest: Any) -> question.Terms:
        return TERMS(connect=served.connect, run=served.run, **rest)

    monkeypatch.setattr(question, "Terms", terms)
    monkeypatch.setattr(question, "CONCURRENCIES", (1, 2, 4))
    monkeypatch.setattr(question, "LENGTHS", ((64, 64),))
    monkeypatch.setattr("dflash_sim.calibrate.live.experiment.ENOUGH_TOKENS", 512)
    return served


def test_what_was_learned_answers_questions(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    found = ds.live(URL, rows=rows, assume={"gpu": "b200"}, progress=True)
    assert "3 cells" in capsys.readouterr().err
    assert sorted(found.cells["conc"]) == [1, 2, 4]
    assert found.cells["output_throughput_after"].abs().max() < 0.05
    assert found.to_dict()["kind"] == "live calibration"
    assert "predicted over measured" in found.summary()
    one = {"gpu": "b200", "model": "qwen3-8b", "num_gpus": 1, "method": "none", "conc": 2}
    told = ds.predict(**one, isl=64, osl=64, calibration=found, interval=False)
    seen = found.cells.set_index("conc").loc[2, "output_throughput"]
    assert told.output_throughput == pytest.approx(seen, rel=0.05)
    assert len(ds.fit(rows).found.rows) == 3


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"url": "twin"}, "url twin: no address"),
        ({"url": "http://127.0.0.1:1"}, "cannot be reached"),
        ({"url": "http://127.0.0.1:1", "minutes": 0}, "minutes=0"),
        ({"url": "http://127.0.0.1:1", "jobs": 0}, "jobs 0: it is a whole number"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(words: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ds.DflashSimError, match=why):
        ds.live(rows=tmp_path / "rows.jsonl", **words)


def test_a_server_without_a_known_gpu_asks_for_it(served: Served, tmp_path: Path) -> None:
    with pytest.raises(ds.UsageError, match="assume='gpu=b200'"):
        ds.live(URL, rows=tmp_path / "rows.jsonl")
