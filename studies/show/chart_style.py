"""The house style of charts: axes, intervals, the layout that all figures share.

A colour is the name of a custom property of ``report.css``, and the page's script looks it up: one
figure serves a light page, a dark one and paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dflash_sim.studies.show.palette import SERIES

__all__ = ["TEMPLATE", "Axis", "Chart", "area", "error_bars", "get_plotlyjs", "go", "plain"]

_AREA_OPACITY = 0.16
_PLAINLY = ",~r"  # 0.5 and 20,000: Plotly's own log ticks say 2 for 20, and SI says 500m for 0.5
_FONT = {"family": "system-ui, sans-serif", "size": 13, "color": "var(--ink)"}
_AXIS = {
    "automargin": True,
    "gridcolor": "var(--grid)",
    "linecolor": "var(--axis)",
    "showline": True,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "var(--axis)",
    "title": {"standoff": 12, "font": _FONT},
    "zeroline": False,
    "zerolinecolor": "var(--muted)",
}
TEMPLATE: dict[str, Any] = {
    "layout": {
        "height": 420,
        "hovermode": "closest",
        "margin": {"l": 64, "r": 24, "t": 56, "b": 56},
        "paper_bgcolor": "var(--page)",
        "plot_bgcolor": "var(--page)",
        "colorway": [f"var(--series-{i + 1})" for i in range(SERIES)],
        "font": _FONT,
        "hoverlabel": {
            "align": "left",
            "bgcolor": "var(--raised)",
            "bordercolor": "var(--axis)",
            "font": _FONT,
        },
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "yref": "paper",
        },
        "modebar": {
            "bgcolor": "var(--clear)",
            "color": "var(--axis)",
            "activecolor": "var(--ink)",
        },
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
}


@dataclass(frozen=True)
class Axis:
    """An axis: what it shows and how it is labelled.

    Parameters
    ----------
    title
        The quantity, such as ``"output throughput"``.
    unit
        Printed in brackets behind it; empty for a count.
    log
        Logarithmic.
    """

    title: str
    unit: str = ""
    log: bool = False

    def layout(self, before: str = "", **more: Any) -> dict[str, Any]:
        """Plotly's words for it; ``before`` goes in front of the title."""
        unit = f" [{self.unit}]" if self.unit else ""
        kind = {"type": "log", "dtick": "D2"} if self.log else {}
        title = plain(f"{before} {self.title}{unit}".strip())
        said = _PLAINLY if self.log else ""
        return {"title": {"text": title}, "tickformat": said, **kind, **more}


@dataclass
class Chart:
    """A figure in the words of plotly.js, as it is sent to a page.

    ``go.Figure`` checks each word, which takes longer than a short answer; it takes a ``spec`` too.
    """

    data: list[dict[str, Any]] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)

    def add(self, kind: str, **trace: Any) -> None:
        """Add a trace, such as ``bar`` or ``scatter``."""
        self.data.append({"type": kind, **trace})

    def annotate(self, **words: Any) -> None:
        """Write something at a place."""
        self.layout.setdefault("annotations", []).append(words)

    def line_at(self, axis: str, at: float, **line: Any) -> None:
        """Draw a line through the whole chart, where ``x`` or ``y`` is ``at``."""
        other = "y" if axis == "x" else "x"
        ends = {f"{axis}0": at, f"{axis}1": at, f"{other}0": 0, f"{other}1": 1}
        places = {f"{axis}ref": axis, f"{other}ref": f"{other} domain"}
        shape = {"type": "line", **ends, **places, "line": line}
        self.layout.setdefault("shapes", []).append(shape)

    def lay_out(self, **words: Any) -> None:
        """Set parts of the layout, each as a whole."""
        self.layout.update(words)

    def spec(self) -> dict[str, Any]:
        """Return it as data and layout."""
        return {"data": self.data, "layout": self.layout}


def plain(text: str) -> str:
    """Text that plotly shows as it is: it would read tags."""
    return escape(text, quote=False)


def error_bars(
    middle: Sequence[float],
    low: Sequence[float | None],
    high: Sequence[float | None],
    *,
    color: str,
) -> dict[str, Any]:
    """Whiskers from ``low`` to ``high``; none where an end is missing."""
    both = list(zip(middle, low, high, strict=True))
    return {
        "type": "data",
        "symmetric": False,
        "array": [0 if b is None or a is None else max(b - m, 0) for m, a, b in both],
        "arrayminus": [0 if b is None or a is None else max(m - a, 0) for m, a, b in both],
        "color": color,
        "thickness": 1,
        "width": 0,
        "visible": any(a is not None and b is not None for _, a, b in both),
    }


def area(
    x: Sequence[float], low: Sequence[float], high: Sequence[float], *, color: str, **more: Any
) -> dict[str, Any]:
    """The area between two curves, as a trace."""
    return {
        "x": [*x, *reversed(x)],
        "y": [*low, *reversed(high)],
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": color,
        "opacity": _AREA_OPACITY,
        "hoverinfo": "skip",
        "showlegend": False,
        **more,
    }
