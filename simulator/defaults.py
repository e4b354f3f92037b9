"""Fill in what a scenario leaves open, as SGLang does: parallelism, widths, backend, limits."""

from typing import Any

from dflash_sim.profiles.errors import InfeasibleError, MissingProfileError, UsageError, unknown
from dflash_sim.profiles.load import default_node, load_device, names
from dflash_sim.profiles.networks.hf_config import (
    DrafterShape,
    ModelShape,
    check_tp,
)
from dflash_sim.profiles.precision import Precision
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.sheets import Device, Node
from dflash_sim.profiles.units import in_percent
from dflash_sim.simulator.cost.cycle import Drafter
from dflash_sim.simulator.engine.scheduler import Limits
from dflash_sim.simulator.memory import TP_SIZES, Launch, MemoryPlan
from dflash_sim.simulator.scale_blocks import check_blocks, cuts_blocks
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.state_pool import NO_BUFFER, NO_RADIX, cache_strategy
from dflash_sim.simulator.static_share import StaticShare, default_share

CONTEXT = "the context"  # cautions about it begin so
_LAUNCH = ("gpu", "model")


def verify_rows(s: Scenario, drafter: Drafter) -> int:
    """Rows of a request in a verify pass: given, or what the drafter was trained for."""
    method = s.speculation
    if not method.speculative:
        return 1
    if not isinstance(drafter, DrafterShape):
        if s.block is None and s.steps is None:
            how = "draft steps; give --steps k, such as --steps 3"
            needs = how if method.sequential else "verify width; give --block B, such as --block 8"
            msg = f"method {s.method} needs its {needs}."
            raise UsageError(msg)
        return s.block or (s.steps or 0) + 1
    block = s.block or drafter.width
    if block > drafter.width:
        drafts = f" (it drafts {drafter.block_size})" if drafter.width > drafter.block_size else ""
        msg = (
            f"block {block} is above the {drafter.width} that {drafter.name} was trained for"
            f"{drafts}; allowed: 2 to {drafter.width}. Try --block {drafter.width}."
        )
        raise UsageError(msg)
    return block


def backend_of(s: Scenario, device: Device, engine: EngineSheet, model: ModelShape) -> str:
    """Target attention backend: given, or the default of the GPU.

    Raises
    ------
    UsageError
        The engine has none of that name, or not for such models or GPUs.
    """
    latent = bool(model.latent_layers)
    here = engine.attention.known(latent=latent, arch=device.arch)
    default, asked = default_backend(s, device, engine, model), s.attention_backend
    if asked is None or asked in here:
        return asked or default
    hint = f"Leave it out for the default of {device.name}, {default}."
    if asked not in engine.attention.known(latent=latent):
        raise unknown(kind="attention backend", value=asked, allowed=here, hint=hint)
    msg = (
        f"attention backend {asked} has no kernels for {device.name} ({device.arch}); these have: "
        f"{', '.join(here)}. {hint}"
    )
    raise UsageError(msg)


def default_backend(s: Scenario, device: Device, engine: EngineSheet, model: ModelShape) -> str:
    """Target attention backend of a model when none is named, which a hybrid's cache may decide."""
    usual = engine.attention.default_for(device.name, device.arch, kind=model.latent_kind)
    if s.topk > 1 and not model.latent_layers:
        return engine.attention.trees[0]
    unbuffered = engine.defaults.state_pool.auto_strategy == NO_BUFFER
    unbuffered &= s.radix_cache and s.mamba_radix_cache_strategy in ("auto", NO_BUFFER)
    if model.gdn_layers and unbuffered and not s.speculation.speculative:
        return engine.attention.without_buffer.get(device.arch, usual)
    return usual


def page_of(s: Scenario, engine: EngineSheet, backend: str) -> int:
    """Return the tokens of a KV page: given, or the default of the attention backend."""
    d = engine.defaults
    return s.page_size or d.page_size_by_backend.get(backend, d.page_size)


def chunk_of(s: Scenario, device: Device, engine: EngineSheet) -> int:
    """Return the prefill tokens of a step: given, or by the memory of the GPU."""
    if s.whole_prompts:
        return s.max_prefill_tokens or engine.defaults.max_prefill_tokens
    return s.chunked_prefill_size or engine.memory_class(device.mem_bytes).chunked_prefill_size


def largest_graph(s: Scenario, device: Device, engine: EngineSheet, tp: int) -> int:
    """Return the largest captured batch: given, or by the memory of the GPU [request]."""
    if s.cuda_graph_max_bs is not None:
        return s.cuda_graph_max_bs
    d = engine.defaults
    largest = engine.memory_class(device.mem_bytes).graph_max_bs(tp)
    requests = s.max_running_requests
    if requests is None and s.speculation.speculative:
        requests = d.max_running_requests_spec
    if d.memory.graphs_capped_by_requests and requests is not None:
        return min(largest, requests)
    return largest


def share_of(
    s: Scenario, device: Device, engine: EngineSheet, model: ModelShape, tp: int
) -> StaticShare:
    """Return the share of memory for weights and caches: given, or as the engine picks it."""
    if s.mem_fraction_static is not None:
        return StaticShare(s.mem_fraction_static)
    return default_share(
        device.mem_bytes,
        engine.defaults,
        chunk=chunk_of(s, device, engine),
        graph_max_bs=largest_graph(s, device, engine, tp),
        prefill_sizes=engine.graph_sizes["prefill"],
        tp=tp,
        speculative=s.speculation.speculative,
        vision=model.vision,
    )


def launch_of(
    s: Scenario, engine: EngineSheet, model: ModelShape, *, tp: int, block: int, backend: str
) -> Launch:
    """Return the launch flags that decide how memory is divided, as the release changes them.

    It runs a hybrid model whose prefix cache has the strategy ``no_buffer`` without the overlap
    scheduler and in pages of one token, or without that cache.

    Raises
    ------
    UsageError
        The release does not start with this strategy of the prefix cache.
    """
    speculative, overlap = s.speculation.speculative, s.engine_mode == "v2"
    strategy, page = NO_RADIX, page_of(s, engine, backend)
    if model.gdn_layers:
        strategy = cache_strategy(
            engine.defaults.state_pool,
            s.mamba_radix_cache_strategy,
            radix_cache=s.radix_cache,
            speculative=speculative,
            overlap=overlap,
            page_size=page,
            paged=backend in engine.defaults.page_size_by_backend,
        )
    unbuffered = strategy == NO_BUFFER
    return Launch(
        tp=tp,
        speculative=speculative,
        block=block,
        overlap=overlap and not unbuffered,
        radix_cache=s.radix_cache and not (model.gdn_layers and strategy == NO_RADIX),
        strategy=strategy,
        requested=s.max_running_requests,
        full_memory_ratio=s.mamba_full_memory_ratio,
        cache_slots=s.max_mamba_cache_size,
        page_size=1 if unbuffered else page,
        chain=s.speculation.sequential,
        replays_states=s.linear_replayssm_spec,
    )


def as_launched(s: Scenario, launch: Launch) -> Scenario:
    """Return the scenario with the engine mode and prefix cache that its launch flags leave."""
    mode = s.engine_mode if launch.overlap or s.engine_mode != "v2" else "v2-sync"
    if (mode, launch.radix_cache) == (s.engine_mode, s.radix_cache):
        return s
    return s.model_copy(update={"engine_mode": mode, "radix_cache": launch.radix_cache})


def limits_of(
    s: Scenario,
    engine: EngineSheet,
    memory: MemoryPlan,
    chunk: int,
    page: int,
    block: int,
    cache_unit: int,
) -> Limits:
    """Return the limits of the scheduler."""
    d = engine.defaults
    if s.whole_prompts:
        chunk = int(memory.kv_tokens) // page * page  # no prompt is longer
    if chunk % page:
        msg = (
            f"chunked_prefill_size {chunk} is not a multiple of the {page}-token KV page; "
            f"try --chunked-prefill-size {(chunk // page + 1) * page}."
        )
        raise UsageError(msg)
    ratio_init = min(d.new_token_ratio_init * s.schedule_conservativeness, 1.0)
    ratio_min = ratio_init * d.new_token_ratio_min_factor
    delay = s.min_free_slots_delay
    return Limits(
        max_running_requests=memory.max_running_requests,
        max_prefill_tokens=s.max_prefill_tokens or d.max_prefill_tokens,
        chunked_prefill_size=chunk,
        kv_tokens=memory.kv_tokens,
        page_size=page,
        block=block,
        speculative=s.speculation.speculative,
        max_new_tokens=min(s.max_new_tokens, s.osl) if s.osl else s.max_new_tokens,
        clip_max_new_tokens=d.clip_max_new_tokens,
        min_free_slots_delay=d.min_free_slots_delay if delay is None else delay,
        new_token_ratio_init=ratio_init,
        new_token_ratio_min=ratio_min,
        new_token_ratio_decay=(ratio_init - ratio_min) / d.new_token_ratio_decay_steps,
        retract_decode_steps=d.retract_decode_steps,
        recv_interval=s.scheduler_recv_interval,
        # SGLang sorts by cached prefix only where there is a cache.
        cache_unit=cache_unit,
        state_slots=memory.state_slots if cache_unit else 0,
        slots_per_request=memory.slots_per_request,
        sorted_up_to=d.lpm_sorts_up_to if s.schedule_policy == "lpm" and s.radix_cache else 0,
    )


def own_kernels(
    s: Scenario,
    engine: EngineSheet,
    backend: str,
    precision: Precision,
    limits: Limits,
    model: ModelShape,
) -> dict[str, Any]:
    """Return what a release and a backend run in a layer that others do not, for a ``Cycle``."""
    attention, own, chains = engine.attention, precision.of("attention"), engine.defaults.chains
    narrow = own.kv_cache != own.activations
    pool, latent = limits.kv_tokens if narrow and model.latent_layers else 0, attention.latent
    return {
        "joined": engine.defaults.hybrid.joined,
        "picked": chains.picked,
        "extended": chains.extended,
        "drawn": chains.drawn if s.speculative_use_rejection_sampling else "",
        "kv_casts": attention.casts.get(backend, 0) if narrow else 0,
        "pool_tokens": pool if backend in latent.widens else 0,
        "captured_pool": pool if backend in latent.widens_captured else 0,
    }


def check_context(s: Scenario, model: ModelShape) -> None:
    """Refuse prompts that a server refuses, as they leave no room for an answer."""
    context = s.context_length or model.context
    if s.isl is None or context is None or s.isl < context:
        return
    msg = (
        f"a prompt of {s.isl:,} tokens does not fit {model.name}, which takes requests of "
        f"{context:,} tokens, answer included; give a shorter --isl, or a longer --context-length."
    )
    raise InfeasibleError(msg)


def context_cautions(s: Scenario, model: ModelShape) -> list[str]:
    """Say that answers end early where prompt and answer are longer than the context.

    And that a server which is told of a longer context than its model's refuses to start.
    """
    out, context = [], s.context_length or model.context
    if model.context is not None and context is not None and context > model.context:
        out.append(
            f"{CONTEXT} of {model.name} is {model.context:,} tokens: a server takes "
            f"--context-length {context} with SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1, or a "
            "config that says so; how positions are scaled (YaRN) changes no time"
        )
    if s.isl and s.osl and context is not None and s.isl + s.osl > context:
        out.append(
            f"{CONTEXT} of {context:,} tokens is shorter than prompt and answer: a server ends "
            f"answers to such prompts after {context - s.isl:,} tokens, not {s.osl:,}"
        )
    return out


def roomier(device: Device, needed_bytes: float, *, ranks: int) -> str:
    """GPUs that would hold ``needed_bytes`` on each of ``ranks``, smallest first, in words.

    Those that come in nodes of fewer than ``ranks`` are left out.
    """
    every = map(load_device, names("gpus"))
    larger = [d for d in every if d.mem_bytes > needed_bytes and _in_a_node(d) >= ranks]
    if device.mem_bytes > needed_bytes or not larger:
        return ""
    larger.sort(key=lambda d: (d.mem_bytes, d.name))
    return (
        f" Or --gpu {larger[0].name}: dflash-sim list gpus has {len(larger)} that are large enough."
    )


def _in_a_node(device: Device) -> int:
    try:
        return default_node(device.name).num_gpus
    except MissingProfileError:  # a user's sheet without one
        return 0


def parallel(
    s: Scenario, device: Device, engine: EngineSheet, model: ModelShape, node: Node
) -> tuple[int, int]:
    """TP and GPU count: given, or the fewest GPUs that hold the weights with room to spare."""
    tp = s.tp or s.num_gpus or max(s.ep_size, _default_tp(s, device, engine, model, node))
    num_gpus = s.num_gpus or tp
    if tp % s.ep_size:
        works = ", ".join(str(n) for n in TP_SIZES if tp % n == 0)
        msg = (
            f"ep_size {s.ep_size} does not divide tp {tp}; give --ep-size {works}, or another --tp."
        )
        raise UsageError(msg)
    if tp in TP_SIZES:
        check_blocks(model, tp, ep=s.ep_size)
    if tp not in TP_SIZES or not _splits(model, tp):
        works = ", ".join(str(n) for n in TP_SIZES if _splits(model, n))
        msg = f"tp {tp} is not possible for {model.name}; allowed: {works}. Give one with --tp."
        raise UsageError(msg)
    if num_gpus != tp:
        msg = (
            f"num_gpus {num_gpus} and tp {tp} differ; one server of tp GPUs is simulated. "
            f"Give --tp {num_gpus}, or drop --num-gpus."
        )
        raise UsageError(msg)
    if tp > node.num_gpus:
        msg = (
            f"tp {tp} spans more than one {node.name} node of {node.num_gpus} GPUs; "
            f"give --tp {node.num_gpus} or less."
        )
        raise InfeasibleError(msg)
    return tp, num_gpus


def _splits(model: ModelShape, tp: int) -> bool:
    try:
        check_tp(model, tp)
    except UsageError:
        return False
    return cuts_blocks(model, tp) is None


def _default_tp(
    s: Scenario, device: Device, engine: EngineSheet, model: ModelShape, node: Node
) -> int:
    """The fewest GPUs of a node that hold the weights with room to spare, else the most of it."""
    share = engine.defaults.weight_share_for_default_tp
    sizes = [tp for tp in TP_SIZES if tp <= node.num_gpus and _splits(model, tp)]
    roomy = (tp for tp in sizes if _weight_share(s, device, engine, model, tp) < share)
    return next(roomy, sizes[-1] if sizes else TP_SIZES[-1])


def _weight_share(
    s: Scenario, device: Device, engine: EngineSheet, model: ModelShape, tp: int
) -> float:
    """The part that weights have of a GPU's memory for weights and caches [1]."""
    static = share_of(s, device, engine, model, tp).mem_fraction * device.mem_bytes
    return model.weight_bytes(tp, model.precision) / static


def why_tp(s: Scenario, device: Device, engine: EngineSheet, model: ModelShape, tp: int) -> str:
    """Say why :func:`parallel` picked more than one GPU; nothing where the question names them.

    The question without a GPU and a model is the launch setup, whose eight are documented.
    """
    usual = type(s).model_fields
    if s.tp or s.num_gpus or tp == 1 or all(getattr(s, n) == usual[n].default for n in _LAUNCH):
        return ""
    picked = f"no --tp is given, and SGLang would start with 1: tp {tp} is picked, as"
    if tp == s.ep_size:
        return f"{picked} --ep-size {tp} asks for as many ranks"
    fewer = next((n for n in reversed(TP_SIZES) if n < tp and _splits(model, n)), None)
    if fewer is None:
        return f"{picked} {model.name} is not divided over fewer"
    here = f"{fewer} x {device.name}"
    share = _weight_share(s, device, engine, model, fewer)
    if share >= 1:
        return f"{picked} the weights do not fit {here}"
    return (
        f"{picked} the weights take {in_percent(share)} of the memory that {here} "
        f"{'has' if fewer == 1 else 'have'} for weights and caches; --tp {fewer} asks for that"
    )
