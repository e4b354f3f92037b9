"""A rank's end of a ``torch.distributed`` group, and a count of how far it has come."""

from ctypes import Array, c_long
from math import nan
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class ProcessRank:
    """One process of a group; gloo on CPUs, nccl on GPUs.

    ``beats[rank]`` counts collectives begun, so that whoever hangs can be told from who waits.
    ``spent_s`` is the time in collectives [s]; on a GPU, where the host only launches them, no
    number.
    """

    def __init__(self, rank: int, size: int, beats: "Array[c_long]") -> None:
        self.rank = rank
        self.size = size
        self.beats = beats
        self._native = dist.get_backend() == "nccl"
        self.spent_s = nan if self._native else 0.0
        self._group: Any = dist.group.WORLD

    def all_gather(self, x: Tensor) -> Tensor:
        """Every rank's ``x`` in rank order."""
        start = perf_counter()
        self.beats[self.rank] += 1
        every = torch.empty((self.size, *x.shape), dtype=x.dtype, device=x.device)
        self._group.allgather([list(every.unbind(0))], [x.contiguous()]).wait()
        self.spent_s += perf_counter() - start
        return every

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of every rank's ``x``; over gloo it is taken in rank order."""
        if not self._native:
            return self.all_gather(x).sum(0)  # cheaper than gloo's own, and repeats exactly
        self.beats[self.rank] += 1
        dist.all_reduce(x)
        return x
