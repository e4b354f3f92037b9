"""One rank of a tensor-parallel group: whom it talks to, where it computes, in what, with what."""

from dataclasses import dataclass, field

import torch

from dflash_sim.kernels.comm import Comm, OneRank
from dflash_sim.kernels.reference.backend import REFERENCE, Backend


@dataclass(frozen=True, kw_only=True)
class Rank:
    """A rank: everything that its layers are built with.

    Parameters
    ----------
    comm
        This rank's end of the group.
    dtype
        Of weights, activations and KV; delta-net states are float32 or wider.
    device
        Where all of it lives.
    backend
        The ops between the matrix products.
    """

    comm: Comm = field(default_factory=OneRank)
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"
    backend: Backend = REFERENCE

    @property
    def tp(self) -> int:
        """Ranks in the group."""
        return self.comm.size


ALONE = Rank()
