"""Softmax attention: its sizes, its weights, and its KV cache."""

from collections.abc import Iterator
from dataclasses import dataclass

from dflash_sim.profiles.networks.weight import Weight
from dflash_sim.profiles.precision import BF16, Precision, bytes_of


@dataclass(frozen=True)
class AttentionShape:
    """Softmax attention with grouped key-value heads; ``window`` [token] is None when full."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    gated: bool = False
    qk_norm: bool = False
    window: int | None = None
    bias: bool = False
    sinks: bool = False

    @property
    def q_dim(self) -> int:
        """Width of the attention output, and of q_proj without its gate."""
        return self.num_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of the keys, and of the values."""
        return self.num_kv_heads * self.head_dim

    def kv_bytes(self, tp: int = 1, precision: Precision = BF16) -> float:
        """Key and value cache of one token in this layer on one of ``tp`` ranks [byte].

        Key-value heads that are fewer than the ranks are replicated.
        """
        heads = max(1, self.num_kv_heads // tp)
        return 2 * heads * self.head_dim * bytes_of(precision.kv_cache)

    def weights(self, *, hidden: int, input_dim: int | None = None) -> Iterator[Weight]:
        """Projections and norms; ``input_dim`` differs from ``hidden`` in an EAGLE-3 head."""
        width = hidden if input_dim is None else input_dim
        q_out = self.q_dim * (2 if self.gated else 1)
        yield Weight("q_proj", width * q_out, module="attention")
        yield Weight("k_proj", width * self.kv_dim, self.num_kv_heads, module="attention")
        yield Weight("v_proj", width * self.kv_dim, self.num_kv_heads, module="attention")
        yield Weight("o_proj", self.q_dim * hidden, module="attention.o_proj")
        if self.bias:
            yield Weight("q_bias", q_out)
            yield Weight("kv_bias", 2 * self.kv_dim, self.num_kv_heads)
            yield Weight("o_bias", hidden, 1)
        if self.qk_norm:
            yield Weight("qk_norm", 2 * self.head_dim, 1)
        if self.sinks:
            yield Weight("sinks", self.num_heads)
