"""The leap engine: the event engine's system, advanced from one change of batch to the next.

With a fixed verify width all running requests step together and their commits are known when
they are admitted, so a request's finish is known as a step number and its KV growth is added to
a per-step timeline with one slice. Between two changes of the batch the times of all steps
follow from cumulative sums. Same draws, same policy, same times as ``engine.py``.
"""

from array import array
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np

from dflash_sim.simulator.draws import Draws
from dflash_sim.simulator.hosttime import HostTime
from dflash_sim.simulator.records import DECODE, PREFILL, Run
from dflash_sim.simulator.scheduler import Limits, PrefillBatch, Req, Scheduler
from dflash_sim.simulator.step import StepModel
from dflash_sim.simulator.workload import Workload

_SCALAR_STEPS = 2**5  # shorter leaps are stepped in Python: cheaper than numpy's call overhead
_FEW_STEPS = 2**3  # of which the price is looked up one by one
_CHUNK = 2**14
_FOREVER = float("inf")


def refusal(limits: Limits, draws: Draws) -> str | None:
    """Why the leap engine cannot run this, or None."""
    if limits.kv_tight:
        return "KV cache may run out (admission and retraction depend on every step)"
    if draws.shared:
        return "acceptance is drawn per batch step, not per request"
    return None


@dataclass(slots=True)
class _Clock:
    """When the host and the streams are free [s], as left by the last iteration."""

    host: float = 0.0
    gpu: float = 0.0
    copy: float = 0.0
    publish: float = 0.0


@dataclass(slots=True)
class _Pending:
    """The launched iteration whose result the host has not processed."""

    batch: int
    finishing: list[Req]
    first_tokens: tuple[Req, ...] = ()


class _Columns:
    """Iterations as growing columns; emissions follow in the same order, one behind.

    What the iterations of one leap have in common is kept once per leap, in ``spans``.
    """

    def __init__(self) -> None:
        self.spans: list[tuple[int, int, float, bool, int]] = []  # kind, batch, prefix, idle, n
        self.kv = array("q")
        self.gpu_s, self.start, self.end, self.emit = (array("d") for _ in range(4))

    def expand(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """``kind, batch, prefix, after_idle`` by iteration."""
        kind, batch, prefix, idle, n = (np.array(c) for c in zip(*self.spans, strict=True))
        after_idle = np.zeros(n.sum(), bool)
        after_idle[np.cumsum(n) - n] = idle
        return np.repeat(kind, n), np.repeat(batch, n), np.repeat(prefix, n), after_idle


def _extend(column: "array[Any]", values: np.ndarray) -> None:
    column.frombytes(values.tobytes())


@dataclass
class LeapEngine:
    """One run of the engine; parameters as :class:`~dflash_sim.simulator.engine.EventEngine`."""

    step: StepModel
    host: HostTime
    limits: Limits
    workload: Workload
    draws: Draws
    mode: str = "v2"
    host_length_sync: bool = False
    turnaround_s: float = 0.0
    clock: _Clock = field(default_factory=_Clock)

    def __post_init__(self) -> None:
        n = len(self.workload)
        self.scheduler = Scheduler(self.limits)
        self.log = _Columns()
        self.first_token_s = [float("nan")] * n
        self.finish_s = [float("nan")] * n
        self.arrival_s = [float("nan")] * n
        self.arrivals: list[tuple[float, int]] = []
        self.kv = np.zeros(_CHUNK, np.int64)
        self.steps = 0
        self.ends: list[tuple[int, int, Req]] = []  # (step after the last, rid, request)
        self.pending: _Pending | None = None
        self._syncs = self.host_length_sync and self.limits.speculative
        self._idle = True
        self._shrunk = False
        self._heads = iter(self.workload.heads)
        self._left = int(self.workload.measured.sum())
        self._measured = self.workload.measured.tolist()
        self._follow = self.workload.follow.tolist()
        self._isl = self.workload.isl.tolist()
        self._osl = self.workload.osl.tolist()
        self._cached = self.workload.cached.tolist()
        self._cycles = self.draws.cycles.tolist()

    def run(self) -> Run:
        """Run until the last measured request has been answered."""
        given = self.workload.arrival_s
        if given is not None:
            self.arrival_s = given.tolist()
            self.arrivals = list(zip(self.arrival_s, range(len(given)), strict=True))
            heapify(self.arrivals)
        else:
            for _ in range(self.workload.conc):
                self._next_sample(0.0)
        while self._left:
            self._iterate()
        return self._run()

    def _iterate(self) -> None:
        """One scheduler loop, or as many decode loops as leave the batch unchanged."""
        c = self.clock
        decide = c.host + self.host.recv_s
        self._receive(decide)
        s = self.scheduler
        if self._shrunk:
            s.filter_finished()
            self._shrunk = False
        prefill = s.get_new_batch_prefill()
        if prefill is not None:
            s.merge(prefill)
            self._prefill(prefill)
        elif s.running:
            self._decode(len(s.running))
        elif self.pending is not None:
            done = max(decide, c.copy) + self.host.process(self.pending.batch)
            self._settle(done)
            c.host = done
        else:
            self._idle = True
            if not self.arrivals:
                msg = "the engine is idle with requests unanswered"
                raise RuntimeError(msg)
            wait = self.arrivals[0][0] - decide
            c.host = decide + wait if wait > 0 else decide

    # ---- requests ------------------------------------------------------------------------

    def _receive(self, now: float) -> None:
        while self.arrivals and self.arrivals[0][0] <= now:
            _, rid = heappop(self.arrivals)
            req = Req(
                rid, isl=self._isl[rid], osl=self._osl[rid], cached=self._cached[rid], commits=[]
            )
            self.scheduler.waiting.append(req)

    def _next_sample(self, at: float) -> None:
        rid = next(self._heads, None)
        if rid is not None:
            self._arrive(rid, at)

    def _arrive(self, rid: int, at: float) -> None:
        self.arrival_s[rid] = at
        heappush(self.arrivals, (at, rid))

    def _finish(self, req: Req, now: float) -> None:
        req.done = self._shrunk = True
        rid = req.rid
        self.finish_s[rid] = now
        self._left -= self._measured[rid]
        if self.workload.arrival_s is not None:
            return
        follow = self._follow[rid]
        if follow >= 0:
            self._arrive(follow, now + self.turnaround_s)
        else:
            self._next_sample(now + self.turnaround_s)

    def _admit(self, req: Req) -> None:
        """Add the request's KV growth to the timeline and note the step that ends it."""
        n, start = self._cycles[req.rid], self.steps
        while start + n + 2 > len(self.kv):
            self.kv = np.concatenate([self.kv, np.zeros_like(self.kv)])
        self.kv[start : start + n] += self.draws.before[req.rid, :n]
        self.kv[start : start + n] += req.isl
        if n:
            heappush(self.ends, (start + n, req.rid, req))

    def _tail_kv(self, req: Req) -> int:
        return req.isl + int(self.draws.before[req.rid, self._cycles[req.rid]])

    def _settle(self, now: float) -> None:
        """The host has processed the pending result."""
        p = self.pending
        self.pending = None
        if p is None:
            return
        self.log.emit.append(now)
        for req in p.first_tokens:
            self.first_token_s[req.rid] = now
        for req in p.finishing:
            self._finish(req, now)

    # ---- iterations ----------------------------------------------------------------------

    def _prefill(self, batch: PrefillBatch) -> None:
        ready = tuple(r for r in batch.reqs if r is not batch.chunked)
        n = len(batch.reqs)
        gpu_s = self.step.prefill_s(requests=n, tokens=batch.tokens, prefix=batch.prefix)
        for req in ready:
            self._admit(req)
        finishing = [r for r in ready if not self._cycles[r.rid]]
        self._note(PREFILL, n, 1, prefix=batch.prefix)
        self.log.kv.append(batch.tokens)
        new = _Pending(n, finishing, ready)
        if self.mode == "v2":
            self._overlapped(n, [gpu_s], None, _FOREVER, new, received=True)
        else:
            self._chained(n, np.array([gpu_s]), new, speculative=False)

    def _note(self, kind: int, batch: int, n: int, *, prefix: float = 0.0) -> None:
        self.log.spans.append((kind, batch, prefix, self._idle, n))
        self._idle = False

    def _decode(self, batch: int) -> None:
        """Decode until a request ends or one that could be admitted arrives."""
        ending = self.ends[0][0] if self.ends else self.steps + 1
        wasted = self.pending.finishing if self.pending is not None else []
        steps = 1 if wasted else ending - self.steps
        if wasted:
            while self.steps + 2 > len(self.kv):
                self.kv = np.concatenate([self.kv, np.zeros_like(self.kv)])
            self.kv[self.steps] += sum(self._tail_kv(r) for r in wasted)
        until = _FOREVER
        if self.arrivals and not self.scheduler.batch_is_full and self._could_admit():
            until = self.arrivals[0][0]
        kv = self.kv[self.steps : self.steps + steps]
        if self.mode == "v2":
            done = self._decode_overlapped(batch, kv, until)
        else:
            done = self._decode_chained(batch, kv, until)
        self.steps += done
        self._collect_finished()

    def _could_admit(self) -> bool:
        free = self.scheduler.free_slots
        return free > 0 and free >= self.limits.min_free_slots_delay

    def _collect_finished(self) -> None:
        """Requests whose last step was just launched finish with that step's result."""
        finishing = []
        while self.ends and self.ends[0][0] <= self.steps:
            finishing.append(heappop(self.ends)[2])
        if len(finishing) > 1:
            finishing.sort(key=self.scheduler.running.index)
        if self.pending is not None:
            self.pending.finishing = finishing
            return
        for req in finishing:
            self._finish(req, self.clock.host)

    # ---- overlap -------------------------------------------------------------------------

    def _decode_overlapped(self, batch: int, kv: np.ndarray, until: float) -> int:
        """Steps of one batch under overlap; returns how many were launched."""
        if len(kv) <= _SCALAR_STEPS or self._syncs:
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
        if self._syncs:
            tails = [self.step.tail_s(batch, k) for k in kv]
        cached = kv.tolist()
        if len(cached) > _FEW_STEPS:
            gpu_s = self.step.decode_array(batch, kv).tolist()
        else:
            seconds = self.step.table(batch).seconds
            gpu_s = [seconds(k / batch) for k in cached]
        done = self._overlapped(batch, gpu_s, tails, until, _Pending(batch, []), received=received)
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
        last: _Pending,
        *,
        received: bool,
    ) -> int:
        """The recurrence of the overlapped loop; stops before a loop that receives at ``until``.

        The loop that launches step j begins when the result of step j-2 has been processed, and
        processes the result of step j-1.
        """
        c, h, log = self.clock, self.host, self.log
        host, gpu, copy = c.host, c.gpu, c.copy
        to_launch = h.recv_s + h.get_next_batch(batch)
        process = h.process(batch)
        for j, seconds in enumerate(gpu_s):
            if (j or not received) and host + h.recv_s >= until:
                del gpu_s[j:]
                break
            scheduled = host + to_launch
            if tail_s is not None and self.pending is not None:
                scheduled = max(scheduled, c.publish)
            enqueued = scheduled + h.first_launch_s
            launched = enqueued + h.rest_launch_s
            start = gpu if gpu > enqueued else enqueued
            gpu = start + seconds
            c.publish = gpu - (tail_s[j] if tail_s else 0.0) + h.d2h_s
            if gpu < launched:
                gpu = launched
            log.start.append(start)
            log.end.append(gpu)
            before = self.pending
            host = launched
            if before is not None:
                host = max(launched, copy)
                if before.batch == batch and not before.finishing and not before.first_tokens:
                    host += process
                    log.emit.append(host)
                else:
                    host += h.process(before.batch)
                    self._settle(host)
            copy = (gpu if gpu > copy else copy) + h.d2h_s
            self.pending = last
        log.gpu_s.extend(gpu_s)
        c.host, c.gpu, c.copy = host, gpu, copy
        return len(gpu_s)

    def _gpu_bound(self, batch: int, shortest_s: float) -> bool:
        """Whether the host stays ahead for steps of at least ``shortest_s``, from here on."""
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
        if until < _FOREVER:
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
            batch, gpu_s, _Pending(batch, []), speculative=self.limits.speculative, until=until
        )
        self._note(DECODE, batch, done)
        _extend(self.log.kv, kv[:done])
        return done

    def _chained(
        self,
        batch: int,
        gpu_s: np.ndarray,
        last: _Pending,
        *,
        speculative: bool,
        until: float = _FOREVER,
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
            on_gpu = np.maximum(gpu_s, h.rest_launch_s)
            after += h.d2h_s
        loops = c.host + np.cumsum(before + on_gpu + after)
        n = len(gpu_s)
        begins = np.concatenate(([c.host], loops[:-1]))
        if until < _FOREVER:
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

    def _run(self) -> Run:
        log = self.log
        n = len(log.emit)  # a last iteration still on the GPU is dropped
        finish = np.array(self.finish_s)
        done = np.isfinite(finish)
        cycles = np.where(done, self.draws.cycles, 0)
        committed = self.draws.before[np.arange(len(done)), cycles]
        kind, batch, prefix, after_idle = log.expand()
        return Run(
            arrival_s=np.array(self.arrival_s),
            first_token_s=np.array(self.first_token_s),
            finish_s=finish,
            cycles=cycles,
            committed=np.where(done, committed, 0).astype(np.int64),
            kind=kind[:n],
            batch=batch[:n],
            kv_tokens=np.array(log.kv)[:n],
            prefix=prefix[:n],
            gpu_s=np.array(log.gpu_s)[:n],
            gpu_start_s=np.array(log.start)[:n],
            gpu_end_s=np.array(log.end)[:n],
            emit_s=np.array(log.emit),
            after_idle=after_idle[:n],
            retractions=0,
            engine="leap",
        )
