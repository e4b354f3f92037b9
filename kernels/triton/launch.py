"""Start a Triton kernel, or only write down what would be started.

Every launcher goes through :func:`launch`. While :func:`recording`, launchers take ``meta`` tensors
and nothing runs: ``compile_check`` gets exactly the arguments and tiles that a GPU would get.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dflash_sim.kernels.triton.configs import OFFLINE, Machine, machine_of


@dataclass(frozen=True)
class Launch:
    """One kernel with the arguments it would have been started with."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, int]


@dataclass(frozen=True)
class Recording:
    """Launches written down instead of started, and the machine they were planned for."""

    machine: Machine
    launches: list[Launch]


_recording: ContextVar[Recording | None] = ContextVar("recording", default=None)


@contextmanager
def recording(arch: int) -> Iterator[list[Launch]]:
    """Collect launches for ``arch`` (a key of ``OFFLINE``) instead of starting them."""
    record = Recording(OFFLINE[arch], [])
    token = _recording.set(record)
    try:
        yield record.launches
    finally:
        _recording.reset(token)


def target(tensor: Tensor) -> Machine:
    """The machine that a launcher given ``tensor`` plans for."""
    record = _recording.get()
    return machine_of(tensor.device) if record is None else record.machine


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *,
    warps: int,
    stages: int = 1,
    registers: int | None = None,
    **arguments: Any,
) -> None:
    """Start ``kernel`` over ``grid`` programs, or record it.

    Parameters
    ----------
    registers : the most a thread may have; without, ptxas sets itself a limit and may spill at it
    """
    options = {"num_warps": warps, "num_stages": stages}
    if registers is not None:
        options["maxnreg"] = registers
    record = _recording.get()
    if record is None:
        kernel[grid](**arguments, **options)
    else:
        record.launches.append(Launch(kernel, grid, arguments, options))
