"""Predicted rows as one HTML page: what it means first, then curves, tables and evidence."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dflash_sim.simulator.cost.methods import METHODS, PLAIN
from dflash_sim.simulator.row import Row
from dflash_sim.simulator.scenario import ONLY_SPECULATION, Scenario
from dflash_sim.studies.ask.prices import paid
from dflash_sim.studies.predict.beside import estimated, is_roofline
from dflash_sim.studies.predict.varied import headings
from dflash_sim.studies.show.chart_style import Axis
from dflash_sim.studies.show.charts import Bar, Curve, bars, lines, not_drawn
from dflash_sim.studies.show.figures import number, shares
from dflash_sim.studies.show.html_report import Cell, Report
from dflash_sim.studies.show.palette import PLAIN_DECODING, SERIES, Palette

_LOADS = ("max_concurrency", "request_rate")
_KINDS = {
    "gpu": "",
    "tp": "TP ",
    "model": "",
    "method": "",
    "block": "block ",
    "policy": "policy ",
    "engine_mode": "mode ",
    "quantization": "weights ",
    "kv_cache_dtype": "KV ",
    "dataset_name": "",
    "isl": "isl ",
    "osl": "osl ",
}
_BARS = 12  # rows whose cost is drawn; more are in the table only
_TABLE = {
    "output_throughput": "tok/s",
    "speedup": "x plain",
    "mean_ttft_ms": "TTFT, ms",
    "p95_ttft_ms": "p95",
    "mean_tpot_ms": "TPOT, ms",
    "p95_tpot_ms": "p95",
    "accept_length": "accept length",
    "step_ms": "step, ms",
}
_PHASES = {
    "draft_ms": "draft",
    "verify_ms": "verify",
    "commit_ms": "state commit",
    "materialise_ms": "KV injection",
    "other_ms": "outside graphs",
    "host_exposed_ms": "exposed host",
}


def write_rows(
    path: Path,
    rows: Sequence[Row],
    *,
    differing: Mapping[str, str] | None = None,
    gains: Sequence[str] = (),
    remarks: Sequence[str] = (),
    prices: Mapping[str, float] | None = None,
) -> None:
    """Write the page of rows of the result schema.

    Parameters
    ----------
    differing
        Headings of other fields that differ between rows.
    gains
        What is ahead at each load, in sentences.
    remarks
        What to keep in mind; left out, what the rows warn of.
    prices
        What the asker pays, by GPU [USD/h]; that of others is a range of published prices.
    """
    given = paid(prices or {})
    found = [row for row in rows if row.get("output_throughput") is not None]
    own = {n: f"{head} " for n, head in (differing or {}).items() if n not in _LOADS}
    kinds = headings(_KINDS, own)
    values = {n: {str(row[n]) for row in rows} for n in kinds}
    varying = {n: told for n, told in kinds.items() if len(values[n]) > 1}
    first = rows[0]
    usual = Scenario.model_fields["policy"].default
    same = [
        f"{told}{first[n]}"
        for n, told in _KINDS.items()
        if n not in varying and first[n] and first[n] != usual
    ]
    things, plain = _things(found, varying)
    palette = Palette(things, plain=plain)
    drawn = [row for row in found if _thing(row, varying) in {*things, *plain}]
    model = "several models" if "model" in varying else first["model"]
    report = Report(f"Predicted: {model}", " ".join(_lead(found, varying, given)), palette)
    report.facts({"For all": ", ".join(same), "Rows": f"{len(rows):,}"})
    if gains:
        report.section("What is ahead", "\n\n".join(f"{gain}." for gain in gains))
    every = {_thing(row, varying) for row in found}
    more = not_drawn(len(every.difference(things, plain)))
    _against_users(report, drawn, varying, more)
    _over_load(report, drawn, varying, more)
    _costs(report, drawn, varying, given)
    _cycle(report, drawn, varying)
    _table(report, rows, varying, {*things, *plain})
    remarks = remarks or _warnings(found)
    report.section("What it rests on", "\n\n".join(f"{r}." for r in remarks))
    report.facts(_grounds(found))
    report.write(path)


def _lead(found: Sequence[Row], varying: Mapping[str, str], given: str) -> list[str]:
    """The answer in plain words: the fastest, what it gains, and what it costs."""
    if not found:
        return ["No row has an answer."]
    best = max(found, key=lambda row: _value(row, "output_throughput"))
    what = _thing(best, varying)
    low, high = _ends(best, "output_throughput")
    out = [
        f"The most is {number(_value(best, 'output_throughput'))} tokens a second"
        + (f" (90 % interval {number(low)} to {number(high)})" if high else "")
        + f", by {what} with {_load(best)}."
    ]
    speedup = best.get("speedup")
    if isinstance(speedup, float):
        out.append(f"That is {number(speedup)} times plain decoding of the same requests.")
    if is_roofline(best):
        out.append(f"It is a roofline estimate: of {best['gpu']} no operator times are known.")
    usd = _usd(best)
    if usd is not None:
        beside = f", against {number(usd * speedup)} plain" if isinstance(speedup, float) else ""
        prices = f"with {given}" if str(best["gpu"]) in given.split() else "at typical prices"
        out.append(f"A million output tokens cost {number(usd)} USD {prices}{beside}.")
    return out


def _against_users(
    report: Report, found: Sequence[Row], varying: Mapping[str, str], more: str
) -> None:
    def user(row: Row) -> float:
        tpot = _value(row, "mean_tpot_ms")
        return 1e3 / tpot if tpot else 0.0

    field, each = "output_throughput", {"per": lambda r: _value(r, "num_gpus")}
    curves = _curves(found, varying, user, field, labelled=True, **each)
    if sum(len(curve.x) for curve in curves) < 2:
        return
    rates = all(row["request_rate"] is not None for row in found)
    report.section(
        "Throughput against interactivity",
        "Up is more tokens for a GPU, to the right is faster for each user. A number is a load: "
        f"{'requests a second' if rates else 'requests in flight'}.",
    )
    x, y = Axis("interactivity", "tok/s/user"), Axis("output throughput", "tok/s/GPU")
    spans = ", 90 % intervals" if any(curve.low for curve in curves) else ""
    caption = f"Throughput per GPU against tokens per second of a user{spans}."
    report.figure(lines(curves, x=x, y=y, palette=report.palette), f"{caption}{more}")


def _over_load(report: Report, found: Sequence[Row], varying: Mapping[str, str], more: str) -> None:
    sped = [row for row in found if isinstance(row.get("speedup"), float)]
    loads = {_position(row) for row in sped}
    if len(loads) < 2:
        return
    curves = _curves(sped, varying, _position, "speedup")
    if curves:
        report.section("Speed-up", "Over plain decoding on the same server, load by load.")
        x, y = Axis("requests in flight, or a second", log=True), Axis("speed-up", "x")
        figure = lines(curves, x=x, y=y, palette=report.palette)
        report.figure(figure, f"Speed-up against load.{more}")


def _costs(report: Report, found: Sequence[Row], varying: Mapping[str, str], given: str) -> None:
    known = [row for row in found if _usd(row) is not None]
    if not known:
        return
    shown, left = known, ""
    if len(known) > _BARS:
        load = _load(max(known, key=lambda row: _value(row, "output_throughput")))
        shown = [row for row in known if _load(row) == load][:_BARS]
        left = f" Drawn is the load of the fastest, {load}; the table has all."
    rows: list[Bar] = []
    for row in sorted(shown, key=_position):
        usd, prices, thing = _usd(row) or 0.0, row["usd_per_mtok_out"], _thing(row, varying)
        assert isinstance(prices, Mapping)
        ends = {end: prices.get(end) for end in ("low", "high")}
        speedup, each = row.get("speedup"), [(thing, 1.0)]
        if isinstance(speedup, float):
            each.insert(0, (_plain(row, varying), speedup))
        for name, times in each:
            low, high = (end and end * times for end in ends.values())
            bar = Bar(name=f"{name}, {_load(row)}", value=usd * times, low=low, high=high,
                group=name, note="price range")  # fmt: skip
            rows += [] if bar.name in {b.name for b in rows} else [bar]
    told = "Whiskers run from the lowest to the highest price that was found"
    report.section("Cost", f"{told}{given and f'; {given}'}.")
    axis = Axis("cost of a million output tokens", "USD")
    report.figure(
        bars(rows, axis=axis, palette=report.palette),
        f"Cost of a million output tokens, with and without speculation.{left}",
    )


def _cycle(report: Report, found: Sequence[Row], varying: Mapping[str, str]) -> None:
    if not found:
        return
    best = max(found, key=lambda row: _value(row, "output_throughput"))
    rows = [
        Bar(name=title, value=_value(best, name), group=_thing(best, varying))
        for name, title in _PHASES.items()
        if _value(best, name)
    ]
    name = _name(best, varying)
    what = f"{name}, {_load(best)}" if name else _load(best)
    report.section("A step of the fastest", f"{what}: {number(_value(best, 'step_ms'))} ms.")
    figure = bars(rows, axis=Axis("time in a step", "ms"), palette=report.palette)
    report.figure(figure, "What a step is made of.")


def _table(
    report: Report, rows: Sequence[Row], varying: Mapping[str, str], drawn: Collection[str]
) -> None:
    loads = [n for n in _LOADS if len({str(row[n]) for row in rows}) > 1]
    named = [*varying, *loads]
    plain = {"max_concurrency": "in flight", "request_rate": "requests/s", "dataset_name": "data"}
    head = [*(plain.get(n, n.replace("_", " ")) for n in named), *_TABLE.values(), "USD/M tokens"]
    lines_ = [
        [*(_word(row[n]) for n in named), *(_cell(row[n]) for n in _TABLE), _usd(row)]
        for row in rows
    ]
    report.section("Every row")
    things = [_thing(row, varying) for row in rows]
    keys = [thing if thing in drawn else None for thing in things]
    caption = "TTFT, TPOT and step are means, each p95 that of the one before."
    report.table(head, lines_, caption, things=keys)
    failed = list(dict.fromkeys(str(row["error"]) for row in rows if row.get("error")))
    if failed:
        report.text("\n\n".join(f"No answer: {why}." for why in failed))


def _warnings(found: Sequence[Row]) -> list[str]:
    """What rows warn of, each once."""
    told = [str(w) for row in found for w in _words(row["warnings"])]
    return list(filter(None, [*dict.fromkeys(told), estimated(found)]))


def _words(value: Any) -> list[str]:
    return value if isinstance(value, list) else []


def _grounds(found: Sequence[Row]) -> dict[str, str]:
    if not found:
        return {}
    held = [row["source_share"] for row in found]
    each = [h for h in held if isinstance(h, Mapping)]
    mean = {name: sum(e[name] for e in each) / len(each) for name in each[0]}
    kept = ("model", "draft_model", "engine_version", "calibration", "dflash_sim_version")
    facts = {name: str(found[0][name]) for name in kept if found[0].get(name)}
    return {"sources": shares(mean)} | facts


def _curves(
    found: Sequence[Row],
    varying: Mapping[str, str],
    x: Callable[[Row], float],
    field: str,
    per: Callable[[Row], float] = lambda _: 1.0,
    labelled: bool = False,
) -> list[Curve]:
    """A curve for each kind of server, through its loads in order, perhaps with these on it."""
    groups: dict[str, list[Row]] = {}
    for row in sorted(found, key=_position):
        groups.setdefault(_thing(row, varying), []).append(row)
    out = []
    for name, rows in groups.items():
        ends = [_ends(row, field) for row in rows]
        band: dict[str, Any] = {}
        if all(high for _, high in ends):
            band["low"] = [low / per(r) for (low, _), r in zip(ends, rows, strict=True)]
            band["high"] = [high / per(r) for (_, high), r in zip(ends, rows, strict=True)]
        y = [_value(row, field) / per(row) for row in rows]
        notes = [_load(row) for row in rows]
        labels = [f"{_position(row):g}" for row in rows] if labelled else []
        xs = [x(r) for r in rows]
        out.append(Curve(name=name, x=xs, y=y, notes=notes, labels=labels, **band))
    return out


def _things(found: Sequence[Row], varying: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The kinds of servers that have a colour: those that speculate, and plain decoding."""
    names: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for row in sorted(found, key=_position):
        speculative = METHODS[str(row["method"])].speculative
        names[speculative][_thing(row, varying)] = None
        if isinstance(row.get("speedup"), float):
            names[False][_plain(row, varying)] = None
    return list(names[True])[:SERIES], list(names[False])


def _thing(row: Row, varying: Mapping[str, str]) -> str:
    """What a row is of, whatever its load: the same words and colour all over the page."""
    return _name(row, varying) or _method(row)


def _plain(row: Row, varying: Mapping[str, str]) -> str:
    """What plain decoding of the same server is."""
    return _thing({**row, "method": PLAIN.name}, varying)


def _name(row: Row, varying: Mapping[str, str]) -> str:
    plain = not METHODS[str(row["method"])].speculative
    said = {n: _method(row) if n == "method" else row[n] for n in varying}
    told = {
        n: v for n, v in said.items() if v is not None and not (plain and n in ONLY_SPECULATION)
    }
    words = [f"{varying[n]}{_word(value)}" for n, value in told.items()]
    return ", ".join([*words, PLAIN_DECODING] if plain and "method" not in told else words)


def _method(row: Row) -> str:
    name = str(row["method"])
    return name if METHODS[name].speculative else PLAIN_DECODING


def _position(row: Row) -> float:
    return next((float(str(row[n])) for n in _LOADS if row[n] is not None), 1.0)


def _load(row: Row) -> str:
    if row["request_rate"] is not None:
        return f"{row['request_rate']:g} requests/s"
    return f"{row['max_concurrency']} in flight"


def _value(row: Row, name: str) -> float:
    held = row.get(name)
    return float(held) if isinstance(held, int | float) else 0.0


def _ends(row: Row, name: str) -> tuple[float, float]:
    held = row.get(f"{name}_ci90")
    if not isinstance(held, list):
        return 0.0, 0.0
    return float(held[0]), float(held[1])


def _usd(row: Row) -> float | None:
    prices = row.get("usd_per_mtok_out")
    usd = prices.get("typical") if isinstance(prices, Mapping) else None
    return float(usd) if usd is not None else None


def _word(value: Any) -> Cell:
    """A value that was asked for, with all its digits."""
    return f"{value:g}" if isinstance(value, float) else _cell(value)


def _cell(value: Any) -> Cell:
    return value if isinstance(value, str | int | float) or value is None else str(value)
