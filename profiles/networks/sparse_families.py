"""Families whose layers attend to chosen or compressed tokens, or keep a state of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import isqrt

from dflash_sim.profiles.networks.attention import BlockChoice
from dflash_sim.profiles.networks.fields import Fields
from dflash_sim.profiles.networks.layers import (
    AttentionShape,
    CompressedShape,
    DenseMlp,
    KdaShape,
    LayerShape,
    Mixer,
    Mlp,
    Ngrams,
    Streams,
)
from dflash_sim.profiles.networks.mla import Indexer
from dflash_sim.profiles.networks.read_mixers import FULL, LINEAR, attention, hybrid_layers, latent
from dflash_sim.profiles.networks.read_mlps import moe, sparse_after, sparse_or_dense

CHOSEN = "minimax_m3_sparse"
_MOST_PARTS = 64  # tokens of an n-gram, and heads of each: published ones have 3 and 8
# Keys of the text config, and what checkpoints call them inside ``sparse_attention_config``.
_NESTED = {
    "index_n_heads": "sparse_num_index_heads",
    "index_head_dim": "sparse_index_dim",
    "index_block_size": "sparse_block_size",
    "index_topk_blocks": "sparse_topk_blocks",
}


def m3_layers(f: Fields, num_layers: int) -> tuple[AttentionShape, ...]:
    """Return attention to all tokens in some layers, to chosen blocks of them in the others.

    Raises
    ------
    UsageError
        The small attention writes an output of its own, which no published checkpoint has.
    """
    said = f.nested("sparse_attention_config")
    values = said.per_layer("sparse_disable_index_value", count=num_layers)
    sparse = _sparse(f, said, num_layers)
    if any(s and not off for s, off in zip(sparse, values, strict=False)):
        said.reject("sparse_disable_index_value", "1 in every layer that chooses blocks")
    flat = {key: said.config.get(key_there) for key, key_there in _NESTED.items()}
    own = f.with_defaults({key: value for key, value in flat.items() if value is not None})
    full = attention(f, qk_norm=f.flag("use_qk_norm", default=True))
    if not any(sparse):
        return (full,) * num_layers
    chosen = BlockChoice(
        heads=own.integer("index_n_heads"),
        head_dim=own.integer("index_head_dim"),
        block=own.integer("index_block_size"),
        topk=own.integer("index_topk_blocks"),
    )
    return tuple(replace(full, chosen=chosen) if s else full for s in sparse)


def m3_mlps(f: Fields, num_layers: int) -> tuple[Mlp, ...]:
    """Return wide dense MLPs first, then routed experts beside shared ones without a gate."""
    count = f.integer("n_shared_experts", default=1, low=0)
    width = f.integer("shared_intermediate_size", default=0, low=0)
    corrected = f.flag("use_routing_bias", default=True)
    experts = moe(f, shared=count * width, shared_gate=False, correction_bias=corrected)
    sparse = sparse_after(f, num_layers)
    if all(sparse):
        return (experts,) * num_layers
    plain = DenseMlp(f.integer("dense_intermediate_size"))
    return tuple(experts if s else plain for s in sparse)


def _sparse(f: Fields, said: Fields, num_layers: int) -> list[bool]:
    kinds = f.kinds("layer_types", count=num_layers, allowed=(FULL, CHOSEN))
    if kinds:
        return [kind == CHOSEN for kind in kinds]
    stated = said.per_layer("sparse_attention_freq", count=num_layers)
    return [bool(n) for n in stated] or [False] * num_layers


def kimi_layers(f: Fields, num_layers: int) -> tuple[Mixer, ...]:
    """Return latent attention and Kimi delta attention by turns."""
    full = replace(latent(f), gated=f.flag("mla_use_output_gate", default=False))
    said = f.nested("linear_attn_config")
    kinds = f.kinds("layer_types", count=num_layers, allowed=(FULL, LINEAR))
    if not kinds:
        at = said.integers("full_attn_layers", high=num_layers + 1)
        kinds = tuple(FULL if i + 1 in at else LINEAR for i in range(num_layers))
    return tuple(full if kind == FULL else kda(f) for kind in kinds)


def kda(f: Fields) -> KdaShape:
    """Return the delta attention of a layer; the keys of checkpoints are nested."""
    said = f.nested("linear_attn_config")
    return KdaShape(
        num_heads=said.integer("num_heads", default=f.integer("linear_num_heads", default=32)),
        head_dim=said.integer("head_dim", default=f.integer("linear_head_dim", default=128)),
        conv_kernel=said.integer(
            "short_conv_kernel_size", default=f.integer("linear_conv_kernel_dim", default=4)
        ),
        full_gate=said.flag("use_full_rank_gate", default=False),
    )


def kimi_mlps(f: Fields, num_layers: int) -> tuple[Mlp, ...]:
    """Return dense MLPs first, then routed experts, in a narrower space where one is stated."""
    width = f.integer("moe_intermediate_size") * f.integer("num_shared_experts", default=0, low=0)
    experts = moe(f, shared=width, shared_gate=False, correction_bias=True)
    narrow = f.integer("routed_expert_hidden_size", default=0, low=0)
    normed = narrow > 0 and f.flag("latent_moe_use_norm", default=False)
    front = narrow > 0 and width > 0
    experts = replace(experts, latent=narrow, latent_norm=normed, one_front=front)
    return sparse_or_dense(f, sparse_after(f, num_layers), experts)


def kimi_residuals(f: Fields, layers: tuple[LayerShape, ...]) -> tuple[LayerShape, ...]:
    """Return the layers with the sums of earlier ones that they attend to, where they do."""
    block = f.integer("attn_res_block_size", default=0, low=0)
    if not block:
        return layers
    return tuple(replace(x, depth=-(-i // block)) for i, x in enumerate(layers))


def kimi_ending(f: Fields, hidden: int) -> int:
    """Return the values of the last attention over sums of layers, before the final norm."""
    return 2 * hidden if f.integer("attn_res_block_size", default=0, low=0) else 0


def v4_layers(f: Fields, num_layers: int) -> tuple[CompressedShape, ...]:
    """Return DeepSeek-V4's attention: what is before a window is compressed, by two ratios."""
    ratios = f.per_layer("compress_ratios", count=num_layers)
    if not ratios:
        kinds = f.kinds("layer_types", count=num_layers, allowed=tuple(_V4_RATIOS))
        ratios = tuple(_V4_RATIOS[kind] for kind in kinds)
    if not set(ratios) <= {*_V4_RATIOS.values()} or not ratios:
        f.reject("compress_ratios", f"one of {sorted(_V4_RATIOS.values())} for each layer")
    return tuple(_compressed(f, ratio) for ratio in ratios)


def v4_mtp(f: Fields) -> LayerShape:
    """Return the MTP layer: experts behind a window alone."""
    (experts,) = v4_mlps(f.with_fields(num_hash_layers=0), 1)
    return LayerShape(_compressed(f, 0), experts, streams=_streams(f))


def v4_mlps(f: Fields, num_layers: int) -> tuple[Mlp, ...]:
    """Return experts beside a shared one; those of the first layers are chosen by token.

    A table of the experts of every token takes the place of the router's bias there.
    """
    width = f.integer("moe_intermediate_size") * f.integer("n_shared_experts", default=0, low=0)
    experts = moe(f, shared=width, shared_gate=False, correction_bias=True)
    hashed = f.integer("num_hash_layers", default=3, low=0)
    return tuple(replace(experts, correction_bias=i >= hashed) for i in range(num_layers))


def streamed(f: Fields, layers: tuple[LayerShape, ...]) -> tuple[LayerShape, ...]:
    """Return the layers with hyper-connections around both parts."""
    return tuple(replace(layer, streams=_streams(f)) for layer in layers)


def v4_ending(f: Fields, hidden: int) -> int:
    """Return the values that make one stream of several before the final norm."""
    count = _streams(f).count
    return count * (count * hidden + 1) + 1


_V4_RATIOS = {
    "sliding_attention": 0,
    "compressed_sparse_attention": 4,
    "heavily_compressed_attention": 128,
}


def _streams(f: Fields) -> Streams:
    return Streams(f.integer("hc_mult", default=4))


def _compressed(f: Fields, ratio: int) -> CompressedShape:
    indexer = Indexer(
        heads=f.integer("index_n_heads"),
        head_dim=f.integer("index_head_dim"),
        topk=f.integer("index_topk"),
    )
    return CompressedShape(
        num_heads=f.integer("num_attention_heads"),
        head_dim=f.integer("head_dim"),
        rope=f.integer("qk_rope_head_dim", default=64),
        q_lora_rank=f.integer("q_lora_rank"),
        o_groups=f.integer("o_groups"),
        o_lora_rank=f.integer("o_lora_rank"),
        window=f.integer("sliding_window"),
        ratio=ratio,
        indexer=indexer if ratio == _V4_RATIOS["compressed_sparse_attention"] else None,
    )


def glm_next_layers(f: Fields, num_layers: int) -> tuple[Mixer, ...]:
    """Return Kimi delta attention and sparse latent attention by turns (GLM-5.3-Flash)."""
    sparse = latent(f, "full")
    index = sparse.indexer
    assert index is not None
    sparse = replace(sparse, indexer=replace(index, pool=f.integer("index_kpool", default=1)))
    kinds = f.kinds("layer_types", count=num_layers, allowed=(FULL, INDEXED, LINEAR))
    if not kinds:
        kinds = tuple(LINEAR if (i + 1) % _GLM_EVERY else INDEXED for i in range(num_layers))
    return tuple(kda(f) if kind == LINEAR else sparse for kind in kinds)


INDEXED = "indexed_attention"
_GLM_EVERY = 4


def qwen4_layers(f: Fields, num_layers: int) -> tuple[Mixer, ...]:
    """Return gated delta networks and gated attention to chosen blocks by turns (Qwen4)."""
    kinds = f.kinds("layer_types", count=num_layers, allowed=(FULL, INDEXED, LINEAR))
    named = [FULL if kind == INDEXED else kind for kind in kinds]
    mixers = hybrid_layers(f.with_fields(layer_types=named or None), num_layers)
    block = f.integer("indexer_compress_ratio")
    chosen = BlockChoice(
        heads=f.integer("indexer_n_heads"),
        head_dim=f.integer("indexer_head_dim"),
        block=block,
        topk=f.integer("indexer_budget") // block,
    )
    return tuple(
        replace(mixer, chosen=chosen) if isinstance(mixer, AttentionShape) else mixer
        for mixer in mixers
    )


def qwen4_stack(f: Fields, layers: tuple[LayerShape, ...]) -> tuple[LayerShape, ...]:
    """Return the layers between mixed streams, whose norms are theirs; tables before some."""
    tables = sorted(set(f.integers("ple_layer_ids", low=1, high=len(layers) + 1)))
    found = [replace(layer, norms=0, streams=_gated_streams(f)) for layer in layers]
    for place, ngrams in zip(tables, _ngrams(f, len(tables)), strict=True):
        found[place - 1] = replace(found[place - 1], ngrams=ngrams)
    return tuple(found)


def qwen4_ending(f: Fields, hidden: int) -> int:
    """Return the values that make one stream of several, but for a norm as wide as one."""
    streams = _gated_streams(f)
    return streams.count * hidden * (1 + 2 * streams.rank) - hidden


def _gated_streams(f: Fields) -> Streams:
    return Streams(f.integer("hc_count", default=4), rank=f.integer("hc_lowrank", default=320))


def _ngrams(f: Fields, tables: int) -> Iterator[Ngrams]:
    """The tables before so many layers; their sizes are primes, one after the other."""
    each = f.integer("ngram_size", default=3, high=_MOST_PARTS) - 1
    parts = each * f.integer("heads_per_ngram", default=8, high=_MOST_PARTS)
    width = f.integer("ple_embed_dim", default=f.integer("hidden_size"))
    base = f.integer("ngram_vocab_size_base", default=20_000_000)
    multiple = f.integer("make_ngram_vocab_size_divisible_by", default=128)
    sizes = primes_from(base, tables * parts)
    for number in range(tables):
        rows = sum(sizes[number * parts : (number + 1) * parts])
        yield Ngrams(
            rows=-(-rows // multiple) * multiple,
            parts=parts,
            width=width,
            conv_kernel=f.integer("ple_conv_kernel_size", default=4),
        )


@cache
def primes_from(first: int, count: int) -> tuple[int, ...]:
    """Return the ``count`` smallest primes from ``first`` on: sizes of tables that hash well."""
    found, begin, span = list[int](), max(first, 2), 1000 + 40 * count
    while len(found) < count:
        low = _primes_below(isqrt(begin + span) + 1)
        found += [begin + i for i, prime in enumerate(_sieved(begin, span, low)) if prime]
        begin += span
    return tuple(found[:count])


def _primes_below(end: int) -> list[int]:
    whole = bytearray(b"\1") * end
    whole[:2] = b"\0" * min(end, 2)
    for d in range(2, isqrt(end) + 1):
        if whole[d]:
            whole[d * d :: d] = bytes(len(range(d * d, end, d)))
    return [n for n, prime in enumerate(whole) if prime]


def _sieved(begin: int, span: int, primes: Sequence[int]) -> bytearray:
    """A byte for each number from ``begin`` on: 1 where none of the primes divides it."""
    found = bytearray(b"\1") * span
    for d in primes:
        at = max(d * d, -(-begin // d) * d) - begin
        found[at::d] = bytes(len(range(at, span, d)))
    return found
