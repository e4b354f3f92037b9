"""The house style of charts: axes, intervals, the layout that all figures share.

A colour is the name of a custom property of ``report.css``, and the page's script looks it up: one
figure serves a light page, a dark one and paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dflash_sim.studies.show.palette import SERIES

__all__ = ["TEMPLATE", "Axis", "area", "error_bars", "get_plotlyjs", "go", "plain"]

_AREA_OPACITY = 0.16
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
        return {"title": {"text": title}, "tickformat": "~s" if self.log else "", **kind, **more}


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
