"""Softmax attention: its sizes, its weights, and its KV cache."""

from collections.abc import Iterator
from dataclasses import dataclass

from dflash_sim.profiles.networks.weight import Weight
from dflash_sim.profiles.precision import BF16, Precision, bytes_of

# Models whose layer of chosen blocks the operator tables time as one: hidden size, heads, key
# heads, their width, tokens of a block and blocks.
_TIMED = {(6144, 64, 4, 128, 128, 16): "minimax-m3"}


@dataclass(frozen=True)
class BlockChoice:
    """The small attention that picks the blocks of tokens which the large one reads (MSA).

    Each of its heads scores every token and picks blocks for the query heads of one key head; its
    keys are cached in the format of the others.

    Parameters
    ----------
    block
        Tokens of a block, whose score is that of the best of them.
    topk
        Blocks that each query attends to at most, the newest included.
    """

    heads: int
    head_dim: int
    block: int
    topk: int

    @property
    def tokens(self) -> int:
        """Tokens that each query attends to at most."""
        return self.topk * self.block

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        """Projections of queries and keys, and a norm of each; the keys are on every rank."""
        queries = hidden * self.heads * self.head_dim
        yield Weight("index_q_proj", queries, self.heads, module="attention")
        yield Weight("index_k_proj", hidden * self.head_dim, 1, module="attention")
        yield Weight("index_norms", 2 * self.head_dim, 1)


@dataclass(frozen=True)
class AttentionShape:
    """Softmax attention with grouped key-value heads.

    Parameters
    ----------
    gated
        A gate per value of the output, as wide as the queries.
    head_gates
        A gate per head of the output.
    qk_norm, whole_norm
        Queries and keys are normalised, each head alone, or all heads of a token together.
    window
        Tokens that a layer sees; None when it sees all.
    bias, qkv_bias
        Biases on all four projections, or on the first three alone.
    v_dim
        Values of a head where they are fewer than its keys; None if they are as many.
    k_is_v
        Keys and values are one projection (Gemma 4): both are cached all the same.
    chosen
        What picks the blocks of tokens that a layer attends to; None where it attends to all.
    causal
        True if a row sees no later row; the layers of a drafter see their whole block where not.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    gated: bool = False
    qk_norm: bool = False
    window: int | None = None
    bias: bool = False
    sinks: bool = False
    qkv_bias: bool = False
    whole_norm: bool = False
    v_dim: int | None = None
    k_is_v: bool = False
    head_gates: bool = False
    chosen: BlockChoice | None = None
    causal: bool = True

    def timed_as(self, hidden: int) -> str:
        """Return the model whose layer of chosen blocks was timed and has these sizes, if any."""
        index = self.chosen
        sizes = (hidden, self.num_heads, self.num_kv_heads, self.head_dim)
        return _TIMED.get((*sizes, index.block, index.topk), "") if index else ""

    @property
    def value_dim(self) -> int:
        """Width of one head's values."""
        return self.head_dim if self.v_dim is None else self.v_dim

    @property
    def mean_dim(self) -> int:
        """Width of a head, halfway between its keys and values: what products and caches take."""
        return (self.head_dim + self.value_dim) // 2

    @property
    def q_dim(self) -> int:
        """Width of the queries, without a gate."""
        return self.num_heads * self.head_dim

    @property
    def out_dim(self) -> int:
        """Width of the attention output."""
        return self.num_heads * self.value_dim

    @property
    def kv_dim(self) -> int:
        """Width of the keys."""
        return self.num_kv_heads * self.head_dim

    @property
    def split_heads(self) -> tuple[int, ...]:
        """Counts that the ranks must divide."""
        return (self.num_heads,)

    @property
    def copied_heads(self) -> tuple[int, ...]:
        """Counts that the ranks divide, or that divide the ranks and are copied."""
        return (self.num_kv_heads, self.chosen.heads) if self.chosen else (self.num_kv_heads,)

    def kv_bytes(self, tp: int = 1, precision: Precision = BF16) -> float:
        """Key and value cache of one token in this layer on one of ``tp`` ranks [byte].

        Key-value heads that are fewer than the ranks are replicated.
        """
        heads = max(1, self.num_kv_heads // tp)
        index = self.chosen.head_dim if self.chosen else 0
        return (heads * (self.head_dim + self.value_dim) + index) * bytes_of(precision.kv_cache)

    def weights(self, *, hidden: int, input_dim: int | None = None) -> Iterator[Weight]:
        """Projections and norms; ``input_dim`` differs from ``hidden`` in an EAGLE-3 head."""
        width = hidden if input_dim is None else input_dim
        q_out = self.q_dim + (self.out_dim if self.gated else 0)
        v_width = self.num_kv_heads * self.value_dim
        yield Weight("q_proj", width * q_out, module="attention")
        yield Weight("k_proj", width * self.kv_dim, self.num_kv_heads, module="attention")
        if not self.k_is_v:
            yield Weight("v_proj", width * v_width, self.num_kv_heads, module="attention")
        yield Weight("o_proj", self.out_dim * hidden, module="attention.o_proj")
        if self.head_gates:
            yield Weight("g_proj", width * self.num_heads, module="attention")
        if self.bias or self.qkv_bias:
            yield Weight("q_bias", q_out)
            yield Weight("kv_bias", self.kv_dim + v_width, self.num_kv_heads)
        if self.bias:
            yield Weight("o_bias", hidden, 1)
        if self.qk_norm:
            yield Weight("qk_norm", 2 * self.head_dim, 1)
        if self.whole_norm:
            yield Weight("qk_norm", self.q_dim + self.kv_dim)
        if self.sinks:
            yield Weight("sinks", self.num_heads)
        if self.chosen:
            yield from self.chosen.weights(hidden=hidden)
