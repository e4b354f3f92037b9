"""Softmax attention of one rank: Qwen3's, Qwen3.5's gated one, the drafter's, EAGLE-3's."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from dflash_sim.kernels.cache import PagedKV, Placement
from dflash_sim.kernels.layers.shard import Shard
from dflash_sim.kernels.layers.spec import Numerics
from dflash_sim.kernels.reference.norm_rope import apply_rotary, paged_kv_write
from dflash_sim.profiles.networks.hf_config import AttentionShape


class Attention:
    """Projections, per-head norm, rotation, KV write, attention, output projection.

    Parameters
    ----------
    shape, numerics
        Of the whole layer, before it is cut.
    shard
        Holds ``q_proj``, ``k_proj``, ``v_proj``, ``o_proj``, and with ``shape.qk_norm``
        ``q_norm`` and ``k_norm``.
    index
        Which layer of the KV pool is this one's.
    hidden, input_width
        Width of the output, and of the input where it differs (EAGLE-3).
    tables
        Cosines and sines, each [P, rot / 2].
    causal
        True if a row sees no later row.
    """

    def __init__(
        self,
        shape: AttentionShape,
        numerics: Numerics,
        shard: Shard,
        *,
        index: int,
        hidden: int,
        tables: tuple[Tensor, Tensor],
        causal: bool = True,
        input_width: int | None = None,
    ) -> None:
        self.shape, self.numerics, self.backend = shape, numerics, shard.rank.backend
        self.index, self.tables, self.causal = index, tables, causal
        self.heads = shape.num_heads // shard.rank.tp
        self.kv_heads = max(1, shape.num_kv_heads // shard.rank.tp)
        width = hidden if input_width is None else input_width
        q_out = shape.q_dim * (2 if shape.gated else 1)
        kv = shard.kv_part(shape.num_kv_heads, shape.head_dim)
        keys = shard.ranges("k_proj.weight", (shape.kv_dim, width), 0, [kv])
        values = shard.ranges("v_proj.weight", (shape.kv_dim, width), 0, [kv])
        self.qkv = torch.cat([shard.split("q_proj.weight", q_out, width), keys, values])
        self.o = shard.split("o_proj.weight", hidden, shape.q_dim, dim=1)
        if shape.qk_norm:
            self.q_norm = shard.whole("q_norm.weight", shape.head_dim)
            self.k_norm = shard.whole("k_norm.weight", shape.head_dim)

    def __call__(self, x: Tensor, at: Placement, kv: PagedKV) -> Tensor:
        """This rank's share of the output [T, H], to be summed over ranks; ``x`` is [T, width]."""
        q, k, v, gate = self.project(x)
        pools = kv.k[self.index], kv.v[self.index]
        q = self.rotate_and_write(q, k, v, at, pools)
        gates = (None,) * len(at.parts) if gate is None else at.split(gate)
        parts = zip(at.parts, at.split(q), gates, strict=True)
        out = [self.attend(mine, g, part, pools).reshape(len(mine), -1) for part, mine, g in parts]
        return linear(out[0] if len(out) == 1 else torch.cat(out), self.o)

    def attend(
        self, q: Tensor, gate: Tensor | None, at: Placement, pools: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return what the requests of one part see in the pools, [R, B, heads, D]."""
        block = (at.requests, at.rows, self.heads, self.shape.head_dim)
        return self.backend.block_attention(
            q.view(block),
            *pools,
            at.page_table,
            at.seq_lens,
            causal=self.causal,
            scale=self.shape.head_dim**-0.5,
            window=self.shape.window,
            gate=None if gate is None else gate.reshape(block),
        )

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries, keys, values and the output gate of ``x``, each [T, heads, D]."""
        tokens, dim = x.shape[0], self.shape.head_dim
        kv = self.kv_heads * dim
        merged = linear(x, self.qkv)
        first, k, v = torch.split(merged, [merged.shape[1] - 2 * kv, kv, kv], dim=1)
        q = first.view(tokens, self.heads, -1)
        gate = None
        if self.shape.gated:
            q, gate = q.chunk(2, dim=-1)
        return q, k.view(tokens, self.kv_heads, dim), v.view(tokens, self.kv_heads, dim), gate

    def rotate_and_write(
        self, q: Tensor, k: Tensor, v: Tensor, at: Placement, pools: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The rotated queries; keys and values go to the pools."""
        if self.shape.qk_norm:
            return self.backend.qk_norm_rope_write(
                q,
                k,
                v,
                self.q_norm,
                self.k_norm,
                *self.tables,
                at.positions,
                *pools,
                at.slots,
                eps=self.numerics.eps,
                zero_centred=self.numerics.zero_centred,
            )
        cos, sin = (table[at.positions] for table in self.tables)
        paged_kv_write(apply_rotary(k, cos, sin), v, *pools, at.slots)
        return apply_rotary(q, cos, sin)
