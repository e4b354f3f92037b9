"""Families whose layers differ in what they see: windows, chunks, and heads of their own."""

from dataclasses import replace

from dflash_sim.profiles.networks.fields import Fields
from dflash_sim.profiles.networks.layers import AttentionShape, DenseMlp, LayerShape, Mixer, Mlp
from dflash_sim.profiles.networks.read_mixers import (
    FULL,
    SLIDING,
    attention,
    attention_kinds,
    mixed,
)
from dflash_sim.profiles.networks.read_mlps import (
    dense_layers,
    moe,
    sparse_or_dense,
)

# A layer without rotary embedding sees all; the others see their own chunk.
_GLOBAL_EVERY = 4


def chunked_layers(f: Fields, num_layers: int) -> tuple[Mixer, ...]:
    """Return Llama 4's attention: chunks, and every fourth layer all tokens.

    A chunk is priced as a window of its size, which is the most that a token sees of it.
    """
    every = f.integer("no_rope_layer_interval", default=_GLOBAL_EVERY)
    kinds = [FULL if (i + 1) % every == 0 else SLIDING for i in range(num_layers)]
    full = attention(f)
    return mixed(kinds, full, replace(full, window=f.integer("attention_chunk_size")))


def interleaved_experts(f: Fields, num_layers: int) -> tuple[Mlp, ...]:
    """Return Llama 4's MLPs: experts beside a shared one, every so many layers."""
    every = f.integer("interleave_moe_layer_step", default=1)
    width = f.integer("intermediate_size")
    experts = moe(f, shared=width, shared_gate=False)
    sparse = [(i + 1) % every == 0 for i in range(num_layers)]
    if all(sparse):
        return (experts,) * num_layers
    plain = DenseMlp(f.integer("intermediate_size_mlp"))
    return tuple(experts if s else plain for s in sparse)


def gemma4_layers(f: Fields, num_layers: int) -> tuple[Mixer, ...]:
    """Return Gemma 4's attention: full layers have wider and fewer heads, whose keys are values.

    Raises
    ------
    UsageError
        The model has embeddings of each layer, or layers that borrow another's keys (E2B, E4B).
    """
    for key in ("hidden_size_per_layer_input", "num_kv_shared_layers"):
        if f.integer(key, default=0, low=0):
            f.reject(key, "0: embeddings of each layer and borrowed keys are not modelled")
    if f.flag("use_double_wide_mlp", default=False):
        f.reject("use_double_wide_mlp", "false: wider MLPs of layers that borrow are not modelled")
    sliding = attention(f, qk_norm=True)
    k_is_v = f.flag("attention_k_eq_v", default=False)
    own = f.integer("num_global_key_value_heads", default=sliding.num_kv_heads)
    full = replace(
        sliding,
        head_dim=f.integer("global_head_dim", default=sliding.head_dim),
        num_kv_heads=own if k_is_v else sliding.num_kv_heads,
        k_is_v=k_is_v,
    )
    kinds = attention_kinds(f, num_layers, pattern=6)
    return mixed(kinds, full, replace(sliding, window=f.integer("sliding_window")))


def gemma4_mlps(f: Fields, num_layers: int) -> tuple[Mlp, ...]:
    """Return Gemma 4's MLPs; with experts, the dense one runs beside them as a shared expert."""
    if not f.flag("enable_moe_block", default=False):
        return dense_layers(f, num_layers)
    experts = moe(f, shared=f.integer("intermediate_size"), shared_gate=False)
    return (replace(experts, router_scales=True),) * num_layers


def gemma4_norms(layer: LayerShape) -> LayerShape:
    """Return the layer with a norm behind each part too, and two more around experts."""
    norms = 4 if isinstance(layer.mlp, DenseMlp) else 7
    return replace(layer, norms=norms, scale=True)


def mimo_layers(f: Fields, num_layers: int) -> tuple[Mixer, ...]:
    """Return MiMo-V2's attention: values narrower than keys, windows with heads of their own."""
    pattern = f.per_layer("hybrid_layer_pattern", count=num_layers)
    full = replace(
        attention(f),
        v_dim=_narrower(f, "v_head_dim", f.integer("head_dim")),
        sinks=f.flag("add_full_attention_sink_bias", default=False),
    )
    return mixed([SLIDING if n else FULL for n in pattern], full, _mimo_sliding(f, full))


def mimo_mtp(f: Fields) -> LayerShape:
    """Return an MTP layer of MiMo-V2: a window and a dense MLP."""
    return LayerShape(_mimo_sliding(f, attention(f)), DenseMlp(f.integer("intermediate_size")))


def _mimo_sliding(f: Fields, full: AttentionShape) -> AttentionShape:
    head_dim = f.integer("swa_head_dim", default=full.head_dim)
    return replace(
        full,
        num_heads=f.integer("swa_num_attention_heads", default=full.num_heads),
        num_kv_heads=f.integer("swa_num_key_value_heads", default=full.num_kv_heads),
        head_dim=head_dim,
        v_dim=_narrower(f, "swa_v_head_dim", head_dim),
        window=f.integer("sliding_window", "sliding_window_size"),
        sinks=f.flag("add_swa_attention_sink_bias", default=False),
    )


def _narrower(f: Fields, key: str, head_dim: int) -> int | None:
    width = f.integer(key, default=head_dim)
    return None if width == head_dim else width


def step_layers(f: Fields, num_layers: int) -> tuple[Mixer, ...]:
    """Return Step-3.5's attention: windows may have more heads, and every head a gate."""
    full = _step_attention(f)
    other = f.nested("attention_other_setting")
    more = other.integer("num_attention_heads", default=full.num_heads)
    sliding = replace(full, num_heads=more, window=f.integer("sliding_window"))
    kinds = f.kinds("layer_types", count=_listed(f, num_layers), allowed=(FULL, SLIDING))
    return mixed(kinds[:num_layers], full, sliding)


def _listed(f: Fields, num_layers: int) -> int:
    """Layers that ``layer_types`` lists: those of its MTP layers may follow."""
    listed = f.config.get("layer_types")
    return max(num_layers, len(listed)) if isinstance(listed, list) else num_layers


def _step_attention(f: Fields) -> AttentionShape:
    gates = f.flag("use_head_wise_attn_gate", default=False)
    return replace(attention(f, qk_norm=True), head_gates=gates)


def step_mlps(f: Fields, num_layers: int) -> tuple[Mlp, ...]:
    """Return Step-3.5's MLPs: dense layers first, then experts beside a shared one."""
    width = f.integer("share_expert_dim", "share_expert_dims", default=0, low=0)
    bias = f.flag("use_moe_router_bias", default=False)
    experts = moe(f, shared=width, shared_gate=False, correction_bias=bias)
    first = f.integer("first_k_dense_replace", default=3, low=0)
    return sparse_or_dense(f, [i >= first for i in range(num_layers)], experts)


def step_mtp(f: Fields) -> LayerShape:
    """Return an MTP layer of Step-3.5: a window and a dense MLP."""
    window = f.integer("sliding_window")
    return LayerShape(
        replace(_step_attention(f), window=window), DenseMlp(f.integer("intermediate_size"))
    )


def laguna_layers(f: Fields, num_layers: int) -> tuple[Mixer, ...]:
    """Return Laguna's attention: windows, gates of heads or values, and heads layer by layer."""
    gating = f.config.get("gating", True)
    one = replace(
        attention(f, qk_norm=True),
        head_gates=gating in (True, "per-head"),
        gated=gating == "per-element",
    )
    counts = f.per_layer("num_attention_heads_per_layer", count=num_layers, low=1)
    window = f.integer("sliding_window", default=512)
    return tuple(
        replace(one, num_heads=n, window=None if kind == FULL else window)
        for n, kind in zip(
            counts or (one.num_heads,) * num_layers, attention_kinds(f, num_layers), strict=True
        )
    )


def laguna_mlps(f: Fields, num_layers: int) -> tuple[Mlp, ...]:
    """Return Laguna's MLPs, dense where ``mlp_layer_types`` says so; at first, if it does not."""
    kinds = f.kinds("mlp_layer_types", count=num_layers, allowed=("dense", "sparse"))
    sparse = [k == "sparse" for k in kinds] if kinds else [i > 0 for i in range(num_layers)]
    width = f.integer("shared_expert_intermediate_size", default=512, low=0)
    return sparse_or_dense(f, sparse, moe(f, shared=width, shared_gate=False, correction_bias=True))
