"""Reports: what is in the file, and what Chromium makes of it by day, by night and on paper."""

import json
import re
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import combinations
from math import inf, nan
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import plotly.graph_objects as go
import pytest
from browser import Browser, find_chromium
from hypothesis import example as including
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.profiles.errors import UsageError
from dflash_sim.studies.show.chart_style import Axis
from dflash_sim.studies.show.charts import Bar, Curve, bars, lines
from dflash_sim.studies.show.error_charts import Point, residual_strips, scatter_against
from dflash_sim.studies.show.html_report import POLICY, Report
from dflash_sim.studies.show.palette import SERIES, Palette

ROOT = Path(__file__).parents[3]
CSS = (ROOT / "studies/show/report.css").read_text(encoding="utf-8")
HOSTILE = (
    "</script><script>console.error('!')</script>"
    """<img src=x onerror="console.error('?')"> <b>x</b> & `a<b`"""
)
MAX_BYTES = 6_000_000


def points(n: int, seed: int = 0) -> list[Point]:
    """Predictions that are a few percent off, of three methods."""
    draw = np.random.default_rng(seed)
    observed = np.exp(draw.uniform(5, 10, n))
    predicted = observed * np.exp(draw.normal(0, 0.04, n))
    return [
        Point(
            name=f"row {k}",
            group=("none", "mtp", "dflash")[k % 3],
            observed=float(o),
            predicted=float(p),
            low=float(p) * 0.93,
            high=float(p) * 1.08,
        )
        for k, (o, p) in enumerate(zip(observed, predicted, strict=True))
    ]


def example(n: int = 60) -> Report:
    """One of everything."""
    every = points(n)
    report = Report("An example", "Every kind of figure once.\n\nA second paragraph.")
    report.facts({"rows": n, "command": "`dflash-sim validate`", "sources": ["one", "two"]})
    report.section("Throughput", "Predicted against observed.")
    own = report.palette
    report.figure(scatter_against(every, palette=own), "Predicted against observed throughput.")
    halves = {"1": every[: n // 2], "32": every[n // 2 :], "none": []}
    strips = residual_strips(halves, factor="concurrency", palette=own)
    report.figure(strips, "Errors by concurrency.")
    report.section("Others")
    report.figure(bars(PEERS, axis=Axis("MAPE", "%"), palette=own), "Mean absolute errors.")
    speed = lines(CURVES, x=Axis("concurrency", log=True), y=Axis("speed-up"), palette=own)
    report.figure(speed, "Speed-up.")
    report.section("Rows")
    report.table(["row", "tok/s", "error"], [[p.name, p.observed, "+1.5 %"] for p in every], "All.")
    return report


PEERS = [
    Bar(name="ours", value=4.1, low=3.5, high=4.9, group="ours"),
    Bar(name="one constant", value=11, group="others", note="fitted on all rows"),
    Bar(name="as is", value=27, group="others"),
]
CURVES = [
    Curve(name="block 16", x=[1, 8, 64], y=[4, 3.2, 2], low=[3.8, 3, 1.9], high=[4.2, 3.4, 2.2]),
    Curve(name="measured", x=[1, 64], y=[4.1, 2.1], group="block 16", points=True),
]


class Words(HTMLParser):
    """Tags and texts of a page, as a browser reads them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        self.texts.append(("", ""))

    def handle_data(self, data: str) -> None:
        if self.texts:
            tag, text = self.texts[-1]
            self.texts[-1] = (tag, text + data)

    def text(self, tag: str) -> list[str]:
        """Texts directly behind a tag."""
        return [text for name, text in self.texts if name == tag]


def figure_json(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.S)
    assert found
    return json.loads(found[1])


def without_plotly(report: Report) -> str:
    """The page without the five megabytes that are not ours."""
    with patch("dflash_sim.studies.show.html_report.get_plotlyjs", return_value=""):
        return report.html()


class TestFile:
    def test_same_calls_same_bytes(self, tmp_path: Path) -> None:
        example().write(tmp_path / "a.html")
        example().write(tmp_path / "b.html")
        assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()

    def test_all_inside_and_once(self) -> None:
        html = example().html()
        assert html.count("plotly.js v") == html.count("<!DOCTYPE") == 1
        for tag, attributes in Words(html).tags:
            assert not {"src", "srcset", "action", "data"} & set(attributes), tag
            assert tag not in ("link", "iframe", "object", "embed", "base")
            assert (attributes.get("href") or "#").startswith("#")
        assert "@import" not in CSS
        assert "url(" not in CSS

    def test_style_and_script_are_shipped(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        shipped = project["tool"]["setuptools"]["package-data"]["dflash_sim.studies.show"]
        assert set(shipped) == {p.name for p in (ROOT / "studies/show").glob("report.[cj]s*")}

    def test_a_thousand_rows_fit(self) -> None:
        nbytes = len(example(1000).html().encode())
        print(f"1000 rows: {nbytes / 1e6:.2f} MB")
        assert nbytes < MAX_BYTES

    def test_written_whole_or_not_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="make it first"):
            example().write(tmp_path / "missing/out.html")
        assert list(tmp_path.iterdir()) == []

    def test_half_a_surrogate_is_written(self, tmp_path: Path) -> None:
        report = Report("\ud83d", "")
        report.figure(drawn([Curve(name="\ud83d", x=[1], y=[1])]), "\ud83d")
        report.write(tmp_path / "out.html")
        assert "<title>?</title>" in (tmp_path / "out.html").read_text(encoding="utf-8")

    @settings(max_examples=40)
    @including(HOSTILE.replace("`", ""))
    @given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1))
    def test_text_comes_back(self, text: str) -> None:
        report = Report(text, text)
        report.section(text, text)
        report.facts({text: text})
        report.table([text], [[text]], text)
        report.figure(drawn([Curve(name=text, x=[1], y=[1])]), text)
        html = without_plotly(report)
        bare = without_plotly(plain_twin())
        words = Words(html)
        inline = {"p", "code"}  # one a paragraph, and one between two backticks
        kinds = [t for t, _ in words.tags if t not in inline]
        assert kinds == [t for t, _ in Words(bare).tags if t not in inline]
        assert words.text("title") == [text]
        assert figure_json(html)["figures"][0]["layout"] is not None
        if "`" not in text and not re.search(r"\d %", text):
            assert words.text("dt") == words.text("dd") == words.text("td") == [text]

    def test_backticks_and_percent(self) -> None:
        report = Report("t", "error 4.1 % with `a < b`")
        assert "error 4.1\u00a0% with <code>a &lt; b</code>" in without_plotly(report)

    def test_contents_from_three_sections(self) -> None:
        report = Report("t", "")
        for n in range(1, 4):
            report.section(f"s{n}")
            assert ("<nav>" in without_plotly(report)) == (n == 3)


AXIS = Axis("x")


def drawn(curves: list[Curve]) -> go.Figure:
    return lines(curves, x=AXIS, y=AXIS, palette=Palette())


@pytest.mark.parametrize("points", [1, 2])
def test_an_interval_is_drawn_of_a_single_point_too(points: int) -> None:
    """A band between two ends of one abscissa has no area; there it is whiskers."""
    x = [1.0, 2.0][:points]
    low, high = [v - 0.5 for v in x], [v + 1.0 for v in x]
    figure = drawn([Curve(name="t", x=x, y=x, low=low, high=high)])
    curve = figure.data[-1]
    assert len(figure.data) == points
    assert (list(curve.error_y.array or ()), list(curve.error_y.arrayminus or ())) == (
        ([1.0], [0.5]) if points == 1 else ([], [])
    )


def plain_twin() -> Report:
    report = Report("t", "t")
    report.section("t", "t")
    report.facts({"t": "t"})
    report.table(["t"], [["t"]], "t")
    report.figure(drawn([Curve(name="t", x=[1], y=[1])]), "t")
    return report


class TestTable:
    @pytest.mark.parametrize(
        ("cells", "shown", "keys"),
        [
            ([1234, 5.678, None], ["1,234", "5.68", "\u2013"], [1234, 5.678, None]),
            (["+4.7 %", "-13 %", ""], ["+4.7 %", "-13 %", "\u2013"], [4.7, -13, None]),
            (["12,360", "1.5 x", "3 ms"], ["12,360", "1.5 x", "3 ms"], [12360, 1.5, 3]),
            ([inf, 2.0, nan], ["inf", "2.00", "nan"], [None, 2, None]),
        ],
    )
    def test_numbers_stand_right(
        self, cells: list[Any], shown: list[str], keys: list[float | None]
    ) -> None:
        report = Report("t", "")
        report.table(["n"], [[c] for c in cells], "c")
        words = Words(without_plotly(report))
        assert words.text("td") == shown
        found = [a for t, a in words.tags if t in ("td", "th")]
        assert all(a["class"] == "n" for a in found)
        assert [None if (k := a.get("data-key")) is None else float(k) for a in found[1:]] == keys

    @pytest.mark.parametrize("cells", [["8B", "27B"], ["1-32", "4"], [None, ""], ["4", "v2"]])
    def test_words_stand_left(self, cells: list[Any]) -> None:
        report = Report("t", "")
        report.table(["n"], [[c] for c in cells], "c")
        assert not [a for t, a in Words(without_plotly(report)).tags if t == "td" and a]

    def test_a_row_shows_the_colour_of_what_it_is_about(self) -> None:
        report = Report("t", "", Palette(["b", "a"]))
        report.table(["n"], [["of a"], ["of none"], ["of <b"]], "c", things=["a", None, "<b"])
        words = Words(without_plotly(report))
        keys = [a for t, a in words.tags if t == "i"]
        assert [k["style"] for k in keys] == ["color:var(--series-2)", "color:var(--series-3)"]
        assert [k["title"] for k in keys] == ["a", "<b"]

    def test_a_short_row_is_refused(self) -> None:
        with pytest.raises(ValueError, match="every row needs 2 cells"):
            Report("t", "").table(["a", "b"], [["x"]], "c")


class TestCharts:
    def test_scatter_shows_both_panels(self) -> None:
        p = Point(name="a", group="g", observed=100, predicted=110, low=90, high=125)
        q = Point(name="b", group="g", observed=1000, predicted=950)
        figure = scatter_against([p, q], palette=Palette())
        above, below = (t for t in figure.data if t.mode == "markers")
        assert list(above.x) == list(below.x) == [100, 1000]
        assert list(above.y) == [110, 950]
        assert list(below.y) == pytest.approx([10, -5])
        assert list(above.error_y.array) == [15, 0]
        assert list(above.error_y.arrayminus) == [20, 0]
        assert list(below.error_y.array) == pytest.approx([15, 0])
        assert list(below.error_y.arrayminus) == pytest.approx([20, 0])
        assert above.name == "g: 2 rows, MAPE 7.5 %"
        for words in ("<b>a</b>", "g: +10.0 %", "observed 100.0 tok/s", "90 % interval 90.00 to"):
            assert words in above.text[0]
        assert "interval" not in above.text[1]

    @settings(max_examples=25)
    @given(st.floats(0.01, 0.2), st.floats(10, 1e5))
    def test_the_band_is_the_band(self, band: float, value: float) -> None:
        edge = [
            Point(name="e", group="g", observed=value, predicted=value * (1 + side))
            for side in (-band, band)
        ]
        area = scatter_against(edge, band=band, palette=Palette()).data[0]
        x, y = np.array(area.x), np.array(area.y)
        assert np.sort(y / x) == pytest.approx([1 - band, 1 - band, 1 + band, 1 + band])

    def test_colours_follow_the_order_given(self) -> None:
        named = [Point(name=g, group=g, observed=1, predicted=1) for g in "abc"]
        figure = scatter_against(named, palette=Palette("xca"))
        colours = {t.name[0]: t.marker.color for t in figure.data if t.mode == "markers"}
        want = {"c": 2, "a": 3, "b": 4}
        assert colours == {g: f"var(--series-{i})" for g, i in want.items()}

    def test_every_point_has_its_own_place_in_its_strip(self) -> None:
        every = points(40)
        groups = {"low": every[:30], "high": every[30:], "empty": []}
        figure = residual_strips(groups, factor="half", palette=Palette())
        marks = [t for t in figure.data if t.type == "scatter"]
        drawn = sorted((x, round(y)) for t in marks for x, y in zip(t.x, t.y, strict=True))
        assert drawn == sorted((100 * p.error, int(p in every[30:])) for p in every)
        assert len({y for t in marks for y in t.y}) == 40
        assert list(figure.layout.yaxis.ticktext)[1].startswith("high<br><sub>10 rows, MAPE ")

    @pytest.mark.parametrize("value", [0, -1, nan, inf])
    def test_a_log_axis_hides_no_point(self, value: float) -> None:
        with pytest.raises(ValueError, match="row 7: a point needs positive"):
            Point(name="row 7", group="g", observed=value, predicted=1)

    def test_bars_of_one_name_are_two(self) -> None:
        twins = [Bar(name="same", value=1), Bar(name="same", value=2, low=1, high=4)]
        figure = bars(twins, axis=Axis("MAPE", "%"), palette=Palette())
        (trace,) = figure.data
        assert list(trace.y) == [0, 1]
        assert [(a.x, a.text) for a in figure.layout.annotations] == [(1, "1 %"), (4, "2 %")]
        assert list(trace.error_x.array) == [0, 2]

    def test_curves_of_a_group_share_a_colour(self) -> None:
        figure = drawn(CURVES)
        assert {t.marker.color for t in figure.data if t.mode != "lines"} == {"var(--series-1)"}
        band = figure.data[0]
        assert list(band.y) == [3.8, 3, 1.9, 2.2, 3.4, 4.2]
        assert list(band.x) == [1, 8, 64, 64, 8, 1]

    def test_nothing_to_show_is_no_crash(self) -> None:
        report = Report("t", "")
        for figure in (
            scatter_against([], palette=report.palette),
            residual_strips({}, factor="f", palette=report.palette),
            bars([], axis=AXIS, palette=report.palette),
            drawn([]),
        ):
            report.figure(figure, "empty")
        assert len(figure_json(without_plotly(report))["figures"]) == 4

    def test_any_figure_gets_the_house_style(self) -> None:
        report = Report("t", "")
        figure = go.Figure(go.Heatmap(z=[[1, nan]]), {"title": {"text": HOSTILE}})
        report.figure(figure, "c")
        page = figure_json(without_plotly(report))
        assert page["figures"][0]["layout"]["title"] == {"text": HOSTILE}
        assert "template" not in page["figures"][0]["layout"]
        assert page["figures"][0]["data"][0]["z"] == [[1, None]]
        assert page["template"]["layout"]["paper_bgcolor"] == "var(--page)"

    def test_every_colour_is_in_the_stylesheet(self) -> None:
        used = set(
            re.findall(r"var\((--[\w-]+)\)", json.dumps(figure_json(without_plotly(example()))))
        )
        assert len(used) > 8
        assert used <= set(re.findall(r"(--[\w-]+):", CSS))


# Linear RGB as dichromats see it: Machado, Oliveira and Fernandes (2009), table 1, severity 1.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
) / np.array([[0.9505], [1.0], [1.089]])
APART = 18.0  # in CIELAB, where two or three can just be told apart


def linear(colour: str) -> np.ndarray:
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2."""
    dark, light = sorted(float(TO_XYZ[1] @ linear(c)) + 0.05 for c in (one, other))
    return light / dark


def nearest(colours: list[str], sight: str) -> float:
    """Distance in CIELAB of the two most alike."""
    seen = [TO_XYZ @ np.clip(SIGHT[sight] @ linear(c), 0, 1) for c in colours]
    f = [np.where(v > 0.008856, np.cbrt(v), 7.787 * v + 16 / 116) for v in seen]
    lab = [np.array([116 * y, 500 * (x - y), 200 * (y - z)]) for x, y, z in f]
    return min(float(np.linalg.norm(a - b)) for a, b in combinations(lab, 2))


def palette(scheme: str) -> dict[str, str]:
    block = CSS.split("prefers-color-scheme: dark")[scheme == "dark"]
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6});", block))


@pytest.mark.parametrize("scheme", ["light", "dark"])
class TestColours:
    def test_series_can_be_told_apart(self, scheme: str) -> None:
        colours = [palette(scheme)[f"--series-{i + 1}"] for i in range(SERIES)]
        apart = {sight: nearest(colours, sight) for sight in SIGHT}
        print(scheme, {sight: round(d, 1) for sight, d in apart.items()})
        assert min(apart.values()) > APART

    def test_marks_and_text_stand_out(self, scheme: str) -> None:
        found = palette(scheme)
        for name, least in (("--ink", 7), ("--muted", 4.5), ("--accent", 4.5), ("--series-", 3)):
            for colour in (c for n, c in found.items() if n.startswith(name)):
                assert contrast(colour, found["--page"]) >= least, colour


def test_red_and_green_would_be_noticed() -> None:
    assert (
        nearest(["#d62728", "#7f7f00"], "deuteranopia")
        < APART
        < nearest(["#d62728", "#2ca02c"], "usual")
    )
    assert contrast("#ffffff", "#e69f00") < 3


CHROMIUM = find_chromium()
with_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium, or set CHROMIUM"
)


def rgb(colour: str) -> str:
    """A colour as Chromium says it."""
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


def first_mark() -> str:
    return COLOUR.format("#plot-1 .scatterlayer .point", "fill")


COLOUR = "getComputedStyle(document.querySelector('{}')).{}"
DRAWN = "[...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('{}').length)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM
    with Browser(CHROMIUM) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "out.html"
    report = example()
    report.section(HOSTILE, HOSTILE)
    report.facts({HOSTILE: HOSTILE})
    report.table([HOSTILE], [[HOSTILE]], HOSTILE)
    hostile = Point(name=HOSTILE, group=HOSTILE, observed=1, predicted=1)
    strips = residual_strips({HOSTILE: [hostile]}, factor=HOSTILE, palette=report.palette)
    report.figure(strips, HOSTILE)
    report.write(path)
    return path


@pytest.fixture
def shown(browser: Browser, page: Path) -> Browser:
    """The browser with the page, loaded unless it still is."""
    if browser.requests[:1] != [page.as_uri()]:
        browser.open(page)
    return browser


@with_chromium
class TestInChromium:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_everything_is_drawn(self, browser: Browser, page: Path, scheme: str) -> None:
        browser.open(page, scheme=scheme)
        browser.screenshot(page.with_name(f"{scheme}.png"))
        print(page.with_name(f"{scheme}.png"))
        assert browser.complaints == []
        assert set(browser.requests) == {page.as_uri()}
        assert browser.value(DRAWN.format(".scatterlayer .point, .barlayer .point path")) == [
            2 * 60, 60, len(PEERS), sum(len(c.x) for c in CURVES), 1,
        ]  # fmt: skip
        heights = browser.value("[...document.querySelectorAll('.plot')].map(p => p.offsetHeight)")
        assert heights == browser.value("figures.map(f => f.layout.height ?? 420)")
        assert not browser.value("document.documentElement.scrollWidth > innerWidth")

    def test_colours_change_with_the_readers_wish(self, shown: Browser) -> None:
        for scheme in ("dark", "light", "dark"):
            shown.prefer(scheme)
            want = palette(scheme)
            shown.wait_for(f"{first_mark()} === '{rgb(want['--series-1'])}'")
            assert shown.value(COLOUR.format("body", "backgroundColor")) == rgb(want["--page"])
            assert shown.value(COLOUR.format(".ytick text", "fill")) == rgb(want["--ink"])
        assert shown.complaints == []

    def test_text_stays_text(self, shown: Browser) -> None:
        assert shown.value("document.querySelectorAll('img').length") == 0
        said = HOSTILE.replace("`", "")
        assert shown.value("document.querySelectorAll('h2')[3].textContent") == said
        ticks = "[...document.querySelectorAll('#plot-5 .ytick text')].map(t => t.textContent)"
        assert HOSTILE in shown.value(ticks)[0]
        assert shown.complaints == []

    def test_no_button_sends_data_away(self, shown: Browser) -> None:
        buttons = "[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)"
        words = {title.split()[0] for title in shown.value(buttons)}
        assert words == {"Download", "Zoom", "Pan", "Reset"}

    def test_hovering_names_the_row(self, shown: Browser) -> None:
        shown.value("Plotly.Fx.hover('plot-1', [{curveNumber: 2, pointNumber: 0}])")
        hover = shown.value("document.querySelector('#plot-1 .hoverlayer').textContent")
        assert re.match(r"row 0none: [+-]\d\.\d %observed [\d,.]+ tok/spredicted ", hover)

    def test_a_click_sorts(self, shown: Browser) -> None:
        column = "[...document.querySelectorAll('tbody')[0].rows].map(r => +r.cells[1].dataset.key)"
        want = [p.observed for p in points(60)]
        assert shown.value(column) == want != sorted(want)
        for order, back in (("ascending", False), ("descending", True)):
            shown.value("document.querySelectorAll('th button')[1].click()")
            assert shown.value(column) == sorted(want, reverse=back)
            assert shown.value("document.querySelectorAll('th')[1].ariaSort") == order

    def test_paper_is_white(self, shown: Browser, page: Path) -> None:
        light, dark = (rgb(palette(scheme)["--series-1"]) for scheme in ("light", "dark"))
        shown.prefer("dark")
        shown.wait_for(f"{first_mark()} === '{dark}'")
        shown.value("dispatchEvent(new Event('beforeprint'))")
        shown.wait_for(f"{first_mark()} === '{light}'")
        widths = "[...document.querySelectorAll('.main-svg')].map(s => +s.getAttribute('width'))"
        assert set(shown.value(widths)) == {shown.value("paper.width")}
        shown.value("dispatchEvent(new Event('afterprint'))")
        shown.wait_for(f"{first_mark()} === '{dark}'")
        shown.pdf(page.with_name("out.pdf"))
        assert page.with_name("out.pdf").read_bytes().startswith(b"%PDF")
        assert shown.complaints == []

    @pytest.mark.parametrize(
        ("fault", "complaint"),
        [
            ("<script>console.error('no')</script>", "no"),
            ("<script>missing()</script>", "missing is not defined"),
            ('<img src="missing.png">', "ERR_FILE_NOT_FOUND"),
            (f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><img src="x.png">',
             "violates the following Content Security Policy"),
        ],
    )  # fmt: skip
    def test_a_fault_would_be_noticed(
        self, browser: Browser, tmp_path: Path, fault: str, complaint: str
    ) -> None:
        path = tmp_path / "bad.html"
        path.write_text(f"<html data-drawn=0>{fault}", encoding="utf-8")
        browser.open(path)
        assert complaint in " ".join(browser.complaints)
