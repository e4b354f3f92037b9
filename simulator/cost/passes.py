"""A pass as a list of ops: target forward, draft block, MTP step, KV materialisation.

``rows`` is query rows per request (1 for decoding, the block size for verification), so a pass
runs ``requests * rows`` token rows. Every shape is one tensor-parallel rank's. Structure and
kernel boundaries follow SGLang's Qwen3, Qwen3.5 and DFlash model files.
"""

from dataclasses import replace

from dflash_sim.profiles.formats import PLAIN
from dflash_sim.profiles.networks.hf_config import (
    AttentionShape,
    DenseMlp,
    DrafterShape,
    Eagle3Shape,
    ModelShape,
)
from dflash_sim.profiles.precision import BF16, Precision, bytes_of
from dflash_sim.simulator.cost.decoder import layers
from dflash_sim.simulator.cost.draft_parts import LOGITS, argmax, base_logits, convolution
from dflash_sim.simulator.cost.layers import Kernels, Rows, attention_mixer, dense_mlp
from dflash_sim.simulator.cost.ops import (
    AnyCall,
    Call,
    Elementwise,
    Gemm,
)


def gdn_commit(
    model: ModelShape, *, tp: int, requests: int, precision: Precision = BF16
) -> list[AnyCall]:
    """Copy the accepted position's state of every GDN layer into the live slot, in one kernel."""
    if not model.gdn_layers or not requests:
        return []
    moved = 2.0 * requests * model.gdn_state_bytes(precision) / tp
    return [Call(Elementwise("gdn_state_commit", moved, "stream"), 1)]


def embedding(
    model: ModelShape, *, tp: int, tokens: int, precision: Precision = BF16
) -> list[AnyCall]:
    """Vocabulary-parallel lookup."""
    k = Kernels(precision, tp)
    return [
        k.small("embedding", 2.0 * tokens * model.hidden),
        *k.all_reduce("embedding_all_reduce", tokens, model.hidden, 1),
    ]


def target_head(
    model: ModelShape,
    *,
    tp: int,
    tokens: int,
    precision: Precision = BF16,
    gathered: bool = True,
    chosen: bool = True,
) -> list[AnyCall]:
    """Final norm, vocabulary-parallel lm_head, gather of all logits, fp32 copy, cap, argmax.

    Where logits are not ``gathered``, each rank finds the maximum of its share, and hands on that.
    Where none is ``chosen``, tokens are drawn from them instead, and there is no argmax.
    """
    k = Kernels(precision, tp)
    logits = float(tokens * model.vocab) / (1 if gathered else tp)
    calls = [
        k.norm("final_norm", tokens, model.hidden),
        k.gemm("lm_head", tokens, model.vocab // tp, model.hidden, of="lm_head"),
        Call(Elementwise("logits_cast", (k.value + bytes_of(LOGITS)) * logits), 1),
    ]
    if model.scaled_logits:
        calls.append(Call(Elementwise("logits_scale", 2 * bytes_of(LOGITS) * logits), 1))
    if chosen:
        calls.append(Call(Elementwise("argmax", bytes_of(LOGITS) * logits, "vocab"), 1))
    handed_on = k.value * logits if gathered else 2 * bytes_of(LOGITS) * float(tokens * tp)
    return calls + k.gather("logits_all_gather", handed_on)


def target_forward(
    model: ModelShape,
    *,
    tp: int,
    size: Rows,
    precision: Precision = BF16,
    gathered: bool = True,
    chosen: bool = True,
) -> list[AnyCall]:
    """The target model on decode, verify or prefill rows, with its head.

    A prefill samples one token per request, so its head sees ``requests`` rows.
    """
    precision = model.in_formats(precision)
    calls = embedding(model, tp=tp, tokens=size.tokens, precision=precision)
    for layer, count in model.layer_groups:
        calls += layers(
            layer, hidden=model.hidden, tp=tp, size=size, count=count, precision=precision
        )
    if model.scaled_residual:  # the halves' outputs, read and written
        nbytes = 2.0 * bytes_of(precision.activations) * size.tokens * model.hidden
        calls.append(Call(Elementwise("residual_scale", nbytes), 2 * len(model.layers)))
    head_rows = size.requests if size.prefill else size.tokens
    return calls + target_head(
        model, tp=tp, tokens=head_rows, precision=precision, gathered=gathered, chosen=chosen
    )


def draft_block(
    drafter: DrafterShape,
    model: ModelShape,
    *,
    tp: int,
    size: Rows,
    window: int | None = None,
    precision: Precision = BF16,
) -> list[AnyCall]:
    """One forward of a block: ``size.rows`` positions (anchor and masks) through all draft layers.

    Around sublayers of DFlash2 are convolutions, so that no norm runs inside an all-reduce.
    """
    calls = embedding(model, tp=tp, tokens=size.tokens, precision=precision)
    own, convolved = precision.of("drafter"), drafter.convolutions
    groups: dict[AttentionShape, int] = {}
    for shape in drafter.layers:
        groups[shape] = groups.get(shape, 0) + 1
    for shape, count in groups.items():
        sees = (
            shape if window is None else replace(shape, window=min(window, shape.window or window))
        )
        layer = attention_mixer(
            sees, hidden=drafter.hidden, tp=tp, size=size, count=count, precision=own
        )
        layer += dense_mlp(
            DenseMlp(drafter.intermediate),
            hidden=drafter.hidden,
            tp=tp,
            size=size,
            count=count,
            precision=own,
        )
        if convolved is not None:
            layer = [replace(call, exposed="") for call in layer]
            layer += convolution(
                convolved,
                hidden=drafter.hidden,
                tokens=size.tokens,
                count=2 * count,
                precision=own,
            )
        calls += layer
    return calls


def draft_head(
    model: ModelShape, *, tp: int, rows: int, precision: Precision = BF16
) -> list[AnyCall]:
    """Draft logits and vocabulary-parallel argmax: only (max, id) pairs cross the ranks."""
    logits = base_logits(model, tp=tp, rows=rows, precision=precision)
    return logits + argmax(
        "draft_argmax", tp=tp, rows=rows, vocab=model.vocab, reads=1, precision=precision
    )


def materialise(
    drafter: DrafterShape, *, tp: int, tokens: int, precision: Precision = BF16
) -> list[AnyCall]:
    """KV injection: target features -> fc -> norm -> K and V of every draft layer -> its cache.

    fc and norm are replicated on every rank, and fc is never quantised; one batched GEMM serves
    all layers unless the drafter is quantised, or of a kind that SGLang has none for.
    """
    own = precision.of("drafter")
    k = Kernels(own, tp)
    first, count = drafter.layers[0], len(drafter.layers)
    kv = max(1, first.num_kv_heads // tp) * first.head_dim
    width = 2 * kv * count
    features = len(drafter.target_layer_ids) * drafter.hidden
    taps = (
        [k.norm("tap_norms", tokens, drafter.hidden, len(drafter.target_layer_ids))]
        if drafter.norm_taps
        else []
    )
    return [
        *taps,
        Call(Gemm("fc", tokens, drafter.hidden, features, precision.of("other")), 1),
        k.norm("hidden_norm", tokens, drafter.hidden),
        *_projections(k, tokens, width, drafter),
        k.small("k_norm_rope", float(tokens * width)),
        k.kv_write(float(tokens * width) / count, count),
    ]


def _projections(k: Kernels, tokens: int, width: int, drafter: DrafterShape) -> list[AnyCall]:
    """Keys and values of all draft layers: one stacked product, or one a layer."""
    hidden, layers = drafter.hidden, len(drafter.layers)
    stacked = drafter.stacked_kv and k.precision.weights == PLAIN
    if stacked:
        return [k.gemm("kv_proj", tokens, width, hidden, of="drafter")]
    return [k.gemm("kv_proj", tokens, width // layers, hidden, of="drafter", count=layers)]


def mtp_step(
    model: ModelShape,
    *,
    tp: int,
    size: Rows,
    precision: Precision = BF16,
    drafting: bool = False,
    head_rows: int | None = None,
) -> list[AnyCall]:
    """One forward of the native MTP layer and head: where ``drafting`` a step, else the extend.

    All rows pass the head, or ``head_rows`` of them.
    """
    k = Kernels(precision, tp)
    own = precision.of("mtp")
    full = model.mtp_draft_layer if drafting else model.mtp_layer
    assert full is not None  # whoever asks for MTP has checked that the target has it
    t = size.tokens
    seen = head_rows or (size.requests if size.prefill else t)
    return [
        *embedding(model, tp=tp, tokens=t, precision=precision),
        k.norm("mtp_embed_norm", t, model.hidden),
        k.norm("mtp_hidden_norm", t, model.hidden),
        k.small("mtp_concat", 4.0 * t * model.hidden),
        k.gemm("mtp_fc", t, model.hidden, 2 * model.hidden, of="other"),
        *layers(full, hidden=model.hidden, tp=tp, size=size, count=1, precision=own),
        *target_head(model, tp=tp, tokens=seen, precision=precision, chosen=False),
    ]


def eagle3_step(
    head: Eagle3Shape,
    *,
    tp: int,
    size: Rows,
    fuse_features: bool,
    precision: Precision = BF16,
    head_rows: int | None = None,
) -> list[AnyCall]:
    """One forward of the EAGLE-3 layer; ``fuse_features`` adds its 3H -> H product.

    All rows pass the head, or ``head_rows`` of them.
    """
    k = Kernels(precision, tp)
    own = precision.of("drafter")
    t, hidden = size.tokens, head.hidden
    seen = head_rows or (size.requests if size.prefill else t)
    logits = float(seen * head.draft_vocab)
    calls = [
        k.small("eagle_embedding", 2.0 * t * hidden),
        *k.all_reduce("eagle_embedding_all_reduce", t, hidden, 1),
        k.norm("eagle_embed_norm", t, hidden),
        k.small("eagle_concat", 4.0 * t * hidden),
        *attention_mixer(
            head.attention,
            hidden=hidden,
            tp=tp,
            size=size,
            count=1,
            input_width=2 * hidden,
            precision=own,
        ),
        *dense_mlp(
            DenseMlp(head.intermediate), hidden=hidden, tp=tp, size=size, count=1, precision=own
        ),
        k.norm("eagle_final_norm", seen, hidden),
        k.gemm("eagle_lm_head", seen, head.draft_vocab // tp, hidden, of="other"),
        Call(Elementwise("eagle_logits_cast", (k.value + bytes_of(LOGITS)) * logits), 1),
    ]
    for shape in [head.attention] * (head.num_layers - 1):
        calls += attention_mixer(
            shape, hidden=hidden, tp=tp, size=size, count=1, precision=own
        ) + dense_mlp(
            DenseMlp(head.intermediate), hidden=hidden, tp=tp, size=size, count=1, precision=own
        )
    if fuse_features:
        calls.append(k.gemm("eagle_fc", t, hidden, 3 * hidden, of="other"))
    return calls + k.gather("eagle_logits_all_gather", k.value * logits)
