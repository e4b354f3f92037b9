"""Labelled lines of an answer: speed, what was published, and the step as a bar."""

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TypeAlias

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from dflash_sim.simulator.caveats import QUEUE_GROWS
from dflash_sim.simulator.predict import Result
from dflash_sim.studies.show.figures import number, percent
from dflash_sim.studies.show.styles import LABEL, STRONG
from dflash_sim.studies.show.titles import phase_title

INDENT = 14
Line: TypeAlias = tuple[str, RenderableType]

# Field, its phase, glyph and colour, in the order they happen.
_PHASES = (
    ("draft_ms", "draft", "▓", "cyan"),
    ("verify_ms", "verify", "█", "blue"),
    ("commit_ms", "commit", "▒", "magenta"),
    ("materialise_ms", "materialise", "▚", "green"),
    ("other_ms", "outside graphs", "·", "yellow"),
    ("host_exposed_ms", "exposed host", "░", "red"),
)


def labelled(lines: Iterable[Line]) -> Table:
    """Lines with their labels in a column on the left."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(style=LABEL, min_width=INDENT - 1, no_wrap=True)
    table.add_column(overflow="fold")
    for label, content in lines:
        table.add_row(Text(label), content)
    return table


def speed(result: Result) -> Iterator[Line]:
    """Throughput, and the speed-up if plain decoding was predicted too, with their intervals."""
    tok_s = result.values["output_throughput"]
    throughput = Text(f"{number(tok_s)} tok/s", style="bold green")
    if "output_throughput" in result.intervals:
        low, high = map(number, result.intervals["output_throughput"])
        throughput.append(f"   90 % interval {low} to {high}", style="not bold default")
    yield "Throughput", throughput
    if result.baseline is not None and result.speedup is not None:
        speedup = Text(f"{result.speedup:.2f} x", style=STRONG)
        plain = number(result.baseline.values["output_throughput"])
        if "speedup" in result.intervals:
            low, high = (f"{end:.2f}" for end in result.intervals["speedup"])
            speedup.append(f"   90 % interval {low} to {high}", style="not bold")
        speedup.append(f"; plain decoding gives {plain} tok/s", style="not bold")
        if result.scenario.rate is not None and _keep_up(result) and _keep_up(result.baseline):
            own, theirs = (number(r.values["mean_tpot_ms"]) for r in (result, result.baseline))
            speedup.append(
                f"; both serve all that arrives, compare TPOT: {own} against {theirs} ms",
                style="not bold",
            )
        yield "Speed-up", speedup


def _keep_up(result: Result) -> bool:
    return not any(QUEUE_GROWS in warning for warning in result.warnings)


def prompts(result: Result) -> Iterator[Line]:
    """What of the prompts was found in the prefix cache, where that was asked or anything was."""
    share, asked = result.values["cache_hit_rate"], result.scenario.cache_hit
    if not share and asked is None:
        return
    isl = result.values["total_input_tokens"] / max(1.0, result.values["completed"])
    found = f"{percent(share)} found in the prefix cache, {number(isl * (1 - share))} computed"
    if asked and result.values["retractions"]:
        found += "; less than asked, as requests that are thrown out are computed again"
    yield "Prompts", f"{number(isl)} tokens on average, {found}"


def step_bar(result: Result, cells: int) -> tuple[Text, "Flow"]:
    """The phases of a step as a bar of ``cells`` glyphs, and its legend in milliseconds."""
    v = result.values
    phases = [p for p in _PHASES if v[p[0]] or p[0] == "host_exposed_ms"]
    bar, legend = Text(), []
    ends = [round(cells * x) for x in _running_shares([v[p[0]] for p in phases])]
    for (field, name, glyph, colour), start, end in zip(phases, [0, *ends], ends, strict=False):
        bar.append(glyph * (end - start), style=colour)
        words = phase_title(name, result.setup)
        legend.append(Text.assemble((glyph, colour), f" {words} {v[field]:.2f}"))
    return bar, Flow(legend)


def _running_shares(parts: list[float]) -> list[float]:
    total = sum(parts) or 1.0
    return [x / total for x in accumulate(parts)]


class Flow:
    """Phrases side by side, broken into lines only between phrases."""

    def __init__(self, phrases: list[Text]) -> None:
        self.phrases = phrases

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text()
        for phrase in self.phrases:
            if line and len(line) + 2 + len(phrase) > options.max_width:
                yield line
                line = Text()
            line.append("  " if line else "").append_text(phrase)
        yield line
