"""The page in headless Chromium, by clicking and dragging; its speed is logged, not asserted."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import find_chromium

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install .[test]")
CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium, or set CHROMIUM"
    ),
]
FLAGS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
SMALL = "&gpu=h200&model=qwen3-4b&method=dflash&block=8&isl=128&osl=64&conc=4&num_prompts=8"
PATIENCE_MS = 180_000
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


class Page:
    """One tab, with all it complained of and asked for."""

    def __init__(self, chromium: Any, url: str) -> None:
        self.context = chromium.new_context(viewport={"width": 1280, "height": 800})
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda m: self._said(m.type, m.text))
        self.tab.goto(url)

    def _said(self, kind: str, text: str) -> None:
        """Keep errors, but for Plotly's of a title beside labels that are all hidden.

        It hides them where a chart is some 20 pixels high or wide; none of ours should ever be.
        """
        if kind == "error" and not (text.startswith("Error: <text>") and "Infinity" in text):
            self.complaints.append(text)

    def state(self, *wanted: str) -> None:
        """Wait until the page is in one of these states."""
        chosen = ", ".join(f'#ui[data-state="{name}"]' for name in wanted)
        self.tab.wait_for_selector(chosen)

    def asked(self, part: str) -> None:
        """Wait until an answer to an address with this part is drawn."""
        self.tab.wait_for_function(
            "part => (document.documentElement?.dataset.query ?? '').includes(part)", arg=part
        )

    def text(self, selector: str) -> str:
        return str(self.tab.inner_text(selector))


@pytest.fixture
def page(chromium: Any, served: str) -> Iterator[Page]:
    opened = Page(chromium, served + SMALL)
    yield opened
    assert opened.complaints == []
    assert {url.split("/")[2] for url in opened.requests if url.startswith("http")} == {
        served.split("/")[2]
    }
    opened.context.close()


def slider(page: Page, name: str) -> dict[str, float]:
    box = page.tab.locator(f'input[type="range"][id*="{name}"]').bounding_box()
    assert box
    return dict(box)


WATCH = """() => {
  window.moves = []; window.paints = []; window.whole = [];
  document.addEventListener('input', () => moves.push(performance.now()), true);
  const root = document.documentElement, ui = document.getElementById('ui');
  const painted = () => setTimeout(() => paints.push(performance.now()));  // behind the first chart
  new MutationObserver(() => requestAnimationFrame(painted))
    .observe(root, { attributes: true, attributeFilter: ['data-query'] });
  const had = new Set([root.dataset.query]);  // an answer that is known already is whole at once
  const watched = new MutationObserver(() => {
    if (ui.dataset.quality !== 'whole' || had.has(root.dataset.query)) return;
    had.add(root.dataset.query);
    whole.push(performance.now());
  });
  watched.observe(ui, { attributes: true, attributeFilter: ['data-quality'] });
  watched.observe(root, { attributes: true, attributeFilter: ['data-query'] });
}"""


def test_dragging_is_followed_by_the_answer_and_by_the_address(page: Page) -> None:
    page.state("refining", "refined")
    page.tab.evaluate(WATCH)
    before = page.text("#tile-throughput")
    box = slider(page, "conc")
    y = box["y"] + box["height"] / 2
    page.tab.mouse.move(box["x"] + 0.1 * box["width"], y)
    page.tab.mouse.down()
    for share in (0.2, 0.3, 0.4, 0.5, 0.55):
        page.tab.mouse.move(box["x"] + share * box["width"], y, steps=3)
        page.tab.wait_for_timeout(250)
    page.tab.mouse.up()
    said = page.text('output[id*="conc"]')
    page.asked(f"conc={said}")
    assert page.text("#tile-throughput") != before
    assert f"conc={said}" in page.tab.url
    page.tab.wait_for_selector('#ui[data-quality="whole"]')
    assert re.match(r"90 %: .* to .*", page.text("#span-throughput"))


def test_an_address_is_a_state(chromium: Any, served: str, page: Page) -> None:
    page.state("refining", "refined")
    page.tab.click('label:has-text("arriving")')
    page.asked("rate=")
    again = page.tab.url
    assert "token" not in again
    other = page.context.new_page()
    other.set_default_timeout(PATIENCE_MS)
    other.goto(again)
    other.wait_for_function("document.documentElement?.dataset.query?.includes('rate=')")
    assert other.inner_text("h1") == page.text("h1")
    page.tab.go_back()
    page.asked("conc=4")


def test_where_nothing_fits_the_page_says_what_would(chromium: Any, served: str) -> None:
    small = "&gpu=l4&tp=1&model=qwen3-8b&method=none&isl=64&osl=64&conc=1&num_prompts=2"
    page = Page(chromium, served + small + "&mem_fraction_static=0.5")
    page.state("no answer")
    assert "does not fit" in page.text("#refusal")
    assert "mem_fraction_static 0.5" in page.text("#kept")
    page.tab.click("#refusal a:has-text('2 GPUs')")
    page.asked("tp=2")
    page.state("refining", "refined")
    assert "2 x l4" in page.text("h1")
    assert page.complaints == []
    page.context.close()


def test_a_file_is_dropped_pasted_or_refused(page: Page, tmp_path: Path) -> None:
    page.state("refining", "refined")
    place = page.tab.url
    bad = tmp_path / "holiday.txt"
    bad.write_text("sun and sea", encoding="utf-8")
    page.tab.set_input_files("#upload input", bad)
    page.tab.wait_for_selector("#dropped:has-text('holiday.txt')")
    assert page.tab.url == place
    page.tab.click("#pasting summary")
    page.tab.fill("#paste", "python -m sglang.launch_server --model-path Qwen/Qwen3-4B --tp-size 2")
    page.tab.click("#take")
    page.asked("method=none")
    assert "tp=2" in page.tab.url
    rows = tmp_path / "bench.csv"
    rows.write_text(
        "gpu,model,method,block,tp,isl,osl,conc,num_prompts,output_throughput\n"
        "h200,qwen3-4b,dflash,8,1,128,64,2,8,777\n",
        encoding="utf-8",
    )
    page.tab.set_input_files("#upload input", rows)
    page.asked("conc=2")
    page.tab.wait_for_selector("#frontier .legendtext:has-text('your benchmark')")
    assert "bench.csv" in page.text("#dropped")


def test_what_is_seen_can_be_taken_away(page: Page) -> None:
    page.state("refining", "refined")
    page.tab.click("#copy summary")
    command = page.text("#copy-command")
    assert command.startswith("dflash-sim predict --gpu h200")
    assert "ds.predict(" in page.text("#copy-call")
    assert "sglang.launch_server" in page.text("#copy-launch")
    with page.tab.expect_download() as caught:
        page.tab.click("#save")
    text = Path(caught.value.path()).read_text(encoding="utf-8")
    assert command in text.replace("&#x27;", "'")
    assert "<script src" not in text


def test_an_answer_is_kept_beside_the_next_and_in_the_address(page: Page) -> None:
    page.state("refining", "refined")
    page.tab.click("#keep")
    page.tab.wait_for_selector("#kept-rows tr:nth-child(2)")
    page.tab.press('input[type="range"][id*="conc"]', "ArrowRight")
    page.asked("conc=5")
    page.tab.wait_for_selector('#kept-rows tr:first-child:has-text("5 in flight")')
    page.tab.reload()  # all of it is in the address
    page.tab.wait_for_selector('#kept-rows tr:nth-child(2):has-text("4 in flight")')
    page.tab.click("#kept-rows button")
    page.tab.wait_for_selector("#kept-box", state="hidden")
    page.tab.wait_for_function("!location.search.includes('beside')")
    assert page.text("#kept-rows") == ""


def test_why_is_one_click_away(page: Page) -> None:
    page.state("refining", "refined")
    page.tab.click("#ask-why")
    page.tab.wait_for_selector("#waterfall .barlayer .point")
    assert "acceptance" in page.text("#waterfall")
    page.tab.keyboard.press("Escape")
    page.tab.wait_for_selector("#overlay", state="hidden")


def test_two_users_do_not_disturb_each_other(chromium: Any, served: str, page: Page) -> None:
    other = Page(chromium, served + SMALL.replace("block=8", "block=4"))
    for each, block in ((page, 8), (other, 4)):
        each.asked(f"block={block}")
        assert f"block {block}" in each.text("h1")
    other.tab.close()  # a browser that goes away in the middle of its answers
    page.tab.wait_for_selector('#ui[data-quality="whole"]')
    assert "block 8" in page.text("h1")
    other.context.close()


def test_how_soon_a_change_is_seen(chromium: Any, served_in_full: str) -> None:
    """Logged: what it takes depends on what else the machine does."""
    page = Page(chromium, served_in_full + SMALL)
    page.tab.wait_for_selector('#ui[data-quality="whole"]')
    page.tab.evaluate(WATCH)
    page.tab.focus('input[type="range"][id*="conc"]')
    for n in range(2):
        page.tab.keyboard.press("ArrowRight")
        page.tab.wait_for_function("n => paints.length > n && moves.length > n", arg=n)
        page.tab.wait_for_function("n => whole.length > n", arg=n)
    moves, paints, whole = page.tab.evaluate("[moves, paints, whole]")
    first = [round(p - m) for m, p in zip(moves, paints, strict=False)]
    refined = [round(w - m) for m, w in zip(moves, whole, strict=False)]
    print("first paint [ms]", first, "with interval [ms]", refined)
    log.info("first paint after a change [ms]: %s; with its interval: %s", first, refined)
    assert len(first) == len(refined) == 2
    page.context.close()


WIDE = """[...document.querySelectorAll('.tile :is(b, span, small)')]
  .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"""


def test_on_a_phone_the_answer_stays_in_sight(page: Page) -> None:
    """While the sliders below are dragged; nothing is wider than the screen or its own box."""
    page.state("refining", "refined")
    page.tab.set_viewport_size({"width": 400, "height": 800})
    page.tab.wait_for_timeout(300)
    page.tab.mouse.wheel(0, 500)
    page.tab.wait_for_function("scrollY > 200")
    box = page.tab.locator("#tiles").bounding_box()
    assert box
    assert 0 <= box["y"] < 10
    assert not page.tab.evaluate("document.documentElement.scrollWidth > innerWidth")
    for width in (400, 600, 750, 1000, 1250):
        page.tab.set_viewport_size({"width": width, "height": 800})
        assert page.tab.evaluate(WIDE) == []
