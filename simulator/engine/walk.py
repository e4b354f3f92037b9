"""The clock over iterations that are known: what the engines share, overlapped or not.

A decision depends on time only through which loop receives a request. So what a run decided
(:class:`Loops`) stands at other times if every request would be received where it was.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.engine.records import NOBODY, PREFILL, Floats, Ints, Run


@dataclass(frozen=True)
class Prices:
    """What iterations take [s], one entry each.

    Parameters
    ----------
    gpu_s, tail_s
        On the GPU, and the part after the accepted lengths are known; ``tail_s`` is None where
        nobody waits for them.
    launch_s
        The host's launches after the first.
    """

    gpu_s: Floats
    launch_s: Floats
    tail_s: Floats | None


class Walk(ABC):
    """A run's loops in order; the times of each are written by those who know the clock.

    Parameters
    ----------
    run
        What was decided.
    prices
        What its iterations take.
    turnaround_s
        From an answer to the client's next request [s].
    """

    def __init__(self, run: Run, prices: Prices, host: HostTime, turnaround_s: float) -> None:
        assert run.loops is not None
        assert run.loops.launched is not None
        self.base, self.loops, self.prices, self.host = run, run.loops, prices, host
        self.turnaround_s = turnaround_s
        self.kind, self.batch, *_ = run.loops.launched
        n = len(self.kind)
        self.process = host.process_s + host.process_per_request_s * self.batch
        self.schedule = host.recv_s + (host.schedule_s + host.schedule_per_request_s * self.batch)
        self.start, self.end, self.told = np.empty(n), np.empty(n), np.empty(n)  # told: loop's end
        self.pause_s: list[float] = []  # when each pause ended

    @abstractmethod
    def walk(self) -> None:
        """Write when each iteration starts and ends, when its loop does, and when pauses end."""

    @abstractmethod
    def arrival(self, rid: int) -> float:
        """When a request arrives that is waited for [s]."""

    @abstractmethod
    def told_in(self, number: Ints) -> Ints:
        """Loops that process results, of loops that launch; those that drain are not among them."""

    def paused(self, waited_for: int, host: float, copy: float, process_s: float) -> float:
        """The end of a loop that launches nothing."""
        now = host + self.host.recv_s
        if waited_for == NOBODY:
            now = max(now, copy) + process_s
        else:
            now = max(now, self.arrival(waited_for))
        self.pause_s.append(now)
        return now

    def run(self) -> Run | None:
        """The record of the walk, or None if a request would have been received elsewhere."""
        base, loops, n = self.base, self.loops, len(self.kind)
        pauses = np.array([at for at, _ in loops.pauses], dtype=np.int64)
        drains = np.array([who == NOBODY for _, who in loops.pauses], dtype=bool)
        number = np.arange(n) + np.searchsorted(pauses, np.arange(n), side="right")
        pause_number = pauses + np.arange(len(pauses))
        ends = np.empty(n + len(pauses))  # of all loops
        ends[number], ends[pause_number] = self.told, self.pause_s
        results = len(base.kind)
        loop = self.told_in(number)[:results]
        loop[pauses[drains] - 1] = pause_number[drains]
        emit = ends[loop]
        arrival = base.arrival_s.copy()
        created = np.full(len(arrival), NOBODY)
        after, last, first = (np.array(c) for c in (loops.after, loops.last, loops.first))
        sent = after != NOBODY
        arrival[sent] = emit[last[after[sent]]] + self.turnaround_s
        created[sent] = loop[last[after[sent]]]
        if not self._received(ends, arrival, created):
            return None
        finish, first_token = base.finish_s.copy(), base.first_token_s.copy()
        finish[last != NOBODY] = emit[last[last != NOBODY]]
        first_token[first != NOBODY] = emit[first[first != NOBODY]]
        return replace(
            base,
            arrival_s=arrival,
            first_token_s=first_token,
            finish_s=finish,
            gpu_s=self.prices.gpu_s[:results],
            gpu_start_s=self.start[:results],
            gpu_end_s=self.end[:results],
            emit_s=emit,
            client_s=self.turnaround_s,
        )

    def _received(self, ends: Floats, arrival: Floats, created: Ints) -> bool:
        """Return True if every loop would receive whom it received."""
        begins = np.concatenate(([0.0], ends)) + self.host.recv_s  # when a loop looks
        loops = self.loops
        received, missed = np.array(loops.received), np.array(loops.missed)
        got = received != NOBODY
        if (begins[received[got]] < arrival[got]).any():
            return False
        looked = got & (missed > created)
        if (begins[missed[looked]] >= arrival[looked]).any():
            return False
        waits = ~got & np.isfinite(arrival)
        seen = waits & (loops.looked > created)
        return not (begins[loops.looked] >= arrival[seen]).any()


class InTurn(Walk):
    """The clock without overlap, where an iteration is a sum of host and GPU time.

    Parameters
    ----------
    v1
        Decode steps are those of the V1 worker.
    """

    def __init__(
        self, run: Run, prices: Prices, host: HostTime, turnaround_s: float, *, v1: bool
    ) -> None:
        super().__init__(run, prices, host, turnaround_s)
        self.before = self.schedule + host.first_launch_s
        self.on_gpu = np.maximum(prices.gpu_s, prices.launch_s)
        self.after = self.process + host.d2h_s
        if v1:
            decode = self.kind != PREFILL
            accept_s = host.syncs_s + host.accept_s + host.accept_per_request_s * self.batch
            self.before[decode] += host.prepare_draft_s - host.first_launch_s
            self.on_gpu[decode] = (prices.gpu_s + host.prepare_verify_s + accept_s)[decode]
            self.after[decode] = self.process[decode]

    def walk(self) -> None:
        until = np.concatenate(([0.0], np.cumsum(self.before + self.on_gpu + self.after)))
        begun, late = 0, 0.0  # the first iteration since a pause, and what all pauses took
        for at, waited_for in (*self.loops.pauses, (len(self.kind), NOBODY)):
            rows = slice(begun, at)
            np.add(until[:-1][rows] + late, self.before[rows], out=self.start[rows])
            np.add(self.start[rows], self.on_gpu[rows], out=self.end[rows])
            np.add(until[1:][rows], late, out=self.told[rows])
            if waited_for != NOBODY:
                late = self.paused(waited_for, until[at] + late, 0.0, 0.0) - until[at]
            begun = at

    def arrival(self, rid: int) -> float:
        sender = self.loops.after[rid]
        if sender == NOBODY:
            return float(self.base.arrival_s[rid])
        return float(self.told[self.loops.last[sender]]) + self.turnaround_s

    def told_in(self, number: Ints) -> Ints:
        return number.copy()
