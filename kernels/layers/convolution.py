"""The convolution along a block that DFlash2 has around every attention and every MLP."""

from torch import Tensor
from torch.nn.functional import linear

from dflash_sim.kernels.layers.shard import Shard
from dflash_sim.kernels.reference.convolution import halves
from dflash_sim.profiles.networks.hf_config import Convolutions

SIDES = 2


class BlockConvolution:
    """What goes into a sublayer and what comes out of it, each mixed along the block.

    The weights of both sides come from what goes in. Every rank has all of it.

    Parameters
    ----------
    shard
        Holds ``base_kernel`` and ``kernel_projection.weight``.
    """

    def __init__(self, shape: Convolutions, shard: Shard, *, hidden: int) -> None:
        self.taps, self.backend = shape.kernel_size, shard.rank.backend
        self.base = shard.whole("base_kernel", SIDES, shape.kernel_size, hidden)
        width = shape.kernel_width(hidden)
        self.projection = shard.whole("kernel_projection.weight", width, hidden)

    def enter(self, x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Return the sublayer's input [T, H] for ``x`` [T, H], and the weights of its output."""
        before, after = halves(linear(x, self.projection), self.taps)
        return self.backend.block_convolution(x, self.base[0], before, rows=rows), after

    def leave(self, y: Tensor, after: Tensor, rows: int) -> Tensor:
        """Return what the sublayer adds [T, H], from its output ``y`` [T, H] summed over ranks."""
        return self.backend.block_convolution(y, self.base[1], after, rows=rows)
