"""What comes from outside cannot act on a terminal or in a spreadsheet."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from dflash_sim.cli import run
from dflash_sim.studies.show.files import as_text
from dflash_sim.studies.show.sheet_lists import KINDS, rows
from dflash_sim.studies.show.terminal import as_page
from dflash_sim.studies.show.visible import visible

CONTROLS = {chr(i) for i in (*range(32), *range(127, 160))} - set("\n\t")
ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b2J\r"


@given(st.text())
def test_nothing_but_controls_changes(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    assert not CONTROLS & set(shown)
    assert [c for c in text if c not in CONTROLS] == _without_escapes(text)


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


@pytest.mark.parametrize("begun", ["=1+1", "+1", "-1", "@sum(a1)", "\tx", "\rx"])
def test_a_cell_is_no_formula(begun: str) -> None:
    (_, row) = csv.reader(io.StringIO(as_text([{"tag": begun, "n": -1.5}], "csv"), newline=""))
    assert row[0].startswith("'")
    assert row[1] == "-1.5"


@pytest.mark.parametrize("kind", KINDS)
def test_every_list_has_a_csv_with_its_own_columns(kind: str) -> None:
    listed = rows(kind)
    header, *cells = csv.reader(io.StringIO(as_text(listed, "csv"), newline=""))
    assert set(header) >= {k for k, x in listed[0].items() if not isinstance(x, dict)}
    assert len(cells) == len(listed)
