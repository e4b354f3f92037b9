"""Answers that were kept stand beside the one that is asked for, in the address too."""

from functools import cache
from urllib.parse import parse_qsl

import pytest

from dflash_sim.ui.answer import SHORT, Answer
from dflash_sim.ui.copies import report
from dflash_sim.ui.curves import frontier
from dflash_sim.ui.desk import Desk, Found, Task, done
from dflash_sim.ui.drawing import drawing
from dflash_sim.ui.kept import HEADS, at_once, at_once_words
from dflash_sim.ui.room import BESIDE, MOST_BESIDE, Room, beside_of
from dflash_sim.ui.state import State, from_query, settled
from dflash_sim.ui.view import View, viewed

ONE = "?gpu=h200&model=qwen3-4b&method=none&isl=64&osl=32&conc=2&num_prompts=4"
TWICE = ONE.replace("gpu=h200", "gpu=h200&tp=2")
NOWHERE = "?gpu=l4&tp=1&model=qwen3.5-397b-a17b&method=none"


@cache
def known(task: Task) -> Found | None:
    return done(task) if task.quality == SHORT and dict(task.fields)["conc"] == "2" else None


def view_beside(*queries: str) -> View:
    return viewed(from_query(ONE), known, beside=[from_query(q) for q in queries])


def test_a_line_has_the_numbers_of_its_own_answer() -> None:
    own, other = drawing(view_beside(TWICE), unfinished=False)["lines"]
    assert (own["name"], other["name"]) == ("", "A")
    assert from_query(other["query"]).fields == from_query(TWICE).fields
    both = [dict(zip(HEADS, line["cells"], strict=True)) for line in (own, other)]
    whole, each = ([float(b[h].replace(",", "")) for b in both] for h in HEADS[1:4:2])
    assert "TP 2" in both[1]["server and load"]
    assert each == pytest.approx([whole[0], whole[1] / 2], rel=1e-3)


def test_lines_of_one_title_are_told_apart() -> None:
    own, other = drawing(view_beside(ONE + "&quantization=fp8"), unfinished=False)["lines"]
    assert other["cells"][0] == f"{own['cells'][0]} · quantization fp8"


def test_what_has_no_answer_yet_or_none_at_all_says_so() -> None:
    far = ONE.replace("conc=2", "conc=3")  # which nobody has worked out
    assert drawing(view_beside(far), unfinished=True)["lines"][1]["cells"] == ["being worked out"]
    refused = Room(Desk(0)).desk.at_once(Task.of(from_query(NOWHERE).fields, SHORT))
    shown = viewed(from_query(ONE), lambda t: known(t) or refused, beside=[from_query(NOWHERE)])
    (words,) = drawing(shown, unfinished=False)["lines"][1]["cells"]
    assert "does not fit" in words


def test_nothing_stands_beside_what_was_not_kept() -> None:
    assert drawing(view_beside(), unfinished=False)["lines"] == []
    assert "Beside each other" not in report(view_beside())
    assert "kept" not in [trace.get("name") for trace in frontier(view_beside()).data]


def test_they_are_drawn_and_taken_away_too() -> None:
    view = view_beside(TWICE)
    (marks,) = (trace for trace in frontier(view).data if trace.get("name") == "kept")
    found = view.beside[0].found
    assert isinstance(found, Answer)
    assert marks["y"] == [found.row["output_throughput"]]
    assert "Beside each other" in report(view)


def test_an_address_keeps_them_over_a_dropped_file() -> None:
    room = Room(Desk(0))
    assert room.opened(f"{ONE}&{BESIDE}=%3Fconc%3D3")[0].fields == from_query(ONE).fields
    from dflash_sim.ui.dropped import Dropped

    search = room.take(Dropped(from_query(ONE), "words"), [TWICE, "?conc=3"])
    assert beside_of(search) == [TWICE, "?conc=3"]
    assert dict(parse_qsl(search))["conc"] == "2"
    many = "&".join(f"{BESIDE}={n}" for n in range(99))
    assert len(beside_of(many)) == MOST_BESIDE


def test_they_are_worked_out_after_what_is_asked_for() -> None:
    room, others = Room(Desk(0)), [from_query(TWICE)]
    assert [t.quality for t in room.tasks(from_query(ONE), why=False, beside=others)] == ["whole"]
    room.desk.at_once(Task.of(from_query(ONE).fields, SHORT))
    first, second, *_ = room.tasks(from_query(ONE), why=False, beside=others)
    assert dict(first.fields) == from_query(ONE).fields
    assert dict(second.fields) == from_query(TWICE).fields


@pytest.mark.parametrize(("isl", "said"), [(64, "48 requests at once"), (30_000, "of this length")])
def test_long_requests_are_held_by_memory(isl: int, said: str) -> None:
    """The slots say how many may run, the tokens of the cache how many of this length can."""
    state = from_query(ONE).but(method="dflash", acceptance="al:4", isl=isl)
    found = done(Task.of(state.fields, SHORT))
    assert isinstance(found, Answer)
    assert said in at_once_words(found)
    assert at_once(found) == min(48, int(found.memory["kv_tokens"] / (isl + 32)))


def test_a_temperature_is_asked_for_and_not_where_a_method_takes_none() -> None:
    from dflash_sim.ui.controls import is_shown, load

    assert "temperature" in [control.name for control in load(State())]
    assert is_shown("temperature", {"method": "dflash"})
    assert not is_shown("temperature", {"method": "injection-only"})
    warm = State({"method": "injection-only", "temperature": "0.7"})
    assert settled(warm).fields == {"method": "injection-only"}
