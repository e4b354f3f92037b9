"""One decoder layer: its sizes, its weights, and how tensor parallelism splits them."""

from collections.abc import Iterator
from dataclasses import dataclass

from dflash_sim.profiles.precision import BF16, Precision, bytes_of


@dataclass(frozen=True)
class Weight:
    """One weight tensor.

    Parameters
    ----------
    name
        As in the checkpoint.
    params
        Number of values on one GPU, unsplit.
    max_split
        Ranks it can be divided over; the rest hold copies. 1 is replicated, None has no limit.
    module
        The part of the network it belongs to, which says its format: a name of ``MODULES``.
    """

    name: str
    params: int
    max_split: int | None = None
    module: str = "other"

    def bytes_per_rank(self, tp: int, precision: Precision = BF16) -> float:
        """Bytes each of ``tp`` ranks holds."""
        split = tp if self.max_split is None else min(tp, self.max_split)
        return self.params * bytes_of(precision.form(self.module)) / split


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
        yield Weight("o_proj", self.q_dim * hidden, module="attention")
        if self.bias:
            yield Weight("q_bias", q_out)
            yield Weight("kv_bias", 2 * self.kv_dim, self.num_kv_heads)
            yield Weight("o_bias", hidden, 1)
        if self.qk_norm:
            yield Weight("qk_norm", 2 * self.head_dim, 1)
        if self.sinks:
            yield Weight("sinks", self.num_heads)


@dataclass(frozen=True)
class GdnShape:
    """Gated delta network (linear attention) with a recurrent state per value head."""

    num_k_heads: int
    num_v_heads: int
    head_k_dim: int
    head_v_dim: int
    conv_kernel: int

    @property
    def key_dim(self) -> int:
        return self.num_k_heads * self.head_k_dim

    @property
    def value_dim(self) -> int:
        return self.num_v_heads * self.head_v_dim

    @property
    def conv_dim(self) -> int:
        """Channels of the short convolution: queries, keys and values."""
        return 2 * self.key_dim + self.value_dim

    def ssm_state_bytes(self, precision: Precision = BF16) -> float:
        """Recurrent state of one request in this layer [byte]."""
        values = self.num_v_heads * self.head_k_dim * self.head_v_dim
        return values * bytes_of(precision.state)

    def state_bytes(self, precision: Precision = BF16) -> float:
        """Recurrent state and convolution window of one request in this layer [byte]."""
        window = self.conv_dim * (self.conv_kernel - 1)
        return self.ssm_state_bytes(precision) + window * bytes_of(precision.activations)

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        """Projections, convolution, gate parameters and the per-head norm."""
        yield Weight("in_proj_qkv", hidden * self.conv_dim, module="gdn")
        yield Weight("in_proj_z", hidden * self.value_dim, module="gdn")
        yield Weight("in_proj_b", hidden * self.num_v_heads, module="gdn_gates")
        yield Weight("in_proj_a", hidden * self.num_v_heads, module="gdn_gates")
        yield Weight("conv1d", self.conv_dim * self.conv_kernel)
        yield Weight("dt_bias", self.num_v_heads)
        yield Weight("A_log", self.num_v_heads)
        yield Weight("norm", self.head_v_dim, 1)
        yield Weight("out_proj", self.value_dim * hidden, module="gdn")


@dataclass(frozen=True)
class DenseMlp:
    """Gated MLP: gate, up and down projections."""

    intermediate: int

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        yield Weight("gate_up_proj", 2 * hidden * self.intermediate, module="mlp")
        yield Weight("down_proj", hidden * self.intermediate, module="mlp")


@dataclass(frozen=True)
class MoeMlp:
    """Routed experts, with one always-on shared expert when ``shared_intermediate`` is not 0."""

    num_experts: int
    top_k: int
    intermediate: int
    shared_intermediate: int = 0
    bias: bool = False

    def params_per_expert(self, hidden: int) -> int:
        """Values of one routed expert."""
        biases = 2 * self.intermediate + hidden if self.bias else 0
        return 3 * hidden * self.intermediate + biases

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        per_matrix = self.num_experts * hidden * self.intermediate
        yield Weight("experts.gate_up_proj", 2 * per_matrix, module="experts")
        yield Weight("experts.down_proj", per_matrix, module="experts")
        yield Weight("router", self.num_experts * hidden, 1, module="router")
        if self.bias:
            yield Weight("experts.gate_up_bias", self.num_experts * 2 * self.intermediate)
            yield Weight("experts.down_bias", self.num_experts * hidden, 1)
            yield Weight("router_bias", self.num_experts, 1)
        if self.shared_intermediate:
            yield Weight(
                "shared_expert.gate_up_proj",
                2 * hidden * self.shared_intermediate,
                module="shared_expert",
            )
            yield Weight(
                "shared_expert.down_proj", hidden * self.shared_intermediate, module="shared_expert"
            )
            yield Weight("shared_expert_gate", hidden, 1, module="router")


@dataclass(frozen=True)
class LayerShape:
    """A token mixer followed by an MLP, each behind a norm."""

    mixer: AttentionShape | GdnShape
    mlp: DenseMlp | MoeMlp

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        """Every weight of the layer."""
        yield from self.mixer.weights(hidden=hidden)
        yield from self.mlp.weights(hidden=hidden)
        yield Weight("layer_norms", 2 * hidden, 1)

    def params(self, hidden: int) -> int:
        """Number of weight values."""
        return sum(w.params for w in self.weights(hidden=hidden))

    def idle_params(self, hidden: int) -> int:
        """Values of the routed experts that one token does not visit."""
        if isinstance(self.mlp, DenseMlp):
            return 0
        return (self.mlp.num_experts - self.mlp.top_k) * self.mlp.params_per_expert(hidden)
