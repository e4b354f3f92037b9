"""What a server tells of itself, by the names of SGLang's ``/get_server_info``."""

from typing import Any

from dflash_sim.serve.backend import Load
from dflash_sim.simulator.setup import Setup


def server_info(setup: Setup, load: Load) -> dict[str, Any]:
    """Resolved server arguments, and one ``internal_states`` entry.

    Our readers make of it the scenario that is served.
    """
    s = setup.scenario
    info: dict[str, Any] = {
        "model_path": s.model,
        "served_model_name": s.model,
        "tp_size": setup.tp,
        "dp_size": 1,
        "ep_size": s.ep_size,
        "quantization": None if setup.quantization == "bf16" else setup.quantization,
        "kv_cache_dtype": setup.kv_cache_dtype,
        "attention_backend": setup.backend,
        "page_size": setup.limits.page_size,
        "context_length": s.context_length or setup.model.context,
        "max_running_requests": setup.limits.max_running_requests,
        "max_total_num_tokens": setup.limits.kv_tokens,
        "mem_fraction_static": setup.mem_fraction,
        "chunked_prefill_size": setup.limits.chunked_prefill_size,
        "cuda_graph_max_bs": setup.graph_max_bs,
        "disable_overlap_schedule": s.engine_mode != "v2",
        "disable_radix_cache": not s.radix_cache,
        "version": s.build or setup.engine.version,
        "simulated": True,
    }
    info |= speculation_info(setup)
    state: dict[str, Any] = {
        "memory_usage": {"token_capacity": setup.limits.kv_tokens},
        "effective_max_running_requests_per_dp": setup.limits.max_running_requests,
    }
    if setup.speculative:
        state["avg_spec_accept_length"] = accept_length(load)
    return {**info, "internal_states": [state]}


def speculation_info(setup: Setup) -> dict[str, Any]:
    """Arguments of speculation; an algorithm of None without it."""
    if not setup.speculative:
        return {"speculative_algorithm": None}
    s = setup.scenario
    info: dict[str, Any] = {
        "speculative_algorithm": setup.method.algorithm or setup.method.name.upper(),
        "speculative_num_draft_tokens": setup.block,
    }
    if "steps" in setup.method.takes:
        info |= {
            "speculative_num_steps": s.steps or setup.block - 1,
            "speculative_eagle_topk": s.topk,
            "speculative_use_rejection_sampling": s.speculative_use_rejection_sampling,
        }
    if setup.drafter is not None:
        info["speculative_draft_model_path"] = s.draft_model or setup.drafter.name
    return info


def accept_length(load: Load) -> float | None:
    """Tokens that a verify step commits, over all steps since the start; None before the first."""
    steps = load.counters.get("verifies", 0)
    return 1 + load.counters.get("accepted", 0) / steps if steps else None
