"""Charts of one answer: its cycle, memory, cost, accepted drafts, and why it is what it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from dflash_sim.profiles.units import GIGA
from dflash_sim.studies.show.chart_style import Axis, Chart, error_bars, plain
from dflash_sim.studies.show.figures import number
from dflash_sim.ui.answer import Answer, Reasons
from dflash_sim.ui.curves import color_of
from dflash_sim.ui.meanings import (
    ASKED,
    CACHE,
    DRAFTER,
    HOST,
    PHASES,
    PLAIN,
    REST,
    STATES,
    TARGET,
)

_MARGIN = {"l": 8, "r": 12, "t": 24, "b": 38}
_LEGEND = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 11},
    "itemclick": False, "itemdoubleclick": False, "traceorder": "normal"}  # fmt: skip
_FAINT = "var(--grid)"
_LETTERS = 68  # that fit into a whole bar
_RUNGS = {  # of a waterfall, by what of the server each changes
    "plain decoding": PLAIN,
    "acceptance": ASKED,
    "verification": TARGET,
    "drafting": DRAFTER,
    "bookkeeping": STATES,
    "fewer at once": CACHE,
}
_HIDDEN_OPACITY = 0.35

Part = tuple[str, float, str, str]  # what, how much, its colour, a note


def cycle(answer: Answer) -> Chart:
    """One step in time: what the GPU does, and below it what of the host's work it hides."""
    row = answer.row
    parts = [
        (answer.names[name], float(row[name] or 0), color, "")
        for name, _, color in PHASES
        if row[name]
    ]
    figure = _stacked(parts, "ms", lane="GPU")
    hidden = max(0.0, row["host_ms"] - row["host_exposed_ms"])
    figure.add(
        "bar", x=[hidden], y=["host"], orientation="h", width=0.5, name="hidden host",
        marker={"color": HOST, "opacity": _HIDDEN_OPACITY}, showlegend=False,
        hovertemplate=f"<b>host work hidden behind the GPU</b><br>{hidden:.2f} ms<extra></extra>",
        text=[f"host, hidden {hidden:.2f}"], textposition="outside",
        textfont={"size": 11, "color": "var(--ink)"}, cliponaxis=False,
    )  # fmt: skip
    figure.lay_out(
        height=128,
        xaxis=Axis("one step", "ms").layout(rangemode="tozero"),
        yaxis={"categoryorder": "array", "categoryarray": ["host", "GPU"], "showgrid": False},
    )
    return figure


def memory(answer: Answer) -> Chart:
    """The memory of one GPU, in the order in which it is given out."""
    figure = _stacked(memory_parts(answer.memory), "GB", lane="")
    figure.lay_out(
        height=128,
        xaxis=Axis("memory of one GPU", "GB").layout(rangemode="tozero"),
        yaxis={"showticklabels": False, "ticks": "", "showgrid": False},
    )
    return figure


def memory_parts(memory: Mapping[str, Any]) -> list[Part]:
    """The parts [GB], which add up to the whole GPU."""
    before = memory["gpu_bytes"] - memory["free_bytes"]
    weights, drafter = memory["weight_bytes"], memory["draft_weight_bytes"]
    counted = weights + (drafter if memory["draft_weights_counted"] else 0)
    static = counted + memory["held_bytes"] + memory["gdn_bytes"] + memory["kv_bytes"]
    outside = 0 if memory["draft_weights_counted"] else drafter
    rest = memory["gpu_bytes"] - before - static - outside
    parts = [
        ("before loading", before, REST, "CUDA context, NCCL, workspaces"),
        ("weights", weights, TARGET, str(memory["weight_formats"])),
        ("drafter", drafter, DRAFTER, ""),
        ("images", memory["held_bytes"], REST, "cache of encoded images"),
        ("states", memory["gdn_bytes"], STATES, f"{memory['state_slots']:,} slots"),
        ("KV cache", memory["kv_bytes"], CACHE, f"{memory['kv_tokens']:,} tokens"),
        ("left outside", rest, _FAINT, "activations, CUDA graphs"),
    ]
    return [(what, size / GIGA, color, note) for what, size, color, note in parts if size > 0]


def cost(answer: Answer) -> Chart:
    """What a million tokens of answers cost, beside plain decoding."""
    lanes = [("plain decoding", answer.plain, PLAIN), (answer.method, answer.row, color_of(answer))]
    prices = [(n, row["usd_per_mtok_out"], c) for n, row, c in lanes if row is not None]
    prices = [(n, usd, c) for n, usd, c in prices if usd]
    figure = Chart()
    for name, usd, color in prices:
        middle = [usd["typical"]]
        bars = error_bars(middle, [usd["low"]], [usd["high"]], color="var(--ink)")
        figure.add(
            "bar", x=middle, y=[plain(name)], orientation="h", width=0.55, marker={"color": color},
            error_x=bars, showlegend=False,
            hovertemplate=f"<b>{plain(name)}</b><br>${usd['typical']:.2f}, from ${usd['low']:.2f} "
            f"to ${usd['high']:.2f} by who rents the GPU out<extra></extra>",
        )  # fmt: skip
        figure.annotate(
            x=usd["high"], y=plain(name), text=f"${usd['typical']:.2f}", showarrow=False,
            xanchor="left", xshift=6,
        )  # fmt: skip
    most = max((usd["high"] for _, usd, _ in prices), default=1)
    figure.lay_out(
        height=140, margin={**_MARGIN, "t": 8},
        xaxis=Axis("$ per million output tokens").layout(range=[0, 1.25 * most]),
        yaxis={"showgrid": False, "automargin": True},
    )  # fmt: skip
    return figure


def accepted(answer: Answer) -> Chart:
    """How many drafts a verify step accepts, as shares of the steps."""
    counts = list(answer.row["accept_histogram"] or [])
    total = sum(counts) or 1
    share = [100 * n / total for n in counts]
    figure = Chart()
    figure.add(
        "bar", x=list(range(len(counts))), y=share, marker={"color": ASKED}, width=0.8,
        showlegend=False,
        hovertemplate="<b>%{x} drafts accepted</b><br>%{y:.1f} % of the steps<extra></extra>",
    )  # fmt: skip
    if counts:
        drafts = sum(i * n for i, n in enumerate(counts)) / total
        figure.line_at("x", drafts, color="var(--ink)", width=1, dash="dot")
    figure.lay_out(
        height=140, margin={**_MARGIN, "l": 40, "t": 8}, bargap=0.1,
        xaxis=Axis("drafts accepted in a step").layout(dtick=1 if len(counts) < 20 else 4),
        yaxis={"ticksuffix": " %", "nticks": 4, "rangemode": "tozero"},
    )  # fmt: skip
    return figure


def waterfall(found: Reasons) -> Chart:
    """From plain decoding to the answer, a bar for each change of the server."""
    rungs = found.rungs
    ends = [r["speed_tok_s"] for r in rungs]
    figure = Chart()
    for i, rung in enumerate(rungs):
        begin = 0 if i == 0 else ends[i - 1]
        color = _RUNGS.get(rung["name"], HOST)
        figure.add(
            "bar", x=[ends[i] - begin], base=[begin], y=[i], orientation="h", width=0.62,
            marker={"color": color}, showlegend=False,
            hovertemplate=f"<b>{plain(rung['name'])}</b><br>{plain(rung['why'])}<br>"
            f"{number(ends[i])} tok/s<extra></extra>",
        )  # fmt: skip
        said = number(ends[0]) if i == 0 else f"x {rung['factor']:.2f}"
        figure.annotate(
            x=max(begin, ends[i]), y=i, xanchor="left", xshift=6, showarrow=False,
            text=f"<b>{said}</b>  {plain(rung['why'])}", font={"size": 12},
        )  # fmt: skip
    if rungs:
        figure.add(
            "bar", x=[ends[-1]], y=[len(rungs)], orientation="h", width=0.62,
            marker={"color": ASKED}, showlegend=False,
            hovertemplate=f"{number(ends[-1])} tok/s<extra></extra>",
        )  # fmt: skip
        figure.annotate(
            x=ends[-1], y=len(rungs), xanchor="left", xshift=6, showarrow=False,
            text=f"<b>{number(ends[-1])} tok/s</b>",
        )  # fmt: skip
    names = [*(plain(r["name"]) for r in rungs), "the answer"]
    what = "tokens/s of one request" if found.open_loop else "tokens/s of the server"
    figure.lay_out(
        height=70 + 36 * len(names), margin={**_MARGIN, "b": 44},
        xaxis=Axis(what).layout(range=[0, 1.55 * max(ends, default=1)], tickformat="~s"),
        yaxis={
            "tickvals": list(range(len(names))), "ticktext": names, "showgrid": False,
            "range": [len(names) - 0.4, -0.6], "automargin": True,
        },
    )  # fmt: skip
    return figure


def _stacked(parts: Sequence[Part], unit: str, *, lane: str) -> Chart:
    """Parts beside each other; a wide one has its name in it, a narrow one in the legend."""
    figure = Chart()
    total = sum(size for _, size, *_ in parts) or 1
    for what, size, color, note in parts:
        said = f"{plain(what)} {number(size)}"
        wide = size / total >= (len(said) + 2) / _LETTERS
        more = f"<br>{plain(note)}" if note else ""
        figure.add(
            "bar", x=[size], y=[lane], orientation="h", width=0.7, name=said, showlegend=not wide,
            marker={"color": color, "line": {"color": "var(--page)", "width": 1}},
            text=[said if wide else ""], textposition="inside", insidetextanchor="middle",
            textangle=0, constraintext="none", cliponaxis=True,
            textfont={"size": 11, "color": "var(--ink)" if color == _FAINT else "var(--page)"},
            hovertemplate=f"<b>{plain(what)}</b><br>{number(size)} {unit}, "
            f"{100 * size / total:.1f} %{more}<extra></extra>",
        )  # fmt: skip
    figure.lay_out(barmode="stack", margin=_MARGIN, legend=_LEGEND, showlegend=True)
    return figure
