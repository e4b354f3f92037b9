"""What comes from outside cannot act on a terminal or in a spreadsheet."""

import csv
import io
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from dflash_sim.cli import run
from dflash_sim.profiles.errors import UsageError
from dflash_sim.studies.show.files import as_text, check_writable, write_whole
from dflash_sim.studies.show.sheet_lists import KINDS, rows
from dflash_sim.studies.show.terminal import as_page, murmur
from dflash_sim.studies.show.visible import visible, without_controls

CONTROLS = {chr(i) for i in (*range(32), *range(127, 160))} - set("\n\t")
TURNS = set("\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\ud800\udfff")
ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b2J\r"


@given(st.text())
def test_nothing_but_controls_changes(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    assert not (CONTROLS | TURNS) & set(shown)
    letters = [c for c in text if c.isprintable()]
    assert letters == [c for c in _without_escapes(text) if c.isprintable()]


def test_what_turns_a_line_is_spelt_out_and_letters_are_not() -> None:
    assert all(visible(c) == f"\\u{ord(c):04x}" for c in TURNS)
    name = "Qwen \u5343\u554f, \u05d0, caf\u00e9 \U0001f600"
    assert visible(name) == name


def test_a_file_holds_no_controls() -> None:
    assert without_controls("a\x1b[31m\n\u202e\ud800") == "a\\x1b[31m\n\u202e?"


def _without_escapes(text: str) -> list[str]:
    """The text's own characters, of what is shown of each."""
    return [shown for c in text if (shown := visible(c)) == c]


def test_a_name_in_a_message_is_spelt_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "--model", f"x{ESCAPES}"]) == 2
    said = capsys.readouterr().err
    assert "\\x1b[31mred\\x1b]0;title\\x07\\x9b2J" in said
    assert "\x1b" not in said


def test_a_page_has_the_colours_it_was_given_and_no_others() -> None:
    assert as_page(Text(f"a {ESCAPES}"), to_file=False).startswith("a \\x1b[31mred\\x1b]0;title")


@pytest.mark.parametrize(
    "begun", ["=1+1", "+1", "-1", "@sum(a1)", "\tx", "\rx", "\nx", "\uff1d1", " =1"]
)
def test_a_cell_is_no_formula(begun: str) -> None:
    (_, row) = csv.reader(io.StringIO(as_text([{"tag": begun, "n": -1.5}], "csv"), newline=""))
    assert row[0].startswith("'")
    assert row[1] == "-1.5"


@pytest.mark.parametrize("form", ["csv", "json"])
def test_half_a_letter_goes_to_any_file(form: str, tmp_path: Path) -> None:
    write_whole(tmp_path / "out", as_text([{"tag": "\udcff\n\u00e9"}], form))
    assert "\\udcff" in (tmp_path / "out").read_text(encoding="utf-8")


def test_what_standard_output_cannot_carry_is_spelt_out() -> None:
    """In a locale of ASCII, and of a word that is no UTF-8."""
    for encoding in ("ascii", "utf-8:strict"):
        code = "from dflash_sim import cli; cli.run = lambda w: print(w[0]) or 0; cli.main()"
        done = subprocess.run(
            [sys.executable, "-c", code, b"caf\xc3\xa9 \xff"],
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"},
            check=True,
        )
        assert done.stdout.rstrip().endswith(b"\\udcff")
        assert done.stderr == b""


def test_an_answer_goes_to_a_pipe_by_its_name() -> None:
    receive, send = os.pipe()
    try:
        write_whole(Path(f"/dev/fd/{send}"), "rows")
        assert os.read(receive, 99) == b"rows"
    finally:
        os.close(receive)
        os.close(send)


def test_a_full_stderr_costs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        murmur("a word")
        assert run(["predict", "--gpu", "nosuch"]) == 2
        monkeypatch.undo()
        with suppress(OSError):
            full.close()


@pytest.mark.parametrize("kind", KINDS)
def test_every_list_has_a_csv_with_its_own_columns(kind: str) -> None:
    listed = rows(kind)
    header, *cells = csv.reader(io.StringIO(as_text(listed, "csv"), newline=""))
    assert set(header) >= {k for k, x in listed[0].items() if not isinstance(x, dict)}
    assert len(cells) == len(listed)


@pytest.mark.parametrize("name", ["loop", "x" * 300, "file/inner"])
def test_what_no_file_can_be_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write .* choose another|no directory"):
        check_writable(tmp_path / name)
