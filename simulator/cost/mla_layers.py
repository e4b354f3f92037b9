"""Latent attention as a list of ops, as in SGLang's DeepSeek model files.

Decode and verify rows are absorbed: queries go into the space of the latents, which are attended
to as they are cached. A prefill multiplies out keys and values of all heads instead.
"""

from dataclasses import replace

from dflash_sim.profiles.networks.mla import ENTRY, CompressedShape, Indexer, MlaShape
from dflash_sim.profiles.precision import BF16, Precision, bytes_of
from dflash_sim.simulator.cost.latent_ops import (
    CompressedAttention,
    IndexerScores,
    MlaBmm,
    MlaDecode,
    MlaPrefill,
    SparseAttention,
    SparseModule,
)
from dflash_sim.simulator.cost.layers import Kernels, Rows
from dflash_sim.simulator.cost.ops import AnyCall, Call, Elementwise, with_quantisation


def mla_mixer(
    a: MlaShape, *, hidden: int, tp: int, size: Rows, count: int, precision: Precision = BF16
) -> list[AnyCall]:
    """``count`` layers of latent attention, norm to output projection."""
    k = Kernels(precision, tp)
    norm = k.layer_norm("input_norm", size, hidden, count)
    reduce = k.all_reduce("attention_all_reduce", size.tokens, hidden, count)
    if a.indexer is None:
        return [norm, *_dense(k, a, hidden, size, count), *reduce]
    parts = _sparse(k, a, hidden, size)
    module = SparseModule(
        "sparse_attention",
        requests=size.requests,
        rows=size.rows,
        ctx=size.ctx,
        heads=a.num_heads // tp,
        prefill=size.prefill,
        shared=a.indexer.shared,
        parts=tuple(call.op for call in with_quantisation(parts)),
        like=a.timed_as(hidden),
        precision=precision.of("attention"),
    )
    return [norm, Call(module, count), *reduce]


def _scores(index: Indexer, size: Rows, *, stands_for: int) -> IndexerScores:
    """What an indexer gives each key, or each ``stands_for`` of them as one."""
    return IndexerScores(
        "indexer",
        requests=size.requests,
        rows=size.rows,
        ctx=size.ctx,
        heads=index.heads,
        head_dim=index.head_dim,
        key_bytes=index.key_bytes,
        precision=Precision("fp8", "fp8"),
        stands_for=stands_for,
    )


def _projected(k: Kernels, a: MlaShape, hidden: int, t: int, count: int) -> list[AnyCall]:
    """Queries of this rank's heads, and the latents of all of them."""
    heads = a.num_heads // k.tp
    ranks = a.q_lora_rank + a.kv_lora_rank
    down = a.q_lora_rank + a.latent_dim
    normed = Elementwise("latent_norms", 2.0 * k.value * t * ranks, "norm")
    wide = heads * a.qk_head_dim
    return [
        k.gemm("qkv_a_proj", t, down, hidden, of="attention", count=count),
        Call(normed, count),
        k.gemm("q_b_proj", t, wide, a.q_lora_rank or hidden, of="attention", count=count),
        k.small("rope", 2.0 * t * (heads + 1) * a.qk_rope_head_dim, count),
        k.kv_write(float(t * a.latent_dim), count),
    ]


def _out(k: Kernels, a: MlaShape, hidden: int, t: int, count: int) -> list[AnyCall]:
    """The output projection, behind the gate where there is one."""
    wide = a.num_heads // k.tp * a.v_head_dim
    gate = [
        k.gemm("gate_proj", t, wide, hidden, of="attention", count=count),
        k.small("output_gate", 3.0 * t * wide, count),
    ]
    out = k.gemm("o_proj", t, hidden, wide, of="attention.o_proj", count=count)
    return [*gate, out] if a.gated else [out]


def _dense(k: Kernels, a: MlaShape, hidden: int, size: Rows, count: int) -> list[AnyCall]:
    heads, t = a.num_heads // k.tp, size.tokens
    own = k.precision.of("attention")
    calls = _projected(k, a, hidden, t, count)
    if size.pool_tokens and own.kv_cache != own.activations:
        values = float(size.pool_tokens * a.latent_dim)
        each = bytes_of(own.kv_cache) + k.value
        calls.append(Call(Elementwise("pool_cast", each * values, "pool_cast"), count))
        own = replace(own, kv_cache=own.activations)
    if size.prefill:
        cached = round(size.requests * (size.rows + size.ctx))
        up = heads * (a.qk_nope_head_dim + a.v_head_dim)
        expanded = MlaPrefill(
            "attention",
            requests=size.requests,
            seq=size.rows,
            prefix=size.ctx,
            heads=heads,
            qk_dim=a.qk_head_dim,
            v_dim=a.v_head_dim,
            precision=own,
        )
        calls += [
            k.gemm("kv_b_proj", cached, up, a.kv_lora_rank, of="attention", count=count),
            k.small("k_concat", 2.0 * cached * heads * a.qk_head_dim, count),
            Call(expanded, count),
        ]
    else:
        absorbed = MlaDecode(
            "attention",
            requests=size.requests,
            rows=size.rows,
            ctx=size.ctx,
            heads=heads,
            latent=a.kv_lora_rank,
            rope=a.qk_rope_head_dim,
            precision=own,
        )
        before, after = _products(a, heads, t, own)
        calls += [Call(before, count), Call(absorbed, count), Call(after, count)]
    return [*calls, *_out(k, a, hidden, t, count)]


def _products(a: MlaShape, heads: int, t: int, own: Precision) -> tuple[MlaBmm, MlaBmm]:
    """The products by head that absorb ``kv_b_proj``: queries in, values out."""
    nope, latent, value = a.qk_nope_head_dim, a.kv_lora_rank, a.v_head_dim
    return (
        MlaBmm("q_absorb", t, heads, nope, latent, "pre", own),
        MlaBmm("v_up", t, heads, latent, value, "post", own),
    )


def _sparse(k: Kernels, a: MlaShape, hidden: int, size: Rows) -> list[AnyCall]:
    """What one layer of sparse attention runs; prefills are absorbed as well."""
    index = a.indexer
    assert index is not None
    heads, t = a.num_heads // k.tp, size.tokens
    own = k.precision.of("attention")
    before, after = _products(a, heads, t, own)
    attention = SparseAttention(
        "attention",
        requests=size.requests,
        rows=size.rows,
        ctx=size.ctx,
        heads=heads,
        latent=a.kv_lora_rank,
        rope=a.qk_rope_head_dim,
        topk=index.topk,
        precision=own,
    )
    calls = _projected(k, a, hidden, t, 1)
    if not index.shared:
        wide = index.heads * index.head_dim
        scores = _scores(index, size, stands_for=index.pool)
        keys = index.head_dim if index.pool == 1 else 2 * index.head_dim  # and how they are pooled
        calls += [
            k.gemm("indexer_q_proj", t, wide, a.q_lora_rank, of="attention"),
            k.gemm("indexer_k_proj", t, keys, hidden, of="attention"),
            k.gemm("indexer_weights", t, index.heads, hidden, of="other"),
            k.small("indexer_k_norm", 2.0 * t * index.head_dim),
            k.small("indexer_rope_quantize", 2.0 * t * (wide + index.head_dim)),
            Call(scores, 1),
        ]
    tail = _out(k, a, hidden, t, 1)
    return [*calls, Call(before, 1), Call(attention, 1), Call(after, 1), *tail]


def compressed_mixer(
    a: CompressedShape,
    *,
    hidden: int,
    tp: int,
    size: Rows,
    count: int,
    precision: Precision = BF16,
) -> list[AnyCall]:
    """``count`` layers of attention to a window and to compressed tokens, norm to output."""
    k = Kernels(precision, tp)
    norm = k.layer_norm("input_norm", size, hidden, count)
    reduce = k.all_reduce("attention_all_reduce", size.tokens, hidden, count)
    parts = with_quantisation(_compressed(k, a, hidden, size))
    own = precision.of("attention")
    module = SparseModule(
        "sparse_attention",
        requests=size.requests,
        rows=size.rows,
        ctx=size.ctx,
        heads=a.num_heads // tp,
        prefill=size.prefill,
        shared=False,
        parts=tuple(call.op for call in parts),
        like=a.timed_as(hidden),
        table="csa",
        precision=replace(own, kv_cache=ENTRY),
    )
    return [norm, Call(module, count), *reduce]


def _compressed(k: Kernels, a: CompressedShape, hidden: int, size: Rows) -> list[AnyCall]:
    """What one layer runs."""
    heads, t, index = a.num_heads // k.tp, size.tokens, a.indexer
    wide, ranks = heads * a.head_dim, a.q_lora_rank + a.head_dim
    attention = CompressedAttention(
        "attention",
        requests=size.requests,
        rows=size.rows,
        ctx=size.ctx,
        heads=heads,
        head_dim=a.head_dim,
        window=a.window,
        ratio=a.ratio,
        topk=index.topk if index else 0,
        entry_bytes=a.entry_bytes,
        precision=replace(k.precision.of("attention"), kv_cache=ENTRY),
    )
    calls = [
        k.gemm("qkv_a_proj", t, ranks, hidden, of="attention"),
        Call(Elementwise("latent_norms", 2.0 * k.value * t * ranks, "norm"), 1),
        k.gemm("q_b_proj", t, wide, a.q_lora_rank, of="attention"),
        k.small("norm_rope", 2.0 * t * (wide + a.head_dim)),
        Call(Elementwise("kv_write", t * (k.value * a.head_dim + a.entry_bytes)), 1),
    ]
    if a.ratio:
        width = 2 * a.overlap * (a.head_dim + (index.head_dim if index else 0))
        calls += [
            k.gemm("compressor", t, width, hidden, of="other"),
            k.small("compress", 2.0 * t * width),
        ]
    if index:
        scores = _scores(index, size, stands_for=a.ratio)
        of_index = index.heads * index.head_dim
        calls += [
            k.gemm("indexer_q_proj", t, of_index, a.q_lora_rank, of="attention"),
            k.gemm("indexer_weights", t, index.heads, hidden, of="other"),
            k.small("indexer_rope_quantize", 2.0 * t * of_index),
            Call(scores, 1),
        ]
    groups = a.o_groups // k.tp
    return [
        *calls,
        Call(attention, 1),
        k.gemm("o_a_proj", t, groups * a.o_lora_rank, wide // groups, of="attention"),
        k.gemm("o_b_proj", t, hidden, groups * a.o_lora_rank, of="attention"),
    ]
