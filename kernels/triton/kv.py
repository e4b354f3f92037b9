"""QK-norm, rotary embedding and the write into a paged KV pool in one Triton kernel.

In front of an attention it turns queries too; as the KV injection of DFlash it writes the keys and
values of every drafter layer for freshly committed tokens in one launch. Rows that are not kept
(a negative slot) are neither read nor written. Memory bound: each value is read and written once.

Norms and rotations are float32. Against the reference, relative to the largest value: float32 1e-5,
float16 2e-3, bfloat16 1.6e-2 (one rounding either side).
"""

# ruff: noqa: N803
import torch
from torch import Tensor

import triton
import triton.language as tl
from dflash_sim.kernels.triton.configs import ceil_div, power_of_two, turn_tile
from dflash_sim.kernels.triton.launch import launch
from dflash_sim.profiles.errors import UsageError


@triton.jit
def _turn(
    source: tl.tensor,
    goal: tl.tensor,
    live: tl.tensor,
    weight: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    eps: tl.tensor,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    ZERO_CENTRED: tl.constexpr,
) -> None:
    pair = tl.arange(0, HALF)
    mask = live[:, None]
    a = tl.load(source[:, None] + pair, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(source[:, None] + HALF + pair, mask=mask, other=0.0).to(tl.float32)
    square = tl.sum(a * a, 1) + tl.sum(b * b, 1)
    if REST > 0:
        rest = 2 * HALF + tl.arange(0, REST)
        in_head = mask & (rest < HEAD_DIM)[None, :]
        c = tl.load(source[:, None] + rest, mask=in_head, other=0.0).to(tl.float32)
        square += tl.sum(c * c, 1)
    scale = tl.rsqrt(square / HEAD_DIM + eps)[:, None]
    weight_a = tl.load(weight + pair).to(tl.float32)
    weight_b = tl.load(weight + HALF + pair).to(tl.float32)
    if ZERO_CENTRED:
        weight_a += 1.0
        weight_b += 1.0
    a = a * scale * weight_a
    b = b * scale * weight_b
    c_angle = tl.load(cos[:, None] + pair, mask=mask, other=0.0).to(tl.float32)
    s_angle = tl.load(sin[:, None] + pair, mask=mask, other=0.0).to(tl.float32)
    kind = goal.dtype.element_ty
    tl.store(goal[:, None] + pair, (a * c_angle - b * s_angle).to(kind), mask=mask)
    tl.store(goal[:, None] + HALF + pair, (b * c_angle + a * s_angle).to(kind), mask=mask)
    if REST > 0:
        weight_c = tl.load(weight + rest, mask=rest < HEAD_DIM, other=0.0).to(tl.float32)
        if ZERO_CENTRED:
            weight_c += 1.0
        tl.store(goal[:, None] + rest, (c * scale * weight_c).to(kind), mask=in_head)


@triton.jit
def _norm_rope_write(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    q_out: tl.tensor,
    q_weight: tl.tensor,
    k_weight: tl.tensor,
    cos_table: tl.tensor,
    sin_table: tl.tensor,
    positions: tl.tensor,
    k_pool: tl.tensor,
    v_pool: tl.tensor,
    slots: tl.tensor,
    tokens: tl.tensor,
    q_token: tl.tensor,
    q_head: tl.tensor,
    kv_token: tl.tensor,
    kv_layer: tl.tensor,
    pool_layer: tl.tensor,
    eps: tl.tensor,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
    ZERO_CENTRED: tl.constexpr,
    ROWS: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
) -> None:
    kv_programs = tl.cdiv(tokens * KV_HEADS, ROWS)
    program = tl.program_id(0)
    layer = tl.program_id(1).to(tl.int64)
    if program < kv_programs:
        row = program * ROWS + tl.arange(0, ROWS)
        token = row // KV_HEADS
        head = row % KV_HEADS
        inside = token < tokens
        slot = tl.load(slots + token, mask=inside, other=-1).to(tl.int64)
        live = slot >= 0
        at = tl.load(positions + token, mask=live, other=0).to(tl.int64)
        source = layer * kv_layer + token.to(tl.int64) * kv_token + head * HEAD_DIM
        goal = layer * pool_layer + (slot * KV_HEADS + head) * HEAD_DIM
        dim = tl.arange(0, VALUE_BLOCK)
        mask = live[:, None] & (dim < HEAD_DIM)[None, :]
        value = tl.load(v + source[:, None] + dim, mask=mask, other=0.0)
        _turn(
            k + source,
            k_pool + goal,
            live,
            k_weight + layer * HEAD_DIM,
            cos_table + at * HALF,
            sin_table + at * HALF,
            eps,
            HEAD_DIM,
            HALF,
            REST,
            ZERO_CENTRED,
        )
        tl.store(v_pool + goal[:, None] + dim, value.to(v_pool.dtype.element_ty), mask=mask)
    elif Q_HEADS > 0:
        row = (program - kv_programs) * ROWS + tl.arange(0, ROWS)
        token = row // Q_HEADS
        live = token < tokens
        at = tl.load(positions + token, mask=live, other=0).to(tl.int64)
        wide = token.to(tl.int64)
        _turn(
            q + wide * q_token + (row % Q_HEADS) * q_head,
            q_out + row.to(tl.int64) * HEAD_DIM,
            live,
            q_weight,
            cos_table + at * HALF,
            sin_table + at * HALF,
            eps,
            HEAD_DIM,
            HALF,
            REST,
            ZERO_CENTRED,
        )


def _start(
    q: Tensor | None,
    k: Tensor,
    v: Tensor,
    q_out: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor,
    cos_table: Tensor,
    sin_table: Tensor,
    positions: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    slots: Tensor,
    *,
    eps: float,
    zero_centred: bool,
) -> None:
    """Keys and values are [L, T, Hkv, D], pools [L, ..., Hkv, D], queries [T, Hq, D] or None."""
    layers, tokens, kv_heads, dim = k.shape
    half = cos_table.shape[-1]
    if half != power_of_two(half) or 2 * half > dim:
        msg = f"cannot rotate {2 * half} of {dim} dimensions; half of them must be a power of two."
        raise UsageError(msg)
    q_heads = 0 if q is None else q.shape[1]
    tile = turn_tile(head_dim=dim)
    launch(
        _norm_rope_write,
        (ceil_div(tokens * kv_heads, tile.rows) + ceil_div(tokens * q_heads, tile.rows), layers),
        warps=tile.warps,
        q=q,
        k=k,
        v=v,
        q_out=q_out,
        q_weight=q_weight,
        k_weight=k_weight,
        cos_table=cos_table,
        sin_table=sin_table,
        positions=positions,
        k_pool=k_pool,
        v_pool=v_pool,
        slots=slots,
        tokens=tokens,
        q_token=0 if q is None else q.stride(0),
        q_head=0 if q is None else q.stride(1),
        kv_token=k.stride(1),
        kv_layer=k.stride(0),
        pool_layer=k_pool.stride(0),
        eps=eps,
        Q_HEADS=q_heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=dim,
        HALF=half,
        REST=power_of_two(dim - 2 * half) if dim > 2 * half else 0,
        ZERO_CENTRED=zero_centred,
        ROWS=tile.rows,
        VALUE_BLOCK=power_of_two(dim),
    )


def twins(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """``k`` and ``v`` [..., Hkv, D] themselves if each token's heads are dense and both alike."""
    dense = all(x.stride(-1) == 1 and x.stride(-2) == x.shape[-1] for x in (k, v))
    return (k, v) if dense and k.stride() == v.stride() else (k.contiguous(), v.contiguous())


def qk_norm_rope_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos_table: Tensor,
    sin_table: Tensor,
    positions: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    slots: Tensor,
    *,
    eps: float,
    zero_centred: bool = False,
) -> Tensor:
    """Do the same as ``norm_rope.qk_norm_rope_write``; pools must be contiguous.

    ``q``, ``k`` and ``v`` may be slices of one projection: no copy is made of them.
    """
    if q.stride(-1) != 1:
        q = q.contiguous()
    k, v = twins(k, v)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    _start(
        q,
        k[None],
        v[None],
        out,
        q_weight,
        k_weight,
        cos_table,
        sin_table,
        positions,
        k_pool[None],
        v_pool[None],
        slots,
        eps=eps,
        zero_centred=zero_centred,
    )
    return out


def write_layers(
    keys: Tensor,
    values: Tensor,
    k_norm: Tensor,
    cos_table: Tensor,
    sin_table: Tensor,
    positions: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    slots: Tensor,
    *,
    eps: float,
) -> None:
    """Norm, rotate and store the keys and values of all drafter layers, in place.

    Parameters
    ----------
    keys, values : [L, T, Hkv, D], views of one projection or not
    k_norm : [L, D]
    k_pool, v_pool : [L, pages, page_size, Hkv, D], contiguous
    positions, slots : [T] int64
    """
    keys, values = twins(keys, values)
    _start(
        None,
        keys,
        values,
        None,
        None,
        k_norm,
        cos_table,
        sin_table,
        positions,
        k_pool,
        v_pool,
        slots,
        eps=eps,
        zero_centred=False,
    )


def materialise(
    context: Tensor,
    kv_weight: Tensor,
    k_norm: Tensor,
    cos_table: Tensor,
    sin_table: Tensor,
    positions: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    slots: Tensor,
    *,
    eps: float,
) -> None:
    """Do the same as ``draft.materialise``: one batched GEMM and one kernel."""
    layers, tokens = kv_weight.shape[0], context.shape[0]
    both = torch.bmm(context.expand(layers, -1, -1), kv_weight.transpose(1, 2))
    keys, values = both.view(layers, tokens, 2, *k_pool.shape[-2:]).unbind(2)
    write_layers(
        keys, values, k_norm, cos_table, sin_table, positions, k_pool, v_pool, slots, eps=eps
    )
