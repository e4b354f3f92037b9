"""The report of a plan: what is in it, and what Chromium makes of it."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browser import Browser, find_chromium
from page_colours import colours_of, meanings

from dflash_sim.cli import run
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.plan.report import _plain_compared

MAX_BYTES = 6_000_000
COMMAND = ["plan", "--model", "qwen3.5-35b-a3b", "--rate", "20", "--num-prompts", "150", "--isl",
    "800", "--osl", "120", "--ttft", "1500", "--tpot", "12", "--gpu", "b200,h200", "--tp", "1",
    "--method", "none,dflash", "--block", "8,16", "--runs", "1", "--jobs", "1",
    "--format", "json"]  # fmt: skip
SECTIONS = ("The best fleets", "Throughput against interactivity", "Speed-up", "Accepted drafts",
    "Cost", "What it saves", "Every candidate", "Scenario and evidence")  # fmt: skip
FIGURES = 6

CHROMIUM = find_chromium()
with_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium, or set CHROMIUM"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    path = folder / "plan.html"
    assert run([*COMMAND, "--report", str(path), "-o", str(folder / "plan.json")]) == 0
    return path


def test_it_says_what_was_asked_and_found(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < MAX_BYTES
    for words in (*SECTIONS, "TTFT &lt;= 1,500 ms", "tok/s/GPU", "tok/s/user", "price range",
                  "first tokens as late", "sources", "list prices"):  # fmt: skip
        assert words in text, words


def test_plain_decoding_is_grey(page: Path) -> None:
    things, _ = meanings(colours_of(page.read_text(encoding="utf-8")))
    plain = [colours for thing, colours in things.items() if "plain decoding" in thing]
    assert plain
    assert all(colours == {"var(--muted)"} for colours in plain)


def test_plain_decoding_is_grey_on_a_gpu_of_which_nothing_else_is_drawn() -> None:
    """Where the fewest GPUs are of one kind and the cheapest fleet is of another."""
    one, other = (
        Scenario(gpu="h200", model="qwen3-4b", isl=64, osl=64, conc=1, tp=1, method=method)
        for method in ("dflash", "none")
    )
    found: Any = SimpleNamespace(
        differences=[SimpleNamespace(one=0, other=1)],
        question=SimpleNamespace(candidates=[one, other]),
    )
    assert list(_plain_compared(found)) == ["1 x h200, plain decoding"]


@pytest.mark.slow
def test_the_same_plan_writes_the_same_bytes(page: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.html"
    assert run([*COMMAND, "--report", str(again), "-o", str(tmp_path / "plan.json")]) == 0
    assert again.read_bytes() == page.read_bytes()


def test_a_place_that_cannot_be_written_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*COMMAND, "--report", str(tmp_path / "none" / "x.html")]) == 2
    assert "is no directory" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM
    with Browser(CHROMIUM) as opened:
        yield opened


@with_chromium
class TestInChromium:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_every_figure_is_drawn(
        self, browser: Browser, page: Path, scheme: str, tmp_path: Path
    ) -> None:
        browser.open(page, scheme=scheme)
        assert browser.complaints == []
        assert browser.requests == [page.resolve().as_uri()]
        drawn = "[...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('{}').length)"
        marks = browser.value(drawn.format(".trace, .point"))
        assert len(marks) == FIGURES
        assert all(count > 0 for count in marks)
        browser.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 50_000

    def test_it_prints(self, browser: Browser, page: Path, tmp_path: Path) -> None:
        browser.open(page)
        browser.pdf(tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
