"""The gated delta rule of decode and verify, and the commit of a verified state, in Triton.

A program holds all key dimensions of some value columns of one head's state in registers and walks
the rows. Verify stores the state after each row, so a request reads one state and writes ``B``; all
of it is memory bound. The two sums over key dimensions of a row do not wait for each other, because
``S^T q = (exp(g) S)^T q + (k^T q) u`` for the written value ``u``.

Everything is float32 whatever the inputs' type. Against the reference, relative to the largest
value: 1e-5 (states) and one rounding of ``v``'s type (outputs).
"""

# ruff: noqa: N803
import torch
from torch import Tensor

import triton
import triton.language as tl
from dflash_sim.kernels.reference import gdn as ref_gdn
from dflash_sim.kernels.reference.gdn import L2_EPS
from dflash_sim.kernels.triton.configs import (
    COPY_BLOCK,
    RECURRENT_ROWS,
    ceil_div,
    gdn_tile,
)
from dflash_sim.kernels.triton.gdn_prefill import prefill
from dflash_sim.kernels.triton.launch import launch, target
from dflash_sim.profiles.errors import UsageError


@triton.jit
def _delta_rule(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    g: tl.tensor,
    beta: tl.tensor,
    state: tl.tensor,
    slots: tl.tensor,
    out: tl.tensor,
    states: tl.tensor,
    states_request: tl.tensor,
    states_row: tl.tensor,
    rows: tl.tensor,
    key_row: tl.tensor,
    value_row: tl.tensor,
    norm_eps: tl.tensor,
    scale: tl.tensor,
    KEY_HEADS: tl.constexpr,
    VALUE_HEADS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    KEEP: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    head = tl.program_id(1)
    request = tl.program_id(2).to(tl.int64)
    key_dim = tl.arange(0, KEY_DIM)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    matrix = key_dim[:, None] * VALUE_DIM + column[None, :]
    slot = request
    if slots is not None:
        slot = tl.load(slots + request).to(tl.int64)
    size: tl.constexpr = KEY_DIM * VALUE_DIM
    home = state + (slot * VALUE_HEADS + head) * size + matrix
    live = tl.load(home)
    key_head = head // (VALUE_HEADS // KEY_HEADS)
    for t in tl.range(0, rows, num_stages=STAGES):
        row = request * rows + t
        key_at = row * key_row + key_head * KEY_DIM + key_dim
        key = tl.load(k + key_at).to(tl.float32)
        query = tl.load(q + key_at).to(tl.float32)
        value = tl.load(v + row * value_row + head * VALUE_DIM + column).to(tl.float32)
        gate = row * VALUE_HEADS + head
        decay = tl.exp(tl.load(g + gate).to(tl.float32))
        strength = tl.load(beta + gate).to(tl.float32)
        key *= tl.rsqrt(tl.sum(key * key, 0) + norm_eps)
        query *= tl.rsqrt(tl.sum(query * query, 0) + norm_eps) * scale
        live *= decay
        known = tl.sum(live * key[:, None], 0)
        recalled = tl.sum(live * query[:, None], 0)
        new = (value - known) * strength
        live += key[:, None] * new[None, :]
        answer = recalled + tl.sum(key * query, 0) * new
        at_out = (row * VALUE_HEADS + head) * VALUE_DIM + column
        tl.store(out + at_out, answer.to(out.dtype.element_ty))
        if KEEP:
            at_state = request * states_request + t * states_row + head * size
            tl.store(states + at_state + matrix, live)
    if not KEEP:
        tl.store(home, live)


@triton.jit
def _commit(
    pool: tl.tensor,
    scratch: tl.tensor,
    slots: tl.tensor,
    commit_len: tl.tensor,
    pool_slots: tl.tensor,
    scratch_layer: tl.tensor,
    scratch_request: tl.tensor,
    size: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    request = tl.program_id(1)
    layer = tl.program_id(2).to(tl.int64)
    kept = tl.load(commit_len + request)
    if kept > 0:
        item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        source = layer * scratch_layer + request.to(tl.int64) * scratch_request + (kept - 1) * size
        goal = (layer * pool_slots + tl.load(slots + request)) * size
        moved = tl.load(scratch + source + item, mask=item < size)
        tl.store(pool + goal + item, moved.to(pool.dtype.element_ty), mask=item < size)


def dense_rows(x: Tensor) -> Tensor:
    """``x`` [R, T, H, D] itself if rows follow each other and heads are dense, else a copy."""
    dense = x.stride(3) == 1 and x.stride(2) == x.shape[3]
    return x if dense and x.stride(0) == x.shape[1] * x.stride(1) else x.contiguous()


def _check_states(state: Tensor) -> None:
    if state.dtype != torch.float32 or not state.is_contiguous():
        msg = f"the Triton delta rule keeps contiguous float32 states, not {state.dtype}."
        raise UsageError(msg)


def _laid_out(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that follow each other, with one layout for queries and keys."""
    q, k, v = dense_rows(q), dense_rows(k), dense_rows(v)
    if q.stride() != k.stride():
        q, k = q.contiguous(), k.contiguous()
    return q, k, v


def _start(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    state: Tensor,
    slots: Tensor | None,
    states: Tensor | None,
) -> Tensor:
    """From ``state[slots]`` (or ``state``) to ``states``; without ``states``, in place."""
    _check_states(state)
    requests, rows, key_heads, key_dim = q.shape
    value_heads, value_dim = v.shape[2:]
    q, k, v = _laid_out(q, k, v)
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    tile = gdn_tile(target(v), heads=requests * value_heads, value_dim=value_dim)
    launch(
        _delta_rule,
        (value_dim // tile.columns, value_heads, requests),
        warps=tile.warps,
        registers=tile.registers,
        q=q,
        k=k,
        v=v,
        g=g.contiguous(),
        beta=beta.contiguous(),
        state=state,
        slots=slots,
        out=out,
        states=states,
        states_request=0 if states is None else states.stride(0),
        states_row=0 if states is None else states.stride(1),
        rows=rows,
        key_row=q.stride(1),
        value_row=v.stride(1),
        norm_eps=L2_EPS,
        scale=key_dim**-0.5,
        KEY_HEADS=key_heads,
        VALUE_HEADS=value_heads,
        KEY_DIM=key_dim,
        VALUE_DIM=value_dim,
        COLUMNS=tile.columns,
        KEEP=states is not None,
        STAGES=tile.stages,
    )
    return out


def gdn_verify(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Do the same as :func:`dflash_sim.kernels.reference.gdn.gdn_verify`, for float32 states."""
    size = (*v.shape[:2], *state.shape[1:])
    states = torch.empty(size, dtype=state.dtype, device=state.device)
    return _start(q, k, v, g, beta, state, None, states), states


def gdn_verify_slots(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    pool: Tensor,
    slots: Tensor,
    scratch: Tensor,
) -> Tensor:
    """Do :func:`dflash_sim.kernels.reference.gdn.gdn_verify_slots`; a state's values must be dense.

    ``q``, ``k`` and ``v`` may be slices of one convolution's output: no copy is made of them.
    """
    return _start(q, k, v, g, beta, pool, slots, scratch)


def gdn_extend(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, pool: Tensor, slots: Tensor
) -> Tensor:
    """Do the same as ``gdn.gdn_extend``; a prefill goes in chunks.

    In float32, which tensor cores do not have, the chunks are torch's.
    """
    if v.shape[1] <= RECURRENT_ROWS:
        return _start(q, k, v, g, beta, pool, slots, None)
    if v.dtype == torch.float32:
        return ref_gdn.gdn_extend(q, k, v, g, beta, pool, slots)
    _check_states(pool)
    q, k, v = _laid_out(q, k, v)
    return prefill(q, k, v, g, beta, pool, slots)


def commit_states(pool: Tensor, scratch: Tensor, slots: Tensor, commit_len: Tensor) -> None:
    """Do :func:`dflash_sim.kernels.reference.gdn.commit_states`; a state's values must be dense."""
    size = pool[0, 0].numel()
    launch(
        _commit,
        (ceil_div(size, COPY_BLOCK), slots.shape[0], pool.shape[0]),
        warps=4,
        pool=pool,
        scratch=scratch,
        slots=slots,
        commit_len=commit_len,
        pool_slots=pool.shape[1],
        scratch_layer=scratch.stride(0),
        scratch_request=scratch.stride(1),
        size=size,
        BLOCK=COPY_BLOCK,
    )
