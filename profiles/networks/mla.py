"""Multi-head latent attention: all heads share one compressed key and value per token.

With an :class:`Indexer` it is sparse: each query attends to the tokens that the indexer scores
highest (DeepSeek-V3.2, GLM-5). DeepSeek-V4 compresses over tokens too: :class:`CompressedShape`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dflash_sim.profiles.networks.weight import Weight
from dflash_sim.profiles.precision import BF16, Precision, bytes_of

# SGLang's index_k_with_scale_buffer: keys of the indexer are stored in FP8 whatever the KV cache
# is, with one float32 scale for each group of 128 values.
INDEX_KEY = "fp8"
INDEX_GROUP = 128
# SGLang's DeepSeekV4SingleKVPool: unrotated values in FP8 with a scale of one byte for each 64,
# and one byte more; rotated ones in bf16. Windows and the states of compressors have a pool of a
# tenth of the tokens (swa_full_tokens_ratio of its deepseek_v4 hook), in pages of a window.
ENTRY, ENTRY_ROPE, ENTRY_GROUP, ENTRY_PAD = "fp8", "bfloat16", 64, 1
STATE, POOLED = "float32", 0.1
# Models whose layers over compressed tokens the operator tables time as one: hidden size, heads.
_COMPRESSED = {(4096, 64): "deepseek-v4-flash", (7168, 128): "deepseek-v4-pro"}
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
    pool
        Tokens whose keys are compressed into one, which are then chosen together (GLM-5.3-Flash).
    """

    heads: int
    head_dim: int
    topk: int
    shared: bool = False
    pool: int = 1

    @property
    def key_bytes(self) -> float:
        """One cached key in one layer, with its scale [byte]."""
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
        if self.pool > 1:
            gates = (hidden + self.pool) * self.head_dim  # and a bias by the place in the pool
            yield Weight("indexer.compress", gates, 1)


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
        index = self.indexer.key_bytes / self.indexer.pool if self.indexer else 0.0
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


@dataclass(frozen=True)
class CompressedShape:
    """Attention to a window of tokens and to compressed ones before it (DeepSeek-V4).

    One key per token, for all heads, is its value too.

    Parameters
    ----------
    rope
        Rotated dimensions of the ``head_dim`` of a key.
    o_groups, o_lora_rank
        The output goes through a narrow space, a part of the heads at a time.
    window
        Last tokens that are attended to as they are.
    ratio
        Tokens that are compressed into one before it; 0 for a layer with the window alone.
    indexer
        Chooses compressed tokens; None where all of them are attended to.
    """

    num_heads: int
    head_dim: int
    rope: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    window: int
    ratio: int
    indexer: Indexer | None = None

    @property
    def split_heads(self) -> tuple[int, ...]:
        """Counts that the ranks must divide."""
        return (self.num_heads, self.o_groups)

    @property
    def copied_heads(self) -> tuple[int, ...]:
        """Counts that may be copied instead: none."""
        return ()

    @property
    def overlap(self) -> int:
        """Series that a compressor keeps: two where a compressed token looks back at the last."""
        return 2 if self.indexer else 1

    @property
    def entry_bytes(self) -> float:
        """One cached key, as a window or a compressed token has it [byte]."""
        plain = self.head_dim - self.rope
        scales = plain // ENTRY_GROUP + ENTRY_PAD
        return plain * bytes_of(ENTRY) + self.rope * bytes_of(ENTRY_ROPE) + scales

    def timed_as(self, hidden: int) -> str:
        """Return the layer that was timed as one and has these sizes, if any."""
        model = _COMPRESSED.get((hidden, self.num_heads), "")
        return f"{model} by {self.ratio}" if model and self.ratio else ""

    def kv_bytes(self, tp: int = 1, precision: Precision = BF16) -> float:
        """Cache of one token in this layer on each of ``tp`` ranks, as SGLang counts it [byte].

        Its share of a compressed token, and of the pool of windows and of what compressors keep.
        """
        del tp, precision  # one key for all heads, in a format of its own
        pooled = POOLED * self.entry_bytes
        if not self.ratio:
            return pooled
        index = self.indexer
        entry = self.entry_bytes + (index.key_bytes if index else 0.0)
        kept = self.overlap * self.ratio / self.window  # rows of a state, for each of a window
        values = self.head_dim + (index.head_dim if index else 0)
        state = 2 * self.overlap * values * bytes_of(STATE)  # keys and their gates
        return pooled + entry / self.ratio + POOLED * kept * state

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        """Projections, norms and sinks; keys and compressors are replicated, heads are split."""
        wide = self.num_heads * self.head_dim
        yield Weight("q_a_proj", hidden * self.q_lora_rank, 1, "attention")
        yield Weight("kv_proj", hidden * self.head_dim, 1, "attention")
        yield Weight("norms", self.q_lora_rank + self.head_dim, 1)
        yield Weight("q_b_proj", self.q_lora_rank * wide, module="attention")
        yield Weight("o_a_proj", wide * self.o_lora_rank, self.o_groups, "attention")
        yield Weight(
            "o_b_proj", self.o_groups * self.o_lora_rank * hidden, self.o_groups, "attention"
        )
        yield Weight("sinks", self.num_heads)
        index = self.indexer
        for width in (self.head_dim, index.head_dim if index else 0) if self.ratio else ():
            yield Weight("compressor", 2 * hidden * self.overlap * width, 1)
            yield Weight("compressor.bias_and_norm", self.ratio * self.overlap * width + width, 1)
        if index:
            yield Weight(
                "indexer.q_b_proj", self.q_lora_rank * index.heads * index.head_dim, 1, "attention"
            )
            yield Weight("indexer.weights_proj", hidden * index.heads, 1)
