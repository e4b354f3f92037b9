"""A mixture of experts for few tokens: grouped products that stream each chosen expert once.

At verify sizes an expert has a handful of rows, so time is its weights' bytes. Weights are the left
factor of each product (64 or 128 features by 16 or more rows): a tensor core instruction is filled
without padding rows to 64. Four launches of fixed size, so a CUDA graph can hold them: a stable
counting sort by expert, gate and up with SwiGLU, down, and the weighted sum over a token's experts
in a fixed order (the same bits every time, unlike atomic sums).

Products are summed in float32. Against the reference, relative to the largest value: float32 1e-5,
float16 4e-3, bfloat16 3e-2 (gate and up are rounded once less than in the reference).
"""

# ruff: noqa: N803
import torch
from torch import Tensor

import triton
import triton.language as tl
from dflash_sim.kernels.triton.configs import (
    COMPARED_PAIRS,
    COUNTED_PAIRS,
    MOST_COUNTED_PAIRS,
    PLACED_PAIRS,
    SUM_BLOCK,
    ceil_div,
    expert_tile,
    power_of_two,
)
from dflash_sim.kernels.triton.launch import launch


@triton.jit
def _route(
    experts: tl.tensor,
    order: tl.tensor,
    tile_expert: tl.tensor,
    tile_first: tl.tensor,
    tile_rows: tl.tensor,
    pairs: tl.tensor,
    max_tiles: tl.tensor,
    COUNT: tl.constexpr,
    BINS: tl.constexpr,
    ROWS: tl.constexpr,
    PLACED: tl.constexpr,
    COMPARED: tl.constexpr,
    COUNTED: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    if program == 0:
        # The tiles of every expert, in order. Pairs of experts elsewhere fall into bin COUNT.
        sizes = tl.zeros([BINS], tl.int32)
        for start in range(0, pairs, COUNTED):
            pair = start + tl.arange(0, COUNTED)
            chosen = tl.load(experts + pair, mask=pair < pairs, other=COUNT)
            chosen = tl.where((chosen >= 0) & (chosen < COUNT), chosen, COUNT)
            sizes += tl.histogram(chosen, BINS)
        expert = tl.arange(0, BINS)
        sizes = tl.where(expert < COUNT, sizes, 0)
        first = tl.cumsum(sizes, 0) - sizes
        tiles = (sizes + ROWS - 1) // ROWS
        before = tl.cumsum(tiles, 0) - tiles
        for i in range(0, tl.max(tiles, 0)):
            mine = i < tiles
            tl.store(tile_expert + before + i, expert, mask=mine)
            tl.store(tile_first + before + i, first + i * ROWS, mask=mine)
            tl.store(tile_rows + before + i, tl.minimum(ROWS, sizes - i * ROWS), mask=mine)
        for start in range(0, max_tiles, COUNTED):
            tile = start + tl.arange(0, COUNTED)
            unused = (tile >= tl.sum(tiles, 0)) & (tile < max_tiles)
            tl.store(tile_rows + tile, 0, mask=unused)
    else:
        # The place of a pair is the number of pairs that come before it.
        mine = (program - 1) * PLACED + tl.arange(0, PLACED)
        chosen = tl.load(experts + mine, mask=mine < pairs, other=COUNT)
        chosen = tl.where((chosen >= 0) & (chosen < COUNT), chosen, COUNT)
        place = tl.zeros([PLACED], tl.int32)
        for start in range(0, pairs, COMPARED):
            other = start + tl.arange(0, COMPARED)
            rival = tl.load(experts + other, mask=other < pairs, other=COUNT)
            rival = tl.where((rival >= 0) & (rival < COUNT), rival, COUNT)
            earlier = (rival[None, :] == chosen[:, None]) & (other[None, :] < mine[:, None])
            ahead = earlier | (rival[None, :] < chosen[:, None])
            place += tl.sum((ahead & (other < pairs)[None, :]).to(tl.int32), 1)
        tl.store(order + place, mine, mask=mine < pairs)


@triton.jit
def _expert_product(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    order: tl.tensor,
    tile_expert: tl.tensor,
    tile_first: tl.tensor,
    tile_rows: tl.tensor,
    features: tl.tensor,
    inner: tl.tensor,
    x_row: tl.tensor,
    TOP_K: tl.constexpr,
    GATED: tl.constexpr,
    EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    FEATURES: tl.constexpr,
    INNER: tl.constexpr,
) -> None:
    tile = tl.program_id(1)
    # All three before the branch: one wait for memory instead of two.
    count = tl.load(tile_rows + tile)
    expert = tl.load(tile_expert + tile).to(tl.int64)
    first = tl.load(tile_first + tile)
    if count > 0:
        place = first + tl.arange(0, ROWS)
        held = tl.arange(0, ROWS) < count
        pair = tl.load(order + place, mask=held, other=0)
        # Gate and up read tokens and write in expert order; down reads that and writes by token.
        source = (pair // TOP_K if GATED else place).to(tl.int64)
        goal = (place if GATED else pair).to(tl.int64)
        feature = tl.program_id(0) * FEATURES + tl.arange(0, FEATURES)
        real = feature < features
        step = tl.arange(0, INNER)
        matrix = expert * ((2 if GATED else 1) * features)
        left = weight + (matrix + feature.to(tl.int64))[:, None] * inner + step[None, :]
        right = x + source[None, :] * x_row + step[:, None]
        up_offset = features.to(tl.int64) * inner
        product = tl.zeros([FEATURES, ROWS], tl.float32)
        up_product = tl.zeros([FEATURES, ROWS], tl.float32)
        for start in range(0, inner, INNER):
            inside = step < inner - start
            if EVEN:
                left_mask = real[:, None]
                right_mask = held[None, :]
            else:
                left_mask = real[:, None] & inside[None, :]
                right_mask = held[None, :] & inside[:, None]
            # Weights first: rows must wait for the sort's answer.
            gate = tl.load(left, mask=left_mask, other=0.0)
            if GATED:
                up = tl.load(left + up_offset, mask=left_mask, other=0.0)
            rows = tl.load(right, mask=right_mask, other=0.0)
            product = tl.dot(gate, rows, product, input_precision="ieee")
            if GATED:
                up_product = tl.dot(up, rows, up_product, input_precision="ieee")
            left += INNER
            right += INNER
        if GATED:
            product = product * tl.sigmoid(product) * up_product
        to = out + goal[None, :] * features + feature[:, None]
        tl.store(to, product.to(out.dtype.element_ty), mask=real[:, None] & held[None, :])


@triton.jit
def _weighted_sum(
    parts: tl.tensor,
    weights: tl.tensor,
    experts: tl.tensor,
    out: tl.tensor,
    features: tl.tensor,
    COUNT: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    token = tl.program_id(1).to(tl.int64)
    feature = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = feature < features
    total = tl.zeros([BLOCK], tl.float32)
    for choice in tl.static_range(TOP_K):
        pair = token * TOP_K + choice
        expert = tl.load(experts + pair)
        here = (expert >= 0) & (expert < COUNT)
        part = tl.load(parts + pair * features + feature, mask=real & here, other=0.0)
        total += tl.load(weights + pair).to(tl.float32) * part.to(tl.float32)
    tl.store(out + token * features + feature, total.to(out.dtype.element_ty), mask=real)


def grouped_swiglu(x: Tensor, w13: Tensor, w2: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
    """Do the same as :func:`dflash_sim.kernels.reference.moe.grouped_swiglu`; weights dense."""
    weights, experts = weights.contiguous(), experts.contiguous()
    tokens, hidden = x.shape
    count, top_k = w13.shape[0], experts.shape[1]
    inter, pairs = w2.shape[2], experts.numel()
    size = {"pairs": pairs, "experts": count, "item_bytes": x.element_size()}
    gate_up = expert_tile(inner=hidden, gated=True, **size)
    down = expert_tile(inner=inter, gated=False, **size)
    max_tiles = min(pairs, min(pairs, count) + pairs // gate_up.rows)
    order = torch.empty(pairs, dtype=torch.int32, device=x.device)
    tile_expert, tile_first, tile_rows = (order.new_empty(max_tiles) for _ in range(3))
    middle = torch.empty(pairs, inter, dtype=x.dtype, device=x.device)
    parts = torch.empty(pairs, hidden, dtype=x.dtype, device=x.device)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    few = pairs <= MOST_COUNTED_PAIRS
    if not few:
        elsewhere = (experts < 0) | (experts >= count)
        order.copy_(experts.masked_fill(elsewhere, count).flatten().argsort(stable=True))
    launch(
        _route,
        (1 + (ceil_div(pairs, PLACED_PAIRS) if few else 0),),
        warps=4,
        experts=experts,
        order=order,
        tile_expert=tile_expert,
        tile_first=tile_first,
        tile_rows=tile_rows,
        pairs=pairs,
        max_tiles=max_tiles,
        COUNT=count,
        BINS=power_of_two(count + 1),
        ROWS=gate_up.rows,
        PLACED=PLACED_PAIRS,
        COMPARED=COMPARED_PAIRS,
        COUNTED=COUNTED_PAIRS,
    )
    for source, weight, goal, features, tile in (
        (x, w13, middle, inter, gate_up),
        (middle, w2, parts, hidden, down),
    ):
        launch(
            _expert_product,
            (ceil_div(features, tile.features), max_tiles),
            warps=tile.warps,
            stages=tile.stages,
            x=source,
            weight=weight,
            out=goal,
            order=order,
            tile_expert=tile_expert,
            tile_first=tile_first,
            tile_rows=tile_rows,
            features=features,
            inner=weight.shape[2],
            x_row=source.stride(0),
            TOP_K=top_k,
            GATED=weight is w13,
            EVEN=weight.shape[2] % tile.inner == 0,
            ROWS=tile.rows,
            FEATURES=tile.features,
            INNER=tile.inner,
        )
    launch(
        _weighted_sum,
        (ceil_div(hidden, SUM_BLOCK), tokens),
        warps=4,
        parts=parts,
        weights=weights,
        experts=experts,
        out=out,
        features=hidden,
        COUNT=count,
        TOP_K=top_k,
        BLOCK=SUM_BLOCK,
    )
    return out
