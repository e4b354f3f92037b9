"""Charts over the load: throughput against interactivity, and speed-up by width."""

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from dflash_sim.studies.show.chart_style import Axis, Chart, error_bars, plain
from dflash_sim.studies.show.figures import number
from dflash_sim.ui.answer import SHORT, WHOLE, Answer
from dflash_sim.ui.meanings import ASKED, MEASURED, PLAIN
from dflash_sim.ui.view import Plan, View, width_field, width_of

HEIGHT = 268
_MARGIN = {"l": 52, "r": 16, "t": 10, "b": 44}
_LEGEND = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 11}}
_DASHES = ("dot", "dash", "dashdot", "longdash")  # of other widths, the narrowest first
_RING = 15
_ROOM = 1.08  # of the height, for the words above the highest point
_BESIDE = 1.06  # times the first and the last load, for marks at the ends
_APART = 0.03  # of the height, that two labels need


def frontier(view: View) -> Chart:
    """Throughput of the server against the speed that each user sees, along the load."""
    figure = _framed()
    if view.plain:
        _path(figure, view.plain, "plain decoding", PLAIN)
    best = view.best
    if best is not None and view.curve:
        _path(figure, view.curve, best.method, color_of(best))
    if best is not None:
        _ring(figure, best)
    _published(figure, view)
    _measured(figure, view)
    _beside(figure, view)
    labels = {"x": "tokens/s of each user", "y": "tokens/s of the server"}
    figure.lay_out(
        xaxis=Axis(labels["x"]).layout(rangemode="tozero"),
        yaxis=Axis(labels["y"]).layout(
            rangemode="tozero", tickformat="~s", autorangeoptions={"include": _ROOM * _top(view)}
        ),
    )
    return figure


def _top(view: View) -> float:
    """The highest throughput that is drawn [token/s]."""
    answers = [a for points in (view.curve, view.plain) for a in points.values()]
    answers += [b.found for b in view.beside if isinstance(b.found, Answer)]
    seen = [a.row["output_throughput"] for a in answers]
    return max([*seen, *(m.tok_s for m in view.measured)], default=1.0)


def gains(view: View) -> Chart:
    """Speed over plain decoding along the load, a curve for each width."""
    figure = _framed()
    own = width_of(view.best) if view.best else None
    asked = view.state.load
    for width, points in view.widths.items():
        speeds = {at: gain for at, a in points.items() if (gain := _gain(view, at, a)) is not None}
        if speeds:
            _gain_line(figure, view, width, speeds, own)
    if view.best is not None and (gain := _gain(view, asked, view.best)) is not None:
        low, high = view.best.row.get("speedup_ci90") or (None, None)
        bars = error_bars([gain], [low], [high], color=ASKED)
        bars |= {"thickness": 2, "width": 5}
        figure.add(
            "scatter", x=[asked], y=[gain], mode="markers", marker=_ring_mark(view.best),
            error_y=bars, showlegend=False,
            hovertemplate=f"<b>{gain:.2f} x</b> at {asked:g}<extra></extra>",
        )  # fmt: skip
    figure.line_at("y", 1, color=PLAIN, width=1.5)
    what = "arrivals/s" if view.state.open_loop else "requests in flight"
    figure.lay_out(
        xaxis=Axis(what, log=True).layout(range=_of_all_loads(view)),
        yaxis=Axis("times plain decoding").layout(rangemode="tozero", ticksuffix=" x"),
    )
    return figure


def _of_all_loads(view: View) -> list[float]:
    """The loads that are to come too, as a logarithmic axis has its ends: it does not move."""
    loads = Plan(view.state).loads()
    return [log10(loads[0] / _BESIDE), log10(_BESIDE * loads[-1])]


def _gain(view: View, load: float, answer: Answer) -> float | None:
    """Speed over plain decoding: of the server, or of one request where the load is given."""
    beside = answer.plain or (view.plain[load].row if load in view.plain else None)
    if beside is None:
        return None
    if view.state.open_loop:
        return float(beside["mean_tpot_ms"] / answer.row["mean_tpot_ms"])
    return float(answer.row["output_throughput"] / beside["output_throughput"])


def _gain_line(
    figure: Chart, view: View, width: int, speeds: Mapping[float, float], own: int | None
) -> None:
    what = "steps" if width_field(view.state) == "steps" else "block"
    mine = width == own
    others = [w for w in view.widths if w != own]
    dash = "solid" if mine else _DASHES[others.index(width) % len(_DASHES)]
    hover = [f"<b>{what} {width}</b><br>{s:.2f} x at {at:g}" for at, s in speeds.items()]
    figure.add(
        "scatter", x=list(speeds), y=list(speeds.values()), mode="lines", name=f"{what} {width}",
        line={"color": ASKED, "width": 2.5 if mine else 1.5, "dash": dash},
        opacity=1 if mine else 0.7,
        text=hover, hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def interactivity_tok_s(row: Mapping[str, Any]) -> float:
    """Tokens that one user sees in a second, once the first is there [token/s]."""
    return float(1000 / row["mean_tpot_ms"])


def _path(figure: Chart, points: Mapping[float, Answer], name: str, color: str) -> None:
    rows = [(load, a.row, a.quality) for load, a in sorted(points.items())]
    hover = [
        f"<b>{plain(name)}</b><br>{load:g} {_loaded(row)}<br>{number(row['output_throughput'])} "
        f"tok/s{_span(row)}<br>{number(interactivity_tok_s(row))} tok/s each"
        + ("<br>one run, no interval yet" if quality == SHORT else "")
        for load, row, quality in rows
    ]
    ends = zip(*(r.get("output_throughput_ci90") or (None, None) for _, r, _ in rows), strict=True)
    figure.add(
        "scatter", x=[interactivity_tok_s(row) for _, row, _ in rows],
        y=[row["output_throughput"] for _, row, _ in rows],
        mode="lines+markers+text", name=plain(name),
        line={"color": color, "width": 2},
        marker={
            "color": color, "size": 7,
            "symbol": ["circle" if q == WHOLE else "circle-open" for *_, q in rows],
        },
        text=_labels(rows), textposition="top right", cliponaxis=False,
        textfont={"size": 10, "color": color},
        customdata=hover, hovertemplate="%{customdata}<extra></extra>",
        error_y=error_bars([row["output_throughput"] for _, row, _ in rows], *ends, color=color),
    )  # fmt: skip


def _labels(rows: Sequence[tuple[float, Mapping[str, Any], str]]) -> list[str]:
    """The load at each point, but where it would be written over that of the one before."""
    most = max((row["output_throughput"] for _, row, _ in rows), default=1)
    found, at = list[str](), -most
    for load, row, _ in rows:
        far = abs(row["output_throughput"] - at) > _APART * most
        found.append(f"{load:g}" if far else "")
        at = row["output_throughput"] if far else at
    return found


def color_of(answer: Answer) -> str:
    """Return the colour of an answer: plain decoding has its own, also where it is asked for."""
    return ASKED if answer.block > 1 else PLAIN


def _loaded(row: Mapping[str, Any]) -> str:
    return "arrivals/s" if row["request_rate"] else "in flight"


def _span(row: Mapping[str, Any]) -> str:
    found = row.get("output_throughput_ci90")
    return f"<br>90 % interval {number(found[0])} to {number(found[1])}" if found else ""


def _published(figure: Chart, view: View) -> None:
    """Published rows of these very servers, where each user has his share of the throughput."""
    answers = [a for points in (view.curve, view.plain) for a in points.values()]
    rows = [a.row for a in answers if a.row.get("published_output_throughput")]
    if rows:
        seen = [(r["max_concurrency"], r["published_output_throughput"]) for r in rows]
        figure.add(
            "scatter", x=[tok_s / conc for conc, tok_s in seen], y=[tok_s for _, tok_s in seen],
            mode="markers", name="published", marker=_diamond(hollow=False),
            text=[_source(r) for r in rows], hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip


def _source(row: Mapping[str, Any]) -> str:
    used = "used for fitting" if row["published_fitted"] else "not used for fitting"
    tok_s = number(row["published_output_throughput"])
    return (
        f"<b>published: {tok_s} tok/s</b><br>{row['max_concurrency']} in flight, {row['method']}"
        f"<br>{plain(str(row['published_source']))}, {used}"
    )


def _measured(figure: Chart, view: View) -> None:
    if view.measured:
        figure.add(
            "scatter", x=[m.each_tok_s for m in view.measured], y=[m.tok_s for m in view.measured],
            mode="markers", name="your benchmark", marker=_diamond(hollow=True),
            text=[f"<b>{plain(m.row)}</b><br>{m.load:g} in flight<br>{number(m.tok_s)} tok/s<br>"
                  f"{number(m.each_tok_s)} tok/s each" for m in view.measured],
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip


def letter(at: int) -> str:
    """Return what an answer that was kept is called."""
    return chr(ord("A") + at)


def _beside(figure: Chart, view: View) -> None:
    """Answers that were kept, each by its letter."""
    kept = [(letter(i), b.found) for i, b in enumerate(view.beside)]
    there = [(name, a) for name, a in kept if isinstance(a, Answer)]
    if there:
        figure.add(
            "scatter", x=[interactivity_tok_s(a.row) for _, a in there],
            y=[a.row["output_throughput"] for _, a in there],
            mode="markers+text", name="kept", text=[f"<b>{name}</b>" for name, _ in there],
            textposition="middle right", cliponaxis=False,
            marker={"symbol": "square-open", "size": 11, "line": {"width": 2},
                    "color": [color_of(a) for _, a in there]},
            customdata=[f"<b>{name}</b>: {plain(a.title)}<br>{number(a.row['output_throughput'])} "
                        f"tok/s{_span(a.row)}" for name, a in there],
            hovertemplate="%{customdata}<extra></extra>",
        )  # fmt: skip


def _diamond(*, hollow: bool) -> dict[str, Any]:
    return {
        "symbol": "star-diamond-open" if hollow else "diamond",
        "size": 11 if hollow else 7,
        "color": MEASURED,
        "line": {"width": 1.5, "color": MEASURED},
    }


def _ring_mark(answer: Answer) -> dict[str, Any]:
    """The answer itself: a full disc, or a ring as long as it is of a short run."""
    whole, color = answer.quality == WHOLE, color_of(answer)
    return {
        "size": _RING,
        "color": color,
        "symbol": "circle" if whole else "circle-open",
        "line": {"width": 3, "color": color},
    }


def _ring(figure: Chart, answer: Answer) -> None:
    row = answer.row
    low, high = row.get("output_throughput_ci90") or (None, None)
    bars = error_bars([row["output_throughput"]], [low], [high], color=color_of(answer))
    figure.add(
        "scatter", x=[interactivity_tok_s(row)], y=[row["output_throughput"]], mode="markers",
        marker=_ring_mark(answer), error_y=bars | {"thickness": 2, "width": 5},
        showlegend=False, hoverinfo="skip",
    )  # fmt: skip


def _framed() -> Chart:
    figure = Chart()
    figure.lay_out(height=HEIGHT, margin=_MARGIN, legend=_LEGEND, hovermode="closest")
    return figure
