"""Summaries of llmperf, EvalScope and genai-bench: means and quantiles in **seconds**.

The last has a file for each load, and may say that its latencies are in milliseconds.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dflash_sim.calibrate.observations.lengths import AT_MEANS, fixed_lengths, lengths_of
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.values import (
    OF_CHUNKS,
    STATISTICS,
    Metrics,
    Raw,
    inner,
    known,
    naming,
    number,
    short,
    whole,
    word,
)
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.units import MS

_LLMPERF = {
    "mean": "mean",
    "median": "quantiles_p50",
    "std": "stddev",
    "p90": "quantiles_p90",
    "p95": "quantiles_p95",
    "p99": "quantiles_p99",
}
_LLMPERF_LATENCIES = {"ttft": "ttft_s", "itl": "inter_token_latency_s",
                      "e2e_latency": "end_to_end_latency_s"}  # fmt: skip
# Labels of EvalScope without "Average" or "Avg", those of its first releases before today's.
_EVALSCOPE: Mapping[str, Sequence[str]] = {
    "mean_ttft_ms": ("time to first token", "ttft"),
    "mean_tpot_ms": ("time per output token", "tpot"),
    "mean_itl_ms": ("inter-token latency", "itl"),
    "mean_e2e_latency_ms": ("latency",),
}
_EVALSCOPE_TOTALS: Mapping[str, Sequence[str]] = {
    "duration": ("time taken for tests (s)", "test duration (s)"),
    "output_throughput": ("output token throughput (tok/s)", "output throughput (tok/s)"),
    "total_throughput": ("total token throughput (tok/s)", "total throughput (tok/s)"),
    "request_throughput": ("request throughput (req/s)", "req throughput (req/s)"),
}
_CLIENTS = ("number of concurrency", "concurrency")
_INPUTS = ("input tokens per request", "input tokens")
_OUTPUTS = ("output tokens per request", "output tokens")
_DECODED = ("decoded tokens per iter", "decoded tokens/iter", "decoded tok/iter")
_SPEAKS = 1.25  # tokens a chunk: fewer are chunks that a busy client read together
_COUNTS = re.compile(r"(\d+) / (\d+) / \d+")  # "total / success / failed"
_GENAI_LATENCIES = ("ttft", "tpot", "e2e_latency")
_GENAI_STATISTIC = {"median": "p50", "std": "stddev"}
_GENAI_TOTALS = {
    "duration": "run_duration",
    "completed": "num_completed_requests",
    "request_throughput": "requests_per_second",
    "input_throughput": "mean_input_throughput_tokens_per_s",
    "output_throughput": "mean_output_throughput_tokens_per_s",
    "total_throughput": "mean_total_tokens_throughput_tokens_per_s",
}
_UNITS = {"s": 1 / MS, "ms": 1.0}
_BY_RATE = "request_rate"


def is_llmperf(raw: Raw) -> bool:
    """Keys that tell it from other tools."""
    return "results_ttft_s_mean" in raw or "results_ttft_s_quantiles_p50" in raw


def read_llmperf(raw: Raw, where: str, names: Names) -> Observation:
    """One run of ``token_benchmark_ray.py``.

    Its inter-token latency is the time of an answer over its tokens, and no time per output token.
    """
    metrics = Metrics()
    for ours, theirs in _LLMPERF_LATENCIES.items():
        if ours == "itl":
            continue
        for statistic, name in _LLMPERF.items():
            key = f"results_{theirs}_{name}"
            metrics.take(f"{statistic}_{ours}_ms", raw, key, 1 / MS)
    metrics.take("output_throughput", raw, "results_mean_output_throughput_token_per_s")
    metrics.take("completed", raw, "results_num_completed_requests")
    per_minute = number(raw, "results_num_completed_requests_per_min")
    if per_minute:
        metrics.values["request_throughput"] = per_minute / 60
    isl, osl = (number(raw, f"results_number_{way}_tokens_mean") for way in ("input", "output"))
    prompts = whole(raw, "results_num_completed_requests")
    fields = known(conc=whole(raw, "num_concurrent_requests"), num_prompts=prompts)
    return _observation("llmperf", raw, "model", where, names, fields, metrics, isl, osl)


def is_evalscope(raw: Raw) -> bool:
    """Keys that tell it from other tools."""
    said = _labels(raw)
    return all(
        any(label in said for label in labels)
        for labels in (_CLIENTS, _EVALSCOPE_TOTALS["output_throughput"], _INPUTS)
    )


def read_evalscope(raw: Raw, where: str, names: Names) -> Observation:
    """One run of ``evalscope perf``, as its summary or as it is printed."""
    said = _labels(raw)
    if counts := _COUNTS.fullmatch(str(said.get("total / success / failed"))):
        said |= {"total requests": counts[1], "succeed requests": counts[2]}
    metrics = Metrics()
    metrics.take("completed", said, "succeed requests")
    for ours, labels in _EVALSCOPE_TOTALS.items():
        metrics.take(ours, said, _first(said, labels))
    for ours, labels in _EVALSCOPE.items():
        for unit, scale in _UNITS.items():
            for label in labels:
                metrics.take(ours, said, f"{label} ({unit})", scale)
    if (decoded := number(said, _first(said, _DECODED)) or 0.0) >= _SPEAKS:
        metrics.values["accept_length"] = decoded
        metrics.notes.append(OF_CHUNKS)
    prompts = whole(said, "total requests") or whole(said, "succeed requests")
    fields = known(conc=whole(said, _first(said, _CLIENTS)), num_prompts=prompts)
    isl, osl = (number(said, _first(said, labels)) for labels in (_INPUTS, _OUTPUTS))
    return _observation("evalscope", said, "model", where, names, fields, metrics, isl, osl)


def _first(said: Raw, labels: Sequence[str]) -> str:
    return next((label for label in labels if label in said), labels[0])


def _labels(raw: Raw) -> dict[str, Any]:
    """Values by label, without what makes an average of it or heads the labels below it."""
    bare = ((re.sub(r"\s+|─+[^─]*─+", " ", str(key)).strip().lower(), value)
            for key, value in raw.items())  # fmt: skip
    return {re.sub(r"^(?:average|avg\.?) ", "", label): value for label, value in bare}


def is_genai_bench(raw: Raw) -> bool:
    """Keys that tell it from other tools."""
    return isinstance(raw.get("aggregated_metrics"), Mapping)


def read_genai_bench(raw: Raw, where: str, names: Names) -> Observation:
    """One run of ``genai-bench``; the model and the server are in another file."""
    run = inner(raw, "aggregated_metrics")
    unit = word(raw, "_time_unit") or "s"
    if unit not in _UNITS:
        msg = f"_time_unit is {short(unit)}; expected s or ms"
        raise UsageError(msg)
    if (batch := whole(run, "batch_size") or 1) > 1:
        msg = f"batch_size {batch}: several prompts in a request are not simulated"
        raise UsageError(msg)
    metrics = Metrics()
    for ours, theirs in _GENAI_TOTALS.items():
        metrics.take(ours, run, theirs)
    for latency in _GENAI_LATENCIES:
        of = inner(run, "stats", latency)
        for statistic in STATISTICS:
            theirs = _GENAI_STATISTIC.get(statistic, statistic)
            metrics.take(f"{statistic}_{latency}_ms", of, theirs, _UNITS[unit])
    fields, notes = _genai_load(run), list(metrics.notes)
    tokens = {way: inner(run, "stats", f"num_{way}_tokens") for way in ("input", "output")}
    isl, osl = (number(of, "mean") for of in tokens.values())
    if isl and osl:
        lengths, how = lengths_of(isl, osl, number(tokens["output"], "stddev"))
        fields |= lengths
        notes.append(how)
    return Observation(
        row=where,
        source="",
        fields=fields,
        metrics=metrics.values,
        assumed=("engine",),
        about=known(
            tool="genai-bench",
            scenario=word(run, "scenario"),
            failed=number(run, "num_error_requests"),
        ),
        notes=tuple(notes),
    )


def _genai_load(run: Raw) -> dict[str, Any]:
    """So many clients, or arrivals at a rate: what the runs of an experiment differ in."""
    prompts = whole(run, "num_completed_requests")
    if word(run, "iteration_type") == _BY_RATE:
        return known(rate=number(run, _BY_RATE), num_prompts=prompts)
    return known(conc=whole(run, "num_concurrency"), num_prompts=prompts)


def _observation(
    tool: str,
    raw: Raw,
    model_key: str,
    where: str,
    names: Names,
    load: Mapping[str, Any],
    metrics: Metrics,
    isl: float | None,
    osl: float | None,
) -> Observation:
    fields = dict(load)
    if (model := word(raw, model_key)) is not None:
        with naming(model_key):
            fields["model"] = names.model(model)
    notes = list(metrics.notes)
    if isl and osl:
        fields |= fixed_lengths(isl, osl)
        notes.append(AT_MEANS)
    return Observation(
        row=where,
        source="",
        fields=fields,
        metrics=metrics.values,
        about={"tool": tool},
        notes=tuple(notes),
    )
