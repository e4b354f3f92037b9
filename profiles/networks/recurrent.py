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
