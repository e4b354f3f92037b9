"""Many results as one table: what varies in columns, what does not in a line above."""

from collections.abc import Sequence
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from dflash_sim.profiles.errors import InfeasibleError
from dflash_sim.profiles.formats import PLAIN
from dflash_sim.simulator.number_formats import UNQUANTISED
from dflash_sim.simulator.row import Cell, Row, failed_row, to_row
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.answers import Answer
from dflash_sim.studies.ask.prices import paid
from dflash_sim.studies.predict.beside import estimated, gains, is_roofline, words
from dflash_sim.studies.predict.lift import in_lockstep, lifted, told
from dflash_sim.studies.predict.varied import headings, varied
from dflash_sim.studies.show.figures import number, percent, shares
from dflash_sim.studies.show.styles import LABEL, STRONG

# Field of a row, and its heading in the table.
_ASKED = {
    "gpu": "gpu",
    "tp": "tp",
    "method": "method",
    "block": "block",
    "policy": "policy",
    "engine_mode": "mode",
    "quantization": "weights",
    "kv_cache_dtype": "KV",
    "dataset_name": "dataset",
    "isl": "isl",
    "osl": "osl",
    "cache_hit": "hits",
    "num_prompts": "prompts",
    "request_rate": "req/s",
    "max_concurrency": "conc",
}
# In the line above a table only where it is another.
_USUAL = (UNQUANTISED, PLAIN, Scenario.model_fields["policy"].default)
_FOUND = ("tok/s", "+-", "x plain", "TTFT", "p95", "TPOT", "p95", "accept", "step", "USD/M",
    "plain", "published")  # fmt: skip
# Columns that a narrow terminal goes without, the first one first.
_SPARE = (8, 6, 4, 10)
_NAMED = 3  # rows that a warning names
_LIFTED = 2  # rows whose way out is predicted
# Field of a row, and the sentence that its column needs where it has an entry.
_FOOTNOTES = {
    "mean_tpot_ms": "TTFT, TPOT and step are means in ms, each p95 that of the column before",
    "output_throughput_ci90": "+- is half of the 90 % interval of tok/s",
    "speedup": "x plain is the speed-up over plain decoding",
    "usd_per_mtok_out": "USD/M is per million output tokens",
    "published_error": "published is our error against a published measurement",
}


def answer_row(answer: Answer, tag: str | None = None) -> Row:
    """The flat row of an answer, with or without a result."""
    if answer.result is not None:
        return to_row(answer.result, tag=tag, price=answer.price)
    assert answer.error is not None
    return failed_row(answer.scenario, answer.error, tag=tag)


class GridTable:
    """One line per answer; reasons for missing ones, warnings and sources below.

    Columns stand closer in a narrow terminal, and those without a single entry are left out.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = answers
        rows = [answer_row(answer) for answer in answers]
        self.rows, differing = varied(rows, [dict(answer.scenario) for answer in answers])
        heads = headings(_ASKED, differing)
        self.reasons = list(dict.fromkeys(str(a.error) for a in answers if a.error))
        values = {n: {str(row[n]) for row in self.rows} for n in heads}
        self.varying = {n: head for n, head in heads.items() if len(values[n]) > 1}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self._title(), style=STRONG)
        yield Text()
        yield self._table(options.max_width)
        yield Text()
        yield Text("; ".join(self._footnotes()), style="dim")
        for line in self.gains():
            yield Text(line, style="green")
        for i, reason in enumerate(self.reasons, start=1):
            yield Text(f"[{i}] {reason}", style="yellow")
        for line in self.warnings():
            yield Text(f"warning: {line}", style="yellow")
        yield from _sources(self.answers)

    def gains(self) -> list[str]:
        """What is ahead at each load, with the interval of the difference."""
        return gains(self.rows, [a.result for a in self.answers], self.varying)

    def warnings(self) -> list[str]:
        """Warnings, each once and with the rows that it is about, and what would lift some."""
        rows: dict[str, list[str]] = {}
        lifts = 0
        for row, answer in zip(self.rows, self.answers, strict=True):
            if answer.result is None:
                continue
            lift = lifted(answer.result) if lifts < _LIFTED else None
            lifts += lift is not None
            for warning in told(answer.result, lift):
                rows.setdefault(warning, []).append(words(row, self.varying))
        out = []
        for warning, named in rows.items():
            everywhere = len(named) == sum(a.result is not None for a in self.answers)
            few = "; ".join(named[:_NAMED]) + (f"; and {len(named) - _NAMED} more"
                if len(named) > _NAMED else "")  # fmt: skip
            out.append(warning if everywhere else f"{few}: {warning}")
        if not all(is_roofline(row) for row in self.rows) and (less := estimated(self.rows)):
            out.append(less)
        last = next((a.result for a in reversed(self.answers) if a.result), None)
        lockstep = in_lockstep(last) if last is not None else None
        if lockstep is not None:
            out.append(f"{words(self.rows[-1], self.varying)}: {lockstep}")
        return out

    def _footnotes(self) -> list[str]:
        shown = [n for n in _FOOTNOTES if any(row[n] is not None for row in self.rows)]
        told = {name: _FOOTNOTES[name] for name in shown}
        if "speedup" in told and "usd_per_mtok_out" in told:
            told["usd_per_mtok_out"] += ", and what plain decoding costs"
        given = paid(self.prices())
        return [*told.values(), *([given] if given else [])]

    def prices(self) -> dict[str, float]:
        """What the asker pays, by GPU [USD/h]."""
        found = [(a.result.setup.device.name, a.price) for a in self.answers if a.result]
        return {gpu: price.typical for gpu, price in found if price and price.typical}

    def _title(self) -> str:
        """Return what all rows share."""
        first = self.rows[0]
        same = [n for n in _ASKED if n not in self.varying and first[n]]
        same = [n for n in same if first[n] not in _USUAL]
        model = "several models" if "model" in self.varying else str(first["model"])
        return " · ".join([model, *(f"{_ASKED[n]} {_cell(first[n])}" for n in same)])

    def _table(self, width: int) -> Table:
        lines = [self._line(row, a) for row, a in zip(self.rows, self.answers, strict=True)]
        heads = [*self.varying.values(), *_FOUND]
        columns = [list(cells) for cells in zip(heads, *lines, strict=True)]
        shown = [i for i, column in enumerate(columns) if any(column[1:])]
        for spare in (len(self.varying) + i for i in _SPARE):
            if spare in shown and _width(columns, shown) > width:
                shown.remove(spare)
        content = _width(columns, shown) - len(shown)
        gap = 2 if content + 2 * len(shown) <= width else 1
        table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style=LABEL)
        for i in shown:
            asked = list(self.varying)[i : i + 1]
            words = any(isinstance(row[n], str) for n in asked for row in self.rows)
            justify: Literal["left", "right"] = "left" if words else "right"
            style = "bold green" if heads[i] == _FOUND[0] else ""
            table.add_column(heads[i], justify=justify, overflow="fold", style=style)
        for line in lines:
            table.add_row(*(Text(line[i]) for i in shown))
        return table

    def _line(self, row: Row, answer: Answer) -> list[str]:
        asked = [_cell(row[name]) for name in self.varying]
        if answer.error is None:
            return asked + _found(row)
        what = "cannot run" if isinstance(answer.error, InfeasibleError) else "no data"
        note = self.reasons.index(str(answer.error)) + 1
        return [*asked, f"{what} [{note}]", *[""] * (len(_FOUND) - 1)]


def _cell(value: Cell) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _found(row: Row) -> list[str]:
    interval = row["output_throughput_ci90"]
    low, high = interval if isinstance(interval, list) else (None, None)
    half = (high - low) / 2 if isinstance(low, float) and isinstance(high, float) else None
    error = row["published_error"]
    prices = row["usd_per_mtok_out"]
    usd = prices.get("typical") if isinstance(prices, dict) else None
    speedup = row["speedup"]
    plain = usd * speedup if isinstance(usd, float) and isinstance(speedup, float) else None
    return [
        _figure(row["output_throughput"]),
        _figure(half),
        _figure(row["speedup"]),
        _figure(row["mean_ttft_ms"]),
        _figure(row["p95_ttft_ms"]),
        _figure(row["mean_tpot_ms"]),
        _figure(row["p95_tpot_ms"]),
        _figure(row["accept_length"]),
        _figure(row["step_ms"]),
        _figure(usd),
        _figure(plain),
        f"{'+' if error >= 0 else '-'}{percent(abs(error))}" if isinstance(error, float) else "",
    ]


def _width(columns: Sequence[Sequence[str]], shown: Sequence[int]) -> int:
    """Columns of the terminal that these take, one apart."""
    return sum(max(map(len, columns[i])) for i in shown) + len(shown)


def _figure(value: Cell) -> str:
    return number(value) if isinstance(value, float) else ""


def _sources(answers: Sequence[Answer]) -> list[Text]:
    """Evidence of the whole table: the mean over its results."""
    found = [answer.result.evidence for answer in answers if answer.result]
    if not found:
        return []
    mean = {name: sum(e[name] for e in found) / len(found) for name in found[0]}
    return [Text(f"sources: {shares(mean)}")]
