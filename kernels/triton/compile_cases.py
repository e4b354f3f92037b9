"""Real shapes at which the Triton kernels are compiled: the rank-local layers that DFlash runs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dflash_sim.kernels.triton.accept import accept_and_commit, local_argmax
from dflash_sim.kernels.triton.attention import block_attention
from dflash_sim.kernels.triton.gdn import commit_states, gdn_extend, gdn_verify_slots
from dflash_sim.kernels.triton.kv import qk_norm_rope_write, write_layers
from dflash_sim.kernels.triton.moe import grouped_swiglu

MAX_TOKENS = 32768
BLOCK = 16
FLOAT32: dict[str, Any] = {"dtype": torch.float32, "tensor_cores": False}


@dataclass(frozen=True)
class Case:
    """A launcher at one shape.

    Attributes
    ----------
    run : calls the launcher with ``meta`` tensors
    tensor_cores : its matrix products must use the architecture's own instructions
    """

    name: str
    run: Callable[[], object]
    tensor_cores: bool


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor with a shape and no data."""
    return torch.empty(shape, dtype=dtype, device="meta")


index32 = partial(meta, dtype=torch.int32)
index64 = partial(meta, dtype=torch.int64)
real32 = partial(meta, dtype=torch.float32)


def attention(
    requests: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    page: int,
    causal: bool,
    rows: int = BLOCK,
    window: int | None = None,
    gated: bool = False,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Block attention over up to ``MAX_TOKENS`` of context."""
    pool = meta(requests * MAX_TOKENS // page, page, kv_heads, head_dim, dtype=dtype)
    q, gate = meta(requests, rows, heads, 2 * head_dim, dtype=dtype).chunk(2, dim=-1)
    block_attention(
        q,
        pool,
        pool,
        index32(requests, MAX_TOKENS // page),
        index32(requests),
        causal=causal,
        scale=head_dim**-0.5,
        window=window,
        gate=gate if gated else None,
    )


def projection(tokens: int, heads: int, kv_heads: int, head_dim: int, *, rotated: int) -> None:
    """Norm, rotation and KV write of slices of one projection."""
    sizes = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
    merged = torch.split(meta(tokens, sum(sizes)), sizes, dim=1)
    pool, weight = meta(MAX_TOKENS, 1, kv_heads, head_dim), meta(head_dim)
    table, place = real32(MAX_TOKENS, rotated // 2), index64(tokens)
    q, k, v = (x.view(tokens, -1, head_dim) for x in merged)
    qk_norm_rope_write(
        q,
        k,
        v,
        weight,
        weight,
        table,
        table,
        place,
        pool,
        pool,
        place,
        eps=1e-6,
        zero_centred=True,
    )


def injection(tokens: int, layers: int, kv_heads: int, head_dim: int) -> None:
    """The KV of all drafter layers."""
    keys, values = meta(layers, tokens, 2, kv_heads, head_dim).unbind(2)
    pool, place = meta(layers, MAX_TOKENS, 1, kv_heads, head_dim), index64(tokens)
    table = real32(MAX_TOKENS, head_dim // 2)
    norm = meta(layers, head_dim)
    write_layers(keys, values, norm, table, table, place, pool, pool, place, eps=1e-6)


def delta_net(requests: int, key_heads: int, heads: int, *, rows: int = BLOCK) -> None:
    """Verify and commit; or extend by one row, or by a prefill's."""
    dim = 128
    sizes = [key_heads * dim, key_heads * dim, heads * dim]
    mixed = torch.split(meta(requests, rows, sum(sizes)), sizes, dim=-1)
    q, k, v = (x.view(requests, rows, -1, dim) for x in mixed)
    gate = real32(requests, rows, heads)
    pool, slots = real32(1, 64, heads, dim, dim), index64(requests)
    if rows != BLOCK:
        gdn_extend(q, k, v, gate, gate, pool[0], slots)
        return
    scratch = real32(1, requests, rows, heads, dim, dim)
    gdn_verify_slots(q, k, v, gate, gate, pool[0], slots, scratch[0])
    commit_states(pool, scratch, slots, index32(requests))


def experts(
    tokens: int,
    top_k: int,
    count: int,
    hidden: int,
    inter: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """A mixture of experts."""
    weights, chosen = real32(tokens, top_k), index32(tokens, top_k)
    w13, w2 = meta(count, 2 * inter, hidden, dtype=dtype), meta(count, hidden, inter, dtype=dtype)
    grouped_swiglu(meta(tokens, hidden, dtype=dtype), w13, w2, weights, chosen)


def between_passes(requests: int, vocabulary: int) -> None:
    """The argmax of a verify, accept and commit."""
    local_argmax(meta(requests * BLOCK, vocabulary), 0)
    draft = index64(requests, BLOCK)
    table = index32(requests, MAX_TOKENS)
    accept_and_commit(draft, draft, index64(requests), table, page_size=1, mask_id=248077)


def case(
    name: str,
    planned: Callable[..., object],
    *shape: int,
    tensor_cores: bool = True,
    **options: Any,
) -> Case:
    """``planned(*shape, **options)`` as a case."""
    return Case(name, partial(planned, *shape, **options), tensor_cores)


CASES = [
    case("verify 397B tp8 c1", attention, 1, 4, 1, 256, page=64, causal=True, gated=True),
    case("verify 35B c32", attention, 32, 16, 2, 256, page=1, causal=True, gated=True),
    case("verify 8B c32", attention, 32, 32, 8, 128, page=1, causal=True),
    case("block drafter c1", attention, 1, 32, 8, 128, page=64, causal=False),
    case("block drafter SWA c32", attention, 32, 32, 8, 128, page=1, causal=False, window=4096),
    # Four rows fit mma.sync, and float32 has no matrix instruction of its own.
    case(
        "decode 8B c32", attention, 32, 32, 8, 128, page=1, causal=True, rows=1, tensor_cores=False
    ),
    case("verify in float32", attention, 1, 4, 1, 256, page=1, causal=True, **FLOAT32),
    case("norm-rope-write 397B tp8", projection, 512, 4, 1, 256, rotated=64),
    case("norm-rope-write 8B", projection, 512, 32, 8, 128, rotated=128),
    case("KV injection 35B", injection, 512, 6, 8, 128),
    case("GDN 397B tp8 c1", delta_net, 1, 2, 8),
    case("GDN 35B c32", delta_net, 32, 16, 32),
    case("GDN 35B decode c32", delta_net, 32, 16, 32, rows=1),
    case("GDN 397B tp8 prefill", delta_net, 1, 2, 8, rows=8192),
    case("GDN 35B prefill c4", delta_net, 4, 16, 32, rows=2000),
    case("MoE 397B tp8 16 tokens", experts, 16, 10, 512, 4096, 128),
    case("MoE 35B 64 tokens", experts, 64, 8, 256, 2048, 512),
    case("MoE 35B 512 tokens", experts, 512, 8, 256, 2048, 512),
    case("MoE in float32", experts, 512, 8, 256, 2048, 512, **FLOAT32),
    case("accept 35B c32", between_passes, 32, 248320),
]
