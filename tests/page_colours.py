"""The colours of a written page: of its traces, by what they are of, and of its tables' rows."""

import json
import re
from collections.abc import Iterable, Iterator
from html import unescape

FURNITURE = ("var(--axis)", "var(--grid)", "var(--clear)")  # lines and boxes that mean nothing
Drawn = tuple[int, str, str]  # number of the figure, the thing, its colour


def colours_of(html: str) -> Iterator[Drawn]:
    """Every trace of every figure of a page, with what it is of and its colour.

    What no page says the meaning of is of its name, or of nothing.
    """
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.S)
    assert found
    for n, figure in enumerate(json.loads(found[1])["figures"]):
        for trace in figure["data"]:
            parts = (trace.get("marker") or {}, trace.get("line") or {})
            own = (*(part.get("color") for part in parts), trace.get("fillcolor"))
            for colour in filter(None, own):
                if colour not in FURNITURE:
                    yield n, trace.get("meta") or trace.get("name") or "nothing", colour


def meanings(drawn: Iterable[Drawn]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """The colours of each thing, and the things of each colour."""
    things: dict[str, set[str]] = {}
    colours: dict[str, set[str]] = {}
    for _, thing, colour in drawn:
        things.setdefault(thing, set()).add(colour)
        colours.setdefault(colour, set()).add(thing)
    return things, colours


def keys_of(html: str) -> list[tuple[str, str]]:
    """What rows of tables are about, and the colour in front of each."""
    keys = re.findall(r'<i class="key[^"]*" style="color:([^"]*)" title="([^"]*)">', html)
    return [(unescape(name), colour) for colour, name in keys]
