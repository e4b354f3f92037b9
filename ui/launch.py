"""The launch command of a server: SGLang's flags for what a scenario sets."""

import shlex

from dflash_sim.profiles.find import find_sheet, read_sheet
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.crossover.paste import sglang_flags

# Fields that a scenario may set, and SGLang's flags for them.
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
    "cuda_graph_max_bs": "--cuda-graph-max-bs-decode",
    "cuda_graph_backend_prefill": "--cuda-graph-backend-prefill",
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


def launch_command(setup: Setup) -> str:
    """Return what starts such a server; what is SGLang's default is left out."""
    s = setup.scenario
    words = ["python", "-m", "sglang.launch_server", "--model-path", _model_path(setup)]
    words += ["--tp-size", str(setup.tp)]
    for name, flag in _FLAGS.items():
        value, default = getattr(s, name), type(s).model_fields[name].default
        if value != default:
            words += [flag, str(value)]
    if not s.radix_cache:
        words.append("--disable-radix-cache")
    if s.linear_replayssm_spec:
        words.append("--enable-linear-replayssm-spec")
    if s.engine_mode == "v2-sync":
        words.append("--disable-overlap-schedule")
    line = shlex.join(words)
    return f"{line} {sglang_flags(setup)}" if setup.speculative else line


def _model_path(setup: Setup) -> str:
    asked = setup.scenario.model
    sheet = find_sheet("models", asked, ".json")
    known = read_sheet(sheet).get("_aliases", []) if sheet else []
    return next((str(alias) for alias in known if "/" in str(alias)), asked)
