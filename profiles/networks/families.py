"""The families of networks that are known, by ``model_type``: how the layers of each are read.

A new family is a row here, with readers of its own only where no other's fit.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.networks import mixed_windows as windows
from dflash_sim.profiles.networks import nemotron
from dflash_sim.profiles.networks import sparse_families as sparse
from dflash_sim.profiles.networks.fields import MAX_LAYERS, Fields
from dflash_sim.profiles.networks.layers import LayerShape, Mixer, Mlp
from dflash_sim.profiles.networks.read_mixers import (
    glm_layers,
    hybrid_layers,
    latent_layers,
    softmax_layers,
    sparse_layers,
)
from dflash_sim.profiles.networks.read_mlps import (
    dense_layers,
    expert_layers,
    routed_layers,
    shared_expert_layers,
)

# Keys of layers that only the families have whose rows name them.
_EXPERTS = ("num_local_experts", "num_experts")
_LATENT = ("kv_lora_rank", "n_routed_experts")
_SHARED_EXPERTS = ("n_routed_experts",)
_DRAFTERS = re.compile(r"Draft|CausalLMEagle|Eagle3|Medusa")
_OF_DRAFTERS = ("dflash_config", "draft_vocab_size")
_FOREIGN = (*_EXPERTS, *_SHARED_EXPERTS, "kv_lora_rank", "attention_chunk_size", "index_topk")


def _stated(f: Fields) -> int:
    return f.integer("num_hidden_layers", high=MAX_LAYERS)


def _as_it_is(layer: LayerShape) -> LayerShape:
    return layer


def _as_they_are(f: Fields, layers: tuple[LayerShape, ...]) -> tuple[LayerShape, ...]:
    del f
    return layers


def _nothing(f: Fields, hidden: int) -> int:
    del f, hidden
    return 0


def _norms_behind(layer: LayerShape) -> LayerShape:
    """Return the layer with a norm behind each part too."""
    return replace(layer, norms=2 * layer.parts)


@dataclass(frozen=True, slots=True)
class Family:
    """How the layers of one ``model_type`` are read.

    Parameters
    ----------
    mixers, mlps
        Read one of each per layer, given the config and the number of layers; None where a layer
        has none.
    keys
        Keys that make a config one of this family, and that few others have.
    defaults
        What the family's configuration class assumes where a config is silent.
    mtp_layers, mtp
        Native multi-token-prediction layers where the config does not say how many, and what one
        is where it is unlike the target's.
    count
        The number of layers.
    finish
        Adds what is beside mixer and MLP, such as further norms.
    stack
        Adds what depends on the place of a layer among the others.
    ending
        Values between the last layer and the final norm, for a width of the residual stream.
    caution
        What every answer about its models must say.
    tower
        True if the vision tower is known, so that text alone is priced whole.
    """

    mixers: Callable[[Fields, int], tuple[Mixer | None, ...]]
    mlps: Callable[[Fields, int], tuple[Mlp | None, ...]]
    keys: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    mtp_layers: int = 0
    mtp: Callable[[Fields], LayerShape] | None = None
    count: Callable[[Fields], int] = _stated
    finish: Callable[[LayerShape], LayerShape] = _as_it_is
    stack: Callable[[Fields, tuple[LayerShape, ...]], tuple[LayerShape, ...]] = _as_they_are
    ending: Callable[[Fields, int], int] = _nothing
    tower: bool = False
    caution: str = ""


_normed = partial(softmax_layers, qk_norm=True)
_qkv_biased = partial(softmax_layers, qkv_bias=True)
_gated_shared = partial(expert_layers, shared=True)
_TIED = {"tie_word_embeddings": True}
_GEMMA3 = {
    **_TIED, "vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4,
    "head_dim": 256, "max_position_embeddings": 131072, "sliding_window": 4096,
}  # fmt: skip

FAMILIES: Mapping[str, Family] = {
    "llama": Family(softmax_layers, dense_layers),
    "mistral": Family(softmax_layers, dense_layers, defaults={"vocab_size": 32000}),
    "ministral3": Family(softmax_layers, dense_layers),
    "mixtral": Family(softmax_layers, expert_layers, keys=_EXPERTS),
    "llama4": Family(
        windows.chunked_layers,
        windows.interleaved_experts,
        keys=("num_local_experts", "attention_chunk_size"),
    ),
    "qwen2": Family(_qkv_biased, dense_layers),
    "qwen2_moe": Family(_qkv_biased, _gated_shared, keys=_EXPERTS),
    "qwen3": Family(_normed, dense_layers),
    "qwen3_moe": Family(_normed, expert_layers, keys=_EXPERTS),
    # The config of Qwen3-Next does not state its MTP layer; the weights have one.
    "qwen3_next": Family(hybrid_layers, _gated_shared, keys=_EXPERTS, mtp_layers=1),
    "qwen3_5": Family(hybrid_layers, dense_layers, tower=True),
    "qwen3_5_moe": Family(hybrid_layers, _gated_shared, keys=_EXPERTS, tower=True),
    "qwen4_exp": Family(
        sparse.qwen4_layers,
        _gated_shared,
        keys=_EXPERTS,
        stack=sparse.qwen4_stack,
        ending=sparse.qwen4_ending,
        tower=True,
        caution="its table of n-grams is taken to be in host memory, as with "
        "--ple-offload-embedding, and takes none of the GPU's",
    ),
    "gpt_oss": Family(
        partial(softmax_layers, bias=True, sinks=True),
        partial(expert_layers, bias=True),
        keys=_EXPERTS,
    ),
    "gemma3": Family(
        partial(_normed, pattern=6), dense_layers, defaults=_GEMMA3, finish=_norms_behind
    ),
    "gemma4": Family(
        windows.gemma4_layers,
        windows.gemma4_mlps,
        keys=_EXPERTS,
        defaults=_TIED,
        finish=windows.gemma4_norms,
    ),
    "minimax_m2": Family(partial(softmax_layers, whole_norm=True), routed_layers, keys=_EXPERTS),
    "minimax_m3": Family(sparse.m3_layers, sparse.m3_mlps, keys=(*_EXPERTS, *_SHARED_EXPERTS)),
    "deepseek_v4": Family(
        sparse.v4_layers,
        sparse.v4_mlps,
        keys=(*_EXPERTS, *_SHARED_EXPERTS, "index_topk"),
        mtp=sparse.v4_mtp,
        stack=sparse.streamed,
        ending=sparse.v4_ending,
    ),
    "glm5_next": Family(
        sparse.glm_next_layers,
        shared_expert_layers,
        keys=(*_LATENT, *_EXPERTS, "index_topk"),
        stack=sparse.streamed,
    ),
    "kimi_linear": Family(
        sparse.kimi_layers,
        sparse.kimi_mlps,
        keys=(*_EXPERTS, "kv_lora_rank"),
        stack=sparse.kimi_residuals,
        ending=sparse.kimi_ending,
    ),
    "glm4": Family(_qkv_biased, dense_layers, finish=_norms_behind),
    "glm4_moe": Family(glm_layers, shared_expert_layers, keys=_SHARED_EXPERTS),
    "granite": Family(softmax_layers, dense_layers),
    "granitemoe": Family(softmax_layers, expert_layers, keys=_EXPERTS),
    "granitemoehybrid": Family(nemotron.mamba_or_attention, nemotron.granite_mlps, keys=_EXPERTS),
    "phi3": Family(softmax_layers, dense_layers),
    "mimo": Family(_qkv_biased, dense_layers),
    "mimo_v2_flash": Family(
        windows.mimo_layers,
        shared_expert_layers,
        keys=(*_SHARED_EXPERTS, "attention_chunk_size"),
        mtp_layers=3,
        mtp=windows.mimo_mtp,
    ),
    "step3p5": Family(
        windows.step_layers,
        windows.step_mlps,
        keys=_EXPERTS,
        mtp=windows.step_mtp,
    ),
    "laguna": Family(windows.laguna_layers, windows.laguna_mlps, keys=_EXPERTS),
    "nemotron_h": Family(
        nemotron.part_mixers, nemotron.part_mlps, keys=_SHARED_EXPERTS, count=nemotron.num_parts
    ),
    "nemotron-nas": Family(nemotron.searched_mixers, nemotron.searched_mlps),
    **dict.fromkeys(
        ("deepseek_v3", "kimi_k2", "glm4_moe_lite"),
        Family(latent_layers, shared_expert_layers, keys=(*_LATENT, *_EXPERTS)),
    ),
    "deepseek_v2": Family(latent_layers, shared_expert_layers, keys=_LATENT),
    **dict.fromkeys(
        ("deepseek_v32", "glm_moe_dsa"),
        Family(sparse_layers, shared_expert_layers, keys=(*_LATENT, *_EXPERTS, "index_topk")),
    ),
}
# Families whose text layers are another's.
SAME_TEXT = {
    "deepseek_ref": "deepseek_v4",
    "kimi_k3": "kimi_linear",
    "mimo_v2": "mimo_v2_flash",
    "minimax_m3_vl": "minimax_m3",
    "qwen2_5_vl": "qwen2",
    "qwen2_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "glm4v": "glm4",
    "glm4v_moe": "glm4_moe",
    "step3p7": "step3p5",
}
# Families that are known by name, and what of theirs is not modelled yet.
NOT_MODELLED = {
    "deepseek_v41": "sizes of layers that could not be read anywhere",
    "longcat_flash": "two attentions a layer, and experts that compute nothing",
    "mllama": "cross attention to images",
}


def family_of(f: Fields) -> tuple[str, Family]:
    """Return the name and the row of the family that a config says it is of.

    Raises
    ------
    UsageError
        The family is not known, or a key belongs to another one's layers, which would be priced
        as this one's.
    """
    _refuse_drafter(f)
    name = f.text("model_type", default="").removesuffix("_text")
    name = SAME_TEXT.get(name, name)
    if name in NOT_MODELLED:
        msg = (
            f"config of {f.name}: model_type '{name}' is known but not modelled yet: it has "
            f"{NOT_MODELLED[name]}. Ask about another model: dflash-sim list models."
        )
        raise UsageError(msg)
    if name not in FAMILIES:
        kind = f"model_type of {f.name}"
        raise unknown(kind, name, FAMILIES)
    family = FAMILIES[name]
    for key in _FOREIGN:
        value = f.config.get(key)
        if key not in family.keys and isinstance(value, int) and value > 1:
            msg = (
                f"config of {f.name}: field '{key}' is {value}, which no {name} model has; it "
                f"is of another family. Have: {', '.join(sorted(FAMILIES))}."
            )
            raise UsageError(msg)
    return name, family


def _refuse_drafter(f: Fields) -> None:
    """Refuse the config of a drafter: its few layers would be priced as a small target."""
    named = f.config.get("architectures")
    found = str(named[0]) if isinstance(named, list) and named else ""
    key = next((key for key in _OF_DRAFTERS if key in f.config), "")
    if key or _DRAFTERS.search(found):
        why = f"field '{key}'" if key else f"field 'architectures' is {found!r}"
        msg = (
            f"config of {f.name}: {why}: it is a drafter's, not a target's. Give it with "
            "--draft-model, and with --model the model that it drafts for."
        )
        raise UsageError(msg)
