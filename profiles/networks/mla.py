"""Multi-head latent attention: all heads share one compressed key and value per token.

With an :class:`Indexer` it is sparse: each query attends to the tokens that the indexer scores
highest (DeepSeek-V3.2, GLM-5).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dflash_sim.profiles.networks.weight import Weight
from dflash_sim.profiles.precision import BF16, Precision, bytes_of

# SGLang's index_k_with_scale_buffer: keys of the indexer are stored in FP8 whatever the KV cache
# is, with one float32 scale for each group of 128 values.
INDEX_KEY = "fp8"
INDEX_GROUP = 128
# Models whose sparse layer the operator tables time as one: hidden size, query rank, indexer heads.
_TIMED = {(7168, 1536, 64): "deepseek-v3.2", (6144, 2048, 32): "glm-5"}


@dataclass(frozen=True)
class Indexer:
    """The small attention that picks the tokens which the large one reads.

    Parameters
    ----------
    topk
        Tokens that each query attends to at most.
    shared
        True if the layer has no indexer of its own and takes the choice of a layer below.
    """

    heads: int
    head_dim: int
    topk: int
    shared: bool = False

    @property
    def key_bytes(self) -> float:
        """Cached key of one token in one layer, with its scale [byte]."""
        if self.shared:
            return 0.0
        scales = -(-self.head_dim // INDEX_GROUP)
        return self.head_dim * bytes_of(INDEX_KEY) + scales * bytes_of("float32")

    def weights(self, *, hidden: int, q_lora_rank: int) -> Iterator[Weight]:
        """Projections of queries, keys and head weights, and the LayerNorm of the keys."""
        if self.shared:
            return
        yield Weight("indexer.wq_b", q_lora_rank * self.heads * self.head_dim, 1, "attention")
        yield Weight("indexer.wk", hidden * self.head_dim, 1, "attention")
        yield Weight("indexer.weights_proj", hidden * self.heads, 1)
        yield Weight("indexer.k_norm", 2 * self.head_dim, 1)


@dataclass(frozen=True)
class MlaShape:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    Parameters
    ----------
    q_lora_rank
        Width of the compressed query; 0 where queries are projected at once.
    kv_lora_rank, qk_rope_head_dim
        Widths of what is cached of a token: its latent, and the rotated key that all heads share.
    qk_nope_head_dim, v_head_dim
        Widths of a head's own part of the key, and of its value.
    indexer
        Of sparse attention; None where every token is attended to.
    gated
        A gate per value of the output (Kimi-K3).
    """

    num_heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    indexer: Indexer | None = None
    gated: bool = False

    @property
    def split_heads(self) -> tuple[int, ...]:
        """Counts that the ranks must divide."""
        return (self.num_heads,)

    @property
    def copied_heads(self) -> tuple[int, ...]:
        """Counts that may be copied instead: none."""
        return ()

    @property
    def qk_head_dim(self) -> int:
        """Width of the keys of one head, as a prefill expands them."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_dim(self) -> int:
        """Values that are cached of one token in one layer."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    def timed_as(self, hidden: int) -> str:
        """Return the model whose sparse layer was timed as one and has these sizes, if any."""
        heads = self.indexer.heads if self.indexer else 0
        return _TIMED.get((hidden, self.q_lora_rank, heads), "")

    @property
    def with_own_indexer(self) -> "MlaShape":
        """The same attention with an indexer of its own, as an MTP layer has it."""
        index = self.indexer
        return replace(self, indexer=replace(index, shared=False)) if index else self

    @property
    def with_lent_indexer(self) -> "MlaShape":
        """The same attention to tokens that another layer, or an earlier pass, has chosen."""
        index = self.indexer
        return replace(self, indexer=replace(index, shared=True)) if index else self

    def kv_bytes(self, tp: int = 1, precision: Precision = BF16) -> float:
        """Cache of one token in this layer on each of ``tp`` ranks [byte].

        It is the same on every rank: there is one latent for all heads, so nothing to split.
        """
        index = self.indexer.key_bytes if self.indexer else 0.0
        return self.latent_dim * bytes_of(precision.kv_cache) + index

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        """Projections and norms; the down projections are replicated, the heads are split."""
        wide = self.num_heads * self.qk_head_dim
        if self.q_lora_rank:
            yield Weight("q_a_proj", hidden * self.q_lora_rank, 1, "attention")
            yield Weight("q_a_layernorm", self.q_lora_rank, 1)
        yield Weight("q_b_proj", (self.q_lora_rank or hidden) * wide, module="attention")
        yield Weight("kv_a_proj_with_mqa", hidden * self.latent_dim, 1, "attention")
        yield Weight("kv_a_layernorm", self.kv_lora_rank, 1)
        up = self.num_heads * (self.qk_nope_head_dim + self.v_head_dim)
        yield Weight("kv_b_proj", self.kv_lora_rank * up, module="attention")
        yield Weight("o_proj", self.num_heads * self.v_head_dim * hidden, module="attention.o_proj")
        if self.gated:
            wide = self.num_heads * self.v_head_dim
            yield Weight("g_proj", hidden * wide, module="attention")
        if self.indexer:
            yield from self.indexer.weights(hidden=hidden, q_lora_rank=self.q_lora_rank)
