"""The clock between two changes of the batch: host thread, GPU stream and copy stream.

The recurrences of the three engine modes, walked one step at a time or leapt over with cumulative
sums, and the log of iterations they fill. What a processed result means for requests is the
leap engine's business: it is told through ``settle``.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from dflash_sim.simulator.cost.step_table import StepModel
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.engine.records import DECODE, NOBODY, PREFILL
from dflash_sim.simulator.engine.scheduler import PrefillBatch, Req

FOREVER = float("inf")
_FEW_STEPS = 5  # of a leap: they are walked one by one
_LIST_STEPS = 2**4  # of shorter leaps lists are cheaper than numpy's call overhead


@dataclass(slots=True)
class Clock:
    """When the host and the streams are free [s], as left by the last iteration."""

    host: float = 0.0
    gpu: float = 0.0
    copy: float = 0.0
    publish: float = 0.0


@dataclass(slots=True)
class Pending:
    """A launched iteration whose result the host has not processed."""

    batch: int
    finishing: list[Req]
    first_tokens: tuple[Req, ...] = ()


class Columns:
    """Iterations as growing columns; emissions follow in the same order, one behind.

    What the iterations of one leap have in common is kept once per leap, in ``spans``.
    """

    def __init__(self) -> None:
        self.spans: list[tuple[int, int, float, bool, int]] = []  # kind, batch, prefix, idle, n
        self.pauses: list[tuple[int, int]] = []  # iterations before it, who is waited for
        self.prefilled: list[int] = []  # tokens of each prefill
        self.gpu_s, self.start, self.end, self.emit = (array("d") for _ in range(4))

    def expand(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """``kind, batch, prefix`` by iteration, and whether it follows a pause."""
        kind, batch, prefix, idle, n = (np.array(c) for c in zip(*self.spans, strict=True))
        after_idle = np.zeros(n.sum(), bool)
        after_idle[np.cumsum(n) - n] = idle
        return np.repeat(kind, n), np.repeat(batch, n), np.repeat(prefix, n), after_idle


def _extend(column: "array[Any]", values: np.ndarray) -> None:
    column.frombytes(values.data.cast("B"))


@dataclass
class Pipeline:
    """The engine's clock and log.

    Parameters
    ----------
    mode
        ``v1``, ``v2-sync`` or ``v2``.
    speculative
        True if a decode step drafts and verifies.
    syncs
        An overlapped step waits for the previous one's lengths on the host.
    settle
        Called when the host has processed a result, with it and the time [s].
    """

    step: StepModel
    host: HostTime
    mode: str
    speculative: bool
    syncs: bool
    settle: Callable[[Pending, float], None]

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.log = Columns()
        self.pending: Pending | None = None
        self.loops = 0  # of the scheduler so far, those that launched nothing included
        self._idle = True

    @property
    def decides_s(self) -> float:
        """When the next scheduler loop picks its batch [s]."""
        return self.clock.host + self.host.recv_s

    @property
    def launched(self) -> int:
        """Iterations launched."""
        return len(self.log.start)

    @property
    def results(self) -> int:
        """Iterations whose results have been processed."""
        return len(self.log.emit)

    def sleep_until(self, arrival_s: float, rid: int) -> None:
        """Nothing to run and nothing to process: wait for a request."""
        self._idle = True
        self.loops += 1
        self.log.pauses.append((self.launched, rid))
        now = self.decides_s
        wait = arrival_s - now
        self.clock.host = now + wait if wait > 0 else now

    def drain(self) -> None:
        """Nothing to run: process the result still pending."""
        assert self.pending is not None
        self.loops += 1
        self.log.pauses.append((self.launched, NOBODY))
        ready = max(self.decides_s, self.clock.copy)
        self.clock.host = ready + self.host.process(self.pending.batch)
        self._settle(self.clock.host)

    def prefill(self, batch: PrefillBatch, new: Pending) -> None:
        """Launch a prefill."""
        n = new.batch
        gpu_s = self.step.prefill_s(requests=n, tokens=batch.tokens, prefix=batch.prefix)
        launch_s = max(self.host.rest_launch_s, self.step.prefill_launch_s(batch.tokens))
        self._note(PREFILL, n, 1, prefix=batch.prefix)
        self.log.prefilled.append(batch.tokens)
        if self.mode == "v2":
            self._first(n, gpu_s, new, launch_s)
        else:
            self._chained(n, np.array([gpu_s]), new, speculative=False, launch_s=launch_s)

    def decode(self, batch: int, kv: np.ndarray, until: float) -> int:
        """Launch up to ``len(kv)`` steps of one batch holding ``kv`` tokens; returns how many.

        Stops before a loop that would receive a request arriving at ``until`` [s].
        """
        if self.mode == "v2":
            return self._decode_overlapped(batch, kv, until)
        return self._decode_chained(batch, kv, until)

    def _settle(self, now: float) -> None:
        p = self.pending
        self.pending = None
        if p is not None:
            self.log.emit.append(now)
            self.settle(p, now)

    def _note(self, kind: int, batch: int, n: int, *, prefix: float = 0.0) -> None:
        self.log.spans.append((kind, batch, prefix, self._idle, n))
        self.loops += n
        self._idle = False

    # ---- overlap -------------------------------------------------------------------------

    def _decode_overlapped(self, batch: int, kv: np.ndarray, until: float) -> int:
        """Steps of one batch under overlap; returns how many were launched."""
        last, done = Pending(batch, []), 1
        if self.syncs:
            gpu_s = self.step.table(batch).seconds_each(batch, kv.tolist())
            tails = self.step.tail_array(batch, kv).tolist()
            done = self._overlapped(batch, gpu_s, last, until, tails)
        else:  # where an answer has just left, its client's next request ends the leap at once
            first_s = self.step.table(batch).seconds(int(kv[0]) / batch)
            self._first(batch, first_s, last, self.host.rest_launch_s)
            if len(kv) > 1 and self.clock.host + self.host.recv_s < until:
                done += self._more(batch, kv[1:], last, until)
        self._note(DECODE, batch, done)
        return done

    def _first(self, batch: int, gpu_s: float, new: Pending, launch_s: float) -> None:
        """The loop that launches a prefill or the first step of a batch, and waits for no lengths.

        It processes what was launched before; ``launch_s`` is what launches take after the first.
        """
        c, h, log, before = self.clock, self.host, self.log, self.pending
        enqueued = c.host + h.recv_s + (h.schedule_s + h.schedule_per_request_s * batch)
        enqueued += h.first_launch_s
        launched = host = enqueued + launch_s
        start = c.gpu if c.gpu > enqueued else enqueued
        gpu = start + gpu_s
        if self.syncs:
            c.publish = gpu + h.d2h_s
        if gpu < launched:
            gpu = launched
        log.gpu_s.append(gpu_s)
        log.start.append(start)
        log.end.append(gpu)
        if before is not None:
            host = c.copy if c.copy > launched else launched
            host += h.process_s + h.process_per_request_s * before.batch
            log.emit.append(host)
            if before.finishing or before.first_tokens:
                self.settle(before, host)
        c.copy = (gpu if gpu > c.copy else c.copy) + h.d2h_s
        c.host, c.gpu = host, gpu
        self.pending = new

    def _more(self, batch: int, kv: np.ndarray, last: Pending, until: float) -> int:
        """Steps after the first of a batch: one more brings the pipeline into its steady state."""
        table = self.step.table(batch)
        if len(kv) > _LIST_STEPS:
            line = table.line(batch, int(kv[0]), int(kv[-1]))
            many_s = self.step.decode_array(batch, kv) if line is None else line[0] + line[1] * kv
            done = self._overlapped(batch, [float(many_s[0])], last, until)
            many_s = many_s[1:]
            if self._gpu_bound(batch, float(np.minimum.reduce(many_s))):
                return done + self._leap_many(batch, many_s, until)
            return done + self._overlapped(batch, many_s.tolist(), last, until)
        gpu_s = table.seconds_each(batch, kv.tolist())
        if len(gpu_s) < _FEW_STEPS:
            return self._overlapped(batch, gpu_s, last, until)
        done = self._overlapped(batch, gpu_s[:1], last, until)
        rest = gpu_s[1:]
        if self._gpu_bound(batch, min(rest)):
            return done + self._leap(batch, rest, until)
        return done + self._overlapped(batch, rest, last, until)

    def _overlapped(
        self,
        batch: int,
        gpu_s: list[float],
        last: Pending,
        until: float,
        tail_s: list[float] | None = None,
    ) -> int:
        """The recurrence of the overlapped loop; stops before a loop that receives at ``until``.

        The loop that launches step j begins when the result of step j-2 has been processed, and
        processes the result of step j-1.
        """
        c, h, log = self.clock, self.host, self.log
        host, gpu, copy = c.host, c.gpu, c.copy
        recv_s, first_s, d2h_s, rest_s = h.recv_s, h.first_launch_s, h.d2h_s, h.rest_launch_s
        to_enqueue = recv_s + h.get_next_batch(batch) + first_s
        process, syncs = h.process(batch), self.syncs
        begins, ends, emits = log.start.append, log.end.append, log.emit.append
        before, done = self.pending, 0
        for seconds in gpu_s:
            # The first loop after a change of the batch has received already.
            if before is last and host + recv_s >= until:
                break
            enqueued = host + to_enqueue
            if tail_s is not None and before is not None:
                enqueued = max(enqueued, c.publish + first_s)
            launched = enqueued + rest_s
            start = gpu if gpu > enqueued else enqueued
            gpu = start + seconds
            if syncs:
                c.publish = gpu - (tail_s[done] if tail_s is not None else 0.0) + d2h_s
            if gpu < launched:
                gpu = launched
            begins(start)
            ends(gpu)
            if before is last:  # a step of this batch: nobody ends with it
                host = (copy if copy > launched else launched) + process
                emits(host)
            elif before is not None:
                host = (copy if copy > launched else launched) + h.process(before.batch)
                emits(host)
                self.settle(before, host)
            else:
                host = launched
            copy = (gpu if gpu > copy else copy) + d2h_s
            before = last
            done += 1
        self.pending = before
        log.gpu_s.extend(gpu_s[:done])
        c.host, c.gpu, c.copy = host, gpu, copy
        return done

    def _gpu_bound(self, batch: int, shortest_s: float) -> bool:
        """Return True if the host stays ahead from here on, with no step under ``shortest_s``."""
        c, h = self.clock, self.host
        to_enqueue = h.recv_s + h.get_next_batch(batch) + h.first_launch_s
        process = h.process(batch)
        enough = max(h.d2h_s + process + to_enqueue, process + to_enqueue + h.rest_launch_s)
        ahead = c.host + to_enqueue <= c.gpu
        waits = c.host + to_enqueue + h.rest_launch_s <= c.copy
        in_step = c.copy == c.gpu + h.d2h_s
        return shortest_s >= max(enough, h.d2h_s) and ahead and waits and in_step

    def _leap(self, batch: int, gpu_s: list[float], until: float) -> int:
        """Steps back to back on the GPU: the host waits for each result one step later."""
        c, h, log = self.clock, self.host, self.log
        ends = list(accumulate(gpu_s, initial=c.gpu))  # of the step before, and of each
        told_s = h.d2h_s + h.process(batch)
        hosts = [end + told_s for end in ends[:-1]]
        n = len(gpu_s)
        if until < FOREVER:
            n = bisect_left([c.host, *hosts[:-1]], until, key=lambda begins: begins + h.recv_s)
            if n == 0:
                return 0
        log.gpu_s.extend(gpu_s[:n])
        log.start.extend(ends[:n])
        log.end.extend(ends[1 : n + 1])
        log.emit.extend(hosts[:n])
        c.gpu, c.host = ends[n], hosts[n - 1]
        c.copy = c.gpu + h.d2h_s
        return n

    def _leap_many(self, batch: int, gpu_s: np.ndarray, until: float) -> int:
        """As a few steps back to back, on arrays."""
        c, h, log = self.clock, self.host, self.log
        ends = np.empty(len(gpu_s) + 1)  # of the step before, and of each
        ends[0] = c.gpu
        ends[1:] = gpu_s
        ends = ends.cumsum()
        hosts = ends[:-1] + (h.d2h_s + h.process(batch))
        n = len(gpu_s)
        if until < FOREVER:
            if c.host + h.recv_s >= until:
                return 0
            n = 1 + int((hosts[:-1] + h.recv_s).searchsorted(until))
        _extend(log.gpu_s, gpu_s[:n])
        _extend(log.start, ends[:n])
        _extend(log.end, ends[1 : n + 1])
        _extend(log.emit, hosts[:n])
        c.gpu, c.host = float(ends[n]), float(hosts[n - 1])
        c.copy = c.gpu + h.d2h_s
        return n

    # ---- no overlap ----------------------------------------------------------------------

    def _decode_chained(self, batch: int, kv: np.ndarray, until: float) -> int:
        """Steps of one batch in V1 or V2-sync; returns how many were launched."""
        gpu_s = self.step.decode_array(batch, kv)
        done = self._chained(
            batch, gpu_s, Pending(batch, []), speculative=self.speculative, until=until
        )
        self._note(DECODE, batch, done)
        return done

    def _chained(
        self,
        batch: int,
        gpu_s: np.ndarray,
        last: Pending,
        *,
        speculative: bool,
        until: float = FOREVER,
        launch_s: float | None = None,
    ) -> int:
        """Without overlap an iteration is a sum of host and GPU time; ``until`` cuts the chain."""
        c, h = self.clock, self.host
        before = h.recv_s + h.get_next_batch(batch)
        after = h.process(batch)
        if self.mode == "v1" and speculative:
            before += h.prepare_draft_s
            on_gpu = gpu_s + (h.prepare_verify_s + h.v1_accept(batch))
        else:
            before += h.first_launch_s
            on_gpu = np.maximum(gpu_s, h.rest_launch_s if launch_s is None else launch_s)
            after += h.d2h_s
        loops = c.host + np.cumsum(before + on_gpu + after)
        n = len(gpu_s)
        begins = np.concatenate(([c.host], loops[:-1]))
        if until < FOREVER:
            n = int(np.searchsorted(begins + h.recv_s, until, side="left"))
        starts = begins[:n] + before
        ends = starts + on_gpu[:n]
        log = self.log
        _extend(log.gpu_s, gpu_s[:n])
        _extend(log.start, starts)
        _extend(log.end, ends)
        _extend(log.emit, loops[: n - 1])
        c.host, c.gpu = float(loops[n - 1]), float(ends[-1])
        self.pending = last
        self._settle(c.host)
        return n
