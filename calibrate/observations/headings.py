"""Headings and numbers of tables as people write them -> the columns of ours."""

import csv
import io
import re
from collections.abc import Mapping, Sequence

_UNIT = re.compile(r"[(\[]([^)\]]*)[)\]]")
_SUFFIX = re.compile(r"(.*?\S) (ms|msec|s|sec|us|tok(?:en)?s?[ /]s|req(?:uest)?s?[ /]s)")
_NUMBER = re.compile(r"([1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|\d*\.?\d+)\s*([^\d\s.,][^\d]*)?")
_LOADS = ("conc", "concurrency", "concurrencies", "max concurrency", "max request concurrency",
          "request concurrency", "concurrent requests", "concur", "batch size", "batch", "bs",
          "clients", "users", "parallel", "num concurrency", "max conc", "c")  # fmt: skip
_PLAIN = {
    **dict.fromkeys(_LOADS, "conc"),
    **dict.fromkeys(("isl", "input len", "input length", "input", "prompt len", "prefill",
                     "input tokens", "random input", "random input len", "prompt length"), "isl"),
    **dict.fromkeys(("osl", "output len", "output length", "output", "decode", "gen len",
                     "output tokens", "random output", "random output len"), "osl"),
    "total input tokens": "total_input_tokens",
    **dict.fromkeys(("total output tokens", "total generated tokens"), "total_output_tokens"),
    **dict.fromkeys(("num prompts", "prompts", "n", "requests", "num requests"), "num_prompts"),
    **dict.fromkeys(("request rate", "rate", "rps", "qps target"), "rate"),
    **dict.fromkeys(("accept length", "acceptance length", "accept len", "acc length", "acc len",
                     "al", "mean accept length", "avg accept length", "mean acceptance length",
                     "tau", "\N{GREEK SMALL LETTER TAU}"), "accept_length"),
    **dict.fromkeys(("output tok/s", "output throughput", "output token throughput", "tok/s",
                     "tokens/s", "output tokens/s", "throughput", "output tps", "tps",
                     "decode throughput", "generation throughput", "output thpt",
                     "output token/s", "output toks/s", "toks/s", "token/s", "gen. toks/s"),
                    "output_throughput"),
    **dict.fromkeys(("total throughput", "total token throughput", "total tok/s", "total tps"),
                    "total_throughput"),
    **dict.fromkeys(("req/s", "request throughput", "requests/s", "qps", "throughput req/s",
                     "throughput requests/s", "throughput rps"), "request_throughput"),
    **dict.fromkeys(("duration", "benchmark duration"), "duration"),
    **dict.fromkeys(("dataset", "data set", "task"), "dataset"),
    **dict.fromkeys(("model", "target"), "model"),
    **dict.fromkeys(("method", "algorithm"), "method"),
    **dict.fromkeys(("gpu", "hardware"), "gpu"),
    **dict.fromkeys(("tp", "tp size"), "tp"),
    "block": "block",
}  # fmt: skip
LENGTHS = ("isl", "osl")
_CAME = "rps"
# Lengths and counts that may as well be those of a whole run, and lengths that are of a request.
_UNSURE = {"input", "input tokens", "output", "output tokens", "decode", "prompts", "requests"}
_MADE = {"isl": ("input tokens", "prompt tokens"), "osl": ("output tokens", "completion tokens")}
_OF_A_REQUEST = {
    heading: column
    for column, kinds in _MADE.items()
    for what in kinds
    for heading in (
        f"{what} per request",
        *(" ".join(pair) for s in ("mean", "avg", "average") for pair in ((s, what), (what, s))),
    )
}
_STATISTIC = re.compile(
    r"(?:(?P<before>mean|avg|average|median|p50|p90|p95|p99|std) )?(?P<what>ttft|tpot|itl|e2el?|"
    r"e2e latency|end-to-end latency|latency|lat|time to first token|time per output token|"
    r"inter-token latency)(?: (?P<behind>mean|avg|average|median|p50|p90|p95|p99|std))?"
)
_OF_STATISTICS = ("latency", "lat")  # of whole answers; alone it may be that of a token
_WHAT = {"time to first token": "ttft", "time per output token": "tpot", "e2e": "e2e_latency",
         "inter-token latency": "itl", "e2el": "e2e_latency", "e2e latency": "e2e_latency",
         "end-to-end latency": "e2e_latency", "latency": "e2e_latency",
         "lat": "e2e_latency"}  # fmt: skip
_MEAN = {"avg": "mean", "average": "mean", None: "mean", "p50": "median"}
# Units that the numbers of a column may be in, and what they are multiplied by to be in ours.
_TIMES = {
    **dict.fromkeys(("", "ms", "msec", "milliseconds"), 1.0),
    **dict.fromkeys(("s", "sec", "seconds"), 1e3),
    **dict.fromkeys(("us", "\N{MICRO SIGN}s", "\N{GREEK SMALL LETTER MU}s"), 1e-3),
}
_SECONDS = {unit: scale / 1e3 if unit else 1.0 for unit, scale in _TIMES.items()}
_TOKENS = dict.fromkeys(("", "tok", "toks", "token", "tokens"), 1.0)
_TOKENS_S = {
    f"{token}/{second}": 1.0 for token in _TOKENS if token for second in ("s", "sec", "second")
}
_TOKENS_S |= dict.fromkeys(("", "tps", "t/s", "tokens per second"), 1.0)
_REQUESTS_S = dict.fromkeys(("", "req/s", "reqs/s", "requests/s", "rps", "qps"), 1.0)
_REQUESTS = dict.fromkeys(("", "#", "req", "reqs", "requests", "prompts", "count"), 1.0)
_UNITS = {
    "conc": _REQUESTS | dict.fromkeys(("users", "clients", "max"), 1.0),
    "num_prompts": _REQUESTS,
    **dict.fromkeys(("isl", "osl"), _TOKENS),
    "accept_length": _TOKENS | {"tokens/step": 1.0, "tok/step": 1.0},
    **dict.fromkeys(("output_throughput", "total_throughput"), _TOKENS_S),
    **dict.fromkeys(("rate", "request_throughput"), _REQUESTS_S),
    "duration": _SECONDS | {"min": 60.0},
}
_BATCHES = {"batch size", "acc length", "input cost"}  # of bench_one_batch_server
_WHOLE = ("isl", "osl", "num_prompts", "output_throughput")  # of its batches
_OF_BATCHES = {"batch size": "conc", "latency": "duration", "acc length": "accept_length_cycle",
               "itl": "mean_tpot_ms", **dict(zip(_WHOLE, _WHOLE, strict=True))}  # fmt: skip
_OF_PHASES = ("input len", "input throughput", "output throughput")


def column_of(heading: str) -> tuple[str, float] | None:
    """Our column for a heading, and what its numbers are to be multiplied by; None if none is.

    A heading with a unit that is none of its column, such as ``Throughput (tok/s/GPU)``, has none.

    Examples
    --------
    >>> column_of("Median TTFT (s)"), column_of("Output tok/s"), column_of("Notes")
    (('median_ttft_ms', 1000.0), ('output_throughput', 1.0), None)
    >>> column_of("tpot_s"), column_of("throughput_tok_s")
    (('mean_tpot_ms', 1000.0), ('output_throughput', 1.0))
    """
    unit = " ".join(_UNIT.findall(heading)).strip().lower()
    bare = _bare(heading)
    behind = _SUFFIX.fullmatch(bare)
    if behind and not unit and bare not in _PLAIN:  # ``ttft_s``, as ``TTFT (s)``
        bare, unit = behind[1], behind[2].replace(" ", "/")
    found = _STATISTIC.fullmatch(bare)
    said = found and (found["before"] or found["behind"])
    if found and (said or found["what"] not in _OF_STATISTICS):
        statistic = _MEAN.get(said, said or "mean")
        what = _WHAT.get(found["what"], found["what"])
        name = f"{statistic}_{what}_ms"
    elif (name := _PLAIN.get(f"{bare} {unit}", "")) and unit:
        return name, 1.0
    else:
        name = _PLAIN.get(bare) or _OF_A_REQUEST.get(bare, "")
    scale = _units(name).get(unit) if name else None
    return None if scale is None else (name, scale)


def _bare(heading: str) -> str:
    bare = re.sub(r"[\s_]+", " ", _UNIT.sub(" ", heading)).strip(" :*#.").lower()
    return re.sub(r" per sec(?:ond)?$", "/s", bare)


def column_beside(heading: str) -> tuple[str, float] | None:
    """Our column for a heading beside known ones; None for what may be of a whole run.

    Examples
    --------
    >>> column_beside("output_len"), column_beside("avg output tokens"), column_beside("requests")
    (('osl', 1.0), ('osl', 1.0), None)
    """
    bare, found = _bare(heading), column_of(heading)
    unsure = found is not None and found[0] in (*LENGTHS, "num_prompts") and bare in _UNSURE
    return None if unsure else found


def columns_of(headings: Sequence[str]) -> list[tuple[str, float] | None]:
    """Return :func:`column_of` each heading, or what a table of one batch has under it."""
    if _BATCHES.issubset(bare := _without_units(headings)):
        return [(_OF_BATCHES[name], 1.0) if name in _OF_BATCHES else None for name in bare]
    found = [column_of(heading) for heading in headings]
    if not any(column and column[0] == "conc" for column in found):
        return found
    # ``rps`` beside clients is what came of them; a request rate may be one that was asked for.
    came = (_bare(heading) == _CAME for heading in headings)
    return [None if out else column for out, column in zip(came, found, strict=True)]


def _without_units(headings: Sequence[str]) -> list[str]:
    return [heading.strip().lower().split(" (")[0] for heading in headings]


def with_whole_batches(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """A table of batches with what its whole time tells, where it has the prompts' length.

    Its throughputs are of the prefill and of decoding alone: when each ended follows from them.
    """
    bare = _without_units(rows[0]) if rows else []
    if not {*_BATCHES, *_OF_PHASES, "latency"}.issubset(bare):
        return [list(row) for row in rows]
    kept = [i for i, name in enumerate(bare) if name not in _OF_PHASES]
    whole = (_whole_batch(dict(zip(bare, row, strict=True))) for row in rows[1:])
    behind = [_WHOLE, *whole]
    return [[*(row[i] for i in kept), *more] for row, more in zip(rows, behind, strict=True)]


def _whole_batch(row: Mapping[str, str]) -> Sequence[str]:
    names = ("batch size", "latency", *_OF_PHASES)
    try:
        batch, latency_s, isl, prefill, decode = (
            float(amount(row[name], "duration", 1.0)) for name in names
        )
        made = decode * (latency_s - batch * isl / prefill)
        figures = (isl, round(made / batch), batch, made / latency_s)
    except (ValueError, ZeroDivisionError, OverflowError):
        return [""] * len(_WHOLE)
    return [f"{figure:.10g}" for figure in figures]


def _units(column: str) -> dict[str, float]:
    return _TIMES if column.endswith("_ms") else _UNITS.get(column, {"": 1.0})


def as_csv(rows: Sequence[Sequence[str]]) -> str | None:
    """A table under our columns; None if it names no load and nothing that was measured."""
    columns = columns_of(rows[0])
    names = [column[0] for column in columns if column is not None]
    measured = [n for n in names if n.endswith(("_ms", "_throughput")) or n == "accept_length"]
    loaded = "conc" in names or "dataset" in names
    if not loaded or not measured or len(set(names)) < len(names):
        return None
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    kept = [i for i, column in enumerate(columns) if column is not None]
    writer.writerow(names)
    for row in rows[1:]:
        scaled = ((row[i], columns[i]) for i in kept)
        writer.writerow([amount(cell, *column) for cell, column in scaled if column is not None])
    return out.getvalue()


def amount(cell: str, column: str, scale: float) -> str:
    """The number of a cell in our unit; one in a unit that its column has not is left alone."""
    found = _NUMBER.fullmatch(cell.strip(" ~*"))
    if found is None:
        return "" if cell.strip() in ("-", "n/a", "N/A", "—") else cell
    if found[2]:
        own = _units(column).get(found[2].strip().lower())
        if own is None:
            return cell
        scale = own
    bare = found[1].replace(",", "")
    if column in LENGTHS and "." in bare:
        return f"{float(bare):.0f}"  # a mean
    return bare if scale == 1 else f"{float(bare) * scale:.10g}"
