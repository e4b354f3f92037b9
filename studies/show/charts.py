"""Bars and curves of a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dflash_sim.studies.show.chart_style import Axis, area, error_bars, go, plain
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.palette import SERIES, Palette, grouped


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar.

    Parameters
    ----------
    low, high
        Ends of its interval.
    group
        What of the page it is about, which has a colour there.
    note
        Shown on hovering.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    group: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line, or unconnected marks.

    Parameters
    ----------
    low, high
        Ends of the interval at each point; empty without one.
    notes
        One for each point, shown on hovering.
    labels
        One for each point, written beside it.
    group
        What of the page it is about, which has a colour and a mark there; by default its name.
    points
        Marks only, as for measurements beside a predicted line.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    notes: Sequence[str] = ()
    labels: Sequence[str] = ()
    group: str = ""
    points: bool = False


def bars(rows: Sequence[Bar], *, axis: Axis, palette: Palette) -> go.Figure:
    """Horizontal bars from top to bottom, each with its value; a group has a colour.

    Parameters
    ----------
    axis
        What the length of a bar is.
    palette
        Colours of the page.
    """
    figure = go.Figure()
    groups = grouped(rows, palette)
    for paint, group, members in groups:
        values, lows, highs = zip(*((b.value, b.low, b.high) for b in members), strict=True)
        figure.add_bar(
            x=values,
            y=[row for row, b in enumerate(rows) if b.group == group],
            orientation="h",
            width=0.6,
            name=plain(group),
            meta=group,
            marker={"color": paint.colour, "line": {"width": 0}},
            error_x=error_bars(values, lows, highs, color="var(--ink)"),
            text=[_hover(b.name, _amount(b.value, axis), plain(b.note)) for b in members],
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
        )
    ends = [0.0, *(v for b in rows for v in (b.value, b.low, b.high) if v is not None)]
    figure.update_layout(
        height=110 + 40 * len(rows),
        barmode="overlay",
        showlegend=len(groups) > 1 and any(len(members) > 1 for *_, members in groups),
        xaxis=axis.layout(range=[1.15 * min(ends), 1.15 * max(ends)]),
        yaxis={
            "tickvals": list(range(len(rows))),
            "ticktext": [plain(b.name) for b in rows],
            "range": [len(rows) - 0.5, -0.5],
            "showgrid": False,
        },
        annotations=[_beside(b, axis) | {"y": row} for row, b in enumerate(rows)],
    )
    return figure


def lines(
    curves: Sequence[Curve],
    *,
    x: Axis,
    y: Axis,
    palette: Palette,
    interval: str = "90 % interval",
) -> go.Figure:
    """Curves over one abscissa, with shaded intervals; whiskers at marks and at a single point.

    Parameters
    ----------
    x, y
        What the axes show.
    palette
        Colours of the page.
    interval
        What ``low`` and ``high`` of the curves are.
    """
    figure = go.Figure()
    for curve in curves:
        thing = curve.group or curve.name
        paint, shown = palette[thing], dict[str, Any](meta=thing, mode="markers")
        shown["marker"] = paint.mark(hollow=curve.points)
        if not curve.points:
            line = {"color": paint.colour, "dash": paint.dash}
            shown |= {"mode": "lines+markers", "line": line}
        texts = _curve_hovers(curve, x, y, interval)
        if curve.labels:
            shown["mode"] += "+text"
            shown |= {"text": curve.labels, "textposition": "top right"}
            shown |= {"textfont": {"size": 11, "color": paint.colour}, "customdata": texts}
        else:
            shown["text"] = texts
        hover = "%{customdata}" if curve.labels else "%{text}"
        if curve.low and (curve.points or len(curve.x) == 1):
            shown["error_y"] = error_bars(curve.y, curve.low, curve.high, color=paint.colour)
        elif curve.low:
            own = {"color": paint.colour, "meta": thing, "legendgroup": curve.name}
            figure.add_scatter(**area(curve.x, curve.low, curve.high, **own))
        figure.add_scatter(
            x=curve.x,
            y=curve.y,
            name=plain(curve.name),
            legendgroup=curve.name,
            hovertemplate=f"{hover}<extra></extra>",
            **shown,
        )
    figure.update_layout(xaxis=x.layout(), yaxis=y.layout())
    return figure


def not_drawn(count: int) -> str:
    """Say behind a caption how many things have no colour left, if any."""
    if count < 1:
        return ""
    one = count == 1
    return f" {count} more {'is' if one else 'are'} in the table only: there are {SERIES} colours."


def _amount(value: float, axis: Axis) -> str:
    digits = f"{value:.3g}" if abs(value) < 1000 else number(value)
    return plain(f"{digits} {axis.unit}".rstrip())


def _hover(name: str, *lines: str) -> str:
    return "<br>".join([f"<b>{plain(name)}</b>", *filter(None, lines)])


def _beside(bar: Bar, axis: Axis) -> dict[str, Any]:
    """The value behind the end of its bar and interval."""
    ahead = bar.value >= 0
    ends = [v for v in (bar.value, bar.low, bar.high) if v is not None]
    return {
        "x": max(ends) if ahead else min(ends),
        "xanchor": "left" if ahead else "right",
        "xshift": 4 if ahead else -4,
        "text": _amount(bar.value, axis),
        "showarrow": False,
    }


def _curve_hovers(curve: Curve, x: Axis, y: Axis, interval: str) -> list[str]:
    texts = []
    for k, (a, b) in enumerate(zip(curve.x, curve.y, strict=True)):
        lines = [f"{plain(axis.title)} {_amount(v, axis)}" for axis, v in ((x, a), (y, b))]
        if curve.low:
            ends = f"{number(curve.low[k])} to {_amount(curve.high[k], y)}"
            lines.append(f"{plain(interval)} {ends}")
        note = plain(curve.notes[k]) if curve.notes else ""
        texts.append(_hover(curve.name, *lines, note))
    return texts
