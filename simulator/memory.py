"""Weights, KV and GDN state pools of one GPU -> the request cap and its cause.

Follows SGLang: a static share of what is free before the weights are loaded holds weights and
caches. Hybrid models give part of it to recurrent states:
:mod:`~dflash_sim.simulator.state_pool`.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from dflash_sim.profiles.checkpoints import published
from dflash_sim.profiles.errors import InfeasibleError
from dflash_sim.profiles.load import load_model
from dflash_sim.profiles.networks.hf_config import ModelShape
from dflash_sim.profiles.networks.quantized import everywhere
from dflash_sim.profiles.precision import BF16, Precision, called, on_gpu
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.releases.memory_rules import ADVISED_SHARES, MemoryRules
from dflash_sim.profiles.sheets import Device
from dflash_sim.profiles.units import GIGA, MiB
from dflash_sim.simulator.cost.cycle import DraftCache
from dflash_sim.simulator.state_pool import Demand, StatePool, slots_per_request, state_pool
from dflash_sim.simulator.static_share import StaticShare

TP_SIZES = (1, 2, 4, 8)
STATES = "GDN state slots"
COUNTED = ("chain", "own")  # rules by which a chain takes as much as layers that do not slide
KV_CACHE = "KV cache"


@dataclass(frozen=True, slots=True)
class Launch:
    """The launch flags that decide how memory is divided.

    Parameters
    ----------
    block
        Verify rows per request; 1 without speculation.
    strategy
        Of the prefix cache of a hybrid model, by
        :func:`~dflash_sim.simulator.state_pool.cache_strategy`.
    requested
        ``max_running_requests``; None takes the engine's default.
    full_memory_ratio, cache_slots
        ``mamba_full_memory_ratio`` [1] and ``max_mamba_cache_size``; None takes the engine's.
    page_size
        Tokens of a KV page.
    chain
        True if drafts are made one after the other.
    replays_states
        True if verification keeps no state for each row.
    """

    tp: int
    speculative: bool
    block: int
    overlap: bool
    radix_cache: bool
    strategy: str
    requested: int | None = None
    full_memory_ratio: float | None = None
    cache_slots: int | None = None
    page_size: int = 1
    chain: bool = False
    replays_states: bool = False


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes per GPU, and what they allow.

    Parameters
    ----------
    free_bytes
        Free before the weights are loaded.
    static_bytes
        The share of it for weights and caches.
    weight_bytes
        Of the target, its vision tower included.
    vision_weight_bytes
        Of that tower alone.
    draft_weight_bytes, draft_counted
        Of the drafter, and whether they come off the static share.
    held_bytes
        For images, of a multimodal model.
    kv_bytes_per_token
        As the engine counts it, with the drafter's.
    gdn_bytes, scratch_bytes
        All that recurrent states take, and the scratch of verification within it.
    state_bytes, state_slots, slots_per_request, strategy
        One state slot, the slots there are, those of a running request, and the strategy of the
        prefix cache behind it; zeros and nothing for a model without such states.
    cap_cause
        What limits ``max_running_requests``.
    """

    free_bytes: float
    static_bytes: float
    weight_bytes: float
    vision_weight_bytes: float
    draft_weight_bytes: float
    draft_counted: bool
    held_bytes: float
    kv_bytes: float
    kv_bytes_per_token: float
    gdn_bytes: float
    scratch_bytes: float
    state_bytes: float
    state_slots: int
    slots_per_request: int
    strategy: str
    kv_tokens: int
    max_running_requests: int
    cap_cause: str

    @property
    def rest_bytes(self) -> float:
        """Left of the static share for states and KV cache."""
        return self.kv_bytes + self.gdn_bytes


def plan_memory(
    *,
    device: Device,
    engine: EngineSheet,
    model: ModelShape,
    launch: Launch,
    draft: DraftCache,
    precision: Precision = BF16,
    share: StaticShare,
    in_node: int = TP_SIZES[-1],
) -> MemoryPlan:
    """Divide one GPU's memory.

    Parameters
    ----------
    in_node
        GPUs of the node, which tensor parallelism does not leave.

    Raises
    ------
    InfeasibleError
        The weights or the states do not fit; says by how many GB, and what would.
    """
    rules, tp = engine.defaults.memory, launch.tp
    free = device.mem_bytes - engine["reserved_memory"]
    static = free * share.mem_fraction
    vision = model.vision_weight_bytes(tp, precision)
    weights = model.weight_bytes(tp, precision) + vision
    counted = draft.weight_bytes if rules.draft_weights else 0.0
    held = rules.image_cache * MiB if model.vision else 0.0
    rest = static - weights - counted - held
    if rest <= 0:
        beside = counted + held

        def at(fraction: float) -> MemoryPlan:
            return plan_memory(
                device=device,
                engine=engine,
                model=model,
                launch=launch,
                draft=draft,
                precision=precision,
                share=StaticShare(fraction),
            )

        larger = _larger_share(at, share.mem_fraction, needed=(weights + beside) / free)
        msg = _too_big(device, model, tp, -rest, static, beside, precision, larger, in_node)
        raise InfeasibleError(msg)
    cap, cause = _default_cap(launch, engine)
    pool, slots, state_bytes = None, 0, 0.0
    if model.gdn_layers:
        state_bytes = model.gdn_state_bytes(precision) / tp
        pool, slots = _states(rest, state_bytes, launch, engine)
        if pool.requests < cap:
            cap, cause = pool.requests, STATES
        if pool.kv_bytes < 0:
            raise InfeasibleError(_states_too_big(device, model, launch, pool, rest))
    kv_bytes = pool.kv_bytes if pool else rest
    per_token = _kv_bytes(model, draft, launch, precision, rules)
    kv_tokens = int(kv_bytes // per_token) // launch.page_size * launch.page_size
    by_kv = kv_tokens // (2 * launch.block + 1)
    if by_kv < cap:
        cap, cause = by_kv, KV_CACHE
    if cap < 1:
        msg = (
            f"no room for a single request of {model.name} beside its weights on {device.name} "
            f"at tp {tp} ({cause}); raise {'--tp or ' if tp < in_node else ''}"
            f"--mem-fraction-static{_fewer(launch, cause)}."
        )
        raise InfeasibleError(msg)
    return MemoryPlan(
        free_bytes=free,
        static_bytes=static,
        weight_bytes=weights,
        vision_weight_bytes=vision,
        draft_weight_bytes=draft.weight_bytes,
        draft_counted=rules.draft_weights,
        held_bytes=held,
        kv_bytes=kv_bytes,
        kv_bytes_per_token=per_token,
        gdn_bytes=pool.slot_bytes + pool.scratch_bytes if pool else 0.0,
        scratch_bytes=pool.scratch_bytes if pool else 0.0,
        state_bytes=state_bytes,
        state_slots=pool.slots if pool else 0,
        slots_per_request=slots,
        strategy=launch.strategy if pool else "",
        kv_tokens=kv_tokens,
        max_running_requests=cap,
        cap_cause=cause,
    )


def _states(
    rest: float, state_bytes: float, launch: Launch, engine: EngineSheet
) -> tuple[StatePool, int]:
    """The pool of recurrent states, and the slots of a running request."""
    d = engine.defaults
    slots = slots_per_request(d.state_pool, launch.strategy, overlap=launch.overlap)
    requests = launch.requested
    if requests is None and launch.speculative:
        requests = d.max_running_requests_spec
    demand = Demand(
        state_bytes=state_bytes,
        rows=launch.block if launch.speculative and not launch.replays_states else 0,
        requests=requests,
        slots_per_request=slots,
        radix_cache=launch.radix_cache,
        slots=launch.cache_slots,
        ratio=launch.full_memory_ratio or d.mamba_full_memory_ratio,
    )
    rules = d.state_pool
    return state_pool(rest, demand, formula=rules.formula, spare_slot=rules.spare_slot), slots


def _kv_bytes(
    model: ModelShape, draft: DraftCache, launch: Launch, precision: Precision, rules: MemoryRules
) -> float:
    """KV cache of one token of target and drafter, as the engine counts it [byte].

    Sliding layers may have a pool of their own, of fewer tokens than that of the others.
    """
    tp = launch.tp
    own = model.kv_bytes(tp, precision)
    full = [a for a in model.attention_layers if a.window is None]
    sliding = own - sum(a.kv_bytes(tp, precision) for a in full)
    if sliding and full and model.family in rules.sliding_pools:
        own -= (1 - rules.sliding_share) * sliding
        if launch.chain and rules.sliding_draft in COUNTED:
            return own + full[0].kv_bytes(tp, precision) * len(draft.layers)
        return own + (draft.kv_bytes(tp, precision) if rules.sliding_draft == "own" else 0.0)
    if rules.draft_kv == "own":
        return own + draft.kv_bytes(tp, precision)
    layers = len(model.cached_layers)
    return own * (layers + len(draft.layers)) / layers


def _default_cap(launch: Launch, engine: EngineSheet) -> tuple[int, str]:
    defaults = engine.defaults
    if launch.requested is not None:
        return launch.requested, "--max-running-requests"
    if not launch.speculative:
        return defaults.max_running_requests_plain, "engine default"
    return defaults.max_running_requests_spec, "engine default with speculation"


def _larger_share(
    at: Callable[[float], MemoryPlan], share: float, *, needed: float
) -> float | None:
    """The smallest share above ``share`` to be advised that has room beside what is ``needed``."""
    for fraction in ADVISED_SHARES:
        if fraction <= max(share, needed):
            continue
        with suppress(InfeasibleError):
            at(fraction)
            return fraction
    return None


def _too_big(
    device: Device,
    model: ModelShape,
    tp: int,
    short: float,
    static: float,
    beside: float,
    precision: Precision,
    larger: float | None,
    in_node: int,
) -> str:
    def needed(ranks: int) -> float:
        vision = model.vision_weight_bytes(ranks, precision)
        return model.weight_bytes(ranks, precision) + vision + beside

    most = min(in_node, TP_SIZES[-1])
    fits = [n for n in TP_SIZES if needed(n) < static and tp < n <= most]
    ways = [f"--mem-fraction-static {larger:g} would"] if larger else []
    if fits:
        ways.append(f"--tp {fits[0]} would")
    remedy = "; " + (", or ".join(ways) or f"no TP up to {most} does")
    if narrower := _narrower(device, model, tp, static - beside):
        remedy += f", {'or' if ways else 'but'} {narrower} would at tp {tp}"
    return (
        f"{model.name} does not fit on {device.name} at tp {tp}: {short / GIGA:.1f} GB short of "
        f"{static / GIGA:.1f} GB static memory per GPU{remedy}."
    )


def _narrower(device: Device, model: ModelShape, tp: int, room: float) -> str | None:
    """What to ask for so that the weights fit in ``room`` bytes of a GPU, the widest of it."""
    for flag, other in _others(model):
        own = other.quantized
        assert own is not None  # each of them is in another format
        try:
            formats = on_gpu(own.formats, arch=device.arch, gpu=device.name)
        except InfeasibleError:
            continue  # no kernels there
        small = replace(other, quantized=replace(own, formats=formats))
        vision = small.vision_weight_bytes(tp, small.precision)
        if small.weight_bytes(tp, small.precision) + vision < room:
            return flag
    return None


def _others(model: ModelShape) -> Iterator[tuple[str, ModelShape]]:
    """Flags that ask for a model in other formats, and that model, the widest first.

    A bf16 checkpoint may be quantised; of a quantised one there are those that are listed.
    """
    if model.quantized is None:
        for name in ("fp8", "modelopt_fp4", "awq"):
            one = called(model.name, name)
            flag = f"--model {one}" if one else f"--quantization {name}"
            yield flag, replace(model, quantized=everywhere(name))
        return
    made = [load_model(x.name) for x in published().values() if x.base == model.behaves_as]
    for other in sorted(made, key=lambda m: -m.weight_bytes(1, m.precision)):
        yield f"--model {other.name}", other


def _states_too_big(
    device: Device, model: ModelShape, launch: Launch, pool: StatePool, rest: float
) -> str:
    needed = (pool.slot_bytes + pool.scratch_bytes) / GIGA
    return (
        f"{model.name} on {device.name} at tp {launch.tp}: {pool.slots} state slots"
        f"{' and the scratch of verification' if pool.scratch_bytes else ''} take {needed:.1f} GB, "
        f"and {rest / GIGA:.1f} GB are left beside the weights; "
        f"lower {'--max-mamba-cache-size' if launch.cache_slots else '--max-running-requests'}, "
        "or give --mamba-ssm-dtype bfloat16."
    )


def _fewer(launch: Launch, cause: str) -> str:
    """More requests leave less for slots where their scratch is reserved first."""
    return ", or lower --max-running-requests" if cause == STATES and launch.speculative else ""
