"""A whole decoder layer as a list of ops: its mixer, whatever kind it is, and its MLP."""

from dflash_sim.profiles.networks.hf_config import GdnShape, LayerShape, MlaShape, MoeMlp
from dflash_sim.profiles.precision import BF16, Precision
from dflash_sim.simulator.cost.layers import (
    Rows,
    attention_mixer,
    dense_mlp,
    gdn_mixer,
    moe_mlp,
)
from dflash_sim.simulator.cost.mla_layers import mla_mixer
from dflash_sim.simulator.cost.ops import AnyCall


def layers(
    layer: LayerShape, *, hidden: int, tp: int, size: Rows, count: int, precision: Precision = BF16
) -> list[AnyCall]:
    """``count`` identical decoder layers."""
    precision = layer.in_formats(precision)
    if isinstance(layer.mixer, GdnShape):
        mixer = gdn_mixer(
            layer.mixer, hidden=hidden, tp=tp, size=size, count=count, precision=precision
        )
    elif isinstance(layer.mixer, MlaShape):
        mixer = mla_mixer(
            layer.mixer, hidden=hidden, tp=tp, size=size, count=count, precision=precision
        )
    else:
        mixer = attention_mixer(
            layer.mixer, hidden=hidden, tp=tp, size=size, count=count, precision=precision
        )
    if isinstance(layer.mlp, MoeMlp):
        mlp = moe_mlp(layer.mlp, hidden=hidden, tp=tp, size=size, count=count, precision=precision)
    else:
        inter = layer.mlp.intermediate
        mlp = dense_mlp(inter, hidden=hidden, tp=tp, size=size, count=count, precision=precision)
    return mixer + mlp
