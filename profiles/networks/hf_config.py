"""Target models, read from Hugging Face configs; every network shape can be imported from here."""

from collections.abc import Mapping
from typing import Any

from dflash_sim.profiles.networks.drafter_shapes import (
    Convolutions,
    DrafterShape,
    Eagle3Shape,
    MarkovHead,
    RecurrentHead,
    Selector,
)
from dflash_sim.profiles.networks.drafters import parse_drafter, parse_eagle3
from dflash_sim.profiles.networks.families import Family, family_of
from dflash_sim.profiles.networks.fields import DTYPES, MAX_LAYERS, Fields, check_dtype, context_of
from dflash_sim.profiles.networks.layers import (
    AttentionShape,
    Cached,
    CompressedShape,
    DenseMlp,
    GdnShape,
    KdaShape,
    LayerShape,
    Mamba2Shape,
    MlaShape,
    MoeMlp,
    Weight,
)
from dflash_sim.profiles.networks.networks import ModelShape, check_tp
from dflash_sim.profiles.networks.quantized import read
from dflash_sim.profiles.networks.vision import VisionTower
from dflash_sim.profiles.precision import STATE_DTYPES

__all__ = [
    "AttentionShape",
    "Cached",
    "CompressedShape",
    "Convolutions",
    "DenseMlp",
    "DrafterShape",
    "Eagle3Shape",
    "GdnShape",
    "KdaShape",
    "LayerShape",
    "Mamba2Shape",
    "MarkovHead",
    "MlaShape",
    "ModelShape",
    "MoeMlp",
    "RecurrentHead",
    "Selector",
    "VisionTower",
    "Weight",
    "check_tp",
    "parse_drafter",
    "parse_eagle3",
    "parse_model",
]


# Gemma 2 and 4, Granite, Cohere, Grok and Falcon-H1, each in its own words. Factors of embeddings
# and of attention scores run inside kernels that are there anyway.
_OF_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "output_multiplier",
    "output_multiplier_scale", "lm_head_multiplier")  # fmt: skip


def parse_model(config: Mapping[str, Any], *, name: str, source: str) -> ModelShape:
    """The shape a target model's ``config.json`` describes.

    Parameters
    ----------
    config
        Parsed JSON; a multimodal config is read through its ``text_config``.
    name
        For messages and reports.
    source
        Where the config came from.
    """
    outer = Fields(config, name)
    inner = Fields({**outer.config, **outer.nested("text_config").config}, name)
    kind, family = family_of(inner)
    f = inner.with_defaults(family.defaults)
    check_dtype(f)
    num_layers = family.count(f)
    mixers, mlps = family.mixers(f, num_layers), family.mlps(f, num_layers)
    layers = family.stack(f, tuple(map(family.finish, map(LayerShape, mixers, mlps))))
    hidden, quantized = f.integer("hidden_size"), read(config, name=name)
    mtp_layers = f.integer(
        "mtp_num_hidden_layers",
        "num_nextn_predict_layers",
        default=family.mtp_layers,
        low=0,
        high=MAX_LAYERS,
    )
    if quantized is not None:
        quantized, layers = quantized.fitted(layers, hidden, mtp=mtp_layers > 0, of=name)
    return ModelShape(
        name=name,
        hidden=hidden,
        vocab=f.integer("vocab_size"),
        layers=layers,
        tied_embeddings=f.flag("tie_word_embeddings", default=False),
        mtp_layers=mtp_layers,
        dtype=f.text(f.first("dtype", "torch_dtype"), default=DTYPES[0]),
        source=source,
        state_dtype=_state_dtype(f),
        vision=_vision(outer.nested("vision_config")),
        context=context_of(f.config),
        quantized=quantized,
        own_mtp=family.mtp(f) if family.mtp else None,
        mtp_lends_index=f.flag("index_share_for_mtp_iteration", default=False),
        scaled_logits=any(_scales(f, key) for key in _OF_LOGITS),
        scaled_residual=_scales(f, "residual_multiplier"),
        family=kind,
        ending=family.ending(f, hidden),
        caution=_caution(outer, family),
    )


def _scales(f: Fields, key: str) -> bool:
    """True if a factor is given that is not 1; a cap is one too, and null is none."""
    value = f.config.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        f.reject(key, "a number")
    return value not in (None, 0, 1)


def _caution(outer: Fields, family: Family) -> str:
    """Return what an answer must say about a model that reads more than text."""
    sees = outer.config.get("vision_config") or outer.config.get("text_config")
    said = "text layers only; images are not priced" if sees and not family.tower else ""
    return "; ".join(filter(None, (said, family.caution)))


def _state_dtype(f: Fields) -> str:
    key = f.first("mamba_ssm_dtype", "mamba_ssm_cache_dtype")
    dtype = f.text(key, default=STATE_DTYPES[0])
    if dtype not in STATE_DTYPES:
        f.reject(key, f"one of {', '.join(STATE_DTYPES)}")
    return dtype


def _vision(f: Fields) -> VisionTower | None:
    """The tower, as Qwen's and Kimi's configs write it; of another's only what SGLang reads."""
    if not f.config:
        return None
    said = f.integer("num_hidden_layers", default=0, low=0, high=MAX_LAYERS)
    hidden = f.integer("hidden_size", "vt_hidden_size", default=0, low=0)
    still = 1 if "vt_hidden_size" in f.config else 2  # frames of a patch
    known = hidden and (still == 1 or f.config.get("num_position_embeddings") is not None)
    named = f.first("depth", "vt_num_hidden_layers")
    depth = f.integer(named, default=0, low=0, high=MAX_LAYERS) if known else 0
    grid = f.integer("init_pos_emb_height", default=0, low=0)
    side = f.integer("patch_size", default=16) ** 2 if depth else 0
    return VisionTower(
        hidden=hidden,
        intermediate=f.integer(
            "intermediate_size", "vt_intermediate_size", default=4 * hidden, low=0
        ),
        depth=depth,
        patch=side
        * f.integer("in_channels", default=3)
        * f.integer("temporal_patch_size", default=still),
        positions=f.integer("num_position_embeddings", default=grid * grid, low=0),
        merged=f.integer("spatial_merge_size", default=2) ** 2,
        out=f.integer("out_hidden_size", "text_hidden_size", default=0, low=0),
        num_hidden_layers=said or None,
    )
