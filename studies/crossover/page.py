"""A crossing as a page of terminal text: the answer, the table, what to paste."""

import textwrap
from collections.abc import Iterator
from math import exp, floor, isinf

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from dflash_sim.studies.crossover.advice import reach, reason, sentence, where
from dflash_sim.studies.crossover.behind import facts
from dflash_sim.studies.crossover.ends import Span
from dflash_sim.studies.crossover.paste import settings
from dflash_sim.studies.crossover.rows import warnings
from dflash_sim.studies.crossover.search import Crossover, Curve
from dflash_sim.studies.show.narrow_table import FittedTable
from dflash_sim.studies.show.styles import LABEL, STRONG
from dflash_sim.studies.show.titles import workload_title

_COLUMNS = 5  # speed-ups that are shown between the ends
HEADS = ("method", "beats plain", "90 % interval")


class CrossoverPage:
    """The answer first, then each server, then settings to paste."""

    def __init__(self, found: Crossover) -> None:
        self.found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        found = self.found
        yield Text(title(found), style=STRONG)
        yield Text(sentence(found), style="bold green")
        yield Text()
        yield self._table()
        for line in overtaken(found):
            yield Text(line)
        for curve in found.curves:
            if why := reason(curve):
                yield Text(f"{curve.title}: {why}", style="dim")
        for line in facts(found):
            yield Text(line, style="dim")
        yield Text()
        for setting in settings(found):
            note = f"  ({setting.note})" if setting.note else ""
            yield Text.assemble((setting.engine, LABEL), note)
            yield Text(folded(setting.text, options.max_width))
        for line in warnings(found, caps=False):
            yield Text(f"warning: {line}", style="yellow")

    def _table(self) -> FittedTable:
        found = self.found
        places = shown(found)
        at = [f"at {found.axis.briefly(x)}" for x in places]
        inner = at[1:-1]  # every other is left out before two that are beside one another
        table = FittedTable(
            heads=(*HEADS, *at), words=frozenset(HEADS), spare=(*inner[::2], *inner[1::2])
        )
        for curve in found.curves:
            cells = (_speedup(curve, x) for x in places)
            table.add(curve.title, beats(curve), interval(curve), *cells)
        return table


def _speedup(curve: Curve, value: float) -> str:
    if not curve.values[0] <= value <= curve.values[-1]:
        return "-"
    return f"{exp(curve.gain_at(value)):.2f} x"


def title(found: Crossover) -> str:
    """Say what is compared, on what."""
    plain = found.question.plain
    s = plain.scenario
    parts = [plain.model.name, f"{plain.num_gpus} x {plain.device.name}, TP {plain.tp}"]
    parts.append(workload_title(s))
    if found.axis.name != "conc":
        parts.append(f"{s.conc:,} in flight")
    low, high = map(found.axis.said, reach(found))
    return " · ".join([*parts, f"{low} to {high} {found.axis.title}"])


def shown(found: Crossover) -> list[float]:
    """Return the places whose speed-ups the table has, the ends among them."""
    low, high = reach(found)
    values = [value for value in found.question.values if low <= value <= high]
    step = max(1, (len(values) - 1) // (_COLUMNS + 1))
    return list(dict.fromkeys([*values[:-1:step], values[-1]]))


def beats(curve: Curve) -> str:
    """Say where a server beats plain decoding, in a cell."""
    said = where(curve).removesuffix(f" {curve.server.axis.title}")
    return said.removeprefix("pays ").removesuffix(" pays")


def folded(text: str, width: int) -> str:
    """Break a setting into lines that can still be pasted: flags by backslashes, JSON as it is."""
    lines = textwrap.wrap(text, max(width - 6, 40), break_long_words=False, break_on_hyphens=False)
    end = "" if "{" in text else " \\"
    return f"{end}\n    ".join(f"  {line}" if n == 0 else line for n, line in enumerate(lines))


def interval(curve: Curve) -> str:
    """Return the interval of the end that the curve has, or of the one it might have.

    And where between its ends the gain is within its error, which no end tells.
    """
    if not curve.sd.size:
        return "-"
    words, told = [], []
    if curve.pays in ("from", "between"):
        words.append(_span(curve, curve.since, low="always", high="never"))
        told.append(curve.since)
    if curve.pays in ("until", "between", "always", "never"):
        words.append(_span(curve, curve.until, low="never", high="always"))
        told.append(curve.until)
    dips = [dip for dip in curve.within_error if not any(_holds(span, dip) for span in told)]
    if dips and words[-1] in ("always", "never"):
        words.pop()
    return "; ".join([*words, *(f"within error {_from_to(curve, dip)}" for dip in dips)])


def overtaken(found: Crossover) -> Iterator[str]:
    """Say up to where each method is faster than the one that the answer names after it."""
    axis = found.axis
    for lead in found.leads:
        until = floor(lead.until.value) if axis.whole else lead.until.value
        yield (
            f"{lead.title} is faster than {lead.plain.title} up to {axis.said(until)} {axis.title} "
            f"(90 % interval {_span(lead, lead.until, low='never', high='always')})"
        )


def _holds(span: Span, dip: tuple[float, float]) -> bool:
    return span.low <= dip[0] and dip[1] <= span.high


def _from_to(curve: Curve, dip: tuple[float, float]) -> str:
    said = [curve.server.axis.said(value) for value in dip]
    return f"at {said[0]}" if dip[0] == dip[1] else f"from {said[0]} to {said[1]}"


def _span(curve: Curve, span: Span, *, low: str, high: str) -> str:
    """Return an interval in words: beyond what was tried it is never or always."""
    ends = list(_ends(curve, span, low, high))
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _ends(curve: Curve, span: Span, low: str, high: str) -> Iterator[str]:
    said = curve.server.axis.said
    for end in (span.low, span.high):
        if isinf(end):
            yield high
        else:
            yield low if end == 0 else said(end)
