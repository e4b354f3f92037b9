"""A result of ``vllm bench serve``; ``--metadata gpu=b200 method=dflash`` completes it."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from dflash_sim.calibrate.observations.acceptance_records import count
from dflash_sim.calibrate.observations.conditions import (
    ALIASES,
    COLUMNS,
    read_conditions,
    with_lengths,
)
from dflash_sim.calibrate.observations.lengths import AT_MEANS, mean_lengths
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.observation import Observation, drafts_nothing
from dflash_sim.calibrate.observations.sampling import sampling_of
from dflash_sim.calibrate.observations.values import (
    TOTALS,
    Metrics,
    Raw,
    known,
    naming,
    number,
    word,
)
from dflash_sim.calibrate.readers.sglang_bench_serving import load
from dflash_sim.profiles.errors import UsageError

_LATENCIES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e_latency": "e2el"}
# InferenceX keeps the raw result of its benchmark with latencies in seconds.
_IN_SECONDS = tuple(
    f"{s}_{name}" for s in ("mean", "median", "p99") for name in _LATENCIES.values()
)
_OWN = {"num_prompts", "request_rate", "burstiness", "max_concurrency"}
PERCENT = 0.01


def is_vllm(raw: Raw) -> bool:
    """Keys that tell it from other tools."""
    told = ("endpoint_type", "total_token_throughput", *_IN_SECONDS)
    return "model_id" in raw and any(key in raw for key in told)


def read_vllm(raw: Raw, where: str, names: Names) -> Observation:
    """One run. Who served is not said: it is taken for SGLang, and noted."""
    metrics = Metrics()
    metrics.take_same(raw, *TOTALS, "request_throughput", "output_throughput")
    metrics.take("total_throughput", raw, "total_token_throughput")
    metrics.take("input_throughput", raw, "input_throughput")
    metrics.take_latencies(raw, _LATENCIES)
    metrics.take_latencies(raw, _LATENCIES, suffix="")
    take_drafts(metrics, raw)
    cells = {
        ALIASES.get(key, key): str(value)
        for key, value in raw.items()
        if key not in _OWN and ALIASES.get(key, key) in COLUMNS and not isinstance(value, list)
    }
    if (model := word(raw, "model_id")) is not None:
        cells["model"] = model
    with naming("model_id and metadata"):
        said = read_conditions(cells, names)
    fields = with_block(said.fields | load(raw) | sampling_of(raw), raw)
    return Observation(
        row=where,
        source="",
        fields=with_lengths(fields, mean_lengths(metrics)),
        metrics=metrics.values,
        accept_histogram=accepted_histogram(raw),
        assumed=("engine",) if "engine" not in raw else (),
        about=known(
            tool="vllm bench serve",
            engine=word(raw, "engine"),
            label=word(raw, "label"),
            date=word(raw, "date"),
            failed=number(raw, "failed"),
        ),
        notes=(AT_MEANS, *said.notes, *metrics.notes),
    )


def take_drafts(metrics: Metrics, raw: Raw) -> None:
    """Store what the run's own verify steps accepted, whoever may have served before it."""
    metrics.take("accept_length_cycle", raw, "spec_decode_acceptance_length")
    metrics.take("accept_rate", raw, "spec_decode_acceptance_rate", PERCENT)
    metrics.take("verify_steps", raw, "spec_decode_num_drafts")


def with_block(fields: Mapping[str, Any], raw: Raw) -> dict[str, Any]:
    """The fields with the verify width: drafts a step and the anchor."""
    steps, drafts = (count(raw, f"spec_decode_{k}") for k in ("num_drafts", "draft_tokens"))
    if not steps or not drafts or drafts % steps or drafts_nothing(fields):
        return dict(fields)
    return {"block": drafts // steps + 1, **fields}


def accepted_histogram(raw: Raw) -> tuple[int, ...] | None:
    """Steps by accepted drafts, from the share of steps that accepted each position."""
    steps = count(raw, "spec_decode_num_drafts")
    rates = raw.get("spec_decode_per_position_acceptance_rates")
    if steps is None or not isinstance(rates, list) or not rates:
        return None
    survival = [1.0, *(number({"rate": rate}, "rate") or 0.0 for rate in rates), 0.0]
    if any(not 0 <= late <= early <= 1 for early, late in pairwise(survival)):
        key = "spec_decode_per_position_acceptance_rates"
        msg = f"{key} is not a falling series of shares from 1 to 0"
        raise UsageError(msg)
    reached = [round(steps * share) for share in survival]
    return tuple(early - late for early, late in pairwise(reached))
