"""Processor cores of the scheduler and the workers.

A result wakes the scheduler, and the kernel likes to run it where its waker runs. Then the worker
stands still, and there is no overlap. With a core to spare they are kept apart.
"""

import os
from collections.abc import Set
from time import perf_counter
from typing import Any

SPIN_S = 0.2  # how long to look before sleeping
LINUX = hasattr(os, "sched_setaffinity")


def apart(ranks: int) -> tuple[Set[int], Set[int]] | None:
    """Cores of the scheduler, and of ``ranks`` workers; None where there are too few."""
    if not LINUX:
        return None
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) <= ranks:
        return None
    return {cores[0]}, {*cores[1:]}


def keep_to(cores: Set[int] | None) -> Set[int] | None:
    """Keep this thread to ``cores``; returns where it was before. None is to leave it."""
    if cores is None or not LINUX:
        return None
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    return before


def spin(waiting: Any) -> list[tuple[int, int]]:
    """Return what a ``select.poll`` object finds while we keep looking, for a while.

    A core that sleeps takes long to wake, and in a virtual machine its caches may be another's
    by then. One that has nothing else to do can look instead.
    """
    until = perf_counter() + SPIN_S
    while perf_counter() < until:
        found: list[tuple[int, int]] = waiting.poll(0)
        if found:
            return found
    return []
