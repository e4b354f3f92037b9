"""Communication of a tensor-parallel group: one interface, and two that need no network.

A layer holds one rank's shard and a :class:`Comm`. With ``torch.distributed`` each rank is a
process; :func:`run_locally` makes each rank a thread of this one, in lock step, so that sharding
can be proven where there is a single device.
"""

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Comm(Protocol):
    """One rank's end of a group of ``size`` ranks."""

    @property
    def rank(self) -> int:
        """This rank, from 0."""
        ...

    @property
    def size(self) -> int:
        """Ranks in the group."""
        ...

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of every rank's ``x``; may reuse its memory."""
        ...

    def all_gather(self, x: Tensor) -> Tensor:
        """Every rank's ``x`` in rank order, ``[size, *x.shape]``."""
        ...


class OneRank:
    """A group of one: nothing to say, nobody to say it to."""

    rank = 0
    size = 1

    def all_reduce(self, x: Tensor) -> Tensor:
        """``x``."""
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """``x[None]``."""
        return x[None]


class LocalRank:
    """One thread of :func:`run_locally`; sums are taken in rank order, so they repeat exactly."""

    def __init__(self, rank: int, desk: list[Tensor | None], barrier: threading.Barrier) -> None:
        self.rank = rank
        self.size = len(desk)
        self._desk = desk
        self._barrier = barrier

    def all_gather(self, x: Tensor) -> Tensor:
        """Lay ``x`` on the shared desk, wait for the others, copy what lies there."""
        self._desk[self.rank] = x
        self._barrier.wait()
        every = torch.stack([part for part in self._desk if part is not None])
        self._barrier.wait()
        return every

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum over :meth:`all_gather`."""
        return self.all_gather(x).sum(0)


def run_locally(size: int, work: Callable[[Comm], T]) -> list[T]:
    """``[work(comm) for every rank]``, each rank a thread of this process.

    When one rank raises, the others are released and its exception is raised here.
    """
    if size == 1:
        return [work(OneRank())]
    desk: list[Tensor | None] = [None] * size
    barrier = threading.Barrier(size)
    results: dict[int, T] = {}
    failures: dict[int, BaseException] = {}

    def run(rank: int) -> None:
        try:
            results[rank] = work(LocalRank(rank, desk, barrier))
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            failures[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[min(failures)]
    return [results[rank] for rank in range(size)]
