"""The parts of a Hugging Face config that layers need: shapes, and constants in formulas."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.networks.fields import MAX_INT, Fields
from dflash_sim.profiles.networks.hf_config import (
    AttentionShape,
    DrafterShape,
    Eagle3Shape,
    MlaShape,
    ModelShape,
    MoeMlp,
    parse_drafter,
    parse_eagle3,
    parse_model,
)

# Where a config is silent, what transformers' configuration classes assume.
DEFAULT_EPS = 1e-6
DEFAULT_THETA = 10_000.0
ZERO_CENTRED = {"qwen3_next", "qwen3_5", "qwen3_5_moe"}
PARTIAL_ROTARY = 0.25
BUILT = {"llama", "qwen3", "qwen3_moe", *ZERO_CENTRED}
UNSCALED = {"default", "mrope"}


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """The constants of a network's formulas.

    Parameters
    ----------
    eps
        Added to the mean square in every RMSNorm.
    theta
        Base of the rotary embedding.
    rotary_fraction
        Part of each head that is rotated, from its front.
    zero_centred
        Norms multiply by ``1 + weight``.
    renormalise
        The weights of a token's experts are divided by their sum.
    """

    eps: float
    theta: float
    rotary_fraction: float
    zero_centred: bool
    renormalise: bool

    def rotary_dim(self, head_dim: int) -> int:
        """Rotated dimensions of a head."""
        return int(head_dim * self.rotary_fraction)


@dataclass(frozen=True)
class TargetSpec:
    """A target model, with its MTP layers if it has any."""

    shape: ModelShape
    numerics: Numerics


@dataclass(frozen=True)
class DrafterSpec:
    """A DFlash drafter; ``mask_id`` is None where the config does not say."""

    shape: DrafterShape
    numerics: Numerics
    mask_id: int | None


@dataclass(frozen=True)
class Eagle3Spec:
    """An EAGLE-3 head."""

    shape: Eagle3Shape
    numerics: Numerics


def read_target(config: Mapping[str, Any], name: str) -> TargetSpec:
    """The target model a parsed ``config.json`` describes; ``name`` is for messages."""
    shape = parse_model(_any_dtype(config), name=name, source="config.json")
    if shape.quantized is not None:
        _refuse(name, f"weights that are quantised ({shape.quantized.name})")
    if shape.family not in BUILT and shape.family != "gpt_oss":  # what it lacks is said below
        _refuse(name, f"the family {shape.family}")
    numerics = _numerics(_flat(config), name)
    for layer in shape.layers:
        if isinstance(layer.mixer, AttentionShape):
            _check_attention(layer.mixer, name)
        if isinstance(layer.mixer, MlaShape):
            _refuse(name, "a whole model of latent attention (its layers are)")
        if isinstance(layer.mlp, MoeMlp) and layer.mlp.bias:
            _refuse(name, "experts with biases")
    return TargetSpec(shape, numerics)


def read_drafter(config: Mapping[str, Any], name: str) -> DrafterSpec:
    """The DFlash drafter a parsed ``config.json`` describes."""
    flat = _flat(config)
    numerics = _numerics(flat, name)
    shape = parse_drafter(_any_dtype(config), name=name, source="config.json")
    for attention in shape.layers:
        _check_attention(attention, name)
        if attention.head_gates:
            _refuse(name, "attention with a gate for each head")
    nested = _table(flat, "dflash_config")
    mask = flat.get("mask_token_id", nested.get("mask_token_id"))
    return DrafterSpec(shape, numerics, mask)


def read_eagle3(config: Mapping[str, Any], name: str) -> Eagle3Spec:
    """The EAGLE-3 head a parsed ``config.json`` describes."""
    flat = _flat(config)
    numerics = _numerics(flat, name)
    shape = parse_eagle3(_any_dtype(config), name=name, source="config.json")
    _check_attention(shape.attention, name)
    return Eagle3Spec(shape, numerics)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, **_table(config, "text_config")}


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A field that is an object; nothing where there is none."""
    found = config.get(key) or {}
    if not isinstance(found, Mapping):
        msg = f"config.json: field '{key}' is {found!r:.80}; expected a JSON object"
        raise UsageError(msg)
    return found


def _any_dtype(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without its storage type: tensors are converted to whatever the run is in."""
    kept = {k: v for k, v in config.items() if k not in ("dtype", "torch_dtype")}
    nested = kept.get("text_config")
    return {**kept, "text_config": _any_dtype(nested)} if isinstance(nested, Mapping) else kept


def _numerics(flat: Mapping[str, Any], name: str) -> Numerics:
    family = str(flat.get("model_type", "")).removesuffix("_text")
    rope = _table(flat, "rope_parameters") or _table(flat, "rope_scaling")
    kind = rope.get("rope_type", rope.get("type"))
    if kind is not None and str(kind) not in UNSCALED:
        _refuse(name, f"rotary embedding scaled by {kind!r}")
    if flat.get("hidden_act", "silu") != "silu":
        _refuse(name, f"activation {flat['hidden_act']!r}")
    part = PARTIAL_ROTARY if family in ZERO_CENTRED else 1.0
    fields = Fields({**flat, **{k: v for k, v in rope.items() if v is not None}}, name)
    return Numerics(
        eps=fields.real("rms_norm_eps", most=1.0) or DEFAULT_EPS,
        theta=fields.real("rope_theta", most=MAX_INT) or DEFAULT_THETA,
        rotary_fraction=fields.real("partial_rotary_factor", most=1.0) or part,
        zero_centred=family in ZERO_CENTRED,
        renormalise=bool(flat.get("norm_topk_prob", family in ZERO_CENTRED)),
    )


def _check_attention(shape: AttentionShape, name: str) -> None:
    if shape.sinks:
        _refuse(name, "attention sinks")
    if shape.bias:
        _refuse(name, "attention with biases")


def _refuse(name: str, what: str) -> NoReturn:
    msg = (
        f"{name}: {what} is not written in kernels/; have: Qwen3, Qwen3-MoE, Qwen3-Next, "
        "Qwen3.5 (dense and MoE), DFlash, DFlash2, DSpark and Domino drafters, EAGLE-3 heads"
    )
    raise UsageError(msg)
