"""Predictions against observations: both, the errors, and the errors by a factor's levels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log10
from typing import Any

from dflash_sim.studies.show.chart_style import Axis, area, error_bars, go, plain
from dflash_sim.studies.show.figures import number, percent
from dflash_sim.studies.show.palette import Palette, grouped

THROUGHPUT = Axis("output throughput", "tok/s", log=True)
_GOLDEN = 0.618034  # its multiples spread evenly, and neighbours land far apart


@dataclass(frozen=True, kw_only=True)
class Point:
    """An observation, the prediction of the same thing, and the interval of that prediction.

    Parameters
    ----------
    name
        Which row it is.
    group
        What it is coloured by, such as the method.
    observed, predicted, low, high
        All in one unit, and positive.
    """

    name: str
    group: str
    observed: float
    predicted: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        for value in (self.observed, self.predicted, self.low, self.high):
            if value is not None and not (isfinite(value) and value > 0):
                msg = f"{self.name}: a point needs positive finite numbers, not {value}."
                raise ValueError(msg)

    @property
    def error(self) -> float:
        """Return how far the prediction is above the observation [1]."""
        return self.predicted / self.observed - 1

    def interval_error(self) -> tuple[float | None, float | None]:
        """Return the errors of both ends of the interval [1]."""
        low, high = (v and v / self.observed - 1 for v in (self.low, self.high))
        return low, high


def scatter_against(
    points: Sequence[Point],
    *,
    palette: Palette,
    axis: Axis = THROUGHPUT,
    band: float = 0.05,
    interval: str = "90 % interval",
) -> go.Figure:
    """Predicted against observed, and below it the error of each point on the same abscissa.

    Parameters
    ----------
    palette
        Colours of the page.
    axis
        The quantity that was observed and predicted.
    band
        Half width of the shaded band [1].
    interval
        What ``low`` and ``high`` of the points are.
    """
    values = [v for p in points for v in (p.observed, p.predicted)] or [1.0]
    ends = (min(values) / 1.2, max(values) * 1.2)
    figure = go.Figure(_diagonal(ends, band))
    for paint, group, members in grouped(points, palette):
        name = plain(f"{group}: {_summary(members)}")
        shown = _hovering(members, axis, interval)
        shown |= {"mode": "markers", "marker": paint.mark(), "name": name, "legendgroup": group}
        shown["meta"] = group
        figure.add_scatter(
            **shown,
            x=[p.observed for p in members],
            y=[p.predicted for p in members],
            error_y=_whiskers(members, color=paint.colour),
        )
        figure.add_scatter(
            **shown,
            x=[p.observed for p in members],
            y=[100 * p.error for p in members],
            error_y=_error_whiskers(members, color=paint.colour),
            yaxis="y2",
            showlegend=False,
        )
    reached = [v for p in points for v in (p.error, *p.interval_error()) if v is not None]
    span = [log10(v) for v in ends] if axis.log else list(ends)
    figure.update_layout(
        height=620,
        xaxis=axis.layout("observed", range=span, anchor="y2"),
        yaxis=axis.layout("predicted", range=span, domain=[0.36, 1]),
        yaxis2=_error_axis(reached, band) | {"domain": [0, 0.28], "title": {"text": "error [%]"}},
        shapes=_strip("y2", band),
    )
    return figure


def residual_strips(
    groups: Mapping[str, Sequence[Point]],
    *,
    factor: str,
    palette: Palette,
    axis: Axis = THROUGHPUT,
    band: float = 0.05,
    interval: str = "90 % interval",
) -> go.Figure:
    """Errors by the levels of a factor: quartiles and every point, one strip a level.

    Parameters
    ----------
    groups
        The points of each level, in the order shown.
    factor
        What the levels are levels of, such as ``"concurrency"``.
    palette, axis, band, interval
        As in :func:`scatter_against`; colours are those of the points' own groups.
    """
    levels = {level: points for level, points in groups.items() if points}
    points = [p for level in levels.values() for p in level]
    rows = [row for row, level in enumerate(levels.values()) for _ in level]
    heights = [row + ((k * _GOLDEN) % 1 - 0.5) / 2 for k, row in enumerate(rows)]
    figure = go.Figure([_box(level, row) for row, level in enumerate(levels.values())])
    for paint, group, members in grouped(points, palette):
        figure.add_scatter(
            **_hovering(members, axis, interval),
            mode="markers",
            marker=paint.mark(),
            x=[100 * p.error for p in members],
            y=[h for h, p in zip(heights, points, strict=True) if p.group == group],
            name=plain(group),
            meta=group,
        )
    figure.update_layout(
        height=150 + 56 * len(levels),
        xaxis=_error_axis([p.error for p in points], band),
        yaxis={
            "title": {"text": plain(factor)},
            "tickvals": list(range(len(levels))),
            "ticktext": [_level(name, level) for name, level in levels.items()],
            "range": [len(levels) - 0.5, -0.5],
            "showgrid": False,
        },
        shapes=_strip("x", band),
    )
    return figure


def _summary(points: Sequence[Point]) -> str:
    mape = sum(abs(p.error) for p in points) / len(points)
    return f"{len(points)} rows, MAPE {percent(mape)}"


def _diagonal(ends: tuple[float, float], band: float) -> list[dict[str, Any]]:
    """Draw the line where a prediction is right, and the band around it."""
    low, high = ([v * (1 + side) for v in ends] for side in (-band, band))
    style = {"name": f"within {100 * band:g} %", "showlegend": True, "legendrank": 2000}
    line = {"color": "var(--muted)", "width": 1}
    right = {"x": ends, "y": ends, "mode": "lines", "line": line, "hoverinfo": "skip"}
    return [area(ends, low, high, color="var(--muted)", **style), right | {"showlegend": False}]


def _hovering(points: Sequence[Point], axis: Axis, interval: str) -> dict[str, Any]:
    """Return what a point says when the pointer is on it."""
    texts = []
    for p in points:
        unit = plain(f" {axis.unit}" if axis.unit else "")
        lines = [
            f"<b>{plain(p.name)}</b>",
            f"{plain(p.group)}: {100 * p.error:+.1f} %",
            f"observed {number(p.observed)}{unit}",
            f"predicted {number(p.predicted)}{unit}",
        ]
        if p.low is not None and p.high is not None:
            lines.append(f"{plain(interval)} {number(p.low)} to {number(p.high)}{unit}")
        texts.append("<br>".join(lines))
    return {"text": texts, "hovertemplate": "%{text}<extra></extra>"}


def _whiskers(points: Sequence[Point], *, color: str) -> dict[str, Any]:
    middle = [p.predicted for p in points]
    return error_bars(middle, [p.low for p in points], [p.high for p in points], color=color)


def _error_whiskers(points: Sequence[Point], *, color: str) -> dict[str, Any]:
    ends = [[v if v is None else 100 * v for v in p.interval_error()] for p in points]
    middle = [100 * p.error for p in points]
    return error_bars(middle, [e[0] for e in ends], [e[1] for e in ends], color=color)


def _error_axis(shown: Iterable[float], band: float) -> dict[str, Any]:
    """Return an axis that reaches as far to the left of no error as to the right."""
    most = 110 * max(2 * band, *map(abs, shown), 0)
    return {
        "title": {"text": f"error [%], shaded within {100 * band:g} %"},
        "range": [-most, most],
        "zeroline": True,
    }


def _strip(along: str, band: float) -> list[dict[str, Any]]:
    """The band on an axis of errors."""
    ends = {"x": ("x", "y"), "y2": ("y", "x")}[along]
    own, other = ends
    return [
        {
            "type": "rect",
            "layer": "below",
            "line": {"width": 0},
            "fillcolor": "var(--muted)",
            "opacity": 0.16,
            f"{own}ref": along,
            f"{own}0": -100 * band,
            f"{own}1": 100 * band,
            f"{other}ref": "paper",
            f"{other}0": 0,
            f"{other}1": 1,
        }
    ]


def _box(points: Sequence[Point], row: int) -> go.Box:
    """Quartiles of the errors of a level."""
    return go.Box(
        x=[100 * p.error for p in points],
        y=[row] * len(points),
        orientation="h",
        width=0.7,
        boxpoints=False,
        hoverinfo="skip",
        showlegend=False,
        line={"color": "var(--axis)", "width": 1},
        fillcolor="var(--clear)",
    )


def _level(name: str, points: Sequence[Point]) -> str:
    return f"{plain(name)}<br><sub>{_summary(points)}</sub>"
