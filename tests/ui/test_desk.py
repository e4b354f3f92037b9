"""Answers are made in the order in which pages need them, and none is lost with a worker."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from dflash_sim.jobs.crew import NoWorkerError
from dflash_sim.jobs.leaving import LeftError
from dflash_sim.profiles import find
from dflash_sim.profiles.find import ENV
from dflash_sim.ui.answer import SHORT, WHOLE, Answer, Refusal
from dflash_sim.ui.desk import Desk, Found, Task, done
from dflash_sim.ui.hand import Hand

SMALL = {"gpu": "h200", "model": "qwen3-4b", "isl": 64, "osl": 32, "conc": 1, "num_prompts": 2,
    "method": "none"}  # fmt: skip
PATIENCE_S = 60.0


def task(**fields: Any) -> Task:
    return Task.of({**SMALL, **fields}, SHORT)


def wait_for(known: Callable[[], Any]) -> Any:
    ends = time.monotonic() + PATIENCE_S
    while (found := known()) is None and time.monotonic() < ends:
        time.sleep(0.01)
    assert found is not None
    return found


class Scripted(Hand):
    """Does nothing but say what it was asked, when it is let."""

    asked: list[Task]

    def __init__(self) -> None:
        self.asked, self.go = [], Event()
        self.hears, self.left = True, False

    def do(self, work: Callable[..., Any], *arguments: Any) -> Found:
        self.left = False
        self.asked.append(arguments[0])
        while not self.go.wait(0.01) and not self.left:
            pass
        if self.left:
            raise LeftError(str(arguments[0]))
        return Refusal(f"no {len(self.asked)}")

    def leave(self) -> None:
        self.left = self.hears

    def close(self) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[tuple[Desk, Scripted]]:
    hand = Scripted()
    with Desk(1, lambda: hand) as desk:
        yield desk, hand


def test_what_a_page_no_longer_needs_is_not_begun(scripted: tuple[Desk, Scripted]) -> None:
    desk, hand = scripted
    hand.hears = False
    assert desk.want("a", [task(conc=n) for n in (1, 2, 3)])
    wait_for(lambda: hand.asked or None)  # the first is at work
    assert desk.want("a", [task(conc=n) for n in (8, 9)])
    hand.go.set()
    wait_for(lambda: desk.known(task(conc=9)))
    assert [dict(t.fields)["conc"] for t in hand.asked] == [1, 8, 9]
    assert desk.known(task(conc=1)) is not None
    assert desk.known(task(conc=2)) is None
    assert not desk.want("a", [task(conc=n) for n in (8, 9)])


def test_what_no_page_needs_any_more_is_left(scripted: tuple[Desk, Scripted]) -> None:
    desk, hand = scripted
    desk.want("a", [task(conc=1), task(conc=2)])
    wait_for(lambda: hand.asked or None)
    desk.want("b", [task(conc=1)])
    desk.want("a", [task(conc=3)])
    assert not hand.left  # b still waits for it
    desk.want("b", [])
    wait_for(lambda: len(hand.asked) == 2 or None)
    desk.want("b", [task(conc=1)])
    hand.go.set()
    assert wait_for(lambda: desk.known(task(conc=1))) is not None
    assert [dict(t.fields)["conc"] for t in hand.asked] == [1, 3, 1]
    assert desk.known(task(conc=2)) is None


def test_two_pages_take_turns_and_share_what_is_found(scripted: tuple[Desk, Scripted]) -> None:
    desk, hand = scripted
    desk.want("a", [task(conc=n) for n in (1, 2, 3)])
    wait_for(lambda: hand.asked or None)
    desk.want("b", [task(conc=n) for n in (11, 2, 13)])
    hand.go.set()
    wait_for(lambda: desk.known(task(conc=13)))
    wait_for(lambda: desk.known(task(conc=3)))
    order = [dict(t.fields)["conc"] for t in hand.asked]
    assert order == [1, 2, 11, 3, 13]


def test_an_answer_is_made_once() -> None:
    desk = Desk()
    first = desk.at_once(task())
    assert isinstance(first, Answer)
    assert desk.at_once(task()) is first
    assert desk.known(task()) is first
    assert task(conc=1) == Task.of(dict(reversed(SMALL.items())), SHORT)


def test_a_bad_value_is_a_refusal() -> None:
    found = Desk().at_once(task(conc=0))
    assert isinstance(found, Refusal)
    assert "--conc 0" in found.why


@pytest.mark.slow
def test_a_worker_answers_as_this_process_does() -> None:
    with Desk(1) as desk:
        desk.want("a", [task()])
        found = wait_for(lambda: desk.known(task()))
        assert isinstance(found, Answer)
        assert found.row == Desk().at_once(task()).row  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="a task is done to its end there")
def test_an_answer_that_is_left_is_no_answer_and_changes_no_later_one() -> None:
    long = Task.of({**SMALL, "osl": 4000, "conc": 8, "num_prompts": 4000, "runs": 99}, WHOLE)
    with Desk(1) as desk:
        desk.want("a", [task(), long])
        first = wait_for(lambda: desk.known(task()))
        time.sleep(0.1)  # the long one is at work, or soon
        desk.want("a", [task(conc=2)])
        assert wait_for(lambda: desk.known(task(conc=2))).row == done(task(conc=2)).row  # type: ignore[union-attr]
        assert desk.known(long) is None
        assert first.row == done(task()).row  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_hand_is_replaced() -> None:
    hand = Hand()
    try:
        assert hand.do(len, "four") == 4
        with pytest.raises(NoWorkerError):
            hand.do(os._exit, 9)
        assert hand.do(len, "alive") == 5
        with pytest.raises(RuntimeError, match="a bug"):
            hand.do(len)
        assert hand.do(len, "so") == 2
    finally:
        hand.close()


def test_a_file_that_is_written_again_is_another_question(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("a")
    before = task(calibration=str(mine))
    assert task(calibration=str(mine)) == before
    mine.write_text("bc")
    assert task(calibration=str(mine)) != before
    counts = tmp_path / "counts.json"
    counts.write_text("[1]")
    before = task(acceptance=f"file:{counts}")
    counts.unlink()
    assert task(acceptance=f"file:{counts}") != before


def test_a_sheet_that_is_written_again_is_another_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV, str(tmp_path))
    before = task()
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices/mine.toml").write_text("")
    assert task() != before


def test_how_a_checkpoint_is_quantised_may_be_in_a_file_beside_its_config(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("{}")
    before = task(model=str(config))
    (tmp_path / "notes.txt").write_text("of something else")
    assert task(model=str(config)) == before
    (tmp_path / "hf_quant_config.json").write_text("{}")
    assert task(model=str(config)) != before


def test_sheets_are_read_once_and_again_when_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV, str(tmp_path))
    mine = tmp_path / "devices/h200.toml"
    mine.parent.mkdir()
    text = Path(str(files("dflash_sim.profiles") / "devices/h200.toml")).read_text()
    mine.write_text(text.replace("value = 141\n", "value = 282\n"))
    read: list[Path] = []
    parsed = find._parsed
    monkeypatch.setattr(find, "_parsed", lambda path: read.append(path) or parsed(path))
    first = done(task())
    assert mine in read
    read.clear()
    assert isinstance(done(task(conc=2)), Answer)
    assert read == []
    mine.write_text(text)
    second = done(task())
    assert mine in read
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert first.memory["gpu_bytes"] == 2 * second.memory["gpu_bytes"]


def test_a_page_waits_for_its_answer_and_not_for_long(scripted: tuple[Desk, Scripted]) -> None:
    desk, hand = scripted
    desk.want("a", [task(conc=1)])
    desk.wait([task(conc=1)], 0.01)
    assert desk.known(task(conc=1)) is None
    hand.go.set()
    desk.wait([task(conc=1)], PATIENCE_S)
    assert desk.known(task(conc=1)) is not None
    desk.wait([task(conc=1)], PATIENCE_S)  # nothing is open
