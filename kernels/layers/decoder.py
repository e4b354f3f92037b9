"""Decoder layers of one rank, and the norms between their halves.

The residual stream is carried beside the value still to be added to it, as in SGLang, so that an
add and the norm after it are one kernel.
"""

from torch import Tensor

from dflash_sim.kernels.cache import Cache, Placement
from dflash_sim.kernels.layers.attention import Attention
from dflash_sim.kernels.layers.convolution import BlockConvolution
from dflash_sim.kernels.layers.gdn import GatedDeltaNet
from dflash_sim.kernels.layers.mlp import build_mlp
from dflash_sim.kernels.layers.shard import Shard
from dflash_sim.kernels.layers.spec import Numerics
from dflash_sim.profiles.networks.hf_config import (
    AttentionShape,
    Convolutions,
    GdnShape,
    LayerShape,
)


class Norm:
    """The RMSNorm ``name`` of ``shard``, over the hidden width."""

    def __init__(self, name: str, numerics: Numerics, shard: Shard, *, hidden: int) -> None:
        self.weight = shard.whole(f"{name}.weight", hidden)
        self.eps, self.zero_centred = numerics.eps, numerics.zero_centred
        self.backend = shard.rank.backend

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of ``x`` [T, H]."""
        return self.backend.rms_norm(x, self.weight, eps=self.eps, zero_centred=self.zero_centred)

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """The norm of ``x + residual``, and that sum; a stream begins without a residual."""
        if residual is None:
            return self(x), x
        return self.backend.add_rms_norm(
            x, residual, self.weight, eps=self.eps, zero_centred=self.zero_centred
        )


class DecoderLayer:
    """Norm, token mixer, norm, MLP; a sum over ranks after the mixer and after the MLP.

    Parameters
    ----------
    shape, numerics
        Of the whole layer, before it is cut.
    shard
        Holds the layer's tensors, named as in the checkpoint.
    index
        Which layer of the KV pool (attention) or of the state pools (delta net) is this one's.
    tables, causal
        As for :class:`~dflash_sim.kernels.layers.attention.Attention`.
    convolutions
        Those around mixer and MLP, in a DFlash2 drafter.
    """

    def __init__(
        self,
        shape: LayerShape,
        numerics: Numerics,
        shard: Shard,
        *,
        index: int,
        hidden: int,
        tables: tuple[Tensor, Tensor],
        causal: bool = True,
        convolutions: Convolutions | None = None,
    ) -> None:
        assert isinstance(shape.mixer, AttentionShape | GdnShape)  # a spec refuses all others
        assert shape.mlp is not None
        self.comm = shard.rank.comm
        self.mixer: Attention | GatedDeltaNet
        if isinstance(shape.mixer, AttentionShape):
            self.mixer = Attention(
                shape.mixer,
                numerics,
                shard.under("self_attn."),
                index=index,
                hidden=hidden,
                tables=tables,
                causal=causal,
            )
        else:
            below = shard.under("linear_attn.")
            self.mixer = GatedDeltaNet(shape.mixer, numerics, below, index=index, hidden=hidden)
        self.mlp = build_mlp(shape.mlp, numerics, shard.under("mlp."), hidden=hidden)
        self.before = Norm("input_layernorm", numerics, shard, hidden=hidden)
        self.between = Norm("post_attention_layernorm", numerics, shard, hidden=hidden)
        self.convolutions = convolutions and tuple(
            BlockConvolution(convolutions, shard.under(f"{name}_conv."), hidden=hidden)
            for name in ("attention", "mlp")
        )

    def __call__(
        self, x: Tensor, residual: Tensor | None, at: Placement, cache: Cache
    ) -> tuple[Tensor, Tensor]:
        """``(x, residual)`` after the layer, each [T, H]; their sum is its output."""
        if self.convolutions:
            return self.convolved(self.convolutions, x, residual, at, cache)
        h, residual = self.before.add(x, residual)
        h, residual = self.between.add(self.comm.all_reduce(self.mix(h, at, cache)), residual)
        return self.comm.all_reduce(self.mlp(h)), residual

    def convolved(
        self,
        convolutions: tuple[BlockConvolution, ...],
        x: Tensor,
        residual: Tensor | None,
        at: Placement,
        cache: Cache,
    ) -> tuple[Tensor, Tensor]:
        """The layer with a convolution around its mixer and one around its MLP."""
        around_mixer, around_mlp = convolutions
        h, residual = self.before.add(x, residual)
        h, after = around_mixer.enter(h, at.rows)
        mixed = around_mixer.leave(self.comm.all_reduce(self.mix(h, at, cache)), after, at.rows)
        h, residual = self.between.add(mixed, residual)
        h, after = around_mlp.enter(h, at.rows)
        return around_mlp.leave(self.comm.all_reduce(self.mlp(h)), after, at.rows), residual

    def mix(self, h: Tensor, at: Placement, cache: Cache) -> Tensor:
        """The token mixer's share of this rank."""
        if isinstance(self.mixer, Attention):
            return self.mixer(h, at, cache.kv)
        if cache.gdn is None:
            msg = "a delta-net layer was given a cache without states"
            raise ValueError(msg)
        return self.mixer(h, at, cache.gdn)
