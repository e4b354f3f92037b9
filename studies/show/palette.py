"""Colours of a page: what is called alike looks alike, in every chart and table of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

SERIES = 6  # --series-1 to --series-6 of report.css
PLAIN, MEASURED = "var(--muted)", "var(--ink)"
PLAIN_DECODING = "plain decoding"  # what a page calls it, whatever else is on it
_MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


@dataclass(frozen=True)
class Paint:
    """How one thing is drawn: a colour, and for whoever cannot tell two apart a mark and a dash.

    Parameters
    ----------
    colour
        A name of ``report.css``, which the page's script looks up.
    hollow
        True from the seventh thing on, whose colours are those of the first again.
    """

    colour: str
    symbol: str = _MARKS[0]
    dash: str = _DASHES[0]
    hollow: bool = False

    def mark(self, *, hollow: bool = False) -> dict[str, Any]:
        """Return the mark of a point; ``hollow`` marks are of measurements."""
        open_ = hollow or self.hollow
        edge = {"color": self.colour if open_ else "var(--page)", "width": 1.5 if open_ else 0.5}
        symbol = self.symbol + ("-open" if open_ else "")
        return {"color": self.colour, "symbol": symbol, "size": 8, "opacity": 0.9, "line": edge}


class Palette:
    """One page's assignment: plain decoding is grey, what was measured black, others have colours.

    Parameters
    ----------
    names
        Things in the order of their colours; others follow as they are asked for.
    plain, measured
        Things that are plain decoding, or were measured.

    Examples
    --------
    >>> Palette(["block 8", "block 16"])["block 16"].colour
    'var(--series-2)'
    """

    def __init__(
        self, names: Iterable[str] = (), *, plain: Iterable[str] = (), measured: Iterable[str] = ()
    ) -> None:
        self._paints: dict[str, Paint] = {}
        for colour, grey in ((PLAIN, [PLAIN_DECODING, *plain]), (MEASURED, measured)):
            for i, name in enumerate(dict.fromkeys(grey)):
                self._paints[name] = Paint(colour, _MARKS[i % SERIES], _DASHES[i % SERIES])
        self._coloured = 0
        for name in names:
            self[name]

    def __getitem__(self, name: str) -> Paint:
        """Return how a thing is drawn on this page."""
        if name not in self._paints:
            i, self._coloured = self._coloured, self._coloured + 1
            own = f"var(--series-{i % SERIES + 1})", _MARKS[i % SERIES], _DASHES[i % SERIES]
            self._paints[name] = Paint(*own, hollow=i >= SERIES)
        return self._paints[name]


class Grouped(Protocol):
    """Anything that belongs to a thing of the page by name."""

    @property
    def group(self) -> str:
        """Name of the thing."""


G = TypeVar("G", bound=Grouped)


def grouped(members: Iterable[G], palette: Palette) -> list[tuple[Paint, str, list[G]]]:
    """The groups as they appear, each with its paint, its name and its members."""
    groups: dict[str, list[G]] = {}
    for each in members:
        groups.setdefault(each.group, []).append(each)
    return [(palette[name], name, own) for name, own in groups.items()]
