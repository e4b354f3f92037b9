"""Latent attention of one rank, absorbed, dense or sparse: DeepSeek-V3, V3.2 and GLM-5.

Every rank holds all latents, and its own heads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from dflash_sim.kernels.cache import Placement
from dflash_sim.kernels.layers.shard import Shard
from dflash_sim.kernels.rank import Rank
from dflash_sim.kernels.reference.latent import (
    absorb,
    choose,
    index_scores,
    latent_attention,
    rotate_pairs,
    values_of,
)
from dflash_sim.kernels.reference.norm_rope import apply_rotary, rms_norm
from dflash_sim.profiles.networks.hf_config import MlaShape
from dflash_sim.profiles.networks.mla import Indexer

INDEX_EPS = 1e-6  # of the LayerNorm of an indexer's keys, in transformers and in SGLang


class LatentKV:
    """Latents of ``layers`` layers, each [L, pages, page_size, latent], and keys of indexers."""

    def __init__(
        self, layers: Sequence[MlaShape], *, pages: int, page_size: int, rank: Rank
    ) -> None:
        size = (len(layers), pages, page_size)
        index = max((a.indexer.head_dim for a in layers if a.indexer), default=0)
        self.rows = torch.zeros((*size, layers[0].latent_dim), dtype=rank.dtype, device=rank.device)
        self.index = torch.zeros((*size, index), dtype=rank.dtype, device=rank.device)


class LatentAttention:
    """Projections, norms, rotation, cache write, absorbed attention, output projection.

    Parameters
    ----------
    shape
        Of the whole layer, before it is cut; a layer that shares an indexer is not written.
    shard
        Holds the tensors under their names in transformers.
    index
        Which layer of the pool is this one's.
    tables
        Cosines and sines of ``qk_rope_head_dim``, each [P, rope / 2].
    eps
        Of the norms of queries and latents.
    index_pairs
        True if the indexer rotates neighbours (GLM-5), False if halves (DeepSeek-V3.2).
    """

    def __init__(
        self,
        shape: MlaShape,
        shard: Shard,
        *,
        index: int,
        hidden: int,
        tables: tuple[Tensor, Tensor],
        eps: float,
        index_pairs: bool = False,
    ) -> None:
        self.shape, self.index, self.tables, self.eps = shape, index, tables, eps
        self.heads = shape.num_heads // shard.rank.tp
        wide_q = shape.num_heads * shape.qk_head_dim
        rank, latent = shape.q_lora_rank, shape.kv_lora_rank
        if rank:
            self.q_a = shard.whole("q_a_proj.weight", rank, hidden)
            self.q_norm = shard.whole("q_a_layernorm.weight", rank)
            self.q = shard.split("q_b_proj.weight", wide_q, rank)
        else:
            self.q = shard.split("q_proj.weight", wide_q, hidden)
        self.kv_a = shard.whole("kv_a_proj_with_mqa.weight", shape.latent_dim, hidden)
        self.kv_norm = shard.whole("kv_a_layernorm.weight", latent)
        nope, value = shape.qk_nope_head_dim, shape.v_head_dim
        up = shard.split("kv_b_proj.weight", shape.num_heads * (nope + value), latent)
        self.w_k, self.w_v = torch.split(
            up.view(self.heads, nope + value, latent), [nope, value], dim=1
        )
        self.o = shard.split("o_proj.weight", hidden, shape.num_heads * value, dim=1)
        self.indexer: _Indexer | None = None
        if shape.indexer:
            below = shard.under("indexer.")
            self.indexer = _Indexer(
                shape.indexer, below, hidden=hidden, q_lora_rank=rank, pairs=index_pairs
            )

    def __call__(self, x: Tensor, at: Placement, kv: LatentKV) -> Tensor:
        """This rank's share of the output [T, H], to be summed over ranks; ``x`` is [T, H]."""
        a, tokens = self.shape, len(x)
        cos, sin = (table[at.positions] for table in self.tables)
        low = self._compressed(x)
        q = linear(low, self.q).view(tokens, self.heads, a.qk_head_dim)
        q_nope, q_rope = torch.split(q, [a.qk_nope_head_dim, a.qk_rope_head_dim], dim=-1)
        latent, key = torch.split(
            linear(x, self.kv_a), [a.kv_lora_rank, a.qk_rope_head_dim], dim=-1
        )
        latent = rms_norm(latent, self.kv_norm, eps=self.eps)
        _write(kv.rows[self.index], torch.cat([latent, rotate_pairs(key, cos, sin)], -1), at.slots)
        turned = rotate_pairs(q_rope, cos[:, None], sin[:, None])
        block = (at.requests, at.rows)
        chosen = None
        if self.indexer:
            pool = kv.index[self.index]
            chosen = self.indexer.choice(x, low, (cos, sin), at, pool)
        out = latent_attention(
            torch.cat([absorb(q_nope, self.w_k), turned], -1).view(*block, self.heads, -1),
            kv.rows[self.index],
            at.page_table,
            at.seq_lens,
            latent=a.kv_lora_rank,
            scale=a.qk_head_dim**-0.5,
            chosen=chosen,
        )
        return linear(values_of(out, self.w_v).reshape(tokens, -1), self.o)

    def _compressed(self, x: Tensor) -> Tensor:
        """The compressed queries [T, rank], or ``x`` where they are projected at once."""
        if not self.shape.q_lora_rank:
            return x
        return rms_norm(linear(x, self.q_a), self.q_norm, eps=self.eps)


class _Indexer:
    """Scores of every token for every row, from queries, keys and head weights of its own."""

    def __init__(
        self, shape: Indexer, shard: Shard, *, hidden: int, q_lora_rank: int, pairs: bool
    ) -> None:
        self.shape, self.pairs = shape, pairs
        self.q = shard.whole("wq_b.weight", shape.heads * shape.head_dim, q_lora_rank)
        self.k = shard.whole("wk.weight", shape.head_dim, hidden)
        self.k_norm = shard.whole("k_norm.weight", shape.head_dim)
        self.k_bias = shard.whole("k_norm.bias", shape.head_dim)
        self.weights = shard.whole("weights_proj.weight", shape.heads, hidden)

    def choice(
        self, x: Tensor, low: Tensor, rotation: tuple[Tensor, Tensor], at: Placement, pool: Tensor
    ) -> Tensor:
        """Return which tokens each row attends to, [R, B, T] bool; its keys go to the pool."""
        i = self.shape
        q = self._turned(linear(low, self.q).view(len(x), i.heads, i.head_dim), rotation)
        k = layer_norm(linear(x, self.k), (i.head_dim,), self.k_norm, self.k_bias, INDEX_EPS)
        _write(pool, self._turned(k[:, None], rotation)[:, 0], at.slots)
        block = (at.requests, at.rows)
        scores = index_scores(
            q.view(*block, i.heads, i.head_dim) * i.head_dim**-0.5,
            linear(x, self.weights).view(*block, i.heads) * i.heads**-0.5,
            pool,
            at.page_table,
            at.seq_lens,
        )
        return choose(scores, i.topk)

    def _turned(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Rotate ``x`` [T, heads, D] in front."""
        if not self.pairs:
            return apply_rotary(x, *rotation)
        cos, sin = rotation
        return rotate_pairs(x, cos[:, None], sin[:, None])


def _write(pool: Tensor, rows: Tensor, slots: Tensor) -> None:
    """Put ``rows`` [T, D] into ``pool`` [pages, page_size, D]; negative slots are not written."""
    kept = slots >= 0
    pool.view(-1, pool.shape[-1])[slots[kept]] = rows[kept].to(pool.dtype)
