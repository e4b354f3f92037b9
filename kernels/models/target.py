"""A target model of one rank: embedding, decoder layers, final norm, head."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from dflash_sim.kernels.cache import Cache, Placement
from dflash_sim.kernels.layers.checkpoint import Source
from dflash_sim.kernels.layers.decoder import DecoderLayer, Norm
from dflash_sim.kernels.layers.shard import Shard
from dflash_sim.kernels.layers.spec import Numerics, TargetSpec
from dflash_sim.kernels.rank import ALONE, Rank
from dflash_sim.kernels.reference.draft import pick_argmax
from dflash_sim.kernels.reference.norm_rope import rotary_table, wide
from dflash_sim.kernels.reference.paths import best_tokens
from dflash_sim.profiles.networks.hf_config import AttentionShape, check_tp

# Where the language model's tensors are in a checkpoint: text only, or beside a vision tower.
PREFIXES = ("model.", "model.language_model.", "language_model.model.")


@dataclass(frozen=True)
class Hidden:
    """The hidden states that a pass of the target leaves behind.

    Attributes
    ----------
    final : [T, H], after the last norm: the input of the head and of an MTP layer
    features : [T, K H], outputs of the captured layers side by side, or None
    """

    final: Tensor
    features: Tensor | None


def attention_tables(
    shape: AttentionShape, numerics: Numerics, *, tokens: int, rank: Rank
) -> tuple[Tensor, Tensor]:
    """Rotary tables of ``tokens`` positions for one network's attention layers."""
    rotated, dtype = numerics.rotary_dim(shape.head_dim), wide(rank.dtype)
    return rotary_table(tokens, rotated, theta=numerics.theta, dtype=dtype, device=rank.device)


class Vocabulary:
    """Embedding and head, each rank holding an equal range of token ids."""

    def __init__(self, table: Tensor, head: Tensor, rank: Rank) -> None:
        self.table, self.head, self.comm, self.backend = table, head, rank.comm, rank.backend
        self.first_id = rank.comm.rank * head.shape[0]

    def embed(self, ids: Tensor) -> Tensor:
        """The embeddings [T, H] of ``ids`` [T] int64."""
        if self.comm.size == 1:
            return embedding(ids, self.table)
        width = self.table.shape[0]
        local = ids - self.comm.rank * width
        ours = ((local >= 0) & (local < width))[:, None]
        found = embedding(local.clamp(0, width - 1), self.table)
        return self.comm.all_reduce(found * ours)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [T, V] of all ranks, for ``hidden`` [T, H] after the final norm."""
        return self.gathered(linear(hidden, self.head))

    def gathered(self, local: Tensor) -> Tensor:
        """Logits [T, V] of all ranks, ``local`` [T, V / tp] being this one's."""
        return self.comm.all_gather(local).transpose(0, 1).flatten(1)

    def argmax(self, hidden: Tensor) -> Tensor:
        """The most probable ids [T]; only a maximum and an id per row cross the ranks."""
        return self.largest(linear(hidden, self.head))

    def largest(self, local: Tensor) -> Tensor:
        """The ids [T] of the largest of all ranks' logits; ``local`` [T, V / tp] are this one's."""
        best, ids = self.backend.local_argmax(local, self.first_id)
        if self.comm.size == 1:
            return ids
        return pick_argmax(self.comm.all_gather(best), self.comm.all_gather(ids))

    def best(self, hidden: Tensor, count: int, *, below: int) -> tuple[Tensor, Tensor]:
        """The ``count`` largest logits and their ids, each [T, count], among ids ``below`` a bound.

        Each rank offers its own largest.
        """
        local = linear(hidden, self.head)
        ids = self.first_id + torch.arange(local.shape[1], device=local.device)
        local = local.masked_fill(ids >= below, -torch.inf)
        values, ids = best_tokens(local, min(count, local.shape[1]))
        if self.comm.size == 1:
            return values, ids
        every = self.comm.all_gather(values).transpose(0, 1).flatten(1)
        theirs = self.comm.all_gather(ids + self.first_id).transpose(0, 1).flatten(1)
        values, places = best_tokens(every, count)
        return values, theirs.gather(1, places)


class TargetModel:
    """A whole target model, as its config describes it.

    Parameters
    ----------
    source
        Its tensors, under their Hugging Face names.
    tokens
        Longest text it will see; the rotary tables have so many rows.
    """

    def __init__(
        self, spec: TargetSpec, source: Source, rank: Rank = ALONE, *, tokens: int
    ) -> None:
        self.spec, self.backend, shape = spec, rank.backend, spec.shape
        check_tp(shape, rank.tp)
        shard = Shard(source, rank, PREFIXES, anchor="embed_tokens.weight")
        self.layers = self._layers(shard, tokens)
        self.norm = Norm("norm", spec.numerics, shard, hidden=shape.hidden)
        size = (shape.vocab, shape.hidden)
        table = shard.split("embed_tokens.weight", *size)
        head = table if shape.tied_embeddings else shard.root().split("lm_head.weight", *size)
        self.vocabulary = Vocabulary(table, head, rank)
        shard.check()

    def _layers(self, shard: Shard, tokens: int) -> list[DecoderLayer]:
        """Decoder layers; attention and delta-net layers are counted apart in the cache."""
        shape, numerics = self.spec.shape, self.spec.numerics
        first = shape.attention_layers[0]
        tables = attention_tables(first, numerics, tokens=tokens, rank=shard.rank)
        built: list[DecoderLayer] = []
        seen: Counter[type] = Counter()
        for i, layer in enumerate(shape.layers):
            kind = type(layer.mixer)
            built.append(
                DecoderLayer(
                    layer,
                    numerics,
                    shard.under(f"layers.{i}."),
                    index=seen[kind],
                    hidden=shape.hidden,
                    tables=tables,
                )
            )
            seen[kind] += 1
        return built

    @torch.no_grad()
    def __call__(
        self, ids: Tensor, at: Placement, cache: Cache, capture: Sequence[int] = ()
    ) -> Hidden:
        """One pass over the rows ``ids`` [T] int64 that stand ``at``; T is R x B.

        ``capture`` names the layers whose outputs come back as features, in this order.
        """
        taken: dict[int, Tensor] = {}
        x = self.vocabulary.embed(ids)
        residual: Tensor | None = None
        for i, layer in enumerate(self.layers):
            x, residual = layer(x, residual, at, cache)
            if i in capture:
                taken[i] = x + residual
        features = torch.cat([taken[i] for i in capture], dim=-1) if capture else None
        return Hidden(self.norm.add(x, residual)[0], features)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [T, V] for ``Hidden.final`` rows."""
        return self.vocabulary.logits(hidden)

    @torch.no_grad()
    def argmax(self, hidden: Tensor) -> Tensor:
        """Most probable next ids [T] for ``Hidden.final`` rows."""
        return self.vocabulary.argmax(hidden)
