"""The gated delta net of one rank, as Qwen3-Next and Qwen3.5 have it."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from dflash_sim.kernels.cache import GdnStates, Placement
from dflash_sim.kernels.layers.shard import Shard
from dflash_sim.kernels.layers.spec import Numerics
from dflash_sim.kernels.reference.norm_rope import wide
from dflash_sim.profiles.networks.hf_config import GdnShape


class GatedDeltaNet:
    """Projections, short convolution, delta rule, gated norm, output projection.

    Parameters
    ----------
    shape, numerics
        Of the whole layer, before it is cut.
    shard
        Holds ``in_proj_qkv``, ``in_proj_z``, ``in_proj_b``, ``in_proj_a`` (Qwen3.5), or
        ``in_proj_qkvz``, ``in_proj_ba`` (Qwen3-Next); and ``conv1d``, ``A_log``, ``dt_bias``,
        ``norm``, ``out_proj``.
    index
        Which layer of the state pools is this one's.
    """

    def __init__(
        self,
        shape: GdnShape,
        numerics: Numerics,
        shard: Shard,
        *,
        index: int,
        hidden: int,
    ) -> None:
        self.shape, self.eps, self.index = shape, numerics.eps, index
        self.backend, tp = shard.rank.backend, shard.rank.tp
        self.key_dim, self.value_dim = shape.key_dim // tp, shape.value_dim // tp
        heads, exact = shape.num_v_heads, wide(shard.rank.dtype)
        grouped = shard.has("in_proj_qkvz.weight") and not shard.has("in_proj_qkv.weight")
        read = _grouped_projections if grouped else _plain_projections
        self.in_qkvz, self.in_ba = read(shape, shard, hidden)
        conv = (shape.conv_dim, 1, shape.conv_kernel)
        self.conv = shard.ranges("conv1d.weight", conv, 0, _qkv_ranges(shape, shard))[:, 0]
        self.a_log = shard.split("A_log", heads, dtype=exact)
        self.dt_bias = shard.split("dt_bias", heads, dtype=exact)
        self.norm = shard.whole("norm.weight", shape.head_v_dim)
        self.out = shard.split("out_proj.weight", hidden, shape.value_dim, dim=1)

    def __call__(self, x: Tensor, at: Placement, states: GdnStates) -> Tensor:
        """This rank's share of the output [T, H], to be summed over ranks; ``x`` is [T, H]."""
        merged = linear(x, self.in_qkvz)
        mixed, z = torch.split(merged, [merged.shape[1] - self.value_dim, self.value_dim], 1)
        b, a = linear(x, self.in_ba).chunk(2, dim=1)
        gates = self.backend.gdn_gates(a, b, self.a_log, self.dt_bias)
        parts = zip(at.parts, at.split(mixed), *map(at.split, gates), strict=True)
        out = torch.cat([self.mix(rows, g, beta, part, states) for part, rows, g, beta in parts])
        rows = (x.shape[0], -1, self.shape.head_v_dim)
        normed = self.backend.gated_rms_norm(out, z.reshape(rows), self.norm, eps=self.eps)
        return linear(normed.flatten(1), self.out)

    def mix(
        self, mixed: Tensor, g: Tensor, beta: Tensor, at: Placement, states: GdnStates
    ) -> Tensor:
        """Convolution and delta rule of the requests of one part, [R B, Hv, Dv]."""
        block = (at.requests, at.rows)
        qkv = self.convolve(mixed.reshape(*block, -1), at, states)
        q, k, v = torch.split(qkv, [self.key_dim, self.key_dim, self.value_dim], -1)
        keys, values = (*block, -1, self.shape.head_k_dim), (*block, -1, self.shape.head_v_dim)
        out = self.recur(
            (q.reshape(keys), k.reshape(keys), v.reshape(values)),
            (g.view(*block, -1), beta.view(*block, -1)),
            at,
            states,
        )
        return out.reshape(len(mixed), -1, self.shape.head_v_dim)

    def convolve(self, mixed: Tensor, at: Placement, states: GdnStates) -> Tensor:
        """Queries, keys and values [R, B, C] after the convolution."""
        live = states.conv[self.index]
        if at.keep_states:
            kept = states.conv_scratch[self.index]
            return self.backend.conv_verify(mixed, self.conv, live, at.state_slots, kept)
        return self.backend.conv_extend(mixed, self.conv, live, at.state_slots)

    def recur(
        self,
        qkv: tuple[Tensor, Tensor, Tensor],
        gates: tuple[Tensor, Tensor],
        at: Placement,
        states: GdnStates,
    ) -> Tensor:
        """The delta rule's output [R, B, Hv, Dv]."""
        live = states.ssm[self.index]
        if at.keep_states:
            kept = states.ssm_scratch[self.index]
            return self.backend.gdn_verify_slots(*qkv, *gates, live, at.state_slots, kept)
        return self.backend.gdn_extend(*qkv, *gates, live, at.state_slots)


def _qkv_ranges(shape: GdnShape, shard: Shard) -> list[tuple[int, int]]:
    """This rank's query, key and value channels of those of the whole layer."""
    return [
        shard.part(shape.key_dim),
        shard.part(shape.key_dim, start=shape.key_dim),
        shard.part(shape.value_dim, start=2 * shape.key_dim),
    ]


def _plain_projections(shape: GdnShape, shard: Shard, hidden: int) -> tuple[Tensor, Tensor]:
    """Qwen3.5: queries, keys and values of all heads one after the other; z, b, a apart."""
    qkv = shard.ranges("in_proj_qkv.weight", (shape.conv_dim, hidden), 0, _qkv_ranges(shape, shard))
    z = shard.split("in_proj_z.weight", shape.value_dim, hidden)
    b = shard.split("in_proj_b.weight", shape.num_v_heads, hidden)
    a = shard.split("in_proj_a.weight", shape.num_v_heads, hidden)
    return torch.cat([qkv, z]), torch.cat([b, a])


def _grouped_projections(shape: GdnShape, shard: Shard, hidden: int) -> tuple[Tensor, Tensor]:
    """Qwen3-Next: for each key head its query, key, values and z, and its b and a."""
    width = shape.conv_dim + shape.value_dim
    qkvz = shard.split("in_proj_qkvz.weight", width, hidden)
    ba = shard.split("in_proj_ba.weight", 2 * shape.num_v_heads, hidden)
    heads = shape.num_k_heads // shard.rank.tp
    values = shape.value_dim // shape.num_k_heads
    sizes = [shape.head_k_dim, shape.head_k_dim, values, values]
    parts = torch.split(qkvz.view(heads, -1, hidden), sizes, 1)
    strengths = ba.view(heads, 2, -1, hidden)
    return (
        torch.cat([part.reshape(-1, hidden) for part in parts]),
        torch.cat([strengths[:, 0].reshape(-1, hidden), strengths[:, 1].reshape(-1, hidden)]),
    )
