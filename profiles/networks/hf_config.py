"""Layer sizes read from Hugging Face configs; every network shape can be imported from here."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.networks.context import context_of
from dflash_sim.profiles.networks.layers import (
    AttentionShape,
    DenseMlp,
    GdnShape,
    LayerShape,
    MoeMlp,
    Weight,
)
from dflash_sim.profiles.networks.networks import DrafterShape, Eagle3Shape, ModelShape, check_tp
from dflash_sim.profiles.networks.quantized import Quantized
from dflash_sim.profiles.networks.vision import VisionTower
from dflash_sim.profiles.precision import STATE_DTYPES

__all__ = [
    "AttentionShape",
    "DenseMlp",
    "DrafterShape",
    "Eagle3Shape",
    "GdnShape",
    "LayerShape",
    "ModelShape",
    "MoeMlp",
    "VisionTower",
    "Weight",
    "check_tp",
    "parse_drafter",
    "parse_eagle3",
    "parse_model",
]

_GATED = {"qwen3_next", "qwen3_5", "qwen3_5_moe"}
_QK_NORM = _GATED | {"qwen3", "qwen3_moe"}
_MOE = {"qwen3_moe", "qwen3_next", "qwen3_5_moe", "gpt_oss"}
_FAMILIES = _QK_NORM | {"llama", "gpt_oss"}
# Families whose text layers are another's; what they add is for images.
_SAME_TEXT = {"qwen3_vl": "qwen3", "qwen3_vl_moe": "qwen3_moe"}
# Keys of layers that no family here has, whatever it calls itself.
_FOREIGN = ("kv_lora_rank", "attention_chunk_size", "n_routed_experts", "index_topk")
_EXPERTS = ("num_local_experts", "num_experts")
_DRAFTERS = ("DFlashDraftModel",)
_PROJECTORS = ("dflash",)
_DTYPES = ("bfloat16", "float16")
_ATTENTION_KINDS = ("full_attention", "sliding_attention")
_LAYER_KINDS = (*_ATTENTION_KINDS, "linear_attention")
_MAX_INT = 2**40
_MAX_LAYERS = 2**10


class _Fields:
    """A config whose fields are read by name and type, complaining in words."""

    def __init__(self, config: object, name: str) -> None:
        if not isinstance(config, Mapping):
            msg = f"config of {name}: got {type(config).__name__}; expected a JSON object"
            raise UsageError(msg)
        self.config: Mapping[str, Any] = config
        self.name = name

    def reject(self, key: str, expected: str) -> NoReturn:
        got = repr(self.config[key])[:80] if key in self.config else "missing"
        msg = f"config of {self.name}: field '{key}' is {got}; expected {expected}"
        raise UsageError(msg)

    def first(self, *keys: str) -> str:
        """The first of several spellings that is present, else the preferred one."""
        return next((k for k in keys if self.config.get(k) is not None), keys[0])

    def integer(
        self, *keys: str, default: int | None = None, low: int = 1, high: int = _MAX_INT
    ) -> int:
        key = self.first(*keys)
        value = self.config.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not low <= value <= high:
            self.reject(key, f"an integer from {low} to {high}")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.reject(key, "true or false")
        return value

    def text(self, key: str, *, default: str) -> str:
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.reject(key, "a string")
        return value

    def integers(self, key: str, *, high: int) -> tuple[int, ...]:
        value = self.config.get(key)
        if value is None:
            return ()
        good = isinstance(value, list) and all(type(i) is int and 0 <= i < high for i in value)
        if not good:
            self.reject(key, f"a list of layer numbers below {high}")
        return tuple(value)

    def kinds(self, key: str, *, count: int, allowed: Sequence[str]) -> tuple[str, ...]:
        """One word per layer, or nothing when the field is absent."""
        value = self.config.get(key)
        if value is None:
            return ()
        if (
            not isinstance(value, list)
            or len(value) != count
            or not set(map(str, value)) <= {*allowed}
        ):
            self.reject(key, f"a list of {count} words from {', '.join(allowed)}")
        return tuple(value)

    def nested(self, key: str) -> "_Fields":
        """A nested object; empty when absent."""
        value = self.config.get(key)
        if value is not None and not isinstance(value, Mapping):
            self.reject(key, "an object")
        return _Fields(value or {}, self.name)


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
    outer = _Fields(config, name)
    f = _Fields({**outer.config, **outer.nested("text_config").config}, name)
    family = f.text("model_type", default="").removesuffix("_text")
    family = _SAME_TEXT.get(family, family)
    if family not in _FAMILIES:
        kind = f"model_type of {name}"
        raise unknown(kind, family, _FAMILIES)
    _refuse_foreign(f, family)
    quantized = _check_dtype(f, experts_may_be_mxfp4=family == "gpt_oss")
    num_layers = f.integer("num_hidden_layers", high=_MAX_LAYERS)
    mixers = _mixers(f, family=family, num_layers=num_layers)
    mlps = _mlps(f, family=family, num_layers=num_layers)
    default_mtp = 1 if family == "qwen3_next" else 0  # its config does not say; the weights do
    return ModelShape(
        name=name,
        hidden=f.integer("hidden_size"),
        vocab=f.integer("vocab_size"),
        layers=tuple(map(LayerShape, mixers, mlps)),
        tied_embeddings=f.flag("tie_word_embeddings", default=False),
        mtp_layers=f.integer(
            "mtp_num_hidden_layers",
            "num_nextn_predict_layers",
            default=default_mtp,
            low=0,
            high=_MAX_LAYERS,
        ),
        dtype=f.text(f.first("dtype", "torch_dtype"), default=_DTYPES[0]),
        source=source,
        state_dtype=_state_dtype(f),
        vision=_vision(outer.nested("vision_config")),
        context=context_of(f.config),
        quantized=quantized,
    )


def parse_drafter(config: Mapping[str, Any], *, name: str, source: str) -> DrafterShape:
    """The shape a DFlash drafter's ``config.json`` describes; parameters as :func:`parse_model`.

    Without ``target_layer_ids`` the taps are evenly spaced from layer 1 to the third last of
    the target, one per drafter layer.
    """
    f = _Fields(config, name)
    dflash = f.nested("dflash_config")
    _refuse_other_drafters(f, dflash)
    _check_dtype(f, experts_may_be_mxfp4=False)
    num_layers = f.integer("num_hidden_layers", high=_MAX_LAYERS)
    block = f if f.config.get("block_size") is not None else dflash
    return DrafterShape(
        name=name,
        target=f.text("target", default=""),
        hidden=f.integer("hidden_size"),
        intermediate=f.integer("intermediate_size"),
        layers=_attention_layers(f, family="qwen3", num_layers=num_layers),
        block_size=block.integer("block_size", low=2),
        target_layer_ids=_target_layer_ids(f, dflash, num_layers),
        vocab=f.integer("vocab_size"),
        source=source,
    )


def parse_eagle3(config: Mapping[str, Any], *, name: str, source: str) -> Eagle3Shape:
    """The shape an EAGLE-3 head's ``config.json`` describes; parameters as :func:`parse_model`."""
    f = _Fields(config, name)
    _check_dtype(f, experts_may_be_mxfp4=False)
    f.integer("num_hidden_layers", default=1, high=1)
    return Eagle3Shape(
        name=name,
        target=f.text("target", default=""),
        hidden=f.integer("hidden_size"),
        intermediate=f.integer("intermediate_size"),
        attention=_attention(f, family="llama"),
        draft_vocab=f.integer("draft_vocab_size"),
        source=source,
    )


def _refuse_foreign(f: _Fields, family: str) -> None:
    """Refuse layers of another family under a known name, which would be priced as its own.

    Raises
    ------
    UsageError
        Naming the key that no model of the family has.
    """
    keys = _FOREIGN if family in _MOE else (*_FOREIGN, *_EXPERTS)
    for key in keys:
        value = f.config.get(key)
        if isinstance(value, int) and value > 1:
            msg = (
                f"config of {f.name}: field '{key}' is {value}, which no {family} model has; it "
                f"is of another family. Have: {', '.join(sorted(_FAMILIES))}."
            )
            raise UsageError(msg)


def _refuse_other_drafters(f: _Fields, dflash: _Fields) -> None:
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


def _check_dtype(f: _Fields, *, experts_may_be_mxfp4: bool) -> Quantized | None:
    """Refuse storage that is not priced; return how the checkpoint is quantised, if it is."""
    key = f.first("dtype", "torch_dtype")
    dtype = f.text(key, default=_DTYPES[0])
    if dtype not in _DTYPES:
        f.reject(key, f"one of {', '.join(_DTYPES)}")
    allowed = [*_DTYPES, "mxfp4 experts (gpt-oss)"]
    quantization = f.nested(f.first("quantization_config", "compression_config"))
    if not quantization.config:
        return None
    method = quantization.text(quantization.first("quant_method", "quant_algo"), default="unnamed")
    if method == "mxfp4" and experts_may_be_mxfp4:
        return Quantized(method, (("experts", method),))
    msg = f"config of {f.name}: quantization {method!r} is not modelled; have: {', '.join(allowed)}"
    raise UsageError(msg)


def _mixers(f: _Fields, *, family: str, num_layers: int) -> tuple[AttentionShape | GdnShape, ...]:
    if family not in _GATED:
        return _attention_layers(f, family=family, num_layers=num_layers)
    kinds = f.kinds("layer_types", count=num_layers, allowed=_LAYER_KINDS)
    if not kinds:
        every = f.integer("full_attention_interval", default=4)
        kinds = tuple(
            "linear_attention" if (i + 1) % every else "full_attention" for i in range(num_layers)
        )
    if "full_attention" not in kinds:
        f.reject(f.first("layer_types", "full_attention_interval"), "some full_attention")
    gdn = _gdn(f) if "linear_attention" in kinds else None
    full = _attention(f, family=family)
    return tuple(gdn if gdn and kind == "linear_attention" else full for kind in kinds)


def _state_dtype(f: _Fields) -> str:
    dtype = f.text("mamba_ssm_dtype", default=STATE_DTYPES[0])
    if dtype not in STATE_DTYPES:
        f.reject("mamba_ssm_dtype", f"one of {', '.join(STATE_DTYPES)}")
    return dtype


def _vision(f: _Fields) -> VisionTower | None:
    """The tower, as Qwen's configs write it; of another's only what SGLang itself reads."""
    if not f.config:
        return None
    said = f.integer("num_hidden_layers", default=0, low=0, high=_MAX_LAYERS)
    hidden = f.integer("hidden_size", default=0, low=0)
    depth = f.integer("depth", default=0, low=0, high=_MAX_LAYERS) if hidden else 0
    side = f.integer("patch_size", default=16) ** 2 if depth else 0
    return VisionTower(
        hidden=hidden,
        intermediate=f.integer("intermediate_size", default=4 * hidden, low=0),
        depth=depth,
        patch=side
        * f.integer("in_channels", default=3)
        * f.integer("temporal_patch_size", default=2),
        positions=f.integer("num_position_embeddings", default=0, low=0),
        merged=f.integer("spatial_merge_size", default=2) ** 2,
        out=f.integer("out_hidden_size", default=0, low=0),
        num_hidden_layers=said or None,
    )


def _gdn(f: _Fields) -> GdnShape:
    return GdnShape(
        num_k_heads=f.integer("linear_num_key_heads"),
        num_v_heads=f.integer("linear_num_value_heads"),
        head_k_dim=f.integer("linear_key_head_dim"),
        head_v_dim=f.integer("linear_value_head_dim"),
        conv_kernel=f.integer("linear_conv_kernel_dim"),
    )


def _attention_layers(f: _Fields, *, family: str, num_layers: int) -> tuple[AttentionShape, ...]:
    """Softmax attention of each layer, with the sliding ones where the config puts them."""
    kinds = f.kinds("layer_types", count=num_layers, allowed=_ATTENTION_KINDS)
    if not kinds:
        windowed = f.flag("use_sliding_window", default=False)
        num_full = f.integer("max_window_layers", default=num_layers, low=0) if windowed else None
        kinds = tuple(
            "full_attention" if num_full is None or i < num_full else "sliding_attention"
            for i in range(num_layers)
        )
    full = _attention(f, family=family)
    if "sliding_attention" not in kinds:
        return (full,) * num_layers
    sliding = _attention(f, family=family, window=f.integer("sliding_window"))
    return tuple(full if kind == "full_attention" else sliding for kind in kinds)


def _attention(f: _Fields, *, family: str, window: int | None = None) -> AttentionShape:
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
        gated=f.flag("attn_output_gate", default=family in _GATED),
        qk_norm=family in _QK_NORM,
        window=window,
        bias=f.flag("attention_bias", default=family == "gpt_oss"),
        sinks=family == "gpt_oss",
    )


def _mlps(f: _Fields, *, family: str, num_layers: int) -> tuple[DenseMlp | MoeMlp, ...]:
    if family not in _MOE:
        return (DenseMlp(f.integer("intermediate_size")),) * num_layers
    every = f.integer("decoder_sparse_step", default=1)
    dense = f.integers("mlp_only_layers", high=num_layers)
    sparse = [(i + 1) % every == 0 and i not in dense for i in range(num_layers)]
    moe = _moe(f, family=family)
    if all(sparse):
        return (moe,) * num_layers
    plain = DenseMlp(f.integer("intermediate_size"))
    return tuple(moe if s else plain for s in sparse)


def _moe(f: _Fields, *, family: str) -> MoeMlp:
    experts = f.integer("num_experts", "num_local_experts", high=2**16)
    shared = 0
    if family in _GATED:
        shared = f.integer("shared_expert_intermediate_size", default=0, low=0)
    return MoeMlp(
        num_experts=experts,
        top_k=f.integer("num_experts_per_tok", "experts_per_token", high=experts),
        intermediate=f.integer("moe_intermediate_size", "intermediate_size"),
        shared_intermediate=shared,
        bias=family == "gpt_oss",
    )


def _target_layer_ids(f: _Fields, dflash: _Fields, num_layers: int) -> tuple[int, ...]:
    holder = f if f.config.get("target_layer_ids") is not None else dflash
    ids = holder.integers("target_layer_ids", high=_MAX_LAYERS)
    if ids:
        return ids
    depth = f.integer("num_target_layers", low=4, high=_MAX_LAYERS)
    if num_layers == 1:
        return (depth // 2,)
    step = (depth - 4) / (num_layers - 1)
    return tuple(round(1 + i * step) for i in range(num_layers))
