"""Flags of a launch that set fields of a scenario, and how each value is read."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from typing import Any

from dflash_sim.calibrate.observations.launch_override import OVERRIDE


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[1-9]\d{0,8}", text) else None


def _chunk(text: str) -> int | None:
    return -1 if re.fullmatch(r"0|-\d{1,9}", text) else _integer(text)


def _fraction(text: str) -> float | None:
    with suppress(ValueError):
        return value if 0 < (value := float(text)) < 1 else None
    return None


def _ratio(text: str) -> float | None:
    with suppress(ValueError):
        return value if 0 < (value := float(text)) < inf else None
    return None


def _count(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None


WHAT: Mapping[Callable[[str], Any], str] = {
    _integer: "a whole number above 0",
    _count: "a whole number",
    _chunk: "a whole number above 0, or -1",
    _fraction: "a number between 0 and 1",
    _ratio: "a number above 0",
}
FIELDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "--model-path": ("model", str),
    "--tp-size": ("tp", _integer),
    "--ep-size": ("ep_size", _integer),
    "--speculative-algorithm": ("algorithm", str),
    "--speculative-draft-model-path": ("draft_model", str),
    "--speculative-num-steps": ("steps", _integer),
    "--speculative-num-draft-tokens": ("draft_tokens", _integer),
    "--speculative-dflash-block-size": ("block", _integer),
    "--speculative-dspark-block-size": ("drafts", _integer),
    "--speculative-eagle-topk": ("topk", _integer),
    "--speculative-draft-window-size": ("window", _integer),
    "--attention-backend": ("attention_backend", str),
    "--decode-attention-backend": ("decode_backend", str),
    "--max-running-requests": ("max_running_requests", _integer),
    "--mem-fraction-static": ("mem_fraction_static", _fraction),
    "--chunked-prefill-size": ("chunked_prefill_size", _chunk),
    "--cuda-graph-max-bs-decode": ("cuda_graph_max_bs", _integer),
    "--cuda-graph-bs-decode": ("cuda_graph_max_bs", _integer),
    "--context-length": ("context_length", _integer),
    "--page-size": ("page_size", _integer),
    "--quantization": ("quantization", str),
    "--kv-cache-dtype": ("kv_cache_dtype", str),
    "--speculative-draft-model-quantization": ("speculative_draft_model_quantization", str),
    "--mamba-ssm-dtype": ("mamba_ssm_dtype", str),
    "--mamba-radix-cache-strategy": ("mamba_radix_cache_strategy", str),
    "--mamba-full-memory-ratio": ("mamba_full_memory_ratio", _ratio),
    "--max-mamba-cache-size": ("max_mamba_cache_size", _integer),
    "--linear-attn-decode-backend": ("linear_attn_decode_backend", str),
    "--min-free-slots-delay": ("min_free_slots_delay", _count),
    "--max-prefill-tokens": ("max_prefill_tokens", _integer),
    "--cuda-graph-backend-prefill": ("cuda_graph_backend_prefill", str),
    "--schedule-policy": ("schedule_policy", str),
    "--schedule-conservativeness": ("schedule_conservativeness", _ratio),
    "--scheduler-recv-interval": ("scheduler_recv_interval", _integer),
    "--stream-interval": ("stream_interval", _integer),
}
REQUESTS = "--preferred-sampling-params"  # of clients that do not say how tokens are drawn
AS_TP = "tp"  # as many as there are ranks
SWITCHES: Mapping[str, tuple[str, Any]] = {
    "--disable-overlap-schedule": ("engine_mode", "v2-sync"),
    "--disable-radix-cache": ("radix_cache", False),
    "--enable-linear-replayssm-spec": ("linear_replayssm_spec", True),
    "--enable-gdn-replayssm-spec": ("linear_replayssm_spec", True),
    "--speculative-use-rejection-sampling": ("speculative_use_rejection_sampling", True),
    "--disable-cuda-graph": ("cuda_graph_max_bs", 0),
    "--disable-decode-cuda-graph": ("cuda_graph_max_bs", 0),
    "--disable-prefill-cuda-graph": ("cuda_graph_backend_prefill", "disabled"),
    "--enforce-piecewise-cuda-graph": ("cuda_graph_backend_prefill", "tc_piecewise"),
    "--enable-ep-moe": ("ep_size", AS_TP),
    "--enable-breakable-cuda-graph": ("cuda_graph_backend_prefill", "breakable"),
}
MODELLED = frozenset([*FIELDS, *SWITCHES, REQUESTS, OVERRIDE])
