"""Headings and numbers of tables as people write them -> the columns of ours."""

import csv
import io
import re
from collections.abc import Sequence

_UNIT = re.compile(r"[(\[]([^)\]]*)[)\]]")
_NUMBER = re.compile(
    r"([\d,]*\.?\d+)\s*(?:tok(?:ens)?/s(?:ec)?|req/s|tps|ms|s|x|%)?", re.IGNORECASE
)
_LOADS = ("conc", "concurrency", "concurrencies", "max concurrency", "max request concurrency",
          "request concurrency", "concurrent requests", "concur", "batch size", "batch", "bs",
          "clients", "users", "parallel", "num concurrency", "max conc", "c")  # fmt: skip
_PLAIN = {
    **dict.fromkeys(_LOADS, "conc"),
    **dict.fromkeys(("isl", "input len", "input length", "input", "prompt len", "prefill",
                     "input tokens", "random input"), "isl"),
    **dict.fromkeys(("osl", "output len", "output length", "output", "decode", "gen len",
                     "output tokens", "random output"), "osl"),
    **dict.fromkeys(("num prompts", "prompts", "n", "requests", "num requests"), "num_prompts"),
    **dict.fromkeys(("request rate", "rate", "rps", "qps target"), "rate"),
    **dict.fromkeys(("accept length", "acceptance length", "accept len", "acc length", "acc len",
                     "al", "mean accept length", "avg accept length", "mean acceptance length",
                     "tau"), "accept_length"),
    **dict.fromkeys(("output tok/s", "output throughput", "output token throughput", "tok/s",
                     "tokens/s", "output tokens/s", "throughput", "output tps", "tps",
                     "decode throughput", "generation throughput", "output thpt",
                     "output token/s", "output toks/s", "toks/s", "token/s"),
                    "output_throughput"),
    **dict.fromkeys(("total throughput", "total token throughput", "total tok/s", "total tps"),
                    "total_throughput"),
    **dict.fromkeys(("req/s", "request throughput", "requests/s", "qps"), "request_throughput"),
    **dict.fromkeys(("duration", "benchmark duration", "latency"), "duration"),
    **dict.fromkeys(("model", "target"), "model"),
    **dict.fromkeys(("method", "algorithm"), "method"),
    **dict.fromkeys(("gpu", "hardware"), "gpu"),
    **dict.fromkeys(("tp", "tp size"), "tp"),
}  # fmt: skip
_STATISTIC = re.compile(
    r"(?:(?P<before>mean|avg|average|median|p50|p90|p95|p99|std) )?(?P<what>ttft|tpot|itl|e2el?|"
    r"e2e latency|end-to-end latency|time to first token|time per output token|"
    r"inter-token latency)(?: (?P<behind>mean|avg|average|median|p50|p90|p95|p99|std))?"
)
_WHAT = {"time to first token": "ttft", "time per output token": "tpot", "e2e": "e2e_latency",
         "inter-token latency": "itl", "e2el": "e2e_latency", "e2e latency": "e2e_latency",
         "end-to-end latency": "e2e_latency"}  # fmt: skip
_MEAN = {"avg": "mean", "average": "mean", None: "mean", "p50": "median"}
_BATCHES = {"batch size", "acc length", "input cost"}  # of bench_one_batch_server


def column_of(heading: str) -> tuple[str, float] | None:
    """Our column for a heading, and what its numbers are to be multiplied by; None if none is.

    Examples
    --------
    >>> column_of("Median TTFT (s)"), column_of("Output tok/s"), column_of("Notes")
    (('median_ttft_ms', 1000.0), ('output_throughput', 1.0), None)
    """
    unit = _UNIT.search(heading)
    bare = re.sub(r"[\s_]+", " ", _UNIT.sub(" ", heading)).strip(" :*#").lower()
    if found := _STATISTIC.fullmatch(bare):
        said = found["before"] or found["behind"]
        statistic = _MEAN.get(said, said or "mean")
        what = _WHAT.get(found["what"], found["what"])
        seconds = unit is not None and unit[1].strip().lower() in ("s", "sec", "seconds")
        return f"{statistic}_{what}_ms", 1e3 if seconds else 1.0
    for name in (bare, f"{bare} {unit[1].lower()}" if unit else bare):
        if name in _PLAIN:
            return _PLAIN[name], 1.0
    return None


def as_csv(rows: Sequence[Sequence[str]]) -> str | None:
    """A table under our columns; None if it names no load and nothing that was measured."""
    columns = [column_of(heading) for heading in rows[0]]
    if len(rows) > 1 and {h.strip().lower().split(" (")[0] for h in rows[0]} >= _BATCHES:
        columns = [_of_batches(heading) for heading in rows[0]]
    names = [column[0] for column in columns if column is not None]
    measured = [n for n in names if n.endswith(("_ms", "_throughput")) or n == "accept_length"]
    if "conc" not in names or not measured or len(set(names)) < len(names):
        return None
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    kept = [i for i, column in enumerate(columns) if column is not None]
    writer.writerow(names)
    for row in rows[1:]:
        scaled = ((row[i], columns[i]) for i in kept)
        writer.writerow([_amount(cell, column[1]) for cell, column in scaled if column is not None])
    return out.getvalue()


def _of_batches(heading: str) -> tuple[str, float] | None:
    """Throughputs of one batch count decoding alone, so its duration and its steps are taken."""
    name = heading.strip().lower().split(" (")[0]
    taken = {"batch size": "conc", "latency": "duration", "acc length": "accept_length_cycle"}
    return ("mean_tpot_ms", 1.0) if name == "itl" else (taken[name], 1.0) if name in taken else None


def _amount(cell: str, scale: float) -> str:
    found = _NUMBER.fullmatch(cell.strip(" ~*"))
    if found is None:
        return "" if cell.strip() in ("-", "n/a", "N/A", "—") else cell
    bare = found[1].replace(",", "")
    return bare if scale == 1 else f"{float(bare) * scale:.10g}"
