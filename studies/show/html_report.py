"""A report: one HTML file with all it needs, for a screen by day or night, and for paper."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any

from dflash_sim.studies.show.chart_style import TEMPLATE, Chart, get_plotlyjs, go
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.files import write_whole
from dflash_sim.studies.show.palette import Palette
from dflash_sim.studies.show.visible import without_controls

Cell = str | int | float | None

_NUMBER = re.compile(r"([-+]?[\d,]*\.?\d+)( ?%| ?x| ?ms| ?s)?")
_CODE = re.compile(r"`([^`]+)`")
_UNIT = re.compile(r"(?<=\d) (?=%)")  # a line does not end there
_NONE = "\u2013"
_CONTENTS_FROM = 3  # sections; fewer need no list of contents
# Nothing is loaded and nothing is sent, whatever the text of a user's file contains.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="dflash-sim">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{lead}
{contents}</header>
<main>
{body}
</main>
<footer>Written by dflash-sim. The file holds all it needs and loads nothing.</footer>
<script type="application/json" id="figures">{figures}</script>
<script>{plotly}</script>
<script>
{script}</script>
</body>
</html>
"""


class Report:
    """Sections of text, figures, tables and facts, written as one page.

    Text is plain, except that an empty line ends a paragraph and `backticks` mark code.
    The same calls write the same bytes.

    Parameters
    ----------
    title
        The heading of the page.
    lead
        What the report says, in a sentence or two.
    palette
        Colours of the things that it is about, for its charts and its tables.

    Examples
    --------
    ::

        report = Report("How far off", "112 rows, none of them used for fitting.")
        report.section("Throughput")
        figure = scatter_against(points, palette=report.palette)
        report.figure(figure, "Predicted against observed throughput.")
        report.table(["method", "MAPE"], [["dflash", "4.7 %"]], "By method.", things=["dflash"])
        report.write(Path("out.html"))
    """

    def __init__(self, title: str, lead: str, palette: Palette | None = None) -> None:
        self.title, self.lead = title, lead
        self.palette = palette or Palette()
        self._sections: list[str] = []
        self._body: list[str] = []
        self._figures: list[str] = []
        self._tables = 0

    def section(self, title: str, text: str = "") -> None:
        """Begin a section."""
        self._sections.append(title)
        self._body.append(f'<h2 id="section-{len(self._sections)}">{_inline(title)}</h2>')
        self.text(text)

    def text(self, text: str) -> None:
        """Add paragraphs."""
        self._body.append(_paragraphs(text))

    def figure(self, figure: go.Figure | Chart, caption: str) -> None:
        """Add a figure, in the house style whatever its template, with a caption below."""
        spec = figure.spec() if isinstance(figure, Chart) else _spec(figure)
        self._figures.append(_script_json(spec))
        n = len(self._figures)
        height = spec["layout"].get("height", TEMPLATE["layout"]["height"])
        self._body.append(
            f'<figure class="chart"><div class="plot" id="plot-{n}" role="img" '
            f'aria-labelledby="figure-{n}" style="min-height:{height}px"></div>\n'
            f'<figcaption id="figure-{n}"><b>Figure {n}.</b> {_inline(caption)}</figcaption>'
            "</figure>"
        )

    def table(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[Cell]],
        caption: str,
        things: Sequence[str | None] = (),
    ) -> None:
        """Add a table with a caption above; its columns can be sorted, and numbers stand right.

        Numbers may come as such or as text, such as ``"4.7 %"``; None is an empty cell.

        Parameters
        ----------
        things
            What each row is about, whose colour is shown before it; None for a row without one.
        """
        lines = [list(row) for row in rows]
        if any(len(line) != len(header) for line in lines):
            msg = f"table '{caption}': every row needs {len(header)} cells."
            raise ValueError(msg)
        right = [_is_numeric([line[i] for line in lines]) for i in range(len(header))]
        head = "".join(_heading(name, n) for name, n in zip(header, right, strict=True))
        keys = [self._key(thing) for thing in things or [None] * len(lines)]
        body = "\n".join(_row(*each, right) for each in zip(keys, lines, strict=True))
        self._tables += 1
        self._body.append(
            f'<figure class="table"><figcaption><b>Table {self._tables}.</b> {_inline(caption)}'
            f'</figcaption>\n<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div></figure>"
        )

    def facts(self, facts: Mapping[str, Cell | Sequence[str]]) -> None:
        """Add a list of names and values, such as a scenario or the evidence behind numbers."""
        items = "\n".join(f"<dt>{escape(k)}</dt><dd>{_fact(v)}</dd>" for k, v in facts.items())
        self._body.append(f"<dl>\n{items}\n</dl>")

    def html(self) -> str:
        """The whole page."""
        source = files("dflash_sim.studies.show")
        figures = f'{{"template":{_script_json(TEMPLATE)},"figures":[{",".join(self._figures)}]}}'
        page = _PAGE.format(
            policy=POLICY,
            title=escape(self.title),
            style=source.joinpath("report.css").read_text(encoding="utf-8"),
            lead=_paragraphs(self.lead).replace("<p>", '<p class="lead">'),
            contents=self._contents(),
            body="\n".join(filter(None, self._body)),
            figures=figures,
            plotly=get_plotlyjs(),
            script=source.joinpath("report.js").read_text(encoding="utf-8"),
        )
        return without_controls(page)

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all."""
        write_whole(path, self.html())

    def _key(self, thing: str | None) -> str:
        """The colour of a thing, in front of its row."""
        if thing is None:
            return ""
        paint = self.palette[thing]
        kind = "key hollow" if paint.hollow else "key"
        name = escape(thing)
        return f'<i class="{kind}" style="color:{paint.colour}" title="{name}"></i>'

    def _contents(self) -> str:
        if len(self._sections) < _CONTENTS_FROM:
            return ""
        items = (
            f'<li><a href="#section-{n}">{_inline(title)}</a></li>'
            for n, title in enumerate(self._sections, start=1)
        )
        return f"<nav><ol>{''.join(items)}</ol></nav>\n"


def _spec(figure: go.Figure) -> dict[str, Any]:
    spec = json.loads(figure.to_json(engine="json"))
    spec["layout"].pop("template", None)
    return {"data": spec["data"], "layout": spec["layout"]}


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(_UNIT.sub("\u00a0", text)))


def _paragraphs(text: str) -> str:
    parts = re.split(r"\n\s*\n", text.strip())
    return "\n".join(f"<p>{_inline(part)}</p>" for part in parts if part)


def _script_json(value: object) -> str:
    """JSON that no text in it can end: in a script element, ``<`` is what ends it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _is_numeric(column: Sequence[Cell]) -> bool:
    filled = [cell for cell in column if cell not in (None, "", _NONE)]
    return bool(filled) and all(
        isinstance(cell, (int, float)) or _NUMBER.fullmatch(cell) for cell in filled if cell
    )


def _heading(name: str, numeric: bool) -> str:
    kind = ' class="n"' if numeric else ""
    return f'<th scope="col"{kind}><button type="button">{_inline(name)}</button></th>'


def _row(key: str, line: Sequence[Cell], right: Sequence[bool]) -> str:
    keys = [key] + [""] * len(line)
    return f"<tr>{''.join(map(_cell, line, right, keys))}</tr>"


def _cell(cell: Cell, numeric: bool, key: str) -> str:
    if not numeric:
        return f"<td>{key}{_inline(_shown(cell))}</td>"
    value = _sort_key(cell)
    data = "" if value is None else f' data-key="{value!r}"'
    return f'<td class="n"{data}>{key}{escape(_shown(cell))}</td>'


def _shown(cell: Cell) -> str:
    if cell is None or cell == "":
        return _NONE
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    return number(cell) if isinstance(cell, float) else cell


def _sort_key(cell: Cell) -> float | None:
    if isinstance(cell, str):
        found = _NUMBER.fullmatch(cell)
        return float(found[1].replace(",", "")) if found else None
    return float(cell) if cell is not None and isfinite(cell) else None


def _fact(value: Cell | Sequence[str]) -> str:
    if isinstance(value, (str, int, float)) or value is None:
        return _inline(_shown(value))
    return "<br>".join(_inline(item) for item in value)
