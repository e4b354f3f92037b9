"""The DFlash drafter of one rank: it reads the target's features as KV and fills a block at once.

Chen et al., "DFlash", arXiv:2602.06036. Embedding and head are the target's. DFlash2, DSpark and
Domino drafters are the same network with parts more.
"""

import torch
from torch import Tensor

from dflash_sim.kernels.cache import Cache, Placement
from dflash_sim.kernels.layers.attention import Attention
from dflash_sim.kernels.layers.checkpoint import Source
from dflash_sim.kernels.layers.decoder import DecoderLayer, Norm
from dflash_sim.kernels.layers.shard import Shard
from dflash_sim.kernels.layers.spec import DrafterSpec
from dflash_sim.kernels.models.block_heads import MarkovHead, PathSelector, RecurrentHead
from dflash_sim.kernels.models.target import attention_tables
from dflash_sim.kernels.rank import ALONE, Rank
from dflash_sim.kernels.reference.draft import project_features
from dflash_sim.profiles.networks.hf_config import DenseMlp, LayerShape, check_tp

PREFIXES = ("", "model.")


class Drafter:
    """A whole drafter, as its config describes it.

    Full-attention layers see the whole block and the whole context. Sliding layers are causal, as
    SGLang runs them, unless the config says ``is_causal: false``.

    Attributes
    ----------
    head
        What chooses the tokens of a DFlash2, a DSpark or a Domino drafter; None in DFlash's.

    Parameters
    ----------
    source
        Its tensors: ``fc``, ``hidden_norm``, ``layers.*``, ``norm``.
    tokens
        Longest text it will see; the rotary tables have so many rows.
    """

    def __init__(
        self,
        spec: DrafterSpec,
        source: Source,
        rank: Rank = ALONE,
        *,
        tokens: int,
    ) -> None:
        self.spec, self.backend = spec, rank.backend
        shape, hidden = spec.shape, spec.shape.hidden
        check_tp(shape, rank.tp)
        shard = Shard(source, rank, PREFIXES, anchor="fc.weight")
        self.tables = attention_tables(shape.layers[0], spec.numerics, tokens=tokens, rank=rank)
        self.layers = [
            DecoderLayer(
                LayerShape(attention, DenseMlp(shape.intermediate)),
                spec.numerics,
                shard.under(f"layers.{i}."),
                index=i,
                hidden=hidden,
                tables=self.tables,
                causal=attention.causal,
                convolutions=shape.convolutions,
            )
            for i, attention in enumerate(shape.layers)
        ]
        self.fc = shard.whole("fc.weight", hidden, len(shape.target_layer_ids) * hidden)
        self.hidden_norm = shard.whole("hidden_norm.weight", hidden)
        self.norm = Norm("norm", spec.numerics, shard, hidden=hidden)
        self.kv_weight, self.k_norm = self._stack_kv()
        self.head = self._head(shard)
        shard.check()

    def _head(self, shard: Shard) -> PathSelector | MarkovHead | RecurrentHead | None:
        """What chooses the tokens of a block, if its config has such a part."""
        shape = self.spec.shape
        hidden, vocab = shape.hidden, shape.vocab
        if shape.selector is not None:
            own = shard.under("candidate_selector.")
            return PathSelector(shape.selector, own, hidden=hidden, vocab=vocab)
        if shape.markov is not None:
            return MarkovHead(shape.markov, shard.under("markov_head."), vocab=vocab)
        if shape.recurrent is not None:
            return RecurrentHead(shape.recurrent, shard, hidden=hidden, vocab=vocab)
        return None

    def _stack_kv(self) -> tuple[Tensor, Tensor]:
        """K and V rows of all layers [L, 2 Hkv D, H], which stay the layers' own memory."""
        mixers = [layer.mixer for layer in self.layers if isinstance(layer.mixer, Attention)]
        stacked = torch.stack([mixer.qkv for mixer in mixers])
        for mixer, qkv in zip(mixers, stacked, strict=True):
            mixer.qkv = qkv
        rows = 2 * mixers[0].kv_heads * mixers[0].shape.head_dim
        return stacked[:, -rows:], torch.stack([mixer.k_norm for mixer in mixers])

    @torch.no_grad()
    def materialise(self, features: Tensor, positions: Tensor, slots: Tensor, cache: Cache) -> None:
        """Turn target features [T, K H] into this network's KV at ``slots`` [T] int64.

        ``positions`` [T] int64 are the tokens' places in the text; negative slots are skipped.
        """
        eps = self.spec.numerics.eps
        context = project_features(features, self.fc, self.hidden_norm, eps=eps)
        self.backend.materialise(
            context,
            self.kv_weight,
            self.k_norm,
            *self.tables,
            positions,
            cache.kv.k,
            cache.kv.v,
            slots,
            eps=eps,
        )

    @torch.no_grad()
    def __call__(self, x: Tensor, at: Placement, cache: Cache) -> Tensor:
        """Hidden states [T, H] after the final norm, for embeddings ``x`` [T, H] of blocks.

        Row 0 of a block is its anchor; rows 1.. predict the tokens at their own places.
        """
        residual: Tensor | None = None
        for layer in self.layers:
            x, residual = layer(x, residual, at, cache)
        return self.norm.add(x, residual)[0]
