"""A simulated server as the command that launches it: SGLang's flags, and the container of them."""

import shlex
from pathlib import Path
from typing import Any

from dflash_sim.profiles.find import find_sheet, read_sheet
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup

PORT = 30000
TO_BE_NAMED = "PATH_OF_YOUR_DRAFTER"
_LAUNCHER = ("python3", "-m", "sglang.launch_server")
# Fields that a launch names as they are asked for; what is left out is SGLang's own default.
_FLAGS = {
    "ep_size": "--ep-size",
    "quantization": "--quantization",
    "kv_cache_dtype": "--kv-cache-dtype",
    "speculative_draft_model_quantization": "--speculative-draft-model-quantization",
    "window": "--speculative-draft-window-size",
    "attention_backend": "--attention-backend",
    "max_running_requests": "--max-running-requests",
    "mem_fraction_static": "--mem-fraction-static",
    "chunked_prefill_size": "--chunked-prefill-size",
    "max_prefill_tokens": "--max-prefill-tokens",
    "cuda_graph_backend_prefill": "--cuda-graph-backend-prefill",
    "cuda_graph_max_bs": "--cuda-graph-max-bs",
    "context_length": "--context-length",
    "page_size": "--page-size",
    "min_free_slots_delay": "--min-free-slots-delay",
    "schedule_policy": "--schedule-policy",
    "schedule_conservativeness": "--schedule-conservativeness",
    "scheduler_recv_interval": "--scheduler-recv-interval",
    "stream_interval": "--stream-interval",
    "mamba_radix_cache_strategy": "--mamba-radix-cache-strategy",
    "mamba_ssm_dtype": "--mamba-ssm-dtype",
    "mamba_full_memory_ratio": "--mamba-full-memory-ratio",
    "max_mamba_cache_size": "--max-mamba-cache-size",
    "linear_attn_decode_backend": "--linear-attn-decode-backend",
}
_DRAFTING = ("window", "speculative_draft_model_quantization")
_SWITCHES = {
    ("radix_cache", False): "--disable-radix-cache",
    ("linear_replayssm_spec", True): "--enable-linear-replayssm-spec",
    ("engine_mode", "v2-sync"): "--disable-overlap-schedule",
}


def sglang_flags(setup: Setup) -> str:
    """Return the flags of a launch that speculates so."""
    method = setup.method
    if method.algorithm is None:
        return f"(no release has {method.name})"
    words = ["--speculative-algorithm", method.algorithm]
    path = draft_path(setup)
    if path is not None:
        words += ["--speculative-draft-model-path", path]
    if method.sequential:
        steps, topk = setup.most_tokens - 1, setup.scenario.topk
        words += ["--speculative-num-steps", str(steps), "--speculative-eagle-topk", str(topk)]
    words += ["--speculative-num-draft-tokens", str(setup.block)]
    if setup.scenario.speculative_use_rejection_sampling:
        words += ["--speculative-use-rejection-sampling"]
    return " ".join(words)


def draft_path(setup: Setup) -> str | None:
    """Return the repository of the drafting network; None where the target has it.

    A sheet of a public training config names none: then it is for the reader to put one in.
    """
    if setup.drafter is None:
        return None
    found = _repository("drafters", setup.scenario.draft_model or setup.drafter.name)
    return found if "/" in found or Path(found).exists() else TO_BE_NAMED


def launch_words(setup: Setup, *, host: str | None = None) -> list[str]:
    """The words of the command that launches one server.

    Parameters
    ----------
    host
        Address to listen at, where it is not the machine itself.
    """
    s = setup.scenario
    words = [*_LAUNCHER, "--model-path", _repository("models", s.model)]
    if setup.tp > 1:
        words += ["--tp-size", str(setup.tp)]
    if setup.speculative and setup.method.algorithm is not None:
        words += shlex.split(sglang_flags(setup))
    for name, flag in _FLAGS.items():
        value = getattr(s, name)
        idle = value is None or value == Scenario.model_fields[name].default
        if idle or (name in _DRAFTING and not setup.speculative):
            continue
        words += ["--disable-cuda-graph"] if flag.endswith("max-bs") and not value else [
            flag, _text(value)
        ]  # fmt: skip
    words += [flag for (name, value), flag in _SWITCHES.items() if getattr(s, name) == value]
    return words if host is None else [*words, "--host", host, "--port", str(PORT)]


def launch_environment(setup: Setup) -> dict[str, str]:
    """Variables that a launch needs beside its flags."""
    v1 = setup.speculative and setup.scenario.engine_mode == "v1"
    return {"SGLANG_ENABLE_SPEC_V2": "0"} if v1 else {}


def launch_command(setup: Setup) -> str:
    """The command that launches one server, on one line."""
    variables = [f"{name}={value}" for name, value in launch_environment(setup).items()]
    return " ".join([*variables, shlex.join(launch_words(setup))])


def _repository(kind: str, name: str) -> str:
    """The repository of a network that is known by a short name; else the name as it is."""
    sheet = find_sheet(kind, name, ".json") if "/" not in name else None
    known = read_sheet(sheet).get("_aliases", []) if sheet else []
    return next((str(alias) for alias in known if "/" in str(alias)), name)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
