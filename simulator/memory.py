"""Weights, KV and GDN state pools of one GPU -> the request cap and its cause.

Follows SGLang: a static share of GPU memory holds weights, then hybrid models split the rest
between GDN state slots and KV by ``mamba_full_memory_ratio``; with speculation every running
request also owns scratch for one recurrent state per verified position.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dflash_sim.profiles.engine_sheet import EngineSheet
from dflash_sim.profiles.errors import InfeasibleError
from dflash_sim.profiles.networks.hf_config import (
    AttentionShape,
    DrafterShape,
    Eagle3Shape,
    ModelShape,
)
from dflash_sim.profiles.sheets import Device
from dflash_sim.profiles.units import BF16_BYTES, GIGA, GiB, MiB

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


def kv_bytes_per_rank(layers: tuple[AttentionShape, ...], tp: int) -> int:
    """KV bytes of one token on one rank; with fewer KV heads than ranks they are replicated."""
    return sum(2 * max(1, a.num_kv_heads // tp) * a.head_dim * BF16_BYTES for a in layers)


def draft_bytes(
    method: str, model: ModelShape, drafter: DrafterShape | None, eagle: Eagle3Shape | None, tp: int
) -> tuple[int, int]:
    """``(weights, KV per token)`` of the drafting network on one rank [byte]."""
    if method == "mtp" and model.mtp_layer is not None:
        mixer = model.mtp_layer.mixer
        assert isinstance(mixer, AttentionShape)
        return model.mtp_weight_bytes(tp), kv_bytes_per_rank((mixer,), tp)
    if eagle is not None:
        return eagle.weight_bytes(tp), kv_bytes_per_rank((eagle.attention,), tp)
    if drafter is not None:
        return drafter.weight_bytes(tp), kv_bytes_per_rank(drafter.layers, tp)
    return 0, 0


def plan_memory(
    *,
    device: Device,
    engine: EngineSheet,
    model: ModelShape,
    tp: int,
    method: str,
    block: int,
    overlap: bool,
    radix_cache: bool,
    draft_weight_bytes: int,
    draft_kv_bytes: int,
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
    weights = model.weight_bytes(tp)
    rest = static - weights - draft_weight_bytes
    if rest <= 0:
        raise InfeasibleError(_too_big(device, model, tp, -rest, static, draft_weight_bytes))
    gdn = 0.0
    cap, cause = _default_cap(method, requested, defaults)
    if model.gdn_layers:
        ratio = defaults["mamba_full_memory_ratio"]
        gdn = rest * ratio / (1 + ratio)
        slots = _state_slots(defaults, overlap=overlap, radix_cache=radix_cache)
        scratch = block * model.gdn_ssm_bytes / tp if method != "none" else 0.0
        by_state = int(gdn // (slots * model.gdn_state_bytes / tp + scratch))
        if by_state < cap:
            cap, cause = by_state, "GDN state slots"
    per_token = kv_bytes_per_rank(model.attention_layers, tp) + draft_kv_bytes
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
        draft_weight_bytes=draft_weight_bytes,
        kv_bytes=rest - gdn,
        kv_bytes_per_token=per_token,
        gdn_bytes=gdn,
        kv_tokens=kv_tokens,
        max_running_requests=cap,
        cap_cause=cause,
    )


def default_mem_fraction(
    device: Device, defaults: Mapping[str, Any], *, chunk: int, graph_max_bs: int, tp: int
) -> float:
    """Share of GPU memory for weights and caches when none is given.

    Parameters
    ----------
    chunk
        Prefill tokens per step.
    graph_max_bs
        Largest captured batch.
    """
    d = defaults["outside_static"]
    outside = d["base"] + d["per_chunk_token"] * max(chunk, d["least_chunk"])
    outside += d["per_tp"] * tp + d["per_graph_request"] * graph_max_bs
    if device.mem_bytes > d["large_gpu_gib"] * GiB:
        outside = max(outside, d["least_on_large_gpu"])
    return float(1 - outside * MiB / device.mem_bytes)


def _state_slots(defaults: Mapping[str, Any], *, overlap: bool, radix_cache: bool) -> int:
    """GDN state slots per running request: live, and those that feed the prefix cache."""
    if not radix_cache:
        return int(defaults["mamba_slots_per_request_no_radix"])
    return int(defaults["mamba_slots_per_request" if overlap else "mamba_slots_per_request_sync"])


def _default_cap(method: str, requested: int | None, defaults: object) -> tuple[int, str]:
    assert isinstance(defaults, dict)
    if requested is not None:
        return requested, "--max-running-requests"
    if method == "none":
        return int(defaults["max_running_requests_plain"]), "engine default"
    return int(defaults["max_running_requests_spec"]), "engine default with speculation"


def _too_big(
    device: Device, model: ModelShape, tp: int, short: float, static: float, draft: int
) -> str:
    fits = [n for n in TP_SIZES if model.weight_bytes(n) + draft < static and n > tp]
    remedy = f"; --tp {fits[0]} would" if fits else f"; no TP up to {TP_SIZES[-1]} does"
    return (
        f"{model.name} does not fit on {device.name} at tp {tp}: {short / GIGA:.1f} GB short of "
        f"{static / GIGA:.1f} GB static memory per GPU{remedy}."
    )
