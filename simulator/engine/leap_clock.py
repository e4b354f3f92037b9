"""The clock between two changes of the batch: host thread, GPU stream and copy stream.

The recurrences of the three engine modes, walked one step at a time or leapt over with cumulative
sums, and the log of iterations they fill. What a processed result means for requests is the
leap engine's business: it is told through ``settle``.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dflash_sim.simulator.cost.step_table import StepModel
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.engine.records import DECODE, NOBODY, PREFILL
from dflash_sim.simulator.engine.scheduler import PrefillBatch, Req

FOREVER = float("inf")
NEVER = -FOREVER
_SCALAR_STEPS = 2**5  # shorter leaps are stepped in Python: cheaper than numpy's call overhead
_FEW_STEPS = 2**3  # of which the price is looked up one by one


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
        self.kv = array("q")
        self.gpu_s, self.start, self.end, self.emit = (array("d") for _ in range(4))

    def expand(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``kind, batch, prefix`` by iteration."""
        kind, batch, prefix, _, n = (np.array(c) for c in zip(*self.spans, strict=True))
        return np.repeat(kind, n), np.repeat(batch, n), np.repeat(prefix, n)

    def after_idle(self) -> np.ndarray:
        """Whether each iteration follows a pause."""
        *_, idle, n = (np.array(c) for c in zip(*self.spans, strict=True))
        after = np.zeros(n.sum(), bool)
        after[np.cumsum(n) - n] = idle
        return after


def _extend(column: "array[Any]", values: np.ndarray) -> None:
    column.frombytes(values.tobytes())


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
        self._idle = True

    @property
    def decides_s(self) -> float:
        """When the next scheduler loop picks its batch [s]."""
        return self.clock.host + self.host.recv_s

    @property
    def results(self) -> int:
        """Iterations whose results have been processed."""
        return len(self.log.emit)

    @property
    def loops(self) -> int:
        """Scheduler loops so far, those that launched nothing included."""
        return len(self.log.start) + len(self.log.pauses)

    def sleep_until(self, arrival_s: float, rid: int) -> None:
        """Nothing to run and nothing to process: wait for a request."""
        self._idle = True
        self.log.pauses.append((len(self.log.start), rid))
        now = self.decides_s
        wait = arrival_s - now
        self.clock.host = now + wait if wait > 0 else now

    def drain(self) -> None:
        """Nothing to run: process the result still pending."""
        assert self.pending is not None
        self.log.pauses.append((len(self.log.start), NOBODY))
        ready = max(self.decides_s, self.clock.copy)
        self.clock.host = ready + self.host.process(self.pending.batch)
        self._settle(self.clock.host)

    def prefill(self, batch: PrefillBatch, new: Pending) -> None:
        """Launch a prefill."""
        n = new.batch
        gpu_s = self.step.prefill_s(requests=n, tokens=batch.tokens, prefix=batch.prefix)
        launch_s = max(self.host.rest_launch_s, self.step.prefill_launch_s(batch.tokens))
        self._note(PREFILL, n, 1, prefix=batch.prefix)
        self.log.kv.append(batch.tokens)
        if self.mode == "v2":
            self._overlapped(n, [gpu_s], None, FOREVER, new, received=True, launch_s=launch_s)
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
        self._idle = False

    # ---- overlap -------------------------------------------------------------------------

    def _decode_overlapped(self, batch: int, kv: np.ndarray, until: float) -> int:
        """Steps of one batch under overlap; returns how many were launched."""
        if len(kv) <= _SCALAR_STEPS or self.syncs:
            return self._walk(batch, kv, until, received=True)
        # Two steps bring the pipeline into the steady state of this batch.
        lead = self._walk(batch, kv[:2], until, received=True)
        if lead < 2:
            return lead
        kv = kv[2:]
        gpu_s = self.step.decode_array(batch, kv)
        if self._gpu_bound(batch, float(gpu_s.min())):
            return 2 + self._leap(batch, kv, gpu_s, until)
        return 2 + self._walk(batch, kv, until, received=False)

    def _walk(self, batch: int, kv: np.ndarray, until: float, *, received: bool) -> int:
        """Steps one at a time."""
        tails = None
        if self.syncs:
            tails = self.step.tail_array(batch, kv).tolist()
        cached = kv.tolist()
        if len(cached) > _FEW_STEPS:
            gpu_s = self.step.decode_array(batch, kv).tolist()
        else:
            seconds = self.step.table(batch).seconds
            gpu_s = [seconds(k / batch) for k in cached]
        done = self._overlapped(batch, gpu_s, tails, until, Pending(batch, []), received=received)
        if done:
            self._note(DECODE, batch, done)
            self.log.kv.extend(cached[:done])
        return done

    def _overlapped(
        self,
        batch: int,
        gpu_s: list[float],
        tail_s: list[float] | None,
        until: float,
        last: Pending,
        *,
        received: bool,
        launch_s: float | None = None,
    ) -> int:
        """The recurrence of the overlapped loop; stops before a loop that receives at ``until``.

        ``launch_s`` is what a prefill's launches take after the first; a step's are the host's.
        The loop that launches step j begins when the result of step j-2 has been processed, and
        processes the result of step j-1.
        """
        c, h, log = self.clock, self.host, self.log
        host, gpu, copy = c.host, c.gpu, c.copy
        to_launch = h.recv_s + h.get_next_batch(batch)
        process = h.process(batch)
        rest_s = h.rest_launch_s if launch_s is None else launch_s
        first_s, d2h_s, tail = h.first_launch_s, h.d2h_s, 0.0
        begins, ends, emits = log.start.append, log.end.append, log.emit.append
        for j, seconds in enumerate(gpu_s):
            if (j or not received) and host + h.recv_s >= until:
                del gpu_s[j:]
                break
            scheduled = host + to_launch
            if tail_s is not None:
                if self.pending is not None:
                    scheduled = max(scheduled, c.publish)
                tail = tail_s[j]
            enqueued = scheduled + first_s
            launched = enqueued + rest_s
            start = gpu if gpu > enqueued else enqueued
            gpu = start + seconds
            c.publish = gpu - tail + d2h_s
            if gpu < launched:
                gpu = launched
            begins(start)
            ends(gpu)
            host = launched
            before = self.pending
            if before is last:  # a step of this batch: nobody ends with it
                host = (copy if copy > launched else launched) + process
                emits(host)
            elif before is not None:
                host = (copy if copy > launched else launched) + h.process(before.batch)
                self._settle(host)
            copy = (gpu if gpu > copy else copy) + d2h_s
            self.pending = last
        log.gpu_s.extend(gpu_s)
        c.host, c.gpu, c.copy = host, gpu, copy
        return len(gpu_s)

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

    def _leap(self, batch: int, kv: np.ndarray, gpu_s: np.ndarray, until: float) -> int:
        """Steps back to back on the GPU: the host waits for each result one step later."""
        c, h = self.clock, self.host
        ends = c.gpu + np.cumsum(gpu_s)
        copies = ends + h.d2h_s
        hosts = np.empty_like(ends)
        hosts[0] = c.copy
        hosts[1:] = copies[:-1]
        hosts += h.process(batch)
        n = len(gpu_s)
        if until < FOREVER:
            begins = np.concatenate(([c.host], hosts[:-1]))
            n = int(np.searchsorted(begins + h.recv_s, until, side="left"))
            if n == 0:
                return 0
        log = self.log
        self._note(DECODE, batch, n)
        log.start.append(c.gpu)
        _extend(log.kv, kv[:n])
        _extend(log.gpu_s, gpu_s[:n])
        _extend(log.start, ends[: n - 1])
        _extend(log.end, ends[:n])
        _extend(log.emit, hosts[:n])
        c.gpu, c.copy, c.host = float(ends[n - 1]), float(copies[n - 1]), float(hosts[n - 1])
        c.publish = c.copy
        return n

    # ---- no overlap ----------------------------------------------------------------------

    def _decode_chained(self, batch: int, kv: np.ndarray, until: float) -> int:
        """Steps of one batch in V1 or V2-sync; returns how many were launched."""
        gpu_s = self.step.decode_array(batch, kv)
        done = self._chained(
            batch, gpu_s, Pending(batch, []), speculative=self.speculative, until=until
        )
        self._note(DECODE, batch, done)
        _extend(self.log.kv, kv[:done])
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
