"""Token mixers of every layer, read from a config: softmax attention, and what replaces it."""

from dflash_sim.profiles.networks.fields import Fields
from dflash_sim.profiles.networks.layers import AttentionShape, GdnShape, Mixer

ATTENTION_KINDS = ("full_attention", "sliding_attention")
LAYER_KINDS = (*ATTENTION_KINDS, "linear_attention")


def attention(
    f: Fields,
    *,
    qk_norm: bool = False,
    gated: bool = False,
    bias: bool = False,
    sinks: bool = False,
    window: int | None = None,
) -> AttentionShape:
    """Return the attention of one layer; ``gated`` and ``bias`` hold where the config is silent."""
    heads = f.integer("num_attention_heads")
    kv_heads = f.integer("num_key_value_heads", default=heads)
    if heads % kv_heads:
        f.reject("num_key_value_heads", f"a divisor of num_attention_heads={heads}")
    hidden = f.integer("hidden_size")
    if f.config.get("head_dim") is None and hidden % heads:
        f.reject("head_dim", f"an integer, since hidden_size={hidden} is not {heads} heads")
    return AttentionShape(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=f.integer("head_dim", default=hidden // heads),
        gated=f.flag("attn_output_gate", default=gated),
        qk_norm=qk_norm,
        window=window,
        bias=f.flag("attention_bias", default=bias),
        sinks=sinks,
    )


def softmax_layers(
    f: Fields, num_layers: int, *, qk_norm: bool = False, bias: bool = False, sinks: bool = False
) -> tuple[Mixer, ...]:
    """Return softmax attention of each layer, sliding where the config puts it."""
    kinds = f.kinds("layer_types", count=num_layers, allowed=ATTENTION_KINDS)
    if not kinds:
        windowed = f.flag("use_sliding_window", default=False)
        num_full = f.integer("max_window_layers", default=num_layers, low=0) if windowed else None
        kinds = tuple(
            "full_attention" if num_full is None or i < num_full else "sliding_attention"
            for i in range(num_layers)
        )
    full = attention(f, qk_norm=qk_norm, bias=bias, sinks=sinks)
    if "sliding_attention" not in kinds:
        return (full,) * num_layers
    window = f.integer("sliding_window")
    sliding = attention(f, qk_norm=qk_norm, bias=bias, sinks=sinks, window=window)
    return tuple(full if kind == "full_attention" else sliding for kind in kinds)


def hybrid_layers(f: Fields, num_layers: int) -> tuple[Mixer, ...]:
    """Return gated attention and gated delta networks by turns, as in Qwen3-Next and Qwen3.5."""
    kinds = f.kinds("layer_types", count=num_layers, allowed=LAYER_KINDS)
    if not kinds:
        every = f.integer("full_attention_interval", default=4)
        kinds = tuple(
            "linear_attention" if (i + 1) % every else "full_attention" for i in range(num_layers)
        )
    if "full_attention" not in kinds:
        f.reject(f.first("layer_types", "full_attention_interval"), "some full_attention")
    gdn = _gdn(f) if "linear_attention" in kinds else None
    full = attention(f, qk_norm=True, gated=True)
    return tuple(gdn if gdn and kind == "linear_attention" else full for kind in kinds)


def _gdn(f: Fields) -> GdnShape:
    return GdnShape(
        num_k_heads=f.integer("linear_num_key_heads"),
        num_v_heads=f.integer("linear_num_value_heads"),
        head_k_dim=f.integer("linear_key_head_dim"),
        head_v_dim=f.integer("linear_value_head_dim"),
        conv_kernel=f.integer("linear_conv_kernel_dim"),
    )
