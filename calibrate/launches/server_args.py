"""The arguments of a server as it resolved them, of ``server_info`` or of a log -> its flags."""

from collections.abc import Iterator, Mapping
from typing import Any

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.cost.cycle import Method
from dflash_sim.simulator.cost.methods import algorithms

# Arguments with a meaning for the answer; the resolved value of each is in server_info.
VALUES = (
    "model_path", "tp_size", "dp_size", "pp_size", "ep_size", "nnodes", "dtype",
    "kv_cache_dtype", "quantization", "speculative_algorithm",
    "speculative_draft_model_path", "speculative_eagle_topk", "speculative_num_steps",
    "speculative_num_draft_tokens", "speculative_dflash_block_size",
    "speculative_draft_window_size", "attention_backend", "max_running_requests",
    "mem_fraction_static", "chunked_prefill_size", "cuda_graph_max_bs",
    "cuda_graph_max_bs_decode", "page_size", "mamba_ssm_dtype", "mamba_radix_cache_strategy",
    "mamba_scheduler_strategy", "mamba_full_memory_ratio", "max_mamba_cache_size",
    "linear_attn_decode_backend",
)  # fmt: skip
RESOLVED = 40  # arguments; nobody writes as many
_CHUNK = "chunked_prefill_size"
SWITCHES = ("disable_overlap_schedule", "disable_radix_cache", "speculative_use_rejection_sampling")
# A log tells of these too.
_LOGGED = ("disable_cuda_graph", "enable_dp_attention", "enable_lora", "enable_torch_compile",
    "enable_mixed_chunk", "enable_two_batch_overlap", "enable_hierarchical_cache",
    "enable_deterministic_inference")  # fmt: skip
# The server resolves these too where they do not apply: to a method that does not take the field.
_DRAFTING = tuple(name for name in VALUES if name.startswith("speculative_"))
_BELONGS = {
    "speculative_num_steps": "steps",
    "speculative_eagle_topk": "steps",
    "speculative_draft_model_path": "draft_model",
}


def words_of_resolved(info: Mapping[str, Any]) -> Iterator[str]:
    """Flags that make a server of these arguments; those that were not given are left out.

    Raises
    ------
    UsageError
        An argument is no text and no number.
    """
    if "model_path" not in info:
        return
    algorithm = str(info.get("speculative_algorithm") or "").upper()
    ignored = _ignored_by(algorithms()[algorithm]) if algorithm in algorithms() else ()
    if not algorithm:
        ignored = _DRAFTING
    for name in VALUES:
        value = info.get(name)
        if name == _CHUNK and value in (0, -1) and value is not False:
            yield f"--{name.replace('_', '-')}=-1"  # prompts are prefilled whole
            continue
        # Sizes of 0 and -1 mean "off" or "automatic"; a blank argument was not given.
        if value is None or value == "" or (isinstance(value, int | float) and value <= 0):
            continue
        if name in ignored:
            continue
        if not isinstance(value, str | int | float):
            msg = f"{name} is a {type(value).__name__}; expected text or a number"
            raise UsageError(msg)
        yield f"--{name.replace('_', '-')}={value}"
    for name in (*SWITCHES, *_LOGGED):
        if info.get(name) is True:
            yield f"--{name.replace('_', '-')}"


def _ignored_by(method: Method) -> tuple[str, ...]:
    return tuple(name for name, field in _BELONGS.items() if field not in method.takes)
