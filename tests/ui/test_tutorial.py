"""The page answers what the tutorial opens it at, and says what the command says."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from dflash_sim.ui.answer import SHORT, Answer, answered
from dflash_sim.ui.copies import command
from dflash_sim.ui.drawing import drawing
from dflash_sim.ui.state import from_fields
from dflash_sim.ui.view import View

PAGE = Path(__file__).parents[2] / "docs/tutorial/04_ten_questions.md"
TEXT = PAGE.read_text(encoding="utf-8")
OPENED = re.findall(r"^dflash-sim ui (.*)$", TEXT, re.MULTILINE)
PRINTED = re.findall(r"\$ dflash-sim predict (.*)\n((?:.+\n)+)", TEXT)


def fields(flags: str) -> dict[str, Any]:
    """The fields that flags set."""
    words = shlex.split(flags)
    pairs = zip(words[::2], words[1::2], strict=True)
    return {flag.removeprefix("--").replace("-", "_"): value for flag, value in pairs}


@pytest.mark.parametrize("flags", OPENED)
def test_it_opens_with_an_answer(flags: str) -> None:
    state = from_fields(fields(flags))
    found = answered(state.fields, SHORT)
    assert isinstance(found, Answer)
    shown = drawing(View(state, short=found), unfinished=True)
    tiles = [name for name in shown["words"] if name.startswith("tile-")]
    assert [name for name in tiles if not shown["words"][name] and name != "tile-speedup"] == []
    typed = shlex.split(command(state))
    assert set(shlex.split(flags)) <= {"--price", *typed} | {state.fields.get("price", "")}


def test_most_questions_open_it() -> None:
    assert len(OPENED) >= 7
    assert TEXT.count("\n## ") == 10


@pytest.mark.parametrize("flags", [f for f in OPENED if "--cache-hit" in f or "al:5" in f])
def test_it_says_what_the_command_prints(flags: str) -> None:
    """Both make one run here: the same words of throughput and accept length."""
    (said,) = (
        out for asked, out in PRINTED if asked.removesuffix(" --runs 1 --brief").strip() == flags
    )
    found = answered(fields(flags), SHORT)
    assert isinstance(found, Answer)
    words = drawing(View(from_fields(fields(flags)), short=found), unfinished=True)["words"]
    assert f"Throughput    {words['tile-throughput']} " in said
    assert f"TPOT {words['tile-tpot']} " in said
