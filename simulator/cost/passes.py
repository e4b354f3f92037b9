"""A pass as a list of ops: target forward, draft block, MTP step, KV materialisation.

``rows`` is query rows per request (1 for decoding, the block size for verification), so a pass
runs ``requests * rows`` token rows. Every shape is one tensor-parallel rank's. Structure and
kernel boundaries follow SGLang's Qwen3, Qwen3.5 and DFlash model files.
"""

from dataclasses import dataclass, replace

from dflash_sim.profiles.networks.hf_config import (
    AttentionShape,
    DrafterShape,
    Eagle3Shape,
    GdnShape,
    LayerShape,
    ModelShape,
    MoeMlp,
)
from dflash_sim.profiles.units import BF16_BYTES, FP32_BYTES
from dflash_sim.simulator.cost.ops import (
    AnyCall,
    Attention,
    Call,
    Collective,
    Elementwise,
    GdnConv,
    GdnPrefill,
    GdnRecurrent,
    Gemm,
    Moe,
    PrefillAttention,
)


@dataclass(frozen=True, slots=True)
class Rows:
    """The size of a pass: requests, query rows of each, cached tokens of each."""

    requests: int
    rows: int
    ctx: float = 0.0
    prefill: bool = False

    @property
    def tokens(self) -> int:
        return self.requests * self.rows


def _norm(name: str, tokens: int, hidden: int, count: int = 1) -> AnyCall:
    """Fused residual add and RMSNorm: two tensors in, two out."""
    return Call(Elementwise(name, 4.0 * BF16_BYTES * tokens * hidden, "norm"), count)


def _layer_norm(name: str, size: Rows, hidden: int, tp: int, count: int) -> AnyCall:
    """The norm before a mixer or MLP: after an all-reduce of decode rows it runs inside it."""
    norm = _norm(name, size.tokens, hidden, count)
    return replace(norm, exposed="fused_norm_exposed") if tp > 1 and not size.prefill else norm


def _small(name: str, elements: float, count: int = 1) -> AnyCall:
    return Call(Elementwise(name, BF16_BYTES * elements), count)


def _all_reduce(name: str, tokens: int, hidden: int, tp: int, count: int) -> list[AnyCall]:
    if tp == 1:
        return []
    return [Call(Collective(name, "all_reduce", float(BF16_BYTES * tokens * hidden), tp), count)]


def attention_mixer(
    a: AttentionShape, *, hidden: int, tp: int, size: Rows, count: int, input_width: int = 0
) -> list[AnyCall]:
    """``count`` attention layers, norm to output projection; ``input_width`` sets the fan-in."""
    t, d = size.tokens, a.head_dim
    heads, kv = a.num_heads // tp, max(1, a.num_kv_heads // tp)
    q_width = heads * d * (2 if a.gated else 1)
    mixer: Attention | PrefillAttention
    if size.prefill:
        mixer = PrefillAttention(
            "attention", size.requests, size.rows, size.ctx, heads, kv, d, a.window or 0
        )
    else:
        mixer = Attention(
            "attention", size.requests, size.rows, size.ctx, heads, kv, d, a.window or 0
        )
    calls = [
        _layer_norm("input_norm", size, hidden, tp, count),
        Call(Gemm("qkv_proj", t, q_width + 2 * kv * d, input_width or hidden), count),
        _small("qk_norm_rope", 2.0 * t * (heads + kv) * d, count),
        _small("kv_write", 4.0 * t * kv * d, count),
        Call(mixer, count),
        Call(Gemm("o_proj", t, hidden, heads * d), count),
        *_all_reduce("attention_all_reduce", t, hidden, tp, count),
    ]
    if a.gated:
        calls.append(_small("output_gate", 3.0 * t * heads * d, count))
    return calls


def gdn_mixer(g: GdnShape, *, hidden: int, tp: int, size: Rows, count: int) -> list[AnyCall]:
    """Gated delta net: projections, conv, recurrence, gated norm, output projection."""
    t = size.tokens
    v_heads, k_heads = g.num_v_heads // tp, max(1, g.num_k_heads // tp)
    value, conv = v_heads * g.head_v_dim, g.conv_dim // tp
    calls = [
        _layer_norm("input_norm", size, hidden, tp, count),
        Call(Gemm("in_proj_qkvz", t, conv + value, hidden), count),
        Call(Gemm("in_proj_ba", t, 2 * v_heads, hidden), count),
        _small("gated_norm", 3.0 * t * value, count),
        Call(Gemm("out_proj", t, hidden, value), count),
        *_all_reduce("gdn_all_reduce", t, hidden, tp, count),
    ]
    kd, vd = g.head_k_dim, g.head_v_dim
    if size.prefill:
        scan = GdnPrefill("gdn_chunk", size.requests, size.rows, v_heads, k_heads, kd, vd, conv)
        return [*calls, Call(scan, count)]
    rule = GdnRecurrent("gdn_recurrent", size.requests, size.rows, v_heads, k_heads, kd, vd)
    update = GdnConv("gdn_conv", t, v_heads, k_heads, conv, g.conv_kernel)
    return [*calls, Call(update, count), Call(rule, count)]


def gdn_commit(model: ModelShape, *, tp: int, requests: int) -> list[AnyCall]:
    """Copy the accepted position's state of every GDN layer into the live slot, in one kernel."""
    if not model.gdn_layers:
        return []
    moved = 2.0 * requests * model.gdn_state_bytes / tp
    return [Call(Elementwise("gdn_state_commit", moved, "stream"), 1)]


def dense_mlp(intermediate: int, *, hidden: int, tp: int, size: Rows, count: int) -> list[AnyCall]:
    """SwiGLU: gate_up, activation, down."""
    inter, tokens = intermediate // tp, size.tokens
    return [
        _layer_norm("post_attention_norm", size, hidden, tp, count),
        Call(Gemm("gate_up_proj", tokens, 2 * inter, hidden), count),
        _small("activation", 3.0 * tokens * inter, count),
        Call(Gemm("down_proj", tokens, hidden, inter), count),
        *_all_reduce("mlp_all_reduce", tokens, hidden, tp, count),
    ]


def moe_mlp(mlp: MoeMlp, *, hidden: int, tp: int, size: Rows, count: int) -> list[AnyCall]:
    """Router, top-k choice with the routed experts, and the shared expert on its own stream."""
    tokens = size.tokens
    routed = Moe(
        "routed_experts",
        tokens=tokens,
        experts=mlp.num_experts,
        top_k=mlp.top_k,
        hidden=hidden,
        inter=mlp.intermediate,
        tp=tp,
        dtype=mlp.expert_dtype,
        rows=size.rows,
    )
    calls = [
        _layer_norm("post_attention_norm", size, hidden, tp, count),
        Call(Gemm("router", tokens, mlp.num_experts, hidden), count),
        Call(routed, count),
        *_all_reduce("moe_all_reduce", tokens, hidden, tp, count),
    ]
    if mlp.shared_intermediate:
        inter = mlp.shared_intermediate // tp
        beside = [
            Call(Gemm("shared_gate_up_proj", tokens, 2 * inter, hidden), count),
            _small("shared_activation", 3.0 * tokens * inter, count),
            Call(Gemm("shared_down_proj", tokens, hidden, inter), count),
            _small("shared_gate", 2.0 * tokens * hidden, count),
        ]
        calls += [Call(c.op, c.count, "shared_expert_exposed") for c in beside]
        calls.append(_small("shared_add", 3.0 * tokens * hidden, count))
    return calls


def layers(layer: LayerShape, *, hidden: int, tp: int, size: Rows, count: int) -> list[AnyCall]:
    """``count`` identical decoder layers."""
    if isinstance(layer.mixer, GdnShape):
        mixer = gdn_mixer(layer.mixer, hidden=hidden, tp=tp, size=size, count=count)
    else:
        mixer = attention_mixer(layer.mixer, hidden=hidden, tp=tp, size=size, count=count)
    if isinstance(layer.mlp, MoeMlp):
        mlp = moe_mlp(layer.mlp, hidden=hidden, tp=tp, size=size, count=count)
    else:
        inter = layer.mlp.intermediate
        mlp = dense_mlp(inter, hidden=hidden, tp=tp, size=size, count=count)
    return mixer + mlp


def embedding(model: ModelShape, *, tp: int, tokens: int) -> list[AnyCall]:
    """Vocabulary-parallel lookup."""
    return [
        _small("embedding", 2.0 * tokens * model.hidden),
        *_all_reduce("embedding_all_reduce", tokens, model.hidden, tp, 1),
    ]


def target_head(model: ModelShape, *, tp: int, tokens: int) -> list[AnyCall]:
    """Final norm, vocabulary-parallel lm_head, gather of all logits, fp32 copy, argmax."""
    logits = float(tokens * model.vocab)
    calls = [
        _norm("final_norm", tokens, model.hidden),
        Call(Gemm("lm_head", tokens, model.vocab // tp, model.hidden), 1),
        Call(Elementwise("logits_cast", (BF16_BYTES + FP32_BYTES) * logits), 1),
        Call(Elementwise("argmax", FP32_BYTES * logits, "vocab"), 1),
    ]
    if tp > 1:
        calls.append(
            Call(Collective("logits_all_gather", "all_gather", BF16_BYTES * logits, tp), 1)
        )
    return calls


def target_forward(model: ModelShape, *, tp: int, size: Rows) -> list[AnyCall]:
    """The target model on decode, verify or prefill rows, with its head.

    A prefill samples one token per request, so its head sees ``requests`` rows.
    """
    calls = embedding(model, tp=tp, tokens=size.tokens)
    for layer, count in model.layer_groups:
        calls += layers(layer, hidden=model.hidden, tp=tp, size=size, count=count)
    head_rows = size.requests if size.prefill else size.tokens
    return calls + target_head(model, tp=tp, tokens=head_rows)


def draft_block(
    drafter: DrafterShape, model: ModelShape, *, tp: int, size: Rows, window: int | None = None
) -> list[AnyCall]:
    """One DFlash forward: ``size.rows`` positions (anchor and masks) through all draft layers."""
    calls = embedding(model, tp=tp, tokens=size.tokens)
    groups: dict[AttentionShape, int] = {}
    for shape in drafter.layers:
        groups[shape] = groups.get(shape, 0) + 1
    for shape, count in groups.items():
        sees = (
            shape if window is None else replace(shape, window=min(window, shape.window or window))
        )
        calls += attention_mixer(sees, hidden=drafter.hidden, tp=tp, size=size, count=count)
        calls += dense_mlp(
            drafter.intermediate, hidden=drafter.hidden, tp=tp, size=size, count=count
        )
    return calls


def draft_head(model: ModelShape, *, tp: int, rows: int) -> list[AnyCall]:
    """Draft logits and vocabulary-parallel argmax: only (max, id) pairs cross the ranks."""
    local = float(rows * (model.vocab // tp))
    calls = [
        _norm("draft_final_norm", rows, model.hidden),
        Call(Gemm("draft_lm_head", rows, model.vocab // tp, model.hidden), 1),
        Call(Elementwise("draft_argmax", BF16_BYTES * local, "vocab"), 1),
    ]
    if tp > 1:
        pair = Collective(
            "draft_argmax_all_gather", "all_gather", float(FP32_BYTES * rows * tp), tp
        )
        calls.append(Call(pair, 2))
    return calls


def materialise(drafter: DrafterShape, *, tp: int, tokens: int) -> list[AnyCall]:
    """KV injection: target features -> fc -> norm -> K and V of every draft layer -> its cache.

    fc and norm are replicated on every rank; one batched GEMM serves all layers.
    """
    first = drafter.layers[0]
    kv = max(1, first.num_kv_heads // tp) * first.head_dim
    width = 2 * kv * len(drafter.layers)
    features = len(drafter.target_layer_ids) * drafter.hidden
    return [
        Call(Gemm("fc", tokens, drafter.hidden, features), 1),
        _norm("hidden_norm", tokens, drafter.hidden),
        Call(Gemm("kv_proj", tokens, width, drafter.hidden), 1),
        _small("k_norm_rope", float(tokens * width)),
        _small("kv_write", 2.0 * tokens * width / len(drafter.layers), len(drafter.layers)),
    ]


def mtp_step(model: ModelShape, *, tp: int, size: Rows) -> list[AnyCall]:
    """One forward of the native MTP layer and head: a draft step, or draft-extend if rows > 1."""
    full = next(la for la in model.layers if isinstance(la.mixer, AttentionShape))
    t = size.tokens
    head_rows = size.requests if size.prefill else t
    return [
        *embedding(model, tp=tp, tokens=t),
        _norm("mtp_embed_norm", t, model.hidden),
        _norm("mtp_hidden_norm", t, model.hidden),
        _small("mtp_concat", 4.0 * t * model.hidden),
        Call(Gemm("mtp_fc", t, model.hidden, 2 * model.hidden), 1),
        *layers(full, hidden=model.hidden, tp=tp, size=size, count=1),
        *target_head(model, tp=tp, tokens=head_rows),
        Call(Elementwise("draft_softmax", 2.0 * FP32_BYTES * head_rows * model.vocab, "vocab"), 1),
    ]


def eagle3_step(head: Eagle3Shape, *, tp: int, size: Rows, fuse_features: bool) -> list[AnyCall]:
    """One forward of the EAGLE-3 layer; ``fuse_features`` adds its 3H -> H product."""
    t, hidden = size.tokens, head.hidden
    head_rows = size.requests if size.prefill else t
    logits = float(head_rows * head.draft_vocab)
    calls = [
        _small("eagle_embedding", 2.0 * t * hidden),
        *_all_reduce("eagle_embedding_all_reduce", t, hidden, tp, 1),
        _norm("eagle_embed_norm", t, hidden),
        _small("eagle_concat", 4.0 * t * hidden),
        *attention_mixer(
            head.attention, hidden=hidden, tp=tp, size=size, count=1, input_width=2 * hidden
        ),
        *dense_mlp(head.intermediate, hidden=hidden, tp=tp, size=size, count=1),
        _norm("eagle_final_norm", head_rows, hidden),
        Call(Gemm("eagle_lm_head", head_rows, head.draft_vocab // tp, hidden), 1),
        Call(Elementwise("eagle_logits_cast", (BF16_BYTES + FP32_BYTES) * logits), 1),
        Call(Elementwise("eagle_softmax", 2.0 * FP32_BYTES * logits, "vocab"), 1),
        Call(Elementwise("eagle_topk", FP32_BYTES * logits, "vocab"), 1),
    ]
    if fuse_features:
        calls.append(Call(Gemm("eagle_fc", t, hidden, 3 * hidden), 1))
    if tp > 1:
        gather = Collective("eagle_logits_all_gather", "all_gather", BF16_BYTES * logits, tp)
        calls.append(Call(gather, 1))
    return calls
