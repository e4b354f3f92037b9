"""DFlash drafters, those that descend from them, and EAGLE-3 heads, read from their configs."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.networks.attention import AttentionShape
from dflash_sim.profiles.networks.drafter_shapes import (
    Convolutions,
    DrafterShape,
    Eagle3Shape,
    MarkovHead,
    RecurrentHead,
    Selector,
)
from dflash_sim.profiles.networks.fields import (
    MAX_BLOCK,
    MAX_LAYERS,
    Fields,
    check_dtype,
    refuse_quantised,
)
from dflash_sim.profiles.networks.mlps import DenseMlp
from dflash_sim.profiles.networks.networks import ModelShape
from dflash_sim.profiles.networks.read_mixers import attention, softmax_layers

_LAGUNA = "DFlashLagunaForCausalLM"  # gates of heads, a norm for each tap, causal inside a block
_DSPARK, _DOMINO, _DFLASH2 = "DSparkDraftModel", "DominoDraftModel", "DFlash2DraftModel"
_PLAIN = "DFlashDraftModel"
_DRAFTERS = (_PLAIN, _LAGUNA, _DFLASH2, _DSPARK, _DOMINO)  # classes that are read
_CLASSES = {"dspark": _DSPARK, "domino": _DOMINO}
_VANILLA, _GQA = "vanilla", "gqa"  # the Markov head and the attention that are simulated
SIZED_LIKE = "sized like"  # in the name of a head that no config describes
_EAGLE3 = re.compile(r"(?i)eagle-?3")
_MLP_OF_EXPERTS, _DRAFT_VOCAB = 6, 32000
# Most published DFlash drafters have these: layers, rows, heads up to a width and beyond it.
_LAYERS, _BLOCK, _HEADS, _WIDE, _HEADS_OF_WIDE, _MLP_OF_HIDDEN = 5, 16, 32, 5120, 64, 3


def parse_drafter(config: Mapping[str, Any], *, name: str, source: str) -> DrafterShape:
    """The shape a drafter's ``config.json`` describes; parameters as :func:`parse_model`.

    Without ``target_layer_ids`` the taps are evenly spaced from layer 1 to the third last of
    the target, one per drafter layer. Parts that plain DFlash has not are there if the config has
    their sizes, as in SGLang.
    """
    f = Fields(config, name)
    dflash = f.nested("dflash_config")
    own = f.with_defaults(dflash.config)
    kind = _class_of(f, dflash)
    check_dtype(f)
    refuse_quantised(f)
    num_layers = f.integer("num_hidden_layers", high=MAX_LAYERS)
    return DrafterShape(
        name=name,
        target=f.text("target", default=""),
        hidden=f.integer("hidden_size"),
        intermediate=f.integer("intermediate_size"),
        layers=_layers(f, num_layers, laguna=kind == _LAGUNA),
        block_size=own.integer("block_size", low=2, high=MAX_BLOCK),
        target_layer_ids=_target_layer_ids(f, dflash, num_layers),
        vocab=f.integer("vocab_size"),
        source=source,
        stacked_kv=kind != _LAGUNA,
        norm_taps=kind == _LAGUNA,
        convolutions=_convolutions(own, needed=kind == _DFLASH2),
        selector=_selector(own, needed=kind == _DFLASH2),
        markov=_markov(own) if kind == _DSPARK else None,
        recurrent=_recurrent(own) if kind == _DOMINO else None,
    )


def _layers(f: Fields, num_layers: int, *, laguna: bool) -> tuple[AttentionShape, ...]:
    """Attention of each layer: those that see everything see all of their block too.

    Sliding ones are causal inside a block unless the config says that they are not.
    """
    layers = softmax_layers(f, num_layers, qk_norm=True)
    if laguna:
        return tuple(replace(x, head_gates=True) for x in layers)
    causal = f.flag("is_causal", default=False)
    sliding = f.flag("is_causal", default=True)
    return tuple(replace(x, causal=sliding if x.window else causal) for x in layers)


def _convolutions(own: Fields, *, needed: bool) -> Convolutions | None:
    if not needed and own.config.get("conv_kernel_size") is None:
        return None
    group = own.integer("conv_group_size")
    if own.integer("hidden_size") % group:
        own.reject("conv_group_size", "a divisor of hidden_size")
    return Convolutions(own.integer("conv_kernel_size"), group)


def _selector(own: Fields, *, needed: bool) -> Selector | None:
    if not needed and own.config.get("selector_rank") is None:
        return None
    vocab = own.integer("vocab_size")
    return Selector(
        rank=own.integer("selector_rank"),
        top_k=own.integer("selector_top_k", high=vocab),
        vocab=own.integer("selector_vocab_size", default=vocab, high=vocab),
    )


def _markov(own: Fields) -> MarkovHead:
    if own.text("markov_head_type", default=_VANILLA) != _VANILLA:
        own.reject("markov_head_type", f"'{_VANILLA}', the one that is simulated")
    return MarkovHead(
        rank=own.integer("markov_rank"),
        confidence=own.flag("enable_confidence_head", default=False),
        confidence_reads_token=own.flag("confidence_head_with_markov", default=False),
    )


def _recurrent(own: Fields) -> RecurrentHead:
    return RecurrentHead(
        hidden=own.integer("gru_hidden_dim"),
        bottleneck=own.integer("emb_dim"),
        prefix=own.integer("pure_draft_prefix_len", default=1),
        shift_label=own.flag("shift_label", default=False),
    )


def parse_eagle3(config: Mapping[str, Any], *, name: str, source: str) -> Eagle3Shape:
    """The shape an EAGLE-3 head's ``config.json`` describes; parameters as :func:`parse_model`.

    Heads of EAGLE-3.1 are read too: their further norms are not counted.
    """
    f = Fields(config, name)
    _refuse_no_eagle3(f)
    check_dtype(f)
    refuse_quantised(f)
    return Eagle3Shape(
        name=name,
        target=f.text("target", default=""),
        hidden=f.integer("hidden_size"),
        intermediate=f.integer("intermediate_size"),
        attention=attention(f),
        draft_vocab=f.integer("draft_vocab_size", default=f.integer("vocab_size")),
        source=source,
        num_layers=f.integer("num_hidden_layers", default=1, high=MAX_LAYERS),
        vocab=f.integer("vocab_size"),
        reads=f.integer("target_hidden_size", default=f.integer("hidden_size")),
    )


def _refuse_no_eagle3(f: Fields) -> None:
    """Refuse another head than EAGLE-3's: EAGLE-1 reads one feature, P-EAGLE drafts all at once.

    Raises
    ------
    UsageError
        It names the class.
    """
    named = f.config.get("architectures")
    found = named[0] if isinstance(named, list) and named else None
    if found is None or _EAGLE3.search(str(found)):
        return
    msg = (
        f"config of {f.name}: field 'architectures' is {found!r}; a head of that kind is not "
        "simulated, only EAGLE-3's, which drafts token by token (such as LlamaForCausalLMEagle3). "
        "Leave --draft-model out for the one known for the target."
    )
    raise UsageError(msg)


def eagle3_like(target: ModelShape) -> Eagle3Shape | None:
    """Return the EAGLE-3 head that a target would have; None if it has no attention to go by.

    Public training configs (SpecForge) give a head one layer of the target's attention, 32,000
    tokens, and an MLP of the target's width; for a mixture of experts of 4 to 8 times its hidden
    size, 6 times as a rule.
    """
    mixers = [layer.mixer for layer in target.layers]
    own = next((m for m in mixers if isinstance(m, AttentionShape)), None)
    if own is None:
        return None
    return Eagle3Shape(
        name=f"an EAGLE-3 head {SIZED_LIKE} {target.name}",
        target=target.name,
        hidden=target.hidden,
        intermediate=_mlp_width(target, of_experts=_MLP_OF_EXPERTS),
        attention=AttentionShape(own.num_heads, own.num_kv_heads, own.head_dim),
        draft_vocab=min(_DRAFT_VOCAB, target.vocab),
        source="sized as SpecForge's training configs size the heads of other targets",
    )


def dflash_like(target: ModelShape) -> DrafterShape | None:
    """Return the DFlash drafter that a target would have; None if it has too few layers to tap.

    As most published ones: five layers of the target's width that see everything, 32 heads of 128
    (64 where it is wider than 5,120) over 8 of keys, and an MLP of the target's width; for a
    mixture of experts three times the hidden size.
    """
    depth = len(target.layers)
    if depth < _LAYERS:
        return None
    heads = _HEADS_OF_WIDE if target.hidden > _WIDE else _HEADS
    attention = AttentionShape(heads, 8, 128, qk_norm=True, causal=False)
    return DrafterShape(
        name=f"a DFlash drafter {SIZED_LIKE} {target.name}",
        target=target.name,
        hidden=target.hidden,
        intermediate=_mlp_width(target, of_experts=_MLP_OF_HIDDEN),
        layers=(attention,) * _LAYERS,
        block_size=_BLOCK,
        target_layer_ids=_evenly_spaced(depth, _LAYERS),
        vocab=target.vocab,
        source="sized as most published DFlash drafters of other targets are",
    )


def _mlp_width(target: ModelShape, *, of_experts: int) -> int:
    """Width of the target's own MLP; with experts in it, so many times its hidden size."""
    dense = [layer.mlp.intermediate for layer in target.layers if isinstance(layer.mlp, DenseMlp)]
    return max(dense) if len(dense) == len(target.layers) else of_experts * target.hidden


def _class_of(f: Fields, dflash: Fields) -> str:
    """The class of a drafter, by its name or by its head's; plain DFlash where it has neither.

    Raises
    ------
    UsageError
        It drafts otherwise than any that is simulated; names the key that tells it, and what can
        be asked instead.
    """
    named = f.config.get("architectures")
    found = named[0] if isinstance(named, list) and named else None
    head = dflash.config.get("projector_type")
    mode, experts = dflash.config.get("attention_mode"), f.first("n_routed_experts", "num_experts")
    for key, value, allowed in (
        ("architectures", found, _DRAFTERS),
        ("projector_type", head, ("dflash", *_CLASSES)),
        ("attention_mode", mode, (_GQA,)),
        (experts, f.config.get(experts), ()),
    ):
        if value is not None and value not in allowed:
            kinds = ", ".join(_DRAFTERS)
            msg = (
                f"config of {f.name}: field '{key}' is {value!r}; a drafter of that kind is not "
                f"simulated, only these, dense and with attention heads of their own: {kinds}. "
                "Leave --draft-model out for the one known for the target."
            )
            raise UsageError(msg)
    return str(_CLASSES.get(str(head)) or found or _PLAIN)


def _target_layer_ids(f: Fields, dflash: Fields, num_layers: int) -> tuple[int, ...]:
    holder = f if f.config.get("target_layer_ids") is not None else dflash
    ids = holder.integers("target_layer_ids", high=MAX_LAYERS)
    if ids:
        return ids
    return _evenly_spaced(f.integer("num_target_layers", low=4, high=MAX_LAYERS), num_layers)


def _evenly_spaced(depth: int, num_layers: int) -> tuple[int, ...]:
    """Layers of a target, from the second to the third last, one for each drafter layer."""
    if num_layers == 1:
        return (depth // 2,)
    step = (depth - 4) / (num_layers - 1)
    return tuple(round(1 + i * step) for i in range(num_layers))
