"""A measured profile on a page: rates, ops by kind, passes beside their ops."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from dflash_sim.profiles.units import GIGA, MS, TERA, US
from dflash_sim.studies.show.narrow_table import FittedTable
from dflash_sim.studies.show.styles import STRONG

_LARGE_BYTES = 2**26  # from here on the time is that of moving bytes
_TITLES = {  # pages' words, where they are not the name
    "materialise": "KV injection",
    "mtp-materialise": "mtp draft extend",
    "commit": "state commit",
}
_PASSES = ("verify", "draft", "materialise", "commit", "mtp-draft", "mtp-materialise", "prefill")


def page(profile: Mapping[str, Any]) -> RenderableType:
    """The profile in a screen."""
    device, made, scope = profile["device"], profile["made"], profile["scope"]
    title = f"{device['title']}: {scope['model']}, one of {scope['tp']} ranks, {scope['dtype']}"
    rates = (
        f"copy {device['copy_byte_s'] / GIGA:,.0f} GB/s, matrix "
        f"{device['matmul_flop_s'] / TERA:,.2f} TFLOP/s, launch "
        f"{profile['host']['eager_launch_s'] / US:.1f} us; canary moved {made['drift']:.1%}; "
        f"{made['seconds']:.0f} s"
    )
    return Group(
        Text(title, style=STRONG),
        Text(rates),
        Text(),
        _ops(profile),
        Text(),
        _passes(profile),
        Text("between: time of a pass over the sum of its ops; sizes are the largest", style="dim"),
    )


def _ops(profile: Mapping[str, Any]) -> FittedTable:
    table = FittedTable(
        ("op", "shapes", "fastest us", "slowest us", "of copy", "of matrix", "spread"),
        words=frozenset({"op"}),
        spare=("spread", "fastest us"),
    )
    for kind, rows in _by_kind(profile["ops"]).items():
        times = [row["seconds"] for row in rows]
        large = [row for row in rows if row["nbytes"] >= _LARGE_BYTES]
        moved = [row["nbytes"] / row["seconds"] for row in large]
        worked = [row["flops"] / row["seconds"] for row in rows if row["flops"]]
        table.add(
            kind,
            str(len(rows)),
            f"{min(times) / US:,.1f}",
            f"{max(times) / US:,.1f}",
            _share(moved, profile["device"]["copy_byte_s"], statistics.median),
            _share(worked, profile["device"]["matmul_flop_s"], max),
            f"{statistics.median(row['spread'] for row in rows):.1%}",
        )
    return table


def _share(rates: list[float], ceiling: float, pick: Any) -> str:
    return f"{pick(rates) / ceiling:.0%}" if rates else "-"


def _by_kind(ops: list[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in ops:
        found.setdefault(row["kind"], []).append(row)
    return found


def _passes(profile: Mapping[str, Any]) -> FittedTable:
    table = FittedTable(
        ("pass", "requests", "rows", "ctx", "ms", "ops ms", "between"), words=frozenset({"pass"})
    )
    for row in _largest(profile["passes"]):
        table.add(
            _TITLES.get(row["phase"], row["phase"]),
            str(row["requests"]),
            str(row["rows"]),
            f"{row['ctx']:.0f}",
            f"{row['seconds'] / MS:.3f}",
            f"{row['ops_s'] / MS:.3f}",
            f"{row['seconds'] / row['ops_s']:.2f}" if row["ops_s"] else "-",
        )
    return table


def _largest(passes: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """For each phase and width its largest batch with the longest context."""
    order = {name: i for i, name in enumerate(_PASSES)}
    last: dict[tuple[int, str, int], Mapping[str, Any]] = {}
    for row in sorted(passes, key=lambda r: (r["requests"], r["ctx"])):
        rank = order.get(row["phase"], len(order))
        width = 0 if row["phase"] == "prefill" else row["rows"]
        last[rank, row["phase"], width] = row
    for key in sorted(last):
        yield last[key]
