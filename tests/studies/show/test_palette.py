"""A colour means one thing on a page: of the palette, and of every page that we write."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_colours import colours_of, keys_of, meanings

from dflash_sim.cli import run
from dflash_sim.studies.show.palette import MEASURED, PLAIN, PLAIN_DECODING, SERIES, Palette

NAMES = st.lists(st.text(min_size=1), unique=True, max_size=30)


class TestPalette:
    @given(NAMES, st.randoms(use_true_random=False))
    def test_the_order_of_asking_changes_nothing(self, names: list[str], draw: object) -> None:
        page, asked = Palette(names), list(names)
        draw.shuffle(asked)  # type: ignore[attr-defined]
        before = {name: page[name] for name in names}
        assert {name: page[name] for name in asked} == before

    @given(NAMES)
    def test_no_two_of_twelve_look_alike(self, names: list[str]) -> None:
        few = [n for n in names if n != PLAIN_DECODING][: 2 * SERIES]
        looks = [(p.colour, p.hollow) for p in map(Palette(few).__getitem__, few)]
        assert len(set(looks)) == len(few)

    def test_grey_and_black_are_taken(self) -> None:
        page = Palette(["a", "none", "seen"], plain=["none", "none too"], measured=["seen"])
        assert page[PLAIN_DECODING].colour == page["none"].colour == PLAIN
        assert page["none"].symbol != page["none too"].symbol
        assert page["seen"].colour == MEASURED
        assert page["b"].colour == "var(--series-2)"  # they take no colour of others


FAST = ["--model", "qwen3-8b", "--gpu", "b200", "--tp", "1", "--num-prompts", "12", "--runs", "1"]
LENGTHS = ["--isl", "300", "--osl", "60"]
PAGES = {
    "predict": [*FAST, "--method", "none,dflash", "--block", "8,16", "--conc", "1,4"],
    "explain": [*FAST, "--conc", "4"],
    "crossover": [*FAST, "--block", "4,8,16", "--values", "1,8", "--interval", "none"],
    "compare": ["docs/tutorial/bench.csv"],
}
PLAN = ["--model", "qwen3-8b", "--rate", "30", "--num-prompts", "60", *LENGTHS, "--tpot", "12",
    "--gpu", "b200,h200", "--tp", "1", "--block", "8,16", "--runs", "1", "--jobs", "1"]  # fmt: skip
ROOT = Path(__file__).parents[3]


def written(command: str, words: list[str], folder: Path) -> str:
    path = folder / f"{command}.html"
    flag = "--report" if command in ("crossover", "plan") else "--html"
    at = [str(ROOT / w) if w.endswith(".csv") else w for w in words]
    assert run([command, *at, flag, str(path), "-o", str(folder / "out.txt")]) == 0
    return path.read_text(encoding="utf-8")


@pytest.fixture(params=[*PAGES, pytest.param("plan", marks=pytest.mark.slow)])
def page(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return written(request.param, PAGES.get(request.param, PLAN), tmp_path)


def test_a_colour_means_one_thing_on_a_page(page: str) -> None:
    drawn = list(colours_of(page))
    assert len({figure for figure, *_ in drawn}) >= 1
    things, colours = meanings(drawn)
    print(colours)
    assert len(things) > 1
    assert {name: seen for name, seen in things.items() if len(seen) > 1} == {}
    alike = {colour: names for colour, names in colours.items() if len(names) > 1}
    assert set(alike) <= {PLAIN}  # plain decoding, of whichever server
    for name, colour in keys_of(page):
        assert things.get(name, {colour}) == {colour}, name


def test_colours_by_order_in_each_chart_would_be_noticed() -> None:
    drawn = [(1, "block 8", "blue"), (1, "block 16", "red"), (2, "block 16", "blue")]
    things, colours = meanings(drawn)
    assert things["block 16"] == {"red", "blue"}
    assert colours["blue"] == {"block 8", "block 16"}


def test_keys_stand_before_rows(tmp_path: Path) -> None:
    text = written("predict", PAGES["predict"], tmp_path)
    names = [name for name, _ in keys_of(text)]
    assert len(names) == len(re.findall("<tr><td", text)) == 6
    assert set(names) == {PLAIN_DECODING, "dflash, block 8", "dflash, block 16"}
