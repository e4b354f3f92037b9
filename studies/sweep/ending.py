"""The end of a sweep in a few lines: what was the fastest, and what it gains and costs."""

from collections.abc import Mapping, Sequence

from dflash_sim.simulator.row import Cell, Row
from dflash_sim.studies.ask.prices import paid
from dflash_sim.studies.predict.beside import estimated
from dflash_sim.studies.predict.varied import headings
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.plain_table import Table

_SHOWN = 5
_ASKED = {
    "model": "model", "gpu": "gpu", "tp": "tp", "method": "method", "block": "block",
    "steps": "steps", "engine_mode": "mode", "quantization": "weights", "dataset_name": "dataset",
    "isl": "isl", "osl": "osl", "max_concurrency": "conc", "request_rate": "req/s",
}  # fmt: skip


def fastest(
    rows: Sequence[Row],
    prices: Mapping[str, float] | None = None,
    differing: Mapping[str, str] | None = None,
) -> Table | None:
    """The rows with most tokens a second for a GPU, best first; None where no row has an answer.

    Parameters
    ----------
    prices
        What the asker pays, by GPU [USD/h].
    differing
        Headings of other fields that differ between rows.
    """
    found = [row for row in rows if isinstance(row.get("output_tput_per_gpu"), float)]
    if not found:
        return None
    more = differing or {}
    shown = headings(_ASKED, more)
    kinds = {n: {str(row[n]) for row in rows if row[n] is not None} for n in shown}
    varying = [n for n in shown if n in more or len(kinds[n]) > 1]
    ranked = sorted(found, key=lambda row: -_figure(row, "output_tput_per_gpu"))[:_SHOWN]
    heads = (*(shown[n] for n in varying), "tok/s", "tok/s/GPU", "x plain", "TPOT ms", "USD/M")
    lines = []
    for row in ranked:
        asked = (_asked(row[n]) for n in varying)
        figures = ("output_throughput", "output_tput_per_gpu", "speedup", "mean_tpot_ms")
        lines.append((*asked, *(_told(row, name) for name in figures), _usd(row)))
    given = paid(prices or {})
    doubt = estimated(ranked)
    words = [f"the fastest {len(lines)} of {len(rows):,}, by GPU", given, doubt]
    return Table("; ".join(filter(None, words)), heads, tuple(lines))


def _figure(row: Row, name: str) -> float:
    value = row[name]
    return float(value) if isinstance(value, int | float) else 0.0


def _asked(value: Cell) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _told(row: Row, name: str) -> str:
    return "-" if row[name] is None else number(_figure(row, name))


def _usd(row: Row) -> str:
    prices = row["usd_per_mtok_out"]
    usd = prices.get("typical") if isinstance(prices, Mapping) else None
    return "-" if usd is None else number(usd)
