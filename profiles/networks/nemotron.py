"""Nemotron: layers of one part each, Mamba-2 among them, and layers that a search has trimmed."""

from dataclasses import replace
from math import ceil

from dflash_sim.profiles.networks.fields import MAX_LAYERS, Fields
from dflash_sim.profiles.networks.layers import (
    AttentionShape,
    DenseMlp,
    Mamba2Shape,
    Mixer,
    Mlp,
    MoeMlp,
)
from dflash_sim.profiles.networks.read_mixers import attention
from dflash_sim.profiles.networks.read_mlps import moe

_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_MLP_STEP = 256  # widths of a searched MLP are rounded up to a multiple of it


def num_parts(f: Fields) -> int:
    """Return the number of layers, each of one part: as stated, or as they are listed."""
    return len(_kinds(f))


def _kinds(f: Fields) -> tuple[str, ...]:
    """What each layer is, by ``layers_block_type`` or the letters of the older pattern."""
    count = f.config.get("num_hidden_layers")
    letters = f.text("hybrid_override_pattern", default="")
    if letters:
        key, kinds = "hybrid_override_pattern", tuple(_LETTERS.get(x, x) for x in letters)
    else:
        key, listed = "layers_block_type", f.config.get("layers_block_type")
        kinds = tuple(map(str, listed)) if isinstance(listed, list) else ()
    if not 0 < len(kinds) <= MAX_LAYERS or len(kinds) != (count or len(kinds)):
        f.reject(key, f"one word for each of {count or 'its'} layers")
    if not set(kinds) <= set(_LETTERS.values()):
        f.reject(key, f"{', '.join(_LETTERS.values())} alone")
    return kinds


def part_mixers(f: Fields, num_layers: int) -> tuple[Mixer | None, ...]:
    """Return the mixer of each layer that is one."""
    kinds = _kinds(f)[:num_layers]
    made: dict[str, Mixer | None] = {"attention": attention(f), "mlp": None, "moe": None}
    if "mamba" in kinds:
        made["mamba"] = _mamba(f)
    return tuple(made[kind] for kind in kinds)


def part_mlps(f: Fields, num_layers: int) -> tuple[Mlp | None, ...]:
    """Return the MLP of each layer that is one; it has no gate, and squares a ReLU."""
    kinds = _kinds(f)[:num_layers]
    made: dict[str, Mlp | None] = {"mamba": None, "attention": None}
    if "mlp" in kinds:
        made["mlp"] = DenseMlp(f.integer("intermediate_size"), gate=False)
    if "moe" in kinds:
        made["moe"] = _experts(f)
    return tuple(made[kind] for kind in kinds)


def _experts(f: Fields) -> MoeMlp:
    width = f.integer("moe_shared_expert_intermediate_size", default=0, low=0)
    count = f.integer("n_shared_experts", default=0, low=0)
    experts = moe(f, shared=count * width, shared_gate=False, correction_bias=True)
    return replace(experts, gate=False, latent=f.integer("moe_latent_size", default=0, low=0))


def _mamba(f: Fields) -> Mamba2Shape:
    return Mamba2Shape(
        num_heads=f.integer("mamba_num_heads", "mamba_n_heads"),
        head_dim=f.integer("mamba_head_dim", "mamba_d_head"),
        groups=f.integer("n_groups", "mamba_n_groups", default=1),
        state=f.integer("ssm_state_size", "mamba_d_state"),
        conv_kernel=f.integer("conv_kernel", "mamba_d_conv", default=4),
        conv_bias=f.flag(f.first("use_conv_bias", "mamba_conv_bias"), default=True),
    )


def mamba_or_attention(f: Fields, num_layers: int) -> tuple[Mixer, ...]:
    """Return the mixers of Granite 4: most layers are Mamba-2, each with an MLP behind it."""
    kinds = f.kinds("layer_types", count=num_layers, allowed=("mamba", "attention"))
    if "attention" not in kinds:
        f.reject("layer_types", "some attention")
    softmax = attention(f)
    state_space = _mamba(f) if "mamba" in kinds else softmax
    return tuple(state_space if kind == "mamba" else softmax for kind in kinds)


def granite_mlps(f: Fields, num_layers: int) -> tuple[Mlp, ...]:
    """Return Granite's MLPs: experts beside a shared one, or that one alone."""
    width = f.integer("shared_intermediate_size", default=0, low=0)
    if not f.integer("num_local_experts", default=0, low=0):
        return (DenseMlp(width or f.integer("intermediate_size")),) * num_layers
    return (moe(f, shared=width, shared_gate=False),) * num_layers


def searched_mixers(f: Fields, num_layers: int) -> tuple[Mixer | None, ...]:
    """Return the attention that a search has left in each layer (``block_configs``)."""
    return tuple(_searched(f, block.nested("attention")) for block in _blocks(f, num_layers))


def searched_mlps(f: Fields, num_layers: int) -> tuple[Mlp | None, ...]:
    """Return the MLP that a search has left in each layer (``block_configs``)."""
    return tuple(_trimmed(f, block.nested("ffn")) for block in _blocks(f, num_layers))


def _blocks(f: Fields, num_layers: int) -> list[Fields]:
    blocks = f.config.get("block_configs")
    if not isinstance(blocks, list) or len(blocks) != num_layers:
        f.reject("block_configs", f"a list of {num_layers} objects")
    return [Fields(block, f.name) for block in blocks]


def _left_out(part: Fields) -> bool:
    """True if a part is absent; what a search has put in its place is refused."""
    if part.flag("replace_with_linear", default=False):
        part.reject("replace_with_linear", "false")
    return part.flag("no_op", default=False)


def _searched(f: Fields, part: Fields) -> AttentionShape | None:
    if _left_out(part):
        return None
    heads = f.integer("num_attention_heads")
    group = part.integer("n_heads_in_group", high=heads)
    if heads % group:
        part.reject("n_heads_in_group", f"a divisor of num_attention_heads={heads}")
    return attention(Fields({**f.config, "num_key_value_heads": heads // group}, f.name))


def _trimmed(f: Fields, part: Fields) -> DenseMlp | None:
    if _left_out(part):
        return None
    share = part.config.get("ffn_mult")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= MAX_LAYERS:
        part.reject("ffn_mult", "a number above 0")
    width = int(2 * share * f.integer("hidden_size") / 3)
    return DenseMlp(ceil(width / _MLP_STEP) * _MLP_STEP)
