"""Mixers with a recurrent state instead of a KV cache."""

from collections.abc import Iterator
from dataclasses import dataclass

from dflash_sim.profiles.networks.weight import Weight
from dflash_sim.profiles.precision import BF16, Precision, bytes_of


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

    @property
    def split_heads(self) -> tuple[int, ...]:
        """Counts that the ranks must divide."""
        return (self.num_k_heads, self.num_v_heads)

    @property
    def copied_heads(self) -> tuple[int, ...]:
        """Counts that may be copied instead: none."""
        return ()

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
        yield Weight("out_proj", self.value_dim * hidden, module="gdn.out_proj")


@dataclass(frozen=True)
class Mamba2Shape:
    """Mamba-2: a state space mixer whose state is as a GDN's, one per head (arXiv:2405.21060).

    Parameters
    ----------
    groups
        Heads that share their input and output matrices, as queries share keys.
    state
        Width of the state of a head, beside ``head_dim``.
    """

    num_heads: int
    head_dim: int
    groups: int
    state: int
    conv_kernel: int
    conv_bias: bool = True

    @property
    def inner(self) -> int:
        """Width of what is mixed."""
        return self.num_heads * self.head_dim

    @property
    def conv_dim(self) -> int:
        """Channels of the short convolution: what is mixed, and both matrices of each group."""
        return self.inner + 2 * self.groups * self.state

    @property
    def split_heads(self) -> tuple[int, ...]:
        """Counts that the ranks must divide."""
        return (self.num_heads,)

    @property
    def copied_heads(self) -> tuple[int, ...]:
        """Counts that the ranks divide, or that divide the ranks and are copied."""
        return (self.groups,)

    def ssm_state_bytes(self, precision: Precision = BF16) -> float:
        """Recurrent state of one request in this layer [byte]."""
        return self.inner * self.state * bytes_of(precision.state)

    def state_bytes(self, precision: Precision = BF16) -> float:
        """Recurrent state and convolution window of one request in this layer [byte]."""
        window = self.conv_dim * (self.conv_kernel - 1)
        return self.ssm_state_bytes(precision) + window * bytes_of(precision.activations)

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        """Projections, convolution, the three values of each head, and the norm."""
        in_width = self.inner + self.conv_dim + self.num_heads
        yield Weight("in_proj", hidden * in_width, module="gdn")
        yield Weight("conv1d", self.conv_dim * (self.conv_kernel + int(self.conv_bias)))
        yield Weight("heads", 3 * self.num_heads)
        yield Weight("norm", self.inner)
        yield Weight("out_proj", self.inner * hidden, module="gdn.out_proj")


@dataclass(frozen=True)
class KdaShape:
    """Kimi delta attention: a delta network that forgets by channel (arXiv:2510.26692).

    Checkpoints name its projections as those of attention, and quantise them as those.

    Parameters
    ----------
    full_gate
        The gate of the output is one wide projection, not one of rank ``head_dim``.
    """

    num_heads: int
    head_dim: int
    conv_kernel: int
    full_gate: bool = False

    @property
    def dim(self) -> int:
        """Width of queries, of keys and of values."""
        return self.num_heads * self.head_dim

    @property
    def split_heads(self) -> tuple[int, ...]:
        """Counts that the ranks must divide."""
        return (self.num_heads,)

    @property
    def copied_heads(self) -> tuple[int, ...]:
        """Counts that may be copied instead: none."""
        return ()

    def ssm_state_bytes(self, precision: Precision = BF16) -> float:
        """Recurrent state of one request in this layer [byte]."""
        return self.dim * self.head_dim * bytes_of(precision.state)

    def state_bytes(self, precision: Precision = BF16) -> float:
        """Recurrent state and convolution window of one request in this layer [byte]."""
        window = 3 * self.dim * (self.conv_kernel - 1)
        return self.ssm_state_bytes(precision) + window * bytes_of(precision.activations)

    def weights(self, *, hidden: int) -> Iterator[Weight]:
        """Projections, convolution, what forgetting takes of each channel, gate and norm."""
        low = hidden * self.head_dim
        yield Weight("qkv_proj", 3 * hidden * self.dim, module="attention")
        yield Weight("conv1d", 3 * self.dim * self.conv_kernel)
        yield Weight("f_a_proj", low, 1, module="attention")
        yield Weight("f_b_proj", self.head_dim * self.dim, module="attention")
        yield Weight("b_proj", hidden * self.num_heads, module="attention")
        if self.full_gate:
            yield Weight("g_proj", hidden * self.dim, module="attention")
        else:
            yield Weight("g_a_proj", low, 1, module="attention")
            yield Weight("g_b_proj", self.head_dim * self.dim, module="attention")
        yield Weight("dt_bias", self.dim)
        yield Weight("A_log", self.num_heads)
        yield Weight("o_norm", self.head_dim, 1)
        yield Weight("o_proj", self.dim * hidden, module="attention.o_proj")
