"""The options that make a scenario, shared by every command that asks about one."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_type_hints

from dflash_sim.commands.options import (
    ENGINE,
    HARDWARE,
    MODEL,
    MODES,
    OUTPUT,
    PREFILL_BACKENDS,
    SPECULATION,
    WORKLOAD,
    Bool,
    Profiles,
    Str,
    cache_formats,
    cache_strategies,
    completer,
    methods,
    number,
    option,
    sheets,
    state_formats,
    swept,
    use_profiles,
    warn,
    weight_formats,
)

if TYPE_CHECKING:
    from dflash_sim.studies.ask.question import Given

Flags: TypeAlias = Mapping[str, Any]


class ScenarioOptions:
    """Every option of :class:`Scenario`, and where to start from; None where it is left out."""

    gpu: Annotated[Str, swept(HARDWARE, "GPU kind", sheets("gpus"))]
    num_gpus: Annotated[Str, number(HARDWARE, "GPUs of the server")]
    tp: Annotated[Str, swept(HARDWARE, "Tensor-parallel size")]
    ep_size: Annotated[Str, number(HARDWARE, "Ranks that whole experts are dealt to")]
    model: Annotated[
        Str,
        option(
            MODEL,
            "Target: a name, Hugging Face id, or path of a config.json",
            autocompletion=sheets("models"),
        ),
    ]
    draft_model: Annotated[
        Str, option(MODEL, "Drafter, in the same forms", autocompletion=sheets("drafters"))
    ]
    dtype: Annotated[Str, option(MODEL, "Of products: bfloat16; weights: --quantization")]
    quantization: Annotated[
        Str,
        swept(
            MODEL,
            "Weights: fp8, modelopt_fp4, mxfp4, awq, ... or bf16; else the checkpoint's",
            completer(weight_formats),
        ),
    ]
    kv_cache_dtype: Annotated[
        Str,
        swept(MODEL, "Keys and values: bfloat16, fp8_e4m3, or auto", completer(cache_formats)),
    ]
    speculative_draft_model_quantization: Annotated[
        Str,
        option(
            MODEL,
            "The drafter's weights, such as unquant",
            autocompletion=completer(weight_formats),
        ),
    ]
    method: Annotated[
        Str, swept(SPECULATION, "dflash, mtp, none, ...; see list methods", completer(methods))
    ]
    block: Annotated[Str, swept(SPECULATION, "Verify window: 1 anchor and B-1 drafts")]
    steps: Annotated[Str, swept(SPECULATION, "Draft steps of mtp and eagle3")]
    topk: Annotated[Str, number(SPECULATION, "Paths that a step goes on from; above 1, a tree")]
    window: Annotated[Str, number(SPECULATION, "Draft attention window, tokens")]
    acceptance: Annotated[
        Str, option(SPECULATION, "Such as al:6.6, table:0.9,0.8 or sglang-simulated:3.2")
    ]
    temperature: Annotated[Str, number(SPECULATION, "Of sampling; 0 is greedy")]
    top_p: Annotated[Str, number(SPECULATION, "Share of probability that sampling draws from")]
    top_k: Annotated[Str, number(SPECULATION, "How many tokens sampling draws from")]
    speculative_use_rejection_sampling: Annotated[
        Bool,
        option(
            SPECULATION,
            "Drafts of mtp and eagle3 drawn, not the likeliest",
            "--speculative-use-rejection-sampling/--no-speculative-use-rejection-sampling",
            metavar="",
        ),
    ]
    policy: Annotated[
        Str,
        option(
            SPECULATION,
            "Verify width: fixed, ema, confidence, oracle, table:[[1,8,15],[9,64,7]], batch:8, "
            "context:8192, accept",
        ),
    ]
    engine: Annotated[Str, option(ENGINE, "Engine sheet")]
    calibration: Annotated[
        Str, option(ENGINE, "Fitted constants: shipped, none, or a file of calibrate fit")
    ]
    build: Annotated[Str, option(ENGINE, "Build of the engine, if not the sheet's")]
    engine_mode: Annotated[
        Str, swept(ENGINE, "v1, v2-sync or v2 (overlap)", completer(lambda: MODES))
    ]
    attention_backend: Annotated[Str, option(ENGINE, "Attention kernels of the target")]
    max_running_requests: Annotated[Str, number(ENGINE, "Cap on requests in a batch")]
    mem_fraction_static: Annotated[Str, number(ENGINE, "Share of memory for weights and caches")]
    chunked_prefill_size: Annotated[Str, number(ENGINE, "Prefill tokens per step")]
    max_prefill_tokens: Annotated[Str, number(ENGINE, "Prompt tokens of a prefill batch")]
    cuda_graph_backend_prefill: Annotated[
        Str,
        option(
            ENGINE,
            "Graphs of prefills: tc_piecewise, breakable or disabled",
            autocompletion=completer(lambda: PREFILL_BACKENDS),
        ),
    ]
    cuda_graph_max_bs: Annotated[Str, number(ENGINE, "Largest captured batch")]
    context_length: Annotated[Str, number(ENGINE, "Longest request, answer included")]
    page_size: Annotated[Str, number(ENGINE, "Tokens per KV page")]
    min_free_slots_delay: Annotated[
        Str, number(ENGINE, "Hold prefills until so many slots are free")
    ]
    schedule_policy: Annotated[
        Str,
        option(
            ENGINE,
            "Who is prefilled first: fcfs, or lpm (longest cached prefix)",
            autocompletion=completer(lambda: ("fcfs", "lpm")),
        ),
    ]
    schedule_conservativeness: Annotated[
        Str, number(ENGINE, "Scales the tokens kept free for running requests")
    ]
    scheduler_recv_interval: Annotated[
        Str, number(ENGINE, "Scheduler loops between two looks for new requests")
    ]
    stream_interval: Annotated[Str, number(ENGINE, "Tokens of an answer sent at a time")]
    radix_cache: Annotated[
        Bool,
        option(
            ENGINE,
            "Prefix cache",
            "--radix-cache/--no-radix-cache",
            " /--disable-radix-cache",
            metavar="",
        ),
    ]
    mamba_radix_cache_strategy: Annotated[
        Str,
        option(
            ENGINE,
            "Prefix cache of hybrid models: auto, extra_buffer, extra_buffer_lazy, no_buffer",
            autocompletion=completer(cache_strategies),
        ),
    ]
    mamba_ssm_dtype: Annotated[
        Str,
        option(
            ENGINE,
            "Recurrent states: float32, bfloat16 or float16",
            autocompletion=completer(state_formats),
        ),
    ]
    mamba_full_memory_ratio: Annotated[Str, number(ENGINE, "Recurrent states over KV cache")]
    max_mamba_cache_size: Annotated[Str, number(ENGINE, "Slots for recurrent states")]
    linear_attn_decode_backend: Annotated[
        Str, option(ENGINE, "Kernels of recurrent states: triton, flashinfer, ...")
    ]
    linear_replayssm_spec: Annotated[
        Bool,
        option(
            ENGINE,
            "Recurrent states replayed, not saved by row",
            "--linear-replayssm-spec/--no-linear-replayssm-spec",
            "--enable-linear-replayssm-spec/ ",
            metavar="",
        ),
    ]
    conc: Annotated[Str, swept(WORKLOAD, "Requests in flight (closed loop)")]
    dataset: Annotated[
        Str, swept(WORKLOAD, "Prompts and answers, or shares of several", sheets("datasets"))
    ]
    content: Annotated[
        Str,
        option(WORKLOAD, "Text that acceptance is for: code, prose, ..., or shares of several"),
    ]
    thinking: Annotated[Bool, option(WORKLOAD, "Mode of the answers", metavar="")]
    isl: Annotated[Str, swept(WORKLOAD, "Fixed input length, in place of a data set")]
    osl: Annotated[Str, swept(WORKLOAD, "Fixed output length")]
    range_ratio: Annotated[
        Str, number(WORKLOAD, "Fixed lengths vary between this share and all of them")
    ]
    cache_hit: Annotated[
        Str, swept(WORKLOAD, "Share of prompt tokens found in the prefix cache, 0 to 1")
    ]
    max_new_tokens: Annotated[Str, number(WORKLOAD, "Cap on an answer, tokens")]
    rate: Annotated[Str, swept(WORKLOAD, "Arrivals per second (open loop)")]
    burstiness: Annotated[Str, number(WORKLOAD, "Gamma shape of arrivals; 1: Poisson")]
    num_prompts: Annotated[Str, swept(WORKLOAD, "Requests, in place of the card's rule")]
    seed: Annotated[Str, number(WORKLOAD, "Random seed")]
    runs: Annotated[Str, number(WORKLOAD, "Independent runs")]
    preset: Annotated[
        Str,
        option(
            OUTPUT,
            "Start from a named scenario, or a .yaml file of one",
            autocompletion=sheets("presets"),
        ),
    ]
    from_launch: Annotated[
        Str, option(OUTPUT, "Start from a launch command", metavar='"python -m sglang..."')
    ]
    profiles: Profiles


def takes_scenario(command: Callable[..., None]) -> Callable[..., None]:
    """Put the scenario's options before a command's own; their values are its first argument."""
    hints = get_type_hints(ScenarioOptions, include_extras=True)
    by_name = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter(name, by_name, default=None, annotation=hint)
        for name, hint in hints.items()
    ]
    own = list(inspect.signature(command).parameters.values())[1:]

    @wraps(command)
    def call(**values: Any) -> None:
        flags = {name: values.pop(name) for name in hints}
        command(flags, **values)

    call.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
    return call


def what_is_asked(flags: Flags, *, planned: bool = False) -> "dict[str, Given]":
    """Every field that is set, and the layer it is from; what is not modelled is said.

    Parameters
    ----------
    planned
        True for a plan, which takes the policy of a launch's router.
    """
    from dflash_sim.studies.ask.question import ask

    use_profiles(flags["profiles"])
    start = {"preset": flags["preset"], "from_launch": flags["from_launch"]}
    asked, ignored = ask(flags, **start, planned=planned)
    if ignored:
        warn(f"--from-launch: not modelled: {'; '.join(ignored)}")
    return asked
