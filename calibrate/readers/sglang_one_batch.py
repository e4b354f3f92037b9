"""Rows of SGLang's other benchmarks: one batch, with a server or without, and all prompts at once.

The ``output_throughput`` of one batch counts decoding only; ours counts the whole time, prefill
included.
"""

from typing import Any

from dflash_sim.calibrate.observations.conditions import tagged_conditions, with_lengths
from dflash_sim.calibrate.observations.lengths import AT_MEANS, fixed_lengths, mean_lengths
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.values import (
    THROUGHPUTS,
    TOTALS,
    Metrics,
    Raw,
    known,
    number,
    whole,
    word,
)
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.units import MS

POOLED = "acc_length is the server's mean over steps"


def is_one_batch(raw: Raw) -> bool:
    """Keys that tell it from other tools."""
    return "last_ttft" in raw or "acc_length" in raw


def read_one_batch(raw: Raw, where: str, names: Names) -> Observation:
    """One batch; the model and the method are not in the file, unless ``run_name`` tells."""
    batch, isl, osl, latency_s = _batch(raw, "latency")
    ttft_s = number(raw, "last_ttft")
    made = whole(raw, "total_output_tokens") or batch * osl
    found = {
        "duration": latency_s,
        "completed": batch,
        "total_input_tokens": batch * isl,
        "total_output_tokens": made,
        "output_throughput": made / latency_s if latency_s > 0 else 0.0,
        "request_throughput": batch / latency_s if latency_s > 0 else 0.0,
    }
    if ttft_s is not None and osl > 1:
        found["mean_tpot_ms"] = (latency_s - ttft_s) / (made / batch - 1 or 1) / MS
    metrics = Metrics()
    metrics.take_same(found, *found)
    notes = ["mean_tpot_ms runs from the last first token of the batch"]
    if (number(raw, "acc_length") or 0) > 0:
        metrics.take("accept_length_cycle", raw, "acc_length")
        notes.append(POOLED)
    if number(raw, "num_early_stopped"):
        notes.append("some requests stopped early; the rest of the batch ran on without them")
    if hit_rate := number(raw, "cache_hit_rate"):
        notes.append(f"cache_hit_rate {hit_rate:g}: the simulated prefill is whole")
    run = word(raw, "run_name")
    fields = tagged_conditions(run, names) | {"conc": batch, "num_prompts": batch}
    return Observation(
        row=where,
        source="",
        fields=with_lengths(fields, fixed_lengths(isl, osl)),
        metrics=metrics.values,
        about=known(
            tool="sglang bench_one_batch_server",
            engine="sglang",
            tag=run,
            decode_tok_s=number(raw, "output_throughput"),
        ),
        notes=(*notes, *metrics.notes),
    )


def _batch(raw: Raw, time: str) -> tuple[int, int, int, float]:
    """Requests of the batch, tokens in and out of each, and the time that its tool prints [s]."""
    batch, isl, osl = (whole(raw, key) for key in ("batch_size", "input_len", "output_len"))
    seconds = number(raw, time)
    if batch is None or isl is None or osl is None or seconds is None:
        msg = f"batch_size, input_len, output_len and {time} are needed; one is missing"
        raise UsageError(msg)
    return batch, isl, osl, seconds


def is_batch_alone(raw: Raw) -> bool:
    """Keys of ``bench_one_batch``, which runs the model without a server."""
    return "median_decode_latency" in raw and "prefill_latency" in raw


def read_batch_alone(raw: Raw, where: str, names: Names) -> Observation:
    """One batch without a scheduler: its prefill and its steps are those of a server."""
    batch, isl, osl, _ = _batch(raw, "prefill_latency")
    total_s = number(raw, "total_latency")
    metrics = Metrics()
    metrics.take("mean_ttft_ms", raw, "prefill_latency", 1 / MS)
    metrics.take("median_tpot_ms", raw, "median_decode_latency", 1 / MS)
    found: dict[str, Any] = {"completed": batch, "total_input_tokens": batch * isl}
    if total_s:
        found |= {
            "duration": total_s,
            "total_output_tokens": batch * osl,
            "output_throughput": batch * osl / total_s,
        }
    metrics.take_same(found, *found)
    run = word(raw, "run_name")
    fields = tagged_conditions(run, names) | {"conc": batch, "num_prompts": batch}
    fields.setdefault("method", "none")  # the tool drafts nothing
    return Observation(
        row=where,
        source="",
        fields=with_lengths(fields, fixed_lengths(isl, osl)),
        metrics=metrics.values,
        about=known(tool="sglang bench_one_batch", engine="sglang", tag=run),
        notes=("measured without a server: no host work of a scheduler is in it", *metrics.notes),
    )


def is_offline(raw: Raw) -> bool:
    """Keys of ``bench_offline_throughput``."""
    return "last_gen_throughput" in raw and "successful_requests" in raw


def read_offline(raw: Raw, where: str, names: Names) -> Observation:
    """All prompts at once through the engine, without a client."""
    told = {
        **raw,
        "completed": raw.get("successful_requests"),
        "duration": raw.get("total_latency"),
    }
    metrics = Metrics()
    metrics.take_same(told, *TOTALS, *THROUGHPUTS)
    prompts = whole(told, "completed")
    if prompts is None:
        msg = "successful_requests is missing"
        raise UsageError(msg)
    return Observation(
        row=where,
        source="",
        fields={"conc": prompts, "num_prompts": prompts, **mean_lengths(metrics)},
        metrics=metrics.values,
        about={"tool": "sglang bench_offline_throughput", "engine": "sglang"},
        notes=("all prompts are there at the start", AT_MEANS, *metrics.notes),
    )
