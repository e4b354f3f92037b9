"""A whole decoder layer as a list of ops: its mixer, whatever kind it is, and its MLP."""

from collections.abc import Callable

from dflash_sim.profiles.networks.hf_config import (
    AttentionShape,
    CompressedShape,
    DenseMlp,
    GdnShape,
    KdaShape,
    LayerShape,
    Mamba2Shape,
    MlaShape,
    MoeMlp,
)
from dflash_sim.profiles.networks.layers import Ngrams, Streams
from dflash_sim.profiles.precision import BF16, Precision
from dflash_sim.simulator.cost.latent_ops import StreamMix
from dflash_sim.simulator.cost.layers import (
    Kernels,
    Rows,
    attention_mixer,
    dense_mlp,
    gdn_mixer,
    kda_mixer,
    mamba2_mixer,
    moe_mlp,
)
from dflash_sim.simulator.cost.mla_layers import compressed_mixer, mla_mixer
from dflash_sim.simulator.cost.ops import AnyCall, Call

_NORMS = ("input_norm", "post_attention_norm")
_PARTS: dict[type, Callable[..., list[AnyCall]]] = {
    AttentionShape: attention_mixer,
    MlaShape: mla_mixer,
    CompressedShape: compressed_mixer,
    GdnShape: gdn_mixer,
    KdaShape: kda_mixer,
    Mamba2Shape: mamba2_mixer,
    DenseMlp: dense_mlp,
    MoeMlp: moe_mlp,
}


def layers(
    layer: LayerShape, *, hidden: int, tp: int, size: Rows, count: int, precision: Precision = BF16
) -> list[AnyCall]:
    """``count`` identical decoder layers: their parts, further norms, and how streams are mixed."""
    precision = layer.in_formats(precision)
    calls: list[AnyCall] = []
    for part in filter(None, (layer.mixer, layer.mlp)):
        calls += _PARTS[type(part)](
            part, hidden=hidden, tp=tp, size=size, count=count, precision=precision
        )
    k = Kernels(precision, tp)
    if layer.streams is not None:
        calls += _mixed(k, layer, layer.streams, hidden, size.tokens, count)
    if layer.ngrams is not None and layer.streams is not None:
        calls += _looked_up(
            k, layer.ngrams, layer.streams.count * hidden, hidden, size.tokens, count
        )
    if layer.depth is not None:
        # One kernel attends to the sums and norms what a part reads: no norm of its own runs.
        calls = [call for call in calls if call.op.name not in _NORMS]
        read = (layer.depth + 2) * size.tokens * hidden  # with the last sum, and what is written
        calls.append(k.small("attention_residuals", float(read), layer.parts * count))
    if layer.extra_norms > 0:
        norms = layer.extra_norms * count
        calls.append(k.norm("norms_behind", size.tokens, hidden, norms))
    return calls


def _mixed(
    k: Kernels, layer: LayerShape, streams: Streams, hidden: int, tokens: int, count: int
) -> list[AnyCall]:
    """What the streams of a residual cost around the parts of ``count`` layers."""
    if not streams.rank:
        sides = ("pre", "post")
        mixes = (
            StreamMix(f"streams_{x}", x, tokens, streams.count, hidden, layer.parts) for x in sides
        )
        return [Call(mix, count) for mix in mixes]
    wide, sites = streams.count * hidden, layer.parts * count
    return [
        k.gemm("streams_down", tokens, streams.rank + streams.count, wide, of="other", count=sites),
        k.gemm("streams_up", tokens, wide, streams.rank, of="other", count=sites),
        k.small("streams_pre", float(tokens * (2 * wide + hidden)), sites),
        k.small("streams_post", float(tokens * (2 * wide + hidden)), sites),
    ]


def _looked_up(
    k: Kernels, table: Ngrams, wide: int, hidden: int, tokens: int, count: int
) -> list[AnyCall]:
    """Features of n-grams: rows of a table, two products in one, gates and a convolution."""
    return [
        k.small("ngram_lookup", 2.0 * tokens * table.width, count),
        k.gemm("ple_proj", tokens, wide + hidden, table.width, of="other", count=count),
        k.small("ple_gates_and_conv", float(tokens * wide * (table.conv_kernel + 2)), count),
    ]
