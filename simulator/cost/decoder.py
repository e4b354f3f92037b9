"""A whole decoder layer as a list of ops: its mixer, whatever kind it is, and its MLP."""

from collections.abc import Callable

from dflash_sim.profiles.networks.hf_config import (
    AttentionShape,
    DenseMlp,
    GdnShape,
    LayerShape,
    Mamba2Shape,
    MlaShape,
    MoeMlp,
)
from dflash_sim.profiles.precision import BF16, Precision
from dflash_sim.simulator.cost.layers import (
    Kernels,
    Rows,
    attention_mixer,
    dense_mlp,
    gdn_mixer,
    mamba2_mixer,
    moe_mlp,
)
from dflash_sim.simulator.cost.mla_layers import mla_mixer
from dflash_sim.simulator.cost.ops import AnyCall

_PARTS: dict[type, Callable[..., list[AnyCall]]] = {
    AttentionShape: attention_mixer,
    MlaShape: mla_mixer,
    GdnShape: gdn_mixer,
    Mamba2Shape: mamba2_mixer,
    DenseMlp: dense_mlp,
    MoeMlp: moe_mlp,
}


def layers(
    layer: LayerShape, *, hidden: int, tp: int, size: Rows, count: int, precision: Precision = BF16
) -> list[AnyCall]:
    """``count`` identical decoder layers: the parts that they have, and further norms."""
    precision = layer.in_formats(precision)
    calls: list[AnyCall] = []
    for part in filter(None, (layer.mixer, layer.mlp)):
        calls += _PARTS[type(part)](
            part, hidden=hidden, tp=tp, size=size, count=count, precision=precision
        )
    if layer.extra_norms > 0:
        norms = layer.extra_norms * count
        calls.append(Kernels(precision, tp).norm("norms_behind", size.tokens, hidden, norms))
    return calls
