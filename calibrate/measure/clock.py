"""Calls are timed on this machine: CUDA graphs between events, or the thread's own clock.

Several copies of a call's tensors are used in turn, because in a pass every layer's weights come
from memory: a loop over one copy stays in the cache and is 13-25 % too fast.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from dflash_sim.kernels.heap import keep_heap

Calls = Sequence[Callable[[], object]]
COLD_CACHES = 2  # working set of rotating copies, in last-level caches
MOST_COPIES = 64
KEPT = 0.9  # of repeated times
COPY_BYTES = {"cuda": 2**30, "cpu": 2**26}
LEAST_GRAPH_S, MOST_ROUNDS = 3e-4, 64  # beside it the launch of a graph is small
BUSY_CYCLES = 200_000  # of a GPU's clock: about a tenth of a millisecond
MATRIX = {"cuda": 8192, "cpu": 512}
CPU_CACHE_BYTES = 2**25  # where the system does not say


@dataclass(frozen=True)
class Sample:
    """Repeated times of one call; ``spread`` is half the quartiles' distance over the median."""

    median_s: float
    mean_s: float
    spread: float
    runs: int

    @classmethod
    def of(cls, times: Sequence[float]) -> "Sample":
        """The summary of single times [s]."""
        middle = statistics.median(times)
        low, _, high = statistics.quantiles(times, n=4) if len(times) > 1 else (middle,) * 3
        spread = (high - low) / 2 / middle if middle > 0 else math.inf
        return cls(middle, statistics.fmean(times), spread, len(times))


class Clock(Protocol):
    """Times calls on one kind of device."""

    device: torch.device
    cache_bytes: float

    def sample(self, calls: Calls) -> Sample:
        """Time of one of ``calls``, which are made one after the other, repeatedly."""
        ...


class CudaClock:
    """A captured graph of the calls, between two events; no launch of the host is in it.

    Parameters
    ----------
    replays
        Timed replays of the graph, after three to warm up.
    """

    def __init__(self, replays: int = 20) -> None:
        self.device, self.replays = torch.device("cuda"), replays
        self.cache_bytes = float(torch.cuda.get_device_properties(0).L2_cache_size)

    def sample(self, calls: Calls) -> Sample:
        """Time of one call inside a CUDA graph."""
        once = self._replay_s(self.captured(calls))
        rounds = max(1, min(MOST_ROUNDS, math.ceil(LEAST_GRAPH_S / max(once, 1e-6))))
        graph = self.captured([*calls] * rounds)
        each = rounds * len(calls)
        return Sample.of([self._replay_s(graph) / each for _ in range(self.replays)])

    def captured(self, calls: Calls) -> "torch.cuda.CUDAGraph":
        """The calls as a graph; they run three times before, on a stream of their own."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                for call in calls:
                    call()
        torch.cuda.current_stream().wait_stream(aside)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        return graph

    @staticmethod
    def _replay_s(graph: "torch.cuda.CUDAGraph") -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        keep_busy()
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3


def keep_busy() -> None:
    """Give the GPU something to do while the host submits what is timed next."""
    torch.cuda._sleep(BUSY_CYCLES)


class CpuClock:
    """The thread's own clock: time that other processes take from this one does not count.

    Parameters
    ----------
    batches
        Times that are taken; each is of as many rounds over the calls as last ``least_s``.
    """

    def __init__(self, batches: int = 9, least_s: float = 4e-3) -> None:
        torch.set_num_threads(1)
        keep_heap()
        self.device, self.batches, self.least_s = torch.device("cpu"), batches, least_s
        self.cache_bytes = float(_cpu_cache_bytes())

    def sample(self, calls: Calls) -> Sample:
        """CPU time of one call, on one thread."""
        once = self._round_s(calls, 1)
        rounds = max(1, math.ceil(self.least_s / max(once, 1e-9)))
        each = len(calls) * rounds
        return Sample.of([self._round_s(calls, rounds) / each for _ in range(self.batches)])

    @staticmethod
    def _round_s(calls: Calls, rounds: int) -> float:
        begin = time.thread_time()
        for _ in range(rounds):
            for call in calls:
                call()
        return time.thread_time() - begin


def _cpu_cache_bytes() -> int:
    """The last-level cache, where Linux tells."""
    try:
        with open("/sys/devices/system/cpu/cpu0/cache/index3/size", encoding="ascii") as f:  # noqa: PTH123
            return int(f.read().strip().removesuffix("K")) * 2**10
    except (OSError, ValueError):
        return CPU_CACHE_BYTES


def trimmed_mean(times: Sequence[float]) -> float:
    """Mean without the slowest tenth: on a shared machine those are not this program's [s]."""
    return statistics.fmean(sorted(times)[: max(1, round(KEPT * len(times)))])


def copies(nbytes: float, *, cache_bytes: float, network_bytes: float = math.inf) -> int:
    """Copies of a working set that leave the cache, or that make up the whole network if smaller.

    A network that fits in the cache runs from the cache.
    """
    whole = min(COLD_CACHES * cache_bytes, network_bytes)
    return max(1, min(MOST_COPIES, 1 + int(whole / max(nbytes, 1.0))))


def copy_byte_s(clock: Clock) -> float:
    """Bytes read and written per second by a plain copy that leaves the cache."""
    size = max(COPY_BYTES[clock.device.type], COLD_CACHES * int(clock.cache_bytes) // 2)
    source = torch.ones(size, dtype=torch.uint8, device=clock.device)
    goal = torch.empty_like(source)
    return 2 * size / clock.sample([lambda: goal.copy_(source)]).median_s


def matmul_flop_s(clock: Clock, dtype: torch.dtype) -> float:
    """FLOP per second of a large square product."""
    n = MATRIX[clock.device.type]
    a, b = (torch.randn(n, n, dtype=dtype, device=clock.device) for _ in range(2))
    return 2.0 * n**3 / clock.sample([lambda: a @ b]).median_s


class Canary:
    """A fixed piece of work, timed now and then: a machine that drifts is told by it."""

    def __init__(self, clock: Clock, dtype: torch.dtype) -> None:
        n = MATRIX[clock.device.type] // 2
        self.clock = clock
        self.x, self.w = (torch.randn(n, n, dtype=dtype, device=clock.device) for _ in range(2))

    def seconds(self) -> float:
        """Return the time of one matrix product and one sum over it."""
        return self.clock.sample([lambda: (self.x @ self.w).sum()]).median_s


def clock_for(device: str, *, quick: bool = False) -> Clock:
    """The clock of ``cuda`` or ``cpu``."""
    if device == "cuda":
        return CudaClock(replays=8 if quick else 20)
    return CpuClock(batches=5 if quick else 9)
