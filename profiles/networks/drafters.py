"""DFlash drafters and EAGLE-3 heads, read from their Hugging Face configs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.networks.attention import AttentionShape
from dflash_sim.profiles.networks.drafter_shapes import DrafterShape, Eagle3Shape
from dflash_sim.profiles.networks.fields import MAX_LAYERS, Fields, check_dtype, refuse_quantised
from dflash_sim.profiles.networks.mlps import DenseMlp
from dflash_sim.profiles.networks.networks import ModelShape
from dflash_sim.profiles.networks.read_mixers import attention, softmax_layers

_LAGUNA = "DFlashLagunaForCausalLM"  # gates of heads, a norm for each tap, causal inside a block
_DRAFTERS = ("DFlashDraftModel", _LAGUNA)
_PROJECTORS = ("dflash",)
SIZED_LIKE = "sized like"  # in the name of a head that no config describes
_MLP_OF_EXPERTS, _DRAFT_VOCAB = 6, 32000


def parse_drafter(config: Mapping[str, Any], *, name: str, source: str) -> DrafterShape:
    """The shape a DFlash drafter's ``config.json`` describes; parameters as :func:`parse_model`.

    Without ``target_layer_ids`` the taps are evenly spaced from layer 1 to the third last of
    the target, one per drafter layer.
    """
    f = Fields(config, name)
    dflash = f.nested("dflash_config")
    _refuse_other_drafters(f, dflash)
    check_dtype(f)
    refuse_quantised(f)
    num_layers = f.integer("num_hidden_layers", high=MAX_LAYERS)
    layers = softmax_layers(f, num_layers, qk_norm=True)
    laguna = _LAGUNA in (f.config.get("architectures") or ())
    block = f if f.config.get("block_size") is not None else dflash
    return DrafterShape(
        name=name,
        target=f.text("target", default=""),
        hidden=f.integer("hidden_size"),
        intermediate=f.integer("intermediate_size"),
        layers=tuple(replace(x, head_gates=True) for x in layers) if laguna else layers,
        block_size=block.integer("block_size", low=2),
        target_layer_ids=_target_layer_ids(f, dflash, num_layers),
        vocab=f.integer("vocab_size"),
        source=source,
        stacked_kv=not laguna,
        norm_taps=laguna,
    )


def parse_eagle3(config: Mapping[str, Any], *, name: str, source: str) -> Eagle3Shape:
    """The shape an EAGLE-3 head's ``config.json`` describes; parameters as :func:`parse_model`."""
    f = Fields(config, name)
    check_dtype(f)
    refuse_quantised(f)
    f.integer("num_hidden_layers", default=1, high=1)
    return Eagle3Shape(
        name=name,
        target=f.text("target", default=""),
        hidden=f.integer("hidden_size"),
        intermediate=f.integer("intermediate_size"),
        attention=attention(f),
        draft_vocab=f.integer("draft_vocab_size"),
        source=source,
    )


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
    dense = [layer.mlp.intermediate for layer in target.layers if isinstance(layer.mlp, DenseMlp)]
    whole = len(dense) == len(target.layers)
    return Eagle3Shape(
        name=f"EAGLE-3 head {SIZED_LIKE} {target.name}",
        target=target.name,
        hidden=target.hidden,
        intermediate=max(dense) if whole else _MLP_OF_EXPERTS * target.hidden,
        attention=AttentionShape(own.num_heads, own.num_kv_heads, own.head_dim),
        draft_vocab=min(_DRAFT_VOCAB, target.vocab),
        source="sized as SpecForge's training configs size the heads of other targets",
    )


def _refuse_other_drafters(f: Fields, dflash: Fields) -> None:
    """Refuse drafters that descend from DFlash and draft otherwise, such as Domino and DSpark.

    Raises
    ------
    UsageError
        Naming the key that tells it, and what can be asked instead.
    """
    named = f.config.get("architectures")
    said = {"architectures": named[0]} if isinstance(named, list) and named else {}
    if dflash.config.get("projector_type") is not None:
        said["projector_type"] = dflash.config["projector_type"]
    for key, value in said.items():
        known = _DRAFTERS if key == "architectures" else _PROJECTORS
        if value not in known:
            msg = (
                f"config of {f.name}: field '{key}' is {value!r}; a drafter of that kind is not "
                f"simulated, only plain DFlash ({known[0]}). Leave --draft-model out for the one "
                "known for the target."
            )
            raise UsageError(msg)


def _target_layer_ids(f: Fields, dflash: Fields, num_layers: int) -> tuple[int, ...]:
    holder = f if f.config.get("target_layer_ids") is not None else dflash
    ids = holder.integers("target_layer_ids", high=MAX_LAYERS)
    if ids:
        return ids
    depth = f.integer("num_target_layers", low=4, high=MAX_LAYERS)
    if num_layers == 1:
        return (depth // 2,)
    step = (depth - 4) / (num_layers - 1)
    return tuple(round(1 + i * step) for i in range(num_layers))
