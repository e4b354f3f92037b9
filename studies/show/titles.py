"""A result in words: what was asked, what was published, every setting as it was run."""

from collections.abc import Iterator
from typing import Any

from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.show.figures import number, percent


def title(result: Result) -> str:
    """Model, method, machine and load in words."""
    return " · ".join(_title(result))


def method_title(setup: Setup) -> str:
    """The method and its width in words, such as ``DFlash, block 16``."""
    title = setup.method.title.format(block=setup.block, steps=setup.most_tokens - 1)
    topk = setup.scenario.topk
    return f"{title}, tree of topk {topk}, {setup.block} verified" if topk > 1 else title


def phase_title(name: str, setup: Setup) -> str:
    """Return what pages call a phase of the cycle; columns of files keep ``name``."""
    if name == "verify" and not setup.speculative:
        return "decode"
    if name == "materialise":
        return "draft extend" if setup.method.sequential else "KV injection"
    return "state commit" if name == "commit" else name


def published_note(result: Result) -> str:
    """Say how far the nearest published point is, or that there is none."""
    point, error = result.published, result.published_error
    if point is None or error is None:
        return "no published point for this scenario"
    side = "above" if error >= 0 else "below"
    use = ", ".join(result.published_fitted)
    fitted = f"used to fit {use}" if use else "not used for fitting"
    length = f", accept length {point.accept_len:.2f}" if point.accept_len else ""
    measured = f"{number(point.output_tok_s)} tok/s{length} ({point.source_id}, {fitted})"
    return f"{measured}; we are {percent(abs(error))} {side}"


def _title(result: Result) -> Iterator[str]:
    s, setup = result.scenario, result.setup
    yield setup.model.name
    yield method_title(setup)
    ep = f", EP {s.ep_size}" if s.ep_size > 1 else ""
    yield f"{setup.num_gpus} x {setup.device.name}, TP {setup.tp}{ep}"
    yield workload_title(s)
    yield f"{number(s.rate)} requests/s" if s.rate else f"{s.conc:,} in flight"


def workload_title(s: Scenario) -> str:
    """The workload in words, such as ``humaneval, thinking``."""
    if s.dataset is None:
        isl, osl = mean_lengths(s)
        return f"{isl:,} in, {osl:,} out" + (" on average" if s.range_ratio < 1 else "")
    return f"{s.dataset}, {'thinking' if s.thinking else 'no thinking'}"


def mean_lengths(s: Scenario) -> tuple[int, int]:
    """Mean lengths in and out of requests whose lengths are given [token]."""
    of_longest = (1 + s.range_ratio) / 2
    return round(of_longest * (s.isl or 0)), round(of_longest * (s.osl or 0))


def effective(result: Result) -> dict[str, Any]:
    """Every scenario field as it was run; None where it does not apply."""
    s, setup = result.scenario, result.setup
    own_window = "drafter's" if "window" in setup.method.takes else None
    return s.model_dump() | {
        "gpu": setup.device.name,
        "num_gpus": setup.num_gpus,
        "tp": setup.tp,
        "model": setup.model.name,
        "draft_model": setup.draft_name,
        "quantization": setup.quantization,
        "kv_cache_dtype": setup.kv_cache_dtype,
        "speculative_draft_model_quantization": setup.draft_quantization,
        "block": setup.block if setup.speculative else None,
        "steps": setup.method.steps(setup.most_tokens),
        "window": s.window or own_window,
        "policy": s.policy if setup.speculative else None,
        "calibration": setup.calibration.name if setup.calibration else "none",
        "build": s.build or setup.engine.own_build,
        "attention_backend": setup.backend,
        "max_running_requests": setup.memory.max_running_requests,
        "mem_fraction_static": setup.mem_fraction,
        "chunked_prefill_size": -1 if s.whole_prompts else setup.limits.chunked_prefill_size,
        "max_prefill_tokens": setup.limits.max_prefill_tokens,
        "cuda_graph_backend_prefill": s.cuda_graph_backend_prefill or setup.engine.prefill.backend,
        "cuda_graph_max_bs": setup.graph_max_bs,
        "page_size": setup.limits.page_size,
        "min_free_slots_delay": setup.limits.min_free_slots_delay,
        **_states(setup),
        "thinking": s.thinking if s.dataset else None,
        "range_ratio": s.range_ratio if s.isl else None,
        "conc": s.conc,
        "burstiness": s.burstiness if s.rate else None,
        "num_prompts": s.num_prompts or round(result.values["completed"]),
    }


def _states(setup: Setup) -> dict[str, Any]:
    """What became of the fields about recurrent states; None for a model that has none."""
    s, memory = setup.scenario, setup.memory
    if not setup.model.gdn_layers:
        return dict.fromkeys(name for name in Scenario.model_fields if "mamba" in name) | {
            "linear_attn_decode_backend": None,
            "linear_replayssm_spec": None,
        }
    ratio = s.mamba_full_memory_ratio or setup.engine.defaults.mamba_full_memory_ratio
    return {
        "mamba_radix_cache_strategy": memory.strategy if s.radix_cache else None,
        "mamba_ssm_dtype": setup.precision.state,
        "mamba_full_memory_ratio": ratio if s.radix_cache else None,
        "max_mamba_cache_size": memory.state_slots,
    }
