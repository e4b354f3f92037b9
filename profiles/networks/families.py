"""The families of networks that are known, by ``model_type``: how the layers of each are read.

A new family is a row here, with readers of its own only where no other's fit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.networks.fields import Fields
from dflash_sim.profiles.networks.layers import Mixer, Mlp
from dflash_sim.profiles.networks.read_latent import deepseek_layers, latent_layers, sparse_layers
from dflash_sim.profiles.networks.read_mixers import hybrid_layers, softmax_layers
from dflash_sim.profiles.networks.read_mlps import dense_layers, expert_layers

# Keys of layers that only the families have whose rows name them.
_FOREIGN = ("kv_lora_rank", "attention_chunk_size", "n_routed_experts", "index_topk")
_EXPERTS = ("num_local_experts", "num_experts")
_LATENT = ("kv_lora_rank", "n_routed_experts")


@dataclass(frozen=True, slots=True)
class Family:
    """How the layers of one ``model_type`` are read.

    Parameters
    ----------
    mixers, mlps
        Read one of each per layer, given the config and the number of layers.
    mtp_layers
        Native multi-token-prediction layers where the config does not say.
    keys
        Keys that make a config one of this family, and that no other has.
    """

    mixers: Callable[[Fields, int], tuple[Mixer, ...]]
    mlps: Callable[[Fields, int], tuple[Mlp, ...]]
    mtp_layers: int = 0
    keys: tuple[str, ...] = ()


_normed = partial(softmax_layers, qk_norm=True)

FAMILIES: Mapping[str, Family] = {
    "llama": Family(softmax_layers, dense_layers),
    "qwen3": Family(_normed, dense_layers),
    "qwen3_moe": Family(_normed, expert_layers, keys=_EXPERTS),
    # The config of Qwen3-Next does not state its MTP layer; the weights have one.
    "qwen3_next": Family(
        hybrid_layers, partial(expert_layers, shared=True), mtp_layers=1, keys=_EXPERTS
    ),
    "qwen3_5": Family(hybrid_layers, dense_layers),
    "qwen3_5_moe": Family(hybrid_layers, partial(expert_layers, shared=True), keys=_EXPERTS),
    "gpt_oss": Family(
        partial(softmax_layers, bias=True, sinks=True),
        partial(expert_layers, bias=True),
        keys=_EXPERTS,
    ),
    **dict.fromkeys(
        ("deepseek_v3", "kimi_k2", "glm4_moe_lite"),
        Family(latent_layers, deepseek_layers, keys=(*_LATENT, *_EXPERTS)),
    ),
    "deepseek_v2": Family(latent_layers, partial(deepseek_layers, corrected=False), keys=_LATENT),
    **dict.fromkeys(
        ("deepseek_v32", "glm_moe_dsa"),
        Family(sparse_layers, deepseek_layers, keys=(*_LATENT, *_EXPERTS, "index_topk")),
    ),
}
# Families whose text layers are another's; what they add is for images.
SAME_TEXT = {"qwen3_vl": "qwen3", "qwen3_vl_moe": "qwen3_moe"}


def family_of(f: Fields) -> tuple[str, Family]:
    """Return the name and the row of the family that a config says it is of.

    Raises
    ------
    UsageError
        The family is not known, or a key belongs to another one's layers, which would be priced
        as this one's.
    """
    name = f.text("model_type", default="").removesuffix("_text")
    name = SAME_TEXT.get(name, name)
    if name not in FAMILIES:
        kind = f"model_type of {f.name}"
        raise unknown(kind, name, FAMILIES)
    family = FAMILIES[name]
    for key in (*_FOREIGN, *_EXPERTS):
        value = f.config.get(key)
        if key not in family.keys and isinstance(value, int) and value > 1:
            msg = (
                f"config of {f.name}: field '{key}' is {value}, which no {name} model has; it "
                f"is of another family. Have: {', '.join(sorted(FAMILIES))}."
            )
            raise UsageError(msg)
    return name, family
