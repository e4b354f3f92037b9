"""Block attention over a paged KV pool, in Triton: decode, verify and the DFlash block.

The query rows of a request and the query heads that share a KV head are packed into one tile, so
keys and values are read once per KV head. When there are too few tiles to fill the GPU the context
is split, and a second kernel joins the parts (flash-decoding).

Scores and sums are float32. Against the reference, at unit-variance inputs: float32 2e-5, float16
2e-3, bfloat16 1.6e-2, relative to the largest output of a row.
"""

# ruff: noqa: N803
import math

import torch
from torch import Tensor

import triton
import triton.language as tl
from dflash_sim.kernels.triton.configs import (
    LEAST_SPLIT_KEYS,
    MOST_REGISTERS,
    attention_splits,
    attention_tile,
    ceil_div,
    join_columns,
    power_of_two,
)
from dflash_sim.kernels.triton.launch import launch, target


@triton.jit(do_not_specialize=["splits"])
def _attend(
    q: tl.tensor,
    k_pool: tl.tensor,
    v_pool: tl.tensor,
    page_table: tl.tensor,
    seq_lens: tl.tensor,
    gate: tl.tensor,
    out: tl.tensor,
    partial: tl.tensor,
    log_sum: tl.tensor,
    block_rows: tl.tensor,
    kv_heads: tl.tensor,
    table_row: tl.tensor,
    q_row: tl.tensor,
    q_head: tl.tensor,
    gate_row: tl.tensor,
    gate_head: tl.tensor,
    scale: tl.tensor,
    splits: tl.tensor,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    CAUSAL: tl.constexpr,
    SPLIT: tl.constexpr,
    LEAST_BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
) -> None:
    kv_head = tl.program_id(0) % kv_heads
    first_row = tl.program_id(0) // kv_heads * ROWS
    split = tl.program_id(1)
    request = tl.program_id(2)
    packed = block_rows * GROUP
    seq = tl.load(seq_lens + request)

    row = first_row + tl.arange(0, ROWS)
    position = seq - block_rows + row // GROUP
    live = (row < packed) & (position >= 0)
    head = kv_head * GROUP + row % GROUP
    dim = tl.arange(0, HEAD_DIM)

    begin = 0
    end = seq
    if CAUSAL:
        end = tl.minimum(seq, seq - block_rows + (first_row + ROWS - 1) // GROUP + 1)
    if WINDOW > 0:
        begin = tl.maximum(0, seq - block_rows + first_row // GROUP - WINDOW + 1)
    aligned = begin // KEYS * KEYS
    blocks = tl.maximum(tl.cdiv(tl.cdiv(end - aligned, KEYS), splits), LEAST_BLOCKS)
    low = aligned + split * blocks * KEYS
    high = tl.minimum(end, low + blocks * KEYS)

    token = (request * block_rows + row // GROUP).to(tl.int64)
    queries = tl.load(
        q + (token * q_row + head * q_head)[:, None] + dim, mask=live[:, None], other=0.0
    )
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, HEAD_DIM], tl.float32)
    pages = page_table + request.to(tl.int64) * table_row
    # One page for all keys of a step, or one each; read a step early, so that only the keys' and
    # values' own loads are left to overlap with the products.
    lane = 0 if PAGE % KEYS == 0 else tl.arange(0, KEYS)
    page = tl.load(pages + (low + lane) // PAGE, mask=low + lane < high, other=0)
    for start in range(low, high, KEYS):
        key = start + tl.arange(0, KEYS)
        held = (key >= begin) & (key < high)
        slot = page.to(tl.int64) * PAGE + key % PAGE
        ahead = start + KEYS + lane
        page = tl.load(pages + ahead // PAGE, mask=ahead < high, other=0)
        place = (slot * kv_heads + kv_head) * HEAD_DIM
        keys = tl.load(k_pool + place[None, :] + dim[:, None], mask=held[None, :], other=0.0)
        scores = tl.dot(queries, keys, input_precision="ieee") * scale
        seen = held[None, :] & live[:, None]
        if CAUSAL:
            seen &= key[None, :] <= position[:, None]
        if WINDOW > 0:
            seen &= key[None, :] > position[:, None] - WINDOW
        scores = tl.where(seen, scores, float("-inf"))
        peak = tl.maximum(best, tl.max(scores, 1))
        # A row that has seen nothing yet has no finite peak, and -inf - -inf is not zero.
        shift = tl.where(peak == float("-inf"), 0.0, peak)
        weights = tl.exp2(scores - shift[:, None])
        fade = tl.exp2(best - shift)
        total = total * fade + tl.sum(weights, 1)
        values = tl.load(v_pool + place[:, None] + dim[None, :], mask=held[:, None], other=0.0)
        mixed = tl.dot(
            weights.to(values.dtype), values, mixed * fade[:, None], input_precision="ieee"
        )
        best = peak

    answer = mixed / tl.where(total > 0, total, 1.0)[:, None]
    inside = row < packed
    query_head = token * (kv_heads * GROUP) + head
    if not SPLIT:
        if gate is not None:
            level = tl.load(
                gate + (token * gate_row + head * gate_head)[:, None] + dim,
                mask=inside[:, None],
                other=0.0,
            )
            answer *= tl.sigmoid(level.to(tl.float32))
        place_out = out + (query_head * HEAD_DIM)[:, None] + dim
        tl.store(place_out, answer.to(out.dtype.element_ty), mask=inside[:, None])
    else:
        part = query_head * splits + split
        tl.store(log_sum + part, best + tl.log2(total), mask=inside)
        tl.store(
            partial + (part * HEAD_DIM)[:, None] + dim,
            answer,
            mask=inside[:, None] & (total > 0)[:, None],
        )


@triton.jit(do_not_specialize=["splits"])
def _join(
    partial: tl.tensor,
    log_sum: tl.tensor,
    gate: tl.tensor,
    out: tl.tensor,
    heads: tl.tensor,
    gate_row: tl.tensor,
    gate_head: tl.tensor,
    splits: tl.tensor,
    HEAD_DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPLIT_BLOCK: tl.constexpr,
) -> None:
    query_head = tl.program_id(0).to(tl.int64)
    dim = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    part = tl.arange(0, SPLIT_BLOCK)
    sums = tl.load(log_sum + query_head * splits + part, mask=part < splits, other=float("-inf"))
    peak = tl.max(sums, 0)
    weights = tl.exp2(sums - tl.where(peak == float("-inf"), 0.0, peak))
    # A part that saw nothing was not written.
    parts = tl.load(
        partial + (query_head * splits + part)[:, None] * HEAD_DIM + dim,
        mask=(weights > 0)[:, None],
        other=0.0,
    )
    answer = tl.sum(parts * weights[:, None], 0) / tl.maximum(tl.sum(weights, 0), 1e-30)
    if gate is not None:
        place = query_head // heads * gate_row + query_head % heads * gate_head
        answer *= tl.sigmoid(tl.load(gate + place + dim).to(tl.float32))
    tl.store(out + query_head * HEAD_DIM + dim, answer.to(out.dtype.element_ty))


def dense_rows(x: Tensor) -> Tensor:
    """``x`` [R, B, H, D] itself if requests follow each other and ``D`` is dense, else a copy."""
    dense = x.stride(3) == 1 and x.stride(0) == x.shape[1] * x.stride(1)
    return x if dense else x.contiguous()


def block_attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    page_table: Tensor,
    seq_lens: Tensor,
    *,
    causal: bool,
    scale: float,
    window: int | None = None,
    gate: Tensor | None = None,
    chosen: Tensor | None = None,
    splits: int | None = None,
) -> Tensor:
    """Do :func:`dflash_sim.kernels.reference.attention.block_attention` on contiguous pools.

    Parameters
    ----------
    chosen : None; attention to chosen blocks is the reference's alone
    splits : parts of the context; None chooses by machine and shape

    Raises
    ------
    NotImplementedError
        Blocks are chosen.
    """
    if chosen is not None:
        msg = "attention to chosen blocks has no kernel; the reference computes it"
        raise NotImplementedError(msg)
    requests, rows, heads, head_dim = q.shape
    page, kv_heads = k_pool.shape[1:3]
    group = heads // kv_heads
    tile = attention_tile(rows=rows * group, head_dim=head_dim, item_bytes=q.element_size())
    tiles = ceil_div(rows * group, tile.rows)
    reach = page_table.shape[1] * page
    if window is not None:
        reach = min(reach, window + rows)
    programs = requests * kv_heads * tiles
    parts = splits or attention_splits(target(q), tile, programs=programs, keys=reach)
    q = dense_rows(q)
    gate = None if gate is None else dense_rows(gate)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    partial = log_sum = None
    if parts > 1:
        size = (requests, rows, heads, parts)
        partial = torch.empty((*size, head_dim), dtype=torch.float32, device=q.device)
        log_sum = torch.empty(size, dtype=torch.float32, device=q.device)
    gate_row, gate_head = (0, 0) if gate is None else (gate.stride(1), gate.stride(2))
    launch(
        _attend,
        (kv_heads * tiles, parts, requests),
        warps=tile.warps,
        stages=tile.stages,
        registers=MOST_REGISTERS,
        q=q,
        k_pool=k_pool,
        v_pool=v_pool,
        page_table=page_table,
        seq_lens=seq_lens,
        gate=gate if parts == 1 else None,
        out=out,
        partial=partial,
        log_sum=log_sum,
        block_rows=rows,
        kv_heads=kv_heads,
        table_row=page_table.stride(0),
        q_row=q.stride(1),
        q_head=q.stride(2),
        gate_row=gate_row,
        gate_head=gate_head,
        scale=scale * math.log2(math.e),
        splits=parts,
        GROUP=group,
        HEAD_DIM=head_dim,
        PAGE=page,
        WINDOW=window or 0,
        CAUSAL=causal,
        SPLIT=parts > 1,
        LEAST_BLOCKS=ceil_div(LEAST_SPLIT_KEYS, tile.keys) if parts > 1 else 1,
        ROWS=tile.rows,
        KEYS=tile.keys,
    )
    if parts > 1:
        columns = join_columns(parts, head_dim)
        launch(
            _join,
            (requests * rows * heads, head_dim // columns),
            warps=4,
            partial=partial,
            log_sum=log_sum,
            gate=gate,
            out=out,
            heads=heads,
            gate_row=gate_row,
            gate_head=gate_head,
            splits=parts,
            HEAD_DIM=head_dim,
            COLUMNS=columns,
            SPLIT_BLOCK=power_of_two(parts),
        )
    return out
