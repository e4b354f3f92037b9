"""The executor of a rank on a GPU: results are copied beside the work, and steps are captured.

Work is enqueued, not awaited: while a step runs, the next command is taken, and a result is sent
when its copy has landed. Nothing here has been run on a GPU yet.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import nan
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from dflash_sim.kernels.comm import OneRank
from dflash_sim.profiles.units import MS
from dflash_sim.realrun.job.graphs import graph_sizes
from dflash_sim.realrun.job.journal import CAPTURED
from dflash_sim.realrun.job.messages import Decode, Prefill, Result, Stop
from dflash_sim.realrun.worker.comm import ProcessRank
from dflash_sim.realrun.worker.device import Device, Spans
from dflash_sim.realrun.worker.executor import hear, say
from dflash_sim.realrun.worker.worker import Worker

cuda: Any = torch.cuda  # streams and events are not annotated
LOOK_S = 20e-6  # how long to wait for a command before looking at the GPU again
WARM_UPS = 3  # of a step before it is captured: kernels are compiled, libraries set up


class EventSpans(Spans):
    """When the phases of a command ran on the GPU: events of its stream, by the host's clock."""

    def __init__(self) -> None:
        super().__init__()
        self._events: list[tuple[str, Any]] = []
        self._zero = _recorded()
        cuda.synchronize()
        self._zero_s = perf_counter()

    def begin(self) -> None:
        """A command begins."""
        self._events = [("", _recorded())]

    def mark(self, name: str) -> None:
        """A phase ends here; within a captured step none can be told."""
        if not cuda.is_current_stream_capturing():
            self._events.append((name, _recorded()))

    def take(self) -> list[tuple[str, Any]]:
        """The events since the command began, for :meth:`between` when they have passed."""
        return self._events

    def between(self, events: list[tuple[str, Any]]) -> list[tuple[str, float, float]]:
        """The phases between ``events`` that have passed."""
        (_, last), *phases = events
        now_s = self._zero_s + MS * self._zero.elapsed_time(last)
        spans = []
        for name, event in phases:
            start_s, now_s = now_s, now_s + MS * last.elapsed_time(event)
            spans.append((name, start_s, now_s))
            last = event
        # Elapsed times are float32: from an old zero they would be coarse.
        self._zero, self._zero_s = last, now_s
        return spans

    def read(self) -> list[tuple[str, float, float]]:
        """The phases since the command began; waits for their end."""
        self._events[-1][1].synchronize()
        return self.between(self._events)


def _recorded() -> Any:
    event = cuda.Event(enable_timing=True)
    event.record()
    return event


@dataclass(frozen=True)
class Pending:
    """A result that is on its way to the host."""

    tokens: Tensor
    commit_len: Tensor
    events: list[tuple[str, Any]]
    landed: Any


class GpuWorker(Worker):
    """A :class:`Worker` with overlap on the device."""

    def __init__(self, device: Device, comm: OneRank | ProcessRank) -> None:
        super().__init__(device, comm)
        self.copies = cuda.Stream()
        self.spans = device.spans = EventSpans()
        setup = device.fitted.setup
        self.graphs: dict[int, Callable[[Tensor], tuple[Tensor, Tensor]]] = {}
        if setup.cuda_graphs:
            self._capture(setup.max_running_requests)

    def attend(self, link: Connection, rank: int) -> None:
        """Do what is asked without waiting for the GPU; results are sent as they land."""
        pending: deque[Pending] = deque()
        while True:
            while pending and not link.poll(LOOK_S):
                if pending[0].landed.query():
                    self._send(link, pending.popleft(), rank)
            command = hear(link)
            if isinstance(command, Prefill | Decode):
                pending.append(self.enqueue(command))
                continue
            while pending:
                pending[0].landed.synchronize()
                self._send(link, pending.popleft(), rank)
            if isinstance(command, Stop):
                return
            result = self.run(command)
            if rank == 0:
                say(link, result)

    def _send(self, link: Connection, pending: Pending, rank: int) -> None:
        if rank == 0:
            say(link, self.result(pending))

    def enqueue(self, command: Prefill | Decode) -> Pending:
        """Begin, and have the result copied when it is there."""
        landed, device = cuda.Event(), self.device
        device.map_pages(command.pages)
        if isinstance(command, Prefill):
            device.join(command.joins)
            tokens = device.prefill(command.rows)[:, None]
            commit_len = torch.ones_like(tokens[:, 0])
        else:
            device.begin()
            tokens, commit_len = self._cycle(command.slots)
        self.copies.wait_stream(cuda.current_stream())
        with cuda.stream(self.copies):
            here = [x.to("cpu", non_blocking=True) for x in (tokens, commit_len)]
            landed.record()
        for x in (tokens, commit_len):
            x.record_stream(self.copies)
        return Pending(here[0], here[1], self.spans.take(), landed)

    def result(self, pending: Pending) -> Result:
        """Return what has landed, with its time on the GPU by the host's clock."""
        spans = self.spans.between(pending.events)
        comm_s = 0.0 if self.comm.size == 1 else nan
        return Result(pending.tokens.tolist(), pending.commit_len.tolist(), [], spans, comm_s)

    def _cycle(self, slots: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        size = next((n for n in self.graphs if n >= len(slots)), None)
        if size is None:
            accepted = self.device.cycle(self.device.slots_of(slots))
            return accepted.tokens, accepted.commit_len
        padded = (*slots, *(0,) * (size - len(slots)))
        tokens, commit_len = self.graphs[size](self.device.slots_of(padded))
        # Clones: the next replay writes where this one did.
        kept = tokens[: len(slots)].clone(), commit_len[: len(slots)].clone()
        self.spans.mark(CAPTURED)
        return kept

    def _capture(self, most: int) -> None:
        """A graph of one step per batch size; padded rows are in slot 0, which nobody reads."""
        pool = None
        for size in reversed(graph_sizes(most)):
            slots = torch.zeros(size, dtype=torch.int64, device=self.device.rank.device)
            side = cuda.Stream()
            side.wait_stream(cuda.current_stream())
            with cuda.stream(side):
                for _ in range(WARM_UPS):
                    self.device.cycle(slots)
            cuda.current_stream().wait_stream(side)
            graph = cuda.CUDAGraph()
            # Other threads, such as NCCL's watchdog, may call CUDA meanwhile.
            with cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                accepted = self.device.cycle(slots)
            pool = graph.pool()
            self.graphs[size] = _replayed(graph, slots, accepted.tokens, accepted.commit_len)
        self.graphs = dict(sorted(self.graphs.items()))


def _replayed(
    graph: Any, slots: Tensor, tokens: Tensor, commit_len: Tensor
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def replay(now: Tensor) -> tuple[Tensor, Tensor]:
        slots.copy_(now)
        graph.replay()
        return tokens, commit_len

    return replay
