"""A comparison as a page, several as a table, and either as rows."""

from collections.abc import Collection, Iterator, Sequence
from math import isnan
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dflash_sim.calibrate.compare.causes import CAUSES, Cause, Diagnosis
from dflash_sim.calibrate.compare.compare import Amount, Comparison, Metric, Summary
from dflash_sim.calibrate.compare.own_acceptance import OWN, OwnAcceptance
from dflash_sim.simulator.row import DECIMALS, failed_row, to_row
from dflash_sim.studies.show.figures import number, percent, shares, signed
from dflash_sim.studies.show.styles import LABEL, STRONG
from dflash_sim.studies.show.titles import mean_lengths, method_title, workload_title

_IDENTITY = (
    "schema_version", "scenario_hash", "dflash_sim_version", "gpu", "num_gpus", "tp", "model",
    "draft_model", "method", "block", "engine", "engine_version", "engine_mode",
    "attention_backend", "dataset_name", "thinking", "isl", "osl", "max_new_tokens",
    "max_concurrency", "request_rate", "num_prompts",
)  # fmt: skip
_THROUGHPUT = "output_throughput"
_TARGETS = {_THROUGHPUT: "throughput", "mean_e2e_latency_ms": "mean e2e latency"}
# What a row without a throughput is told by, in a table.
_INSTEAD = ("mean_tpot_ms", "median_tpot_ms", "mean_e2e_latency_ms", "mean_itl_ms", "accept_length",
            "accept_length_cycle")  # fmt: skip
# Of the workload, so of interest only where they differ.
_GIVEN = ("completed", "total_input_tokens", "total_output_tokens")
_AGREES = 0.001
_WORD = {True: "yes", False: "no", None: ""}
_INDENT = 14


# ---- rows


def row_of(found: Comparison) -> dict[str, Any]:
    """One comparison as a row; what was compared and explained are objects inside it."""
    if found.result is not None:
        filled = to_row(found.result)
    else:
        assert found.error is not None
        filled = failed_row(found.scenario, found.error)
    seen, main = found.observation, found.metric(_THROUGHPUT)
    return {
        "kind": "compared",
        "row": seen.row,
        "source": seen.source,
        "build": seen.build,
        **{name: filled[name] for name in _IDENTITY},
        "observed_output_throughput": _rounded(main.observed) if main else None,
        "predicted_output_throughput": _rounded(main.predicted) if main else None,
        "output_throughput_error": _rounded(main.rel_err) if main else None,
        "inside_interval": main.inside if main else None,
        "own_accept_length": _own(found.own),
        "metrics": {m.name: _metric(m) for m in found.metrics},
        "explained": _explained(found.diagnosis) if found.diagnosis else None,
        "assumed": list(seen.assumed),
        "notes": list(found.notes),
        "warnings": list(found.result.warnings) if found.result else [],
        "error": str(found.error) if found.error else None,
    }


def _own(own: OwnAcceptance | None) -> dict[str, Any] | None:
    if own is None:
        return None
    expected = own.expected is not None
    return {
        "metric": own.of.name,
        "measured": _rounded(own.measured),
        "expected": None if own.expected is None else _rounded(own.expected),
        "source": own.source if expected else None,
        "output_throughput_at_expected": _rounded(own.values[_THROUGHPUT]) if expected else None,
    }


def _metric(m: Metric) -> dict[str, Any]:
    return {
        "observed": _rounded(m.observed),
        "predicted": _rounded(m.predicted),
        "error": _rounded(m.rel_err),
        "interval": [_rounded(end) for end in m.interval] if m.interval else None,
        "inside": m.inside,
    }


def _explained(d: Diagnosis) -> dict[str, Any]:
    causes = [
        {
            "cause": c.name,
            "share": _rounded(c.share),
            "evidence": c.evidence,
            "or_else": list(c.or_else),
        }
        for c in d.causes
    ]
    return {
        "metric": d.target,
        "error": _rounded(d.rel_err),
        "causes": causes,
        "unexplained": _rounded(d.unexplained),
        "spread": _rounded(d.spread),
        "unknown": list(d.unknown),
    }


def _rounded(value: Amount) -> float:
    return round(value, DECIMALS)


# ---- one page


def page(found: Comparison, said: Collection[str] = ()) -> RenderableType:
    """One comparison: the gap, every metric, the causes, and what the file leaves open."""
    parts: list[RenderableType] = [Text(" · ".join(_title(found)), style=STRONG), Text()]
    if found.error is not None:
        return Group(*parts, Text(f"no prediction: {found.error}", style="yellow"))
    assert found.result is not None
    missing = unnamed_gpu([found], said)
    if missing:
        parts += [Text(missing, style="bold yellow"), Text()]
    parts += [_metrics(found), Text()]
    if found.own is not None:
        parts += [Text(said_of_own(found)), Text()]
    if found.diagnosis is not None:
        parts += [_why(found.diagnosis), Text()]
    if found.observation.assumed:
        parts.append(Text(f"assumed, not in the file: {', '.join(_assumed(found))}"))
    parts += [Text(f"note: {note}", style="dim") for note in found.notes]
    parts += [Text(f"warning: {w}", style="yellow") for w in found.result.warnings]
    parts.append(Text(f"sources: {shares(found.result.evidence)}"))
    return Group(*parts)


def said_of_own(found: Comparison) -> str:
    """Say that a row is predicted with its own accept length, and what another would have given."""
    own, speed = found.own, found.metric(_THROUGHPUT)
    if own is None:
        return ""
    line = f"Predicted with {OWN}: {own.of.name} {own.measured:.2f}."
    if own.expected is None:
        return line
    other = own.values[_THROUGHPUT]
    off = f", {signed(other / speed.observed - 1)}" if speed else ""
    return (
        f"{line} To be expected was {own.expected:.2f} ({own.source}), which would give "
        f"{number(other)} tok/s{off}."
    )


def said_of_owns(found: Sequence[Comparison]) -> str:
    """Say of several rows that they are predicted with their own accept lengths; or nothing."""
    owns = [c for c in found if c.own is not None and c.own.expected is not None]
    pairs = [(c.own.values[_THROUGHPUT], m) for c in owns if c.own and (m := c.metric(_THROUGHPUT))]
    if not pairs:
        return ""
    errors = [predicted / m.observed - 1 for predicted, m in pairs]
    bias, mape = (sum(each) / len(errors) for each in (errors, [abs(e) for e in errors]))
    return (
        f"{len(owns)} of {len(found)} rows are predicted with their own accept lengths; with those "
        f"to be expected they are off by {percent(mape)}, bias {signed(bias)}"
    )


def row_title(found: Comparison) -> str:
    """A row and its scenario in words."""
    return " · ".join(_title(found))


def unnamed_gpu(found: Sequence[Comparison], said: Collection[str] = ()) -> str:
    """Say that rows name no GPU, and what was taken in its place; empty where all do.

    Parameters
    ----------
    said
        Conditions that the asker said to assume.
    """
    if "gpu" in said:
        return ""
    without = [c for c in found if "gpu" in c.observation.assumed]
    if not without:
        return ""
    kinds = ", ".join(dict.fromkeys(c.scenario.gpu for c in without))
    rows = "The row names" if len(found) == 1 else f"{len(without)} of {len(found)} rows name"
    return (
        f"{rows} no GPU: what is predicted is {kinds}. If it was another, all that follows is of "
        "the wrong machine; say it with --assume gpu=NAME."
    )


def _title(found: Comparison) -> Iterator[str]:
    s = found.scenario
    yield found.observation.row
    if found.result is None:
        yield from (s.model, s.method, s.gpu)
    else:
        setup = found.result.setup
        yield from (setup.model.name, method_title(setup))
        yield f"{setup.num_gpus} x {setup.device.name}, TP {setup.tp}"
    yield workload_title(s)
    yield f"{number(s.rate)} requests/s" if s.rate else f"{s.conc:,} in flight"


def _assumed(found: Comparison) -> Iterator[str]:
    """Conditions with the value that stood in."""
    values = found.scenario.model_dump()
    for name in found.observation.assumed:
        value = values.get(name)
        yield name if value is None else f"{name} {value}"


def _metrics(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=LABEL)
    table.add_column("", style=LABEL, no_wrap=True)
    with_interval = any(m.interval for m in found.metrics)
    more = ("90 % interval", "inside") if with_interval else ()
    for head in ("measured", "predicted", "error", *more):
        table.add_column(head, justify="right", no_wrap=True)
    for m in found.metrics:
        if m.name in _GIVEN and abs(m.rel_err) < _AGREES:
            continue
        cells = [number(m.observed), number(m.predicted), signed(m.rel_err)]
        if with_interval:
            ends = f"{number(m.interval[0])} - {number(m.interval[1])}" if m.interval else ""
            cells += [ends, _WORD[m.inside]]
        table.add_row(m.name, *cells, style=STRONG if m.name == _THROUGHPUT else "")
    return table


def _why(d: Diagnosis) -> RenderableType:
    side = "above" if d.rel_err >= 0 else "below"
    head = Text(
        f"The predicted {_TARGETS[d.target]} is {percent(abs(d.rel_err))} {side} the measured one."
    )
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(style=LABEL, min_width=_INDENT - 1, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for cause in d.causes:
        table.add_row(CAUSES[cause.name], signed(cause.share), Text(_evidence(cause)))
    chance = f"a single run is off by {percent(d.spread)} by chance" if d.spread else ""
    table.add_row("unexplained", signed(d.unexplained), Text(chance))
    unknown = [Text(f"cannot tell from this file: {what}", style="dim") for what in d.unknown]
    return Group(head, table, *unknown)


def _evidence(cause: Cause) -> str:
    others = " or ".join(CAUSES[name] for name in cause.or_else)
    return f"{cause.evidence}; or else {others}" if others else cause.evidence


# ---- many


def overview(
    found: Sequence[Comparison], total: Summary, said: Collection[str] = ()
) -> RenderableType:
    """One line per comparison, with the largest cause, and the mean errors."""
    asked = [_conditions(c) for c in found]
    varying = [name for name in asked[0] if len({conditions[name] for conditions in asked}) > 1]
    same = [value for name, value in asked[0].items() if value and name not in varying]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style=LABEL)
    table.add_column("row", style=LABEL, overflow="fold", min_width=8)
    for name in varying:
        table.add_column(name, justify="right" if name == "load" else "left", overflow="fold")
    with_interval = total.judged > 0
    for head in ("measured", "predicted", "error", *(["inside"] if with_interval else [])):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("largest cause", overflow="fold", min_width=16)
    for c, conditions in zip(found, asked, strict=True):
        cells = [c.observation.row, *(conditions[name] for name in varying)]
        cells += _line(c, with_interval=with_interval)
        table.add_row(*map(Text, cells))
    reasons = dict.fromkeys(str(c.error) for c in found if c.error is not None)
    missing = unnamed_gpu(found, said)
    return Group(
        Text(" · ".join(same), style=STRONG),
        Text(),
        *([Text(missing, style="bold yellow"), Text()] if missing else []),
        table,
        Text(),
        *(Text(f"no prediction: {reason}", style="yellow") for reason in reasons),
        Text(summary_line(total), style=STRONG),
        *([Text(line)] if (line := said_of_owns(found)) else []),
    )


def _conditions(c: Comparison) -> dict[str, str]:
    s = c.scenario
    setup = c.result.setup if c.result else None
    block = s.block or (setup.block if setup else None)
    return {
        "model": setup.model.name if setup else s.model,
        "machine": f"{setup.num_gpus} x {setup.device.name}" if setup else s.gpu,
        "method": f"{s.method} {block}" if s.speculation.speculative and block else s.method,
        "mode": f"mode {s.engine_mode}",
        "workload": s.dataset or "{}/{}".format(*mean_lengths(s)),
        "load": f"{s.rate:g}/s" if s.rate else f"c={s.conc}",
    }


def _line(c: Comparison, *, with_interval: bool) -> list[str]:
    m = next(filter(None, map(c.metric, (_THROUGHPUT, *_INSTEAD))), None)
    inside = [_WORD[m.inside if m else None]] if with_interval else []
    if c.error is not None or m is None:
        return ["", "", "", *inside, "no prediction" if c.error else "no throughput"]
    cause = "" if m.name == _THROUGHPUT else f"{m.name}; no throughput"
    if c.diagnosis is not None and c.diagnosis.causes:
        largest = max(c.diagnosis.causes, key=lambda cause: abs(cause.share))
        of = "" if c.diagnosis.target == _THROUGHPUT else " of e2e:"
        cause = f"{signed(largest.share)}{of} {CAUSES[largest.name]}"
    return [number(m.observed), number(m.predicted), signed(m.rel_err), *inside, cause]


def summary_line(total: Summary) -> str:
    """Rows, mean absolute error and bias of the throughput."""
    if isnan(total.mape):
        return "no row has a throughput to compare"
    rows = "1 row" if total.rows == 1 else f"{total.rows} rows"
    line = f"throughput of {rows}: MAPE {percent(total.mape)}, bias {signed(total.bias)}"
    if not total.judged:
        return line
    return f"{line}; {total.inside} of {total.judged} inside the 90 % interval"
