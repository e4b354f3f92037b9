"""Token mixers of every layer, read from a config: softmax attention, and what replaces it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dflash_sim.profiles.networks.fields import Fields
from dflash_sim.profiles.networks.layers import AttentionShape, GdnShape, Mixer, MlaShape
from dflash_sim.profiles.networks.mla import Indexer

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"
ATTENTION_KINDS = (FULL, SLIDING)
LAYER_KINDS = (*ATTENTION_KINDS, LINEAR)
INDEXERS = ("full", "shared")
_LETTERS = {"F": "full", "S": "shared"}


def attention(
    f: Fields,
    *,
    qk_norm: bool = False,
    gated: bool = False,
    bias: bool = False,
    sinks: bool = False,
    whole_norm: bool = False,
    window: int | None = None,
) -> AttentionShape:
    """Return the attention of one layer; ``gated`` and ``bias`` hold where the config is silent."""
    heads = f.integer("num_attention_heads")
    kv_heads = f.integer("num_key_value_heads", "num_attention_groups", default=heads)
    if heads % kv_heads:
        f.reject("num_key_value_heads", f"a divisor of num_attention_heads={heads}")
    hidden = f.integer("hidden_size")
    stated = f.first("head_dim", "attention_head_dim")
    if f.config.get(stated) is None and hidden % heads:
        f.reject("head_dim", f"an integer, since hidden_size={hidden} is not {heads} heads")
    return AttentionShape(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=f.integer(stated, default=hidden // heads),
        gated=f.flag("attn_output_gate", default=gated),
        qk_norm=qk_norm,
        window=window,
        bias=f.flag("attention_bias", default=bias),
        sinks=sinks,
        whole_norm=whole_norm,
    )


def softmax_layers(
    f: Fields,
    num_layers: int,
    *,
    pattern: int | None = None,
    qkv_bias: bool | None = None,
    **of_layer: Any,
) -> tuple[AttentionShape, ...]:
    """Return softmax attention of each layer, sliding where the config puts it.

    Parameters
    ----------
    pattern
        Every how many layers one is full where the config does not say.
    qkv_bias
        Not None where ``attention_bias`` leaves the output projection without one; its value
        holds where the config is silent.
    of_layer
        Of :func:`attention`.
    """
    full = attention(f, **of_layer)
    if qkv_bias is not None:
        said = f.flag("attention_bias", default=qkv_bias)
        full = replace(full, bias=False, qkv_bias=said)
    kinds = attention_kinds(f, num_layers, pattern=pattern)
    if SLIDING not in kinds:
        return (full,) * num_layers
    return mixed(kinds, full, replace(full, window=f.integer("sliding_window")))


def glm_layers(f: Fields, num_layers: int) -> tuple[AttentionShape, ...]:
    """Return GLM-4.5's attention, whose config says if queries and keys are normalised."""
    normed = f.flag("use_qk_norm", default=False)
    return softmax_layers(f, num_layers, qkv_bias=False, qk_norm=normed)


def attention_kinds(f: Fields, num_layers: int, *, pattern: int | None = None) -> tuple[str, ...]:
    """Return which layers see all tokens and which a window, as ``layer_types`` has it."""
    kinds = f.kinds("layer_types", count=num_layers, allowed=ATTENTION_KINDS)
    if kinds:
        return kinds
    if pattern is not None:
        every = f.integer("sliding_window_pattern", default=pattern)
        return tuple(FULL if (i + 1) % every == 0 else SLIDING for i in range(num_layers))
    windowed = f.flag("use_sliding_window", default=False)
    num_full = f.integer("max_window_layers", default=num_layers, low=0) if windowed else num_layers
    return tuple(FULL if i < num_full else SLIDING for i in range(num_layers))


def mixed(
    kinds: Sequence[str], full: AttentionShape, sliding: AttentionShape
) -> tuple[AttentionShape, ...]:
    """Return one of two attentions per layer."""
    return tuple(full if kind == FULL else sliding for kind in kinds)


def hybrid_layers(f: Fields, num_layers: int) -> tuple[Mixer, ...]:
    """Return gated attention and gated delta networks by turns, as in Qwen3-Next and Qwen3.5."""
    kinds = f.kinds("layer_types", count=num_layers, allowed=LAYER_KINDS)
    if not kinds:
        every = f.integer("full_attention_interval", default=4)
        kinds = tuple(LINEAR if (i + 1) % every else FULL for i in range(num_layers))
    if FULL not in kinds:
        f.reject(f.first("layer_types", "full_attention_interval"), "some full_attention")
    gdn = _gdn(f) if LINEAR in kinds else None
    full = attention(f, qk_norm=True, gated=True)
    return tuple(gdn if gdn and kind == LINEAR else full for kind in kinds)


def _gdn(f: Fields) -> GdnShape:
    return GdnShape(
        num_k_heads=f.integer("linear_num_key_heads"),
        num_v_heads=f.integer("linear_num_value_heads"),
        head_k_dim=f.integer("linear_key_head_dim"),
        head_v_dim=f.integer("linear_value_head_dim"),
        conv_kernel=f.integer("linear_conv_kernel_dim"),
    )


def latent_layers(f: Fields, num_layers: int) -> tuple[MlaShape, ...]:
    """Return latent attention to every token, in every layer."""
    return (latent(f),) * num_layers


def sparse_layers(f: Fields, num_layers: int) -> tuple[MlaShape, ...]:
    """Return latent attention to the tokens that an indexer chooses, its own or one below."""
    kinds = _indexers(f, num_layers)
    mixers = {kind: latent(f, kind) for kind in set(kinds)}
    return tuple(mixers[kind] for kind in kinds)


def latent(f: Fields, kind: str | None = None) -> MlaShape:
    """Return latent attention, of a layer whose indexer is of a kind if it has one."""
    indexer = None
    if kind is not None:
        indexer = Indexer(
            heads=f.integer("index_n_heads"),
            head_dim=f.integer("index_head_dim"),
            topk=f.integer("index_topk"),
            shared=kind == "shared",
        )
    return MlaShape(
        num_heads=f.integer("num_attention_heads"),
        q_lora_rank=f.integer("q_lora_rank", default=0, low=0),
        kv_lora_rank=f.integer("kv_lora_rank"),
        qk_nope_head_dim=f.integer("qk_nope_head_dim"),
        qk_rope_head_dim=f.integer("qk_rope_head_dim", low=0),
        v_head_dim=f.integer("v_head_dim"),
        indexer=indexer,
    )


def _indexers(f: Fields, num_layers: int) -> tuple[str, ...]:
    """``full`` or ``shared`` for each layer, as transformers' GlmMoeDsaConfig reads it."""
    named = f.kinds("indexer_types", count=num_layers, allowed=INDEXERS)
    if not named:
        pattern = f.text("index_topk_pattern", default="")
        if pattern and (len(pattern) != num_layers or not set(pattern) <= {*_LETTERS}):
            f.reject("index_topk_pattern", f"{num_layers} letters F or S, one for each layer")
        every = f.integer("index_topk_freq", default=1)
        offset = f.integer("index_skip_topk_offset", default=2, low=0)
        named = tuple(_LETTERS[letter] for letter in pattern) or tuple(
            INDEXERS[max(i - offset + 1, 0) % every > 0] for i in range(num_layers)
        )
    if named[0] != "full":
        f.reject(f.first("indexer_types", "index_topk_pattern"), "a first layer with an indexer")
    return named
