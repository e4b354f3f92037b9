"""AIPerf: the summary of a run (``profile_export_aiperf.json``) and its requests (``.jsonl``).

Its ``inter_token_latency`` leaves the first token out, which is TPOT here; its
``inter_chunk_latency`` is the gap between chunks, which is ITL here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dflash_sim.calibrate.observations.acceptance_records import (
    accept_metrics,
    is_acceptance,
    verified,
)
from dflash_sim.calibrate.observations.lengths import lengths_of
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.sampling import sampling_of
from dflash_sim.calibrate.observations.values import (
    EVENLY,
    Metrics,
    Raw,
    anywhere,
    inner,
    known,
    naming,
    number,
    short,
)
from dflash_sim.profiles import units
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.precision import quantised_name

_LATENCIES = {
    "time_to_first_token": "ttft",
    "inter_token_latency": "tpot",
    "inter_chunk_latency": "itl",
    "request_latency": "e2e_latency",
}
_AMOUNTS = {
    "output_token_throughput": "output_throughput",
    "total_token_throughput": "total_throughput",
    "request_throughput": "request_throughput",
    "benchmark_duration": "duration",
    "request_count": "completed",
    "total_isl": "total_input_tokens",
    "total_osl": "total_output_tokens",
    "total_output_tokens": "total_output_tokens",
}
_STATISTICS = {"avg": "mean", "p50": "median", "std": "std", "p90": "p90", "p95": "p95"}
_STATISTICS |= {"p99": "p99"}
_MOST = 1e15  # beyond any time or length; squares of it are still finite
_TIME_S = {"ns": units.US * units.MS, "us": units.US, "ms": units.MS, "s": 1.0, "sec": 1.0}
_TIME_S |= {"nanoseconds": _TIME_S["ns"], "milliseconds": units.MS, "seconds": 1.0}


def is_aiperf_summary(raw: Raw) -> bool:
    """Statistics by tag, each with its unit."""
    found = _tags(raw)
    return any(isinstance(found.get(tag), Mapping) and "avg" in found[tag] for tag in _LATENCIES)


def is_statistics(rows: Sequence[Sequence[str]]) -> bool:
    """Return True for the table of ``profile_export_aiperf.csv``, or as it is printed."""
    return bool(rows) and [cell.strip().lower() for cell in rows[0][:2]] == ["metric", "avg"]


def statistics_of(rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A table of statistics as the summary has them: by tag, each with its unit."""
    names = [cell.strip().lower() for cell in rows[0]]
    found: dict[str, Any] = {}
    for row in rows[1:]:
        title, _, unit = row[0].partition("(")
        tag = "_".join(title.lower().replace("-", " ").split())
        cells = zip(names[1:], row[1:], strict=False)
        amounts = {name: cell.replace(",", "").strip() for name, cell in cells}
        numbers = {name: cell for name, cell in amounts.items() if cell not in ("", "N/A", "-")}
        found[tag] = {**numbers, "unit": unit.rstrip(") ")}
    return found


def is_aiperf_request(raw: Raw) -> bool:
    """One request of ``profile_export.jsonl``."""
    return "request_start_ns" in inner(raw, "metadata") or "benchmark_phase" in inner(
        raw, "metadata"
    )


def read_aiperf_summary(raw: Raw, where: str, names: Names) -> Observation:
    """A whole run."""
    tags, metrics = _tags(raw), Metrics()
    for tag, ours in _LATENCIES.items():
        statistics = inner(tags, tag)
        scale = _seconds(statistics, tag) / units.MS
        for theirs, statistic in _STATISTICS.items():
            metrics.take(f"{statistic}_{ours}_ms", statistics, theirs, scale)
    for tag, ours in _AMOUNTS.items():
        statistics = inner(tags, tag)
        scale = _seconds(statistics, tag) if ours == "duration" else 1.0
        metrics.take(ours, statistics, "avg", scale)
    config = raw.get("input_config")
    isl, osl = (number(inner(tags, f"{way}_sequence_length"), "avg") for way in ("input", "output"))
    fields, notes = _load(config) | _model(config, names) | _sampling(config), list(metrics.notes)
    notes += _doubt(config, fields.get("model"))
    if isl and osl:
        lengths, how = lengths_of(isl, osl, number(inner(tags, "output_sequence_length"), "std"))
        fields |= lengths
        notes.insert(0, how)
    return Observation(
        row=where,
        source="",
        fields=fields,
        metrics=metrics.values,
        assumed=("engine",),
        about=known(tool="aiperf", version=raw.get("aiperf_version")),
        notes=tuple(notes),
    )


def read_aiperf_requests(rows: Sequence[Raw], where: str) -> Observation:
    """All answered requests of a run together; the load is the most that were under way at once."""
    sent, done = (np.array([_ns(row, f"request_{end}_ns") for row in rows]) for end in _ENDS)
    found: dict[str, Any] = {}
    for tag, ours in _LATENCIES.items():
        sample = np.concatenate([_sample(row, tag) for row in rows])
        if len(sample):
            points = np.quantile(sample, (0.5, 0.9, 0.95, 0.99))
            of = [sample.mean(), sample.std(), *points]
            keys = [f"{s}_{ours}_ms" for s in ("mean", "std", "median", "p90", "p95", "p99")]
            found |= dict(zip(keys, (float(value) for value in of), strict=True))
    isl, osl = (
        np.concatenate([_sample(row, f"{way}_sequence_length") for row in rows])
        for way in ("input", "output")
    )
    duration_s = float(done.max() - sent.min()) * _TIME_S["ns"]
    if not duration_s > 0:
        msg = "request_end_ns never lies behind request_start_ns"
        raise UsageError(msg)
    found |= {
        "duration": duration_s,
        "completed": len(rows),
        "request_throughput": len(rows) / duration_s,
    }
    fields: dict[str, Any] = {"conc": _most_at_once(sent, done), "num_prompts": len(rows)}
    notes = ["concurrency is the most requests under way at once"]
    if len(isl) == len(osl) == len(rows):
        found |= {"total_input_tokens": float(isl.sum()), "total_output_tokens": float(osl.sum())}
        found["output_throughput"] = float(osl.sum()) / duration_s
        lengths, how = lengths_of(float(isl.mean()), float(osl.mean()), float(osl.std()))
        fields |= lengths
        notes.append(how)
    metrics = Metrics()
    metrics.take_same(found, *found)
    accepted = [verified(row) for row in rows if is_acceptance(row)]
    histogram = None
    if len(accepted) == len(rows):
        acceptance, histogram = accept_metrics(accepted)
        metrics.values |= acceptance
    return Observation(
        row=where,
        source="",
        fields=fields,
        metrics=metrics.values,
        accept_histogram=histogram,
        assumed=("engine",),
        about={"tool": "aiperf"},
        notes=(*notes, *metrics.notes),
    )


_ENDS = ("start", "end")


def check_aiperf_request(row: Raw) -> None:
    """Refuse a request that was not measured: failed, cancelled, or sent to warm up."""
    metadata = inner(row, "metadata")
    if row.get("error") is not None or metadata.get("was_cancelled"):
        error = inner(row, "error")
        msg = f"the request failed: {error.get('type', 'cancelled')}"
        raise UsageError(msg)
    if metadata.get("benchmark_phase", "profiling") != "profiling":
        msg = f"phase {metadata['benchmark_phase']} is not measured"
        raise UsageError(msg)
    for end in _ENDS:
        _ns(row, f"request_{end}_ns")
    for tag in (*_LATENCIES, "input_sequence_length", "output_sequence_length"):
        _sample(row, tag)
    if is_acceptance(row):
        verified(row)


def _tags(raw: Raw) -> Raw:
    return inner(raw, "records") or raw


def _seconds(found: Raw, tag: str) -> float:
    """Return what one unit of a time is in seconds; AIPerf writes the unit beside the value."""
    unit = found.get("unit", "ms")
    if not isinstance(unit, str) or unit.lower() not in _TIME_S:
        msg = f"{tag}: unit is {unit!r}; expected one of {', '.join(_TIME_S)}"
        raise UsageError(msg)
    return _TIME_S[unit.lower()]


def _ns(row: Raw, key: str) -> float:
    value = number(inner(row, "metadata"), key)
    if value is None or not np.isfinite(value):
        msg = f"metadata has no {key}"
        raise UsageError(msg)
    return value


def _sample(row: Raw, tag: str) -> np.ndarray:
    """Values of one request: one, several (gaps between chunks), or none; times in ms."""
    found = inner(row, "metrics", tag)
    values = found.get("value")
    several = values if isinstance(values, list) else [] if values is None else [values]
    scale = _seconds(found, tag) / units.MS if tag in _LATENCIES else 1.0
    with naming(tag):
        sample = np.array([number({"value": v}, "value") for v in several], dtype=float)
    if not ((sample >= 0) & (sample < _MOST)).all():
        msg = f"{tag} has values that are no amounts: {short(values)}"
        raise UsageError(msg)
    return sample * scale


def _most_at_once(sent: np.ndarray, done: np.ndarray) -> int:
    """Requests under way, counted at every start; one that ends then is done."""
    ended = np.searchsorted(np.sort(done), np.sort(sent), side="right")
    return int((np.arange(1, len(sent) + 1) - ended).max())


_ARRIVALS = ("request_rate_mode", "arrival_pattern")
_COUNTS = ("request_count", "requests", "num_requests")


def _load(config: Any) -> dict[str, Any]:
    """The load of the phase that was measured; a phase that warms up is not."""
    phase = _measured_phase(config)
    conc, rate = (_amount(phase, key) for key in ("concurrency", "request_rate"))
    rate = rate or _amount(phase, "rate")
    count = next((n for key in _COUNTS if (n := _amount(phase, key))), None)
    own = phase.get("type") if phase is not config else None  # other parts have types of their own
    said = (*(anywhere(phase, key) for key in _ARRIVALS), own)
    how = next((word.lower() for word in said if isinstance(word, str)), "")
    even = EVENLY if rate and not conc and how == "constant" else None
    found = {
        "conc": conc, "rate": None if conc else rate, "burstiness": even, "num_prompts": count,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def _measured_phase(config: Any) -> Any:
    phases = anywhere(config, "phases")
    if isinstance(phases, Mapping):
        phases = [{"name": name, **phase} for name, phase in phases.items() if _is_object(phase)]
    if not isinstance(phases, list) or not phases:
        return config
    measured = [p for p in phases if _is_object(p) and not _warms_up(p)]
    if len(measured) != 1:
        msg = f"input_config has {len(measured)} phases that are measured; one is read"
        raise UsageError(msg)
    return measured[0]


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _warms_up(phase: Raw) -> bool:
    named = str(phase.get("name", "")).lower().startswith("warm")
    return bool(phase.get("exclude_from_results")) or named


def _amount(config: Any, key: str) -> float | None:
    value = anywhere(config, key)
    fine = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return value if fine else None


def _sampling(config: Any) -> dict[str, Any]:
    """What ``--extra-inputs`` adds to every request."""
    return sampling_of({"config": config}, nested=True)


def _model(config: Any, names: Names) -> dict[str, Any]:
    model = anywhere(config, "model_names") or anywhere(config, "models")
    model = model or anywhere(config, "model")
    while isinstance(model, list | Mapping) and model:
        model = model.get("items", model.get("name")) if isinstance(model, Mapping) else model[0]
    if not isinstance(model, str):
        return {}
    tokenizer = _tokenizer(config)
    with naming("input_config"):
        return {"model": names.model(model, *([tokenizer] if tokenizer else []))}


def _tokenizer(config: Any) -> str:
    name = inner(config, "tokenizer").get("name") if _is_object(config) else None
    return name if isinstance(name, str) else ""


def _doubt(config: Any, model: str | None) -> list[str]:
    """Say that the tokenizer is of a quantised checkpoint where the model is named as none."""
    tokenizer = _tokenizer(config)
    if model is None or quantised_name(model) or not quantised_name(tokenizer):
        return []
    return [
        f"its tokenizer is that of {short(tokenizer)}: if that was served, name it as the model"
    ]
