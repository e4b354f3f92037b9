"""Weights, KV and GDN state pools of one GPU -> the request cap and its cause.

Follows SGLang: a static share of GPU memory holds weights, then hybrid models split the rest
between GDN state slots and KV by ``mamba_full_memory_ratio``; with speculation every running
request also owns scratch for one recurrent state per verified position.
"""

from dataclasses import dataclass

from dflash_sim.profiles.engine_records import Defaults, OutsideStatic
from dflash_sim.profiles.engine_sheet import EngineSheet
from dflash_sim.profiles.errors import InfeasibleError
from dflash_sim.profiles.networks.hf_config import ModelShape
from dflash_sim.profiles.precision import BF16, Precision
from dflash_sim.profiles.sheets import Device
from dflash_sim.profiles.units import GIGA, GiB, MiB
from dflash_sim.simulator.cost.cycle import DraftCache

TP_SIZES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes per GPU, and what they allow.

    ``cap_cause`` names what limits ``max_running_requests``.
    """

    static_bytes: float
    weight_bytes: float
    draft_weight_bytes: float
    kv_bytes: float
    kv_bytes_per_token: float
    gdn_bytes: float
    kv_tokens: int
    max_running_requests: int
    cap_cause: str


def plan_memory(
    *,
    device: Device,
    engine: EngineSheet,
    model: ModelShape,
    tp: int,
    speculative: bool,
    block: int,
    overlap: bool,
    radix_cache: bool,
    draft: DraftCache,
    precision: Precision = BF16,
    mem_fraction: float,
    requested: int | None,
) -> MemoryPlan:
    """Divide one GPU's memory.

    Raises
    ------
    InfeasibleError
        The weights do not fit; says by how many GB and which TP would.
    """
    defaults = engine.defaults
    static = min(device.mem_bytes * mem_fraction, device.mem_bytes - engine["reserved_memory"])
    weights = model.weight_bytes(tp, precision)
    rest = static - weights - draft.weight_bytes
    if rest <= 0:
        raise InfeasibleError(
            _too_big(device, model, tp, -rest, static, draft.weight_bytes, precision)
        )
    gdn = 0.0
    cap, cause = _default_cap(speculative, requested, defaults)
    if model.gdn_layers:
        ratio = defaults.mamba_full_memory_ratio
        gdn = rest * ratio / (1 + ratio)
        slots = _state_slots(defaults, overlap=overlap, radix_cache=radix_cache)
        scratch = block * model.gdn_ssm_bytes(precision) / tp if speculative else 0.0
        by_state = int(gdn // (slots * model.gdn_state_bytes(precision) / tp + scratch))
        if by_state < cap:
            cap, cause = by_state, "GDN state slots"
    per_token = model.kv_bytes(tp, precision) + draft.kv_bytes(tp, precision)
    kv_tokens = int((rest - gdn) // per_token)
    by_kv = kv_tokens // (2 * block + 1)
    if by_kv < cap:
        cap, cause = by_kv, "KV cache"
    if cap < 1:
        msg = (
            f"no room for a single request of {model.name} beside its weights on {device.name} "
            f"at tp {tp} ({cause}); raise --tp or --mem-fraction-static."
        )
        raise InfeasibleError(msg)
    return MemoryPlan(
        static_bytes=static,
        weight_bytes=weights,
        draft_weight_bytes=draft.weight_bytes,
        kv_bytes=rest - gdn,
        kv_bytes_per_token=per_token,
        gdn_bytes=gdn,
        kv_tokens=kv_tokens,
        max_running_requests=cap,
        cap_cause=cause,
    )


def default_mem_fraction(
    device: Device, outside: OutsideStatic, *, chunk: int, graph_max_bs: int, tp: int
) -> float:
    """Share of GPU memory for weights and caches when none is given.

    Parameters
    ----------
    chunk
        Prefill tokens per step.
    graph_max_bs
        Largest captured batch.
    """
    left = outside.base + outside.per_chunk_token * max(chunk, outside.least_chunk)
    left += outside.per_tp * tp + outside.per_graph_request * graph_max_bs
    if device.mem_bytes > outside.large_gpu_gib * GiB:
        left = max(left, outside.least_on_large_gpu)
    return float(1 - left * MiB / device.mem_bytes)


def _state_slots(defaults: Defaults, *, overlap: bool, radix_cache: bool) -> int:
    """GDN state slots per running request: live, and those that feed the prefix cache."""
    if not radix_cache:
        return defaults.mamba_slots_per_request_no_radix
    return defaults.mamba_slots_per_request if overlap else defaults.mamba_slots_per_request_sync


def _default_cap(speculative: bool, requested: int | None, defaults: Defaults) -> tuple[int, str]:
    if requested is not None:
        return requested, "--max-running-requests"
    if not speculative:
        return defaults.max_running_requests_plain, "engine default"
    return defaults.max_running_requests_spec, "engine default with speculation"


def _too_big(
    device: Device,
    model: ModelShape,
    tp: int,
    short: float,
    static: float,
    draft: int,
    precision: Precision,
) -> str:
    fits = [n for n in TP_SIZES if model.weight_bytes(n, precision) + draft < static and n > tp]
    remedy = f"; --tp {fits[0]} would" if fits else f"; no TP up to {TP_SIZES[-1]} does"
    return (
        f"{model.name} does not fit on {device.name} at tp {tp}: {short / GIGA:.1f} GB short of "
        f"{static / GIGA:.1f} GB static memory per GPU{remedy}."
    )
