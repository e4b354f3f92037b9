"""Seconds of kernels that no table has: elementwise ones, and those with several rows per request.

Tables have decode kernels, of one row. More rows cost what their traffic does and what follows
each other inside a request; the constants are those of an architecture, in the engine sheet.
"""

from math import ceil, hypot, sqrt
from typing import NamedTuple

from dflash_sim.profiles.formats import PLAIN, format_of
from dflash_sim.profiles.precision import bytes_of
from dflash_sim.profiles.releases.elsewhere import AttentionRows, WideKernels
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.sheets import Device
from dflash_sim.profiles.units import MEGA, US, MiB
from dflash_sim.simulator.cost.latent_ops import MlaDecode, SparseAttention
from dflash_sim.simulator.cost.ops import (
    Attention,
    Elementwise,
    GdnConv,
    GdnRecurrent,
    Op,
    PrefillAttention,
)
from dflash_sim.simulator.cost.parts import Cost

_FIXED = {"norm": "norm_kernel", "vocab": "vocab_kernel"}  # all others are small kernels


class Search(NamedTuple):
    """Constants of kernels that search rows of logits, bound by the atomics of the SMs."""

    rate: str
    kernels: str = ""  # their fixed time
    row_rate: str = ""  # of what each row's own block of threads does at the end


SEARCHES = {
    "top_k": Search("top_k_rate", "top_k_kernels"),
    "radix_top_k": Search("radix_top_k_rate", "radix_top_k_kernel"),
    "top_k_renorm": Search("top_k_renorm_rate", "top_k_renorm_kernel"),
    "top_p_renorm": Search("top_p_renorm_rate", row_rate="top_p_renorm_row_rate"),
}


def wide_s(op: Op, wide: WideKernels, device: Device, backend: str | None) -> float | None:
    """Return the time of an op that has a law of its own on this architecture [s], or None."""
    k = wide.kernels
    if isinstance(op, GdnRecurrent) and op.rows > 1:
        move = op.nbytes / (k["gdn_verify_share"] * device.mem_bw_byte_s)
        return k["gdn_verify_launch"] + op.rows * k["gdn_verify_row"] + move
    if isinstance(op, GdnConv) and op.rows > 1:
        slower = 1 + op.rows * k["gdn_conv_spread"]
        move = op.nbytes * slower / (k["gdn_conv_share"] * device.mem_bw_byte_s)
        return hypot(k["gdn_conv_launch"] + op.rows * k["gdn_conv_row"], move)
    if isinstance(op, Elementwise) and op.kind == "gated_norm" and op.rows > 1:
        return k["gated_norm"] * sqrt(op.rows * sqrt(op.nbytes / MiB))
    rows = attention_rows(op, wide, backend)
    if rows is not None and rows.launch is not None and rows.token is not None:
        assert isinstance(op, Attention)
        blocks = op.requests * op.heads * ceil(op.rows / rows.tile_rows)
        waves = max(1.0, blocks / device.sm_count)
        return waves * (rows.launch.quantity.si + op.kv_len * rows.token.quantity.si)
    return None


def wide_words(op: Op, wide: WideKernels, backend: str | None) -> str:
    """Say what the law of an op that :func:`wide_s` has a time of is made of."""
    k = wide.kernels
    at = f"{op_rows(op)} rows of each request on {wide.arch}"
    if isinstance(op, GdnRecurrent):
        return f"{at}, states at {k['gdn_verify_share']:.2f} of memory bandwidth (fitted)"
    if isinstance(op, GdnConv):
        return f"{at}, windows at {k['gdn_conv_share']:.2f} of memory bandwidth (fitted)"
    if isinstance(op, Elementwise):
        return f"{at}, by the root of rows and the fourth root of bytes (fitted)"
    rows = attention_rows(op, wide, backend)
    assert rows is not None
    assert rows.token is not None
    return f"{at}, {backend}, {rows.token.quantity.si / US:.3f} us a cached token (fitted)"


def unpack_s(op: Op, engine: EngineSheet, device: Device) -> float:
    """Return the time that cached values take to become bf16 where no instruction does it [s].

    Each tile of queries does it anew; what a prefill has just computed is in bf16 still.
    """
    values = unpacked_values(op, device)
    return values / MEGA / device.sm_count * engine["kv_unpack"] if values else 0.0


def unpacked_values(op: Op, device: Device) -> float:
    """Return how often a cached value is taken apart by several instructions."""
    if not isinstance(op, Attention | PrefillAttention | MlaDecode | SparseAttention):
        return 0.0
    kv = format_of(op.precision.kv_cache).kv
    if kv is None or device.arch not in kv.unpacked_on:
        return 0.0
    match op:
        case Attention():
            read, rows = op.kv_len * 2 * op.kv_heads * op.head_dim, op.rows
        case PrefillAttention():
            seen = min(op.prefix, op.window) if op.window else op.prefix
            read, rows = seen * 2 * op.kv_heads * op.head_dim, ceil(op.seq)
        case MlaDecode():
            read, rows = op.kv_len * (op.latent + op.rope), op.rows
        case SparseAttention():
            return op.read * (op.latent + op.rope) * ceil(op.heads / kv.unpacked_rows)
    group = op.heads if isinstance(op, MlaDecode) else op.heads // op.kv_heads
    return op.requests * read * ceil(rows * group / kv.unpacked_rows)


def op_rows(op: Op) -> int:
    """Return the rows of each request of an op; 1 of those that do not tell requests apart."""
    return getattr(op, "rows", 1)


def attention_rows(op: Op, wide: WideKernels | None, backend: str | None) -> AttentionRows | None:
    """Return what a backend's attention of several rows is like there; None where nobody says."""
    if wide is None or backend is None or not isinstance(op, Attention) or op.rows == 1:
        return None
    return wide.attention.get(backend)


def rows_factor(op: Attention, engine: EngineSheet, backend: str | None) -> float:
    """Return the time of several query rows over that of the decode kernel [1]."""
    own = attention_rows(op, engine.wide, backend)
    if own is None or own.factor is None:
        return engine["verify_attention_factor"]
    return own.factor.quantity.si


def elementwise(op: Elementwise, engine: EngineSheet, device: Device) -> Cost:
    """Return the cost of a kernel that no table has, without the gap behind it."""
    search = SEARCHES.get(op.kind)
    if search is None:
        return Cost.of(elementwise_s(op, engine, device), "assumed")
    return Cost.of(search_s(op, search, engine, device), "fitted")


def search_s(op: Elementwise, search: Search, engine: EngineSheet, device: Device) -> float:
    """Return the time of a search: what is fixed, what a row takes alone, and what the SMs do [s].

    ``nbytes`` are those of the matrix, once; its passes are in the rates.
    """
    fixed = engine[search.kernels] if search.kernels else 0.0
    if search.row_rate:
        fixed += op.nbytes / (op.blocks or 1) / engine[search.row_rate]
    return fixed + op.nbytes / (engine[search.rate] * device.sm_count)


def elementwise_s(op: Elementwise, engine: EngineSheet, device: Device) -> float:
    """Return a kernel's fixed time and its traffic, part of which may lie in the L2 cache [s].

    A cast of a whole pool is bound by its instructions, or by the memory.
    """
    if op.kind == "pool_cast":
        values = op.nbytes / (bytes_of("fp8") + bytes_of(PLAIN))  # read and written
        streamed = op.nbytes / (device.mem_bw_byte_s * engine["weight_stream_bw_eff"])
        return max(values / MEGA / device.sm_count * engine["pool_cast"], streamed)
    name = "weight_stream_bw_eff" if op.kind == "stream" else "elementwise_bw_eff"
    cached, left = cached_s(op, engine.wide, device)
    move = left / (device.mem_bw_byte_s * engine[name] * busy_share(op, device))
    return engine[_FIXED.get(op.kind, "small_kernel")] + cached + move


def busy_share(op: Elementwise, device: Device) -> float:
    """Return the share of the SMs that a kernel keeps busy [1]."""
    return 1.0 if op.blocks is None else min(1.0, op.blocks / device.sm_count)


def cached_s(op: Elementwise, wide: WideKernels | None, device: Device) -> tuple[float, float]:
    """Return the seconds of what a kernel finds in the L2 cache, and the bytes that are left."""
    if wide is None or op.kind not in ("cached", "norm") or device.l2_bytes is None:
        return 0.0, op.nbytes
    found = min(op.nbytes, device.l2_bytes)
    return found / wide.kernels["l2_rate"], op.nbytes - found
