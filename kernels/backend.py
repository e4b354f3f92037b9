"""Choose which ops run: few torch calls on a CPU, Triton kernels on a GPU."""

from dflash_sim.kernels.cpu_backend import CPU
from dflash_sim.kernels.reference.backend import Backend


def backend_for(*, cuda: bool) -> Backend:
    """The fastest ops that we have for a device; Triton is imported only where it runs."""
    if not cuda:
        return CPU
    from dflash_sim.kernels.triton.backend import TRITON

    return TRITON
