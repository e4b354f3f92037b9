"""The accuracy pages hold what the studies found: every table and figure, and nothing stale."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.profiles.errors import UsageError
from dflash_sim.studies.published.findings import Findings
from dflash_sim.studies.published.page_slots import (
    PAGES,
    all_found,
    deliver,
    fill,
    refresh,
    slots_of,
)
from dflash_sim.studies.show.plain_table import Table

ROOT = Path(__file__).parents[3]
GALLERY = ROOT / "studies/gallery"
STUDIES = sorted(GALLERY.glob("*.json"))
TEXTS = {name: (ROOT / "docs/explanation" / name).read_text(encoding="utf-8") for name in PAGES}
FOUND = all_found(ROOT)
# Lists too long for a page, which links the output instead, and what another table says already.
ON_NO_PAGE = {
    "crossings that are not asked",
    "conditions",
    "every row",
    "every held-out row",
    "GH200 closed loop, every row",
    "held out by model: by model",
    "32 clients from one: plain decoding beside peers",
    "32 clients from its own one: by block",
    "32 clients from its own one: by data set",
    "32 clients from its own one: by left out",
    "32 clients from its own one: by method",
    "32 clients from its own one: by model",
    "32 clients from its own one: held-out rows",
    "32 clients from its own one: pairs ranked right",
    "32 clients from its own one: plain decoding beside peers",
    "32 clients from its own one: speed-up over plain decoding",
    "32 clients from its own one: the 10 rows furthest off",
    "sample refused",
}


def emptied(page: str, slot: str) -> str:
    """The page with nothing in one slot."""
    text = f"<!-- {slot} -->{slots_of(page)[slot]}<!-- / -->"
    assert page.count(text) >= 1
    return page.replace(text, f"<!-- {slot} -->\n<!-- / -->", 1)


# -- the pages as they are


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_current(name: str) -> None:
    assert fill(TEXTS[name], FOUND, name) == TEXTS[name], "run `make docs`"


@pytest.mark.parametrize("name", PAGES)
def test_a_slot_that_is_emptied_is_seen(name: str) -> None:
    """Control of the test above, for every slot of every page."""
    page = TEXTS[name]
    assert len(slots_of(page)) > 10
    for slot in slots_of(page):
        broken = emptied(page, slot)
        assert fill(broken, FOUND, name) != broken, slot
        assert fill(broken, FOUND, name) == page, slot


def test_every_table_is_on_a_page() -> None:
    tables = {table.title: table for path in STUDIES for table in Findings.read(path).tables}
    assert len(tables) > 40
    on_pages = "\n".join(TEXTS.values())
    missing = {title for title, table in tables.items() if table.markdown() not in on_pages}
    assert missing == ON_NO_PAGE


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_json_holds_what_was_printed(path: Path) -> None:
    assert Findings.read(path).text() == path.with_suffix(".out").read_text(encoding="utf-8")


# -- filling


NAMES = st.from_regex(r"[A-Za-z0-9:,=%()+*.\\ -]{1,30}", fullmatch=True).filter(
    lambda name: name.strip() == name and "--" not in name
)


@given(st.dictionaries(NAMES, st.text("ab|*\\\n 9%"), min_size=1))
def test_any_name_can_have_a_slot(found: dict[str, str]) -> None:
    page = "\n".join(f"before <!-- {name} -->stale<!-- / --> after" for name in found)
    filled = fill(page, found, "page.md")
    assert slots_of(filled) == found
    assert filled.count("before ") == filled.count(" after") == len(found)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("<!-- held: by nobody --><!-- / -->", "page.md: no study .* finds 'held: by nobody'"),
        ("<!-- a -->1", "'a' does not run from"),
        ("<!-- a -->1<!-- b -->2<!-- / -->", "'a' does not run from"),
        ("<!-- / -->", "'/' does not run from"),
        ("<!-- a -->1<!-- / --><!-- / -->", "'/' does not run from"),
    ],
)
def test_a_slot_that_cannot_be_filled_is_named(page: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fill(page, {"a": "1", "b": "2"}, "page.md")


# -- a checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Pages and findings alone."""
    for path in (*STUDIES, *(ROOT / "docs/explanation" / name for name in PAGES)):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return tmp_path


def test_a_study_that_finds_something_else_changes_its_pages(checkout: Path) -> None:
    script = checkout / "studies/gallery/03_held_out.py"
    found = Findings.read(script.with_suffix(".json"))
    deliver(Findings(found.tables, {**found.words, "held MAPE": "99.9 %"}), script, write=True)
    page = (checkout / "docs/explanation/accuracy.md").read_text(encoding="utf-8")
    assert slots_of(page)["held MAPE"] == "99.9 %"
    tables = (checkout / "docs/explanation/accuracy-tables.md").read_text(encoding="utf-8")
    assert tables == TEXTS["accuracy-tables.md"]
    assert script.with_suffix(".out").read_text(encoding="utf-8") == found.text()


def test_a_study_that_no_longer_finds_a_table_is_told(checkout: Path) -> None:
    script = checkout / "studies/gallery/03_held_out.py"
    found = Findings.read(script.with_suffix(".json"))
    fewer = [t for t in found.tables if t.title != "held out by model: by block"]
    with pytest.raises(UsageError, match=r"accuracy-tables.md: .*'held out by model: by block'"):
        deliver(Findings(tuple(fewer), found.words), script, write=True)


def test_without_write_a_study_prints(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = checkout / "studies/gallery/99_new.py"
    table = Table("t", ("a", "b"), (("1", "2"),))
    deliver(Findings((table,)), script, write=False)
    assert capsys.readouterr().out == table.text() + "\n"
    assert not script.with_suffix(".json").exists()


def test_one_name_has_one_study(checkout: Path) -> None:
    path = checkout / "studies/gallery/03_held_out.json"
    shutil.copy(path, path.with_name("04_again.json"))
    with pytest.raises(UsageError, match=r"04_again.json finds '.*', and so does"):
        refresh(checkout)


@pytest.mark.parametrize("text", [None, "", "[]", '{"words": {}}', '{"words": {}, "tables": [1]}'])
def test_damaged_findings_are_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "03_held_out.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"run python studies/gallery/03_held_out.py --write"):
        Findings.read(path)


CELLS = st.text(min_size=1).filter(str.isprintable)


@pytest.mark.slow
@given(st.dictionaries(CELLS, CELLS), st.lists(st.tuples(CELLS, CELLS), min_size=1))
def test_findings_read_back(words: dict[str, str], lines: list[tuple[str, str]]) -> None:
    found = Findings((Table("a title", lines[0], tuple(lines[1:])),), words)
    with TemporaryDirectory() as folder:
        script = Path(folder) / "99_x.py"
        found.write(script)
        assert Findings.read(script.with_suffix(".json")) == found
