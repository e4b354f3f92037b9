"""The gated delta rule of a prefill, in chunks of 64 rows on the tensor cores, in Triton.

Two kernels. What a chunk does to itself, for all chunks at once: the inverse of
``I + tril(beta K K^T D, -1)``, ``beta`` in its columns, and ``Q K^T D``. Then a program walks the
chunks of some value columns of one head with the state in registers. The formulas are those of
:func:`dflash_sim.kernels.reference.gdn.gdn_prefill`.

Products are in TF32, sums and states in float32. Against the recurrence, relative to the largest
value: one rounding of ``v``'s half type (outputs) and 2e-3 (states); 3e-5 where products are exact,
as in the interpreter.
"""

# ruff: noqa: N803
import torch
from torch import Tensor

import triton
import triton.language as tl
from dflash_sim.kernels.reference.gdn import L2_EPS
from dflash_sim.kernels.triton.configs import (
    CHUNK_ROWS,
    CHUNK_WARPS,
    SOLVED_ROWS,
    WALK_COLUMNS,
    ceil_div,
)
from dflash_sim.kernels.triton.launch import launch


@triton.jit
def _chunk_factors(
    q: tl.tensor,
    k: tl.tensor,
    g: tl.tensor,
    beta: tl.tensor,
    inverses: tl.tensor,
    scores: tl.tensor,
    rows: tl.tensor,
    key_row: tl.tensor,
    norm_eps: tl.tensor,
    scale: tl.tensor,
    KEY_HEADS: tl.constexpr,
    VALUE_HEADS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    CHUNK: tl.constexpr,
    SOLVED: tl.constexpr,
) -> None:
    chunk = tl.program_id(0)
    head = tl.program_id(1)
    request = tl.program_id(2).to(tl.int64)
    place = tl.arange(0, CHUNK)
    row = chunk * CHUNK + place
    real = row < rows
    row = request * rows + row
    key_head = head // (VALUE_HEADS // KEY_HEADS)
    key_at = row[:, None] * key_row + key_head * KEY_DIM + tl.arange(0, KEY_DIM)[None, :]
    key = tl.load(k + key_at, mask=real[:, None], other=0.0).to(tl.float32)
    key *= tl.rsqrt(tl.sum(key * key, 1) + norm_eps)[:, None]
    query = tl.load(q + key_at, mask=real[:, None], other=0.0).to(tl.float32)
    query *= (tl.rsqrt(tl.sum(query * query, 1) + norm_eps) * scale)[:, None]
    gate = row * VALUE_HEADS + head
    total = tl.cumsum(tl.load(g + gate, mask=real, other=0.0).to(tl.float32), 0)
    strength = tl.load(beta + gate, mask=real, other=0.0).to(tl.float32)
    earlier = place[:, None] > place[None, :]
    same = place[:, None] == place[None, :]
    ratio = tl.exp(tl.where(earlier | same, total[:, None] - total[None, :], float("-inf")))
    matrix = ((request * VALUE_HEADS + head) * tl.num_programs(0) + chunk) * CHUNK * CHUNK
    matrix_at = matrix + place[:, None] * CHUNK + place[None, :]
    transposed = tl.trans(key)
    tl.store(scores + matrix_at, tl.dot(query, transposed, input_precision="tf32") * ratio)
    system = tl.dot(key, transposed, input_precision="tf32") * ratio * strength[:, None]
    system = tl.where(earlier, system, 0.0)
    # Row by row within small blocks, all of them at once: powers of the whole would overflow.
    block = place // SOLVED
    together = block[:, None] == block[None, :]
    near = tl.trans(tl.where(together, system, 0.0))
    unit = tl.where(same, 1.0, 0.0)
    solved = unit
    for i in range(1, SOLVED):
        mine = place % SOLVED == i
        factors = tl.sum(tl.where(mine[None, :], near, 0.0), 1)
        taken = tl.sum(factors[:, None] * solved, 0)
        solved = tl.where(mine[:, None] & together, unit - taken[None, :], solved)
    # What is left of the system is strictly below blocks: with four of them its fourth power is 0.
    far = tl.dot(solved, tl.where(together, 0.0, system), input_precision="tf32")
    twice = tl.dot(far, far, input_precision="tf32")
    solved += tl.dot(twice, solved, input_precision="tf32")
    solved -= tl.dot(far, solved, input_precision="tf32")
    tl.store(inverses + matrix_at, solved * strength[None, :])


@triton.jit
def _chunk_walk(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    g: tl.tensor,
    inverses: tl.tensor,
    scores: tl.tensor,
    state: tl.tensor,
    slots: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    key_row: tl.tensor,
    value_row: tl.tensor,
    norm_eps: tl.tensor,
    scale: tl.tensor,
    KEY_HEADS: tl.constexpr,
    VALUE_HEADS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    head = tl.program_id(1)
    request = tl.program_id(2).to(tl.int64)
    place = tl.arange(0, CHUNK)
    key_dim = tl.arange(0, KEY_DIM)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    slot = tl.load(slots + request).to(tl.int64)
    size: tl.constexpr = KEY_DIM * VALUE_DIM
    home = state + (slot * VALUE_HEADS + head) * size
    home += key_dim[:, None] * VALUE_DIM + column[None, :]
    live = tl.load(home)
    key_head = head // (VALUE_HEADS // KEY_HEADS)
    square = place[:, None] * CHUNK + place[None, :]
    for chunk in range(0, chunks):
        row = chunk * CHUNK + place
        real = row < rows
        row = request * rows + row
        key_at = row[:, None] * key_row + key_head * KEY_DIM + key_dim[None, :]
        key = tl.load(k + key_at, mask=real[:, None], other=0.0).to(tl.float32)
        length = tl.rsqrt(tl.sum(key * key, 1) + norm_eps)
        decay = tl.load(g + row * VALUE_HEADS + head, mask=real, other=0.0).to(tl.float32)
        total = tl.cumsum(decay, 0)
        whole = tl.sum(decay, 0)
        reach = tl.exp(total)
        value_at = row[:, None] * value_row + head * VALUE_DIM + column[None, :]
        wanted = tl.load(v + value_at, mask=real[:, None], other=0.0).to(tl.float32)
        wanted -= tl.dot(key, live, input_precision="tf32") * (reach * length)[:, None]
        matrix = ((request * VALUE_HEADS + head) * chunks + chunk) * CHUNK * CHUNK + square
        written = tl.dot(tl.load(inverses + matrix), wanted, input_precision="tf32")
        query = tl.load(q + key_at, mask=real[:, None], other=0.0).to(tl.float32)
        reach *= tl.rsqrt(tl.sum(query * query, 1) + norm_eps) * scale
        answer = tl.dot(query, live, input_precision="tf32") * reach[:, None]
        answer += tl.dot(tl.load(scores + matrix), written, input_precision="tf32")
        out_at = (row * VALUE_HEADS + head)[:, None] * VALUE_DIM + column[None, :]
        tl.store(out + out_at, answer.to(out.dtype.element_ty), mask=real[:, None])
        written *= (length * tl.exp(whole - total))[:, None]
        live *= tl.exp(whole)
        live += tl.dot(tl.trans(key), written, input_precision="tf32")
    tl.store(home, live)


def prefill(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, pool: Tensor, slots: Tensor
) -> Tensor:
    """The delta rule from ``pool[slots]``, which moves on past the rows, in two launches.

    ``q`` and ``k`` [R, T, Hk, Dk] have one layout, rows of requests follow each other, heads are
    dense; so are those of ``v`` [R, T, Hv, Dv]. ``pool`` is contiguous and float32.
    """
    requests, rows, key_heads, key_dim = q.shape
    value_heads, value_dim = v.shape[2:]
    chunks = ceil_div(rows, CHUNK_ROWS)
    size = (2, requests, value_heads, chunks, CHUNK_ROWS, CHUNK_ROWS)
    inverses, scores = torch.empty(size, dtype=torch.float32, device=v.device).unbind(0)
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    shared = {
        "q": q,
        "k": k,
        "g": g.contiguous(),
        "inverses": inverses,
        "scores": scores,
        "rows": rows,
        "key_row": q.stride(1),
        "norm_eps": L2_EPS,
        "scale": key_dim**-0.5,
        "KEY_HEADS": key_heads,
        "VALUE_HEADS": value_heads,
        "KEY_DIM": key_dim,
        "CHUNK": CHUNK_ROWS,
    }
    launch(
        _chunk_factors,
        (chunks, value_heads, requests),
        warps=CHUNK_WARPS,
        beta=beta.contiguous(),
        SOLVED=SOLVED_ROWS,
        **shared,
    )
    launch(
        _chunk_walk,
        (value_dim // WALK_COLUMNS, value_heads, requests),
        warps=CHUNK_WARPS,
        v=v,
        state=pool,
        slots=slots,
        out=out,
        chunks=chunks,
        value_row=v.stride(1),
        VALUE_DIM=value_dim,
        COLUMNS=WALK_COLUMNS,
        **shared,
    )
    return out
