"""``server_info`` of an SGLang server -> scenario fields, by way of its launch flags."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.values import Raw, naming, word
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.cost.cycle import Method
from dflash_sim.simulator.cost.methods import algorithms

# Arguments with a meaning for the answer; the resolved value of each is in server_info.
_VALUES = (
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
# The server resolves these too where they do not apply: to a method that does not take the field.
_DRAFTING = tuple(name for name in _VALUES if name.startswith("speculative_"))
_BELONGS = {
    "speculative_num_steps": "steps",
    "speculative_eagle_topk": "steps",
    "speculative_draft_model_path": "draft_model",
}
_SWITCHES = ("disable_overlap_schedule", "disable_radix_cache")
_LAUNCH = ("python", "-m", "sglang.launch_server")


@dataclass(frozen=True)
class Server:
    """A server, as it describes itself."""

    fields: dict[str, Any]
    build: str | None
    notes: tuple[str, ...] = ()


def read_server_info(info: Raw, names: Names) -> Server:
    """Scenario fields of a server, from its resolved arguments, else from its launch command.

    Raises
    ------
    UsageError
        It was run in a way that is not simulated, or its arguments contradict each other.
    """
    if not info:
        return Server({}, None)
    build = word(info, "version")
    with naming("server_info"):
        words = list(_flags(info))
        command = shlex.join([*_LAUNCH, *words]) if words else word(info, "launch_command")
        if command is None:
            return Server({}, build)
        try:
            parsed = scenario_from_launch(command, build)
        except UsageError as error:
            msg = str(error).replace("--from-launch: ", "").replace("--from-launch", "launch")
            raise UsageError(msg) from None
        fields = dict(parsed.fields)
        if "model" in fields:
            fields["model"] = names.model(fields["model"])
    notes = tuple(f"server_info: not modelled: {remark}" for remark in parsed.remarks)
    # False is stated as clearly as True. Spec V1 ran with the overlap off, which reads v2-sync.
    if info.get("disable_overlap_schedule") is False:
        fields["engine_mode"] = "v2"
    if info.get("disable_radix_cache") is False:
        fields["radix_cache"] = True
    if isinstance(fields.get("draft_model"), str):
        if (drafter := names.drafter(fields["draft_model"])) is None:
            notes = (*notes, f"no sheet for the drafter {fields.pop('draft_model')}")
        else:
            fields["draft_model"] = drafter
    return Server(fields, build, notes)


def stated(info: Raw) -> dict[str, Any]:
    """The arguments that a row keeps: those with a meaning for the answer, and no key or token."""
    kept = ("version", "max_total_num_tokens", *_VALUES, *_SWITCHES)
    return {name: info[name] for name in kept if name in info}


def _ignored_by(method: Method) -> tuple[str, ...]:
    return tuple(name for name, field in _BELONGS.items() if field not in method.takes)


def _flags(info: Raw) -> Iterator[str]:
    if "model_path" not in info:
        return
    algorithm = str(info.get("speculative_algorithm") or "").upper()
    ignored = _ignored_by(algorithms()[algorithm]) if algorithm in algorithms() else ()
    if not algorithm:
        ignored = _DRAFTING
    for name in _VALUES:
        value = info.get(name)
        # Sizes of 0 and -1 mean "off" or "automatic"; a blank argument was not given.
        if value is None or value == "" or (isinstance(value, int | float) and value <= 0):
            continue
        if name in ignored:
            continue
        if not isinstance(value, str | int | float):
            msg = f"{name} is a {type(value).__name__}; expected text or a number"
            raise UsageError(msg)
        yield f"--{name.replace('_', '-')}={value}"
    for name in _SWITCHES:
        if info.get(name) is True:
            yield f"--{name.replace('_', '-')}"
