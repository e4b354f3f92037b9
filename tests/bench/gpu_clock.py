"""Time on a GPU: a captured graph of calls over rotating copies, between two events.

Copies rotate because a layer met again in a real pass comes from memory, not from the L2 cache.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

WARM_UP, REPLAYS = 3, 20
COLD_L2S = 2  # working set, in L2 caches


def copies(nbytes: float) -> int:
    """How many copies of a working set of ``nbytes`` exceed the L2 cache twice."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return min(64, 1 + int(COLD_L2S * cache / nbytes))


def seconds(calls: Sequence[Callable[[], object]]) -> float:
    """Median time of one of ``calls``, which run one after the other in a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            for call in calls:
                call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / len(calls))
    return statistics.median(times)


def copy_byte_s() -> float:
    """Bytes read and written per second by a plain copy of a gigabyte."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    goal = torch.empty_like(source)
    return 2 * source.numel() / seconds([lambda: goal.copy_(source)])


@dataclass(frozen=True)
class Contest:
    """One kernel against what it replaces.

    Attributes
    ----------
    nbytes : what it must read and write
    rival_s : the best alternative, or None
    target : the ratio to reach, or None
    """

    name: str
    ours_s: float
    nbytes: float
    rival_s: float | None = None
    rival: str = ""
    target: float | None = None

    def line(self, copy: float) -> str:
        """The row of a table; ``copy`` is the measured copy bandwidth [byte/s]."""
        share = self.nbytes / self.ours_s / copy
        text = f"{self.name:44} {self.ours_s * 1e6:9.1f} us  {share:5.0%} of copy"
        if self.rival_s is not None:
            ratio = self.rival_s / self.ours_s
            text += f"  {self.rival_s * 1e6:9.1f} us {self.rival:14} ratio {ratio:5.2f}"
            if self.target is not None:
                text += f"  {'reaches' if ratio >= self.target else 'MISSES'} {self.target}"
        return text
