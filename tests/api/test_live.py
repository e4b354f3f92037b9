"""``ds.live`` is ``calibrate live``: what it learned is a calibration for every question."""

import asyncio
import signal
import threading
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("httpx")

from in_process import Served, stand_in

import dflash_sim as ds
from dflash_sim.api import live as own

URL = "http://twin"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """A simulated server in place of the one that the call connects to."""
    return stand_in(monkeypatch)


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
        ({"url": "http://127.0.0.1:1", "minutes": "3"}, "minutes='3': it is a number"),
        ({"url": "http://127.0.0.1:1", "minutes": None}, "minutes=None: it is a number"),
        ({"url": "http://127.0.0.1:1", "rows": None}, "rows=None: it is no path"),
        ({"url": "http://127.0.0.1:1", "prior": None}, "prior=None: it is no path"),
        ({"url": "http://127.0.0.1:1", "jobs": 0}, "jobs 0: it is a whole number"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(words: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(ds.DflashSimError, match=why):
        ds.live(**{"rows": tmp_path / "rows.jsonl", **words})


def test_a_server_without_a_known_gpu_asks_for_it(served: Served, tmp_path: Path) -> None:
    with pytest.raises(ds.UsageError, match="assume='gpu=b200'"):
        ds.live(URL, rows=tmp_path / "rows.jsonl")


SHEETS: ContextVar[str] = ContextVar("SHEETS", default="none")


def in_a_notebook(cell: Callable[[], Any]) -> Any:
    """What a cell brings: a loop runs in its thread, and Ctrl-C is Python's own."""

    async def run() -> Any:
        return cell()

    loop, before = asyncio.new_event_loop(), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return loop.run_until_complete(run())
    finally:
        signal.signal(signal.SIGINT, before)
        loop.close()


def test_in_a_notebook_the_sheets_of_the_call_are_searched() -> None:
    async def seen() -> str:
        return SHEETS.get()

    def cell() -> Any:
        SHEETS.set("mine")
        return own._run(seen())

    assert in_a_notebook(cell) == "mine"


def test_in_a_notebook_it_ends_when_it_is_interrupted() -> None:
    main, ended = threading.main_thread().ident, threading.Event()
    assert main is not None

    async def endless() -> None:
        try:
            signal.pthread_kill(main, signal.SIGINT)
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            ended.set()
            raise

    def cell() -> bool:
        with pytest.raises(KeyboardInterrupt):
            own._run(endless())
        return ended.is_set()

    assert in_a_notebook(cell)
