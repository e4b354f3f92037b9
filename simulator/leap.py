"""The leap engine: the event engine's system, advanced from one change of batch to the next.

With a fixed verify width all running requests step together and their commits are known when
they are admitted, so a request's finish is known as a step number and its KV growth is added to
a per-step timeline with one slice. Between two changes of the batch the times of all steps
follow from cumulative sums. Same draws, same policy, same times as ``engine.py``.
"""

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

import numpy as np

from dflash_sim.simulator.draws import Draws
from dflash_sim.simulator.hosttime import HostTime
from dflash_sim.simulator.records import DECODE, PREFILL, Run
from dflash_sim.simulator.scheduler import Limits, PrefillBatch, Req, Scheduler
from dflash_sim.simulator.step import StepModel
from dflash_sim.simulator.workload import Workload

_SCALAR_STEPS = 2**3  # shorter leaps are stepped one by one: cheaper than numpy's call overhead
_CHUNK = 2**14


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
    """The launched iteration whose result the host has not processed (overlap only)."""

    batch: int
    finishing: list[Req]
    first_tokens: tuple[Req, ...]
    index: int


class _Log:
    """Iteration columns that grow in place."""

    def __init__(self) -> None:
        self.size = 0
        self.ints = np.zeros((3, _CHUNK), np.int64)  # kind, batch, kv
        self.floats = np.zeros((5, _CHUNK))  # prefix, gpu_s, start, end, emit
        self.idle = np.zeros(_CHUNK, bool)

    def reserve(self, n: int) -> int:
        start = self.size
        self.size += n
        while self.size > self.ints.shape[1]:
            self.ints = np.concatenate([self.ints, np.zeros_like(self.ints)], axis=1)
            self.floats = np.concatenate([self.floats, np.zeros_like(self.floats)], axis=1)
            self.idle = np.concatenate([self.idle, np.zeros_like(self.idle)])
        return start


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
        self.log = _Log()
        self.first_token_s = [float("nan")] * n
        self.finish_s = [float("nan")] * n
        self.arrival_s = [float("nan")] * n
        self.arrivals: list[tuple[float, int]] = []
        self.kv = np.zeros(_CHUNK, np.int64)
        self.steps = 0
        self.ends: list[tuple[int, int, Req]] = []  # (step after the last, rid, request)
        self.pending: _Pending | None = None
        self._idle = True
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
        s.filter_finished()
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
        req.done = True
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
        self.log.floats[4, p.index] = now
        for req in p.first_tokens:
            self.first_token_s[req.rid] = now
        for req in p.finishing:
            self._finish(req, now)

    # ---- iterations ----------------------------------------------------------------------

    def _prefill(self, batch: PrefillBatch) -> None:
        ready = tuple(r for r in batch.reqs if r is not batch.chunked)
        gpu_s = self.step.prefill_s(
            requests=len(batch.reqs), tokens=batch.tokens, prefix=batch.prefix
        )
        index = self._note(PREFILL, len(batch.reqs), batch.tokens, batch.prefix)
        for req in ready:
            self._admit(req)
        finishing = [r for r in ready if not self._cycles[r.rid]]
        pending = _Pending(len(batch.reqs), finishing, ready, index)
        self._step_once(index, len(batch.reqs), gpu_s, 0.0, pending, speculative=False)

    def _note(self, kind: int, batch: int, kv: int, prefix: float) -> int:
        i = self.log.reserve(1)
        self.log.ints[:, i] = kind, batch, kv
        self.log.floats[0, i] = prefix
        self.log.idle[i] = self._idle
        self._idle = False
        return i

    def _decode(self, batch: int) -> None:
        """Decode until a request ends or one that could be admitted arrives."""
        ending = self.ends[0][0] if self.ends else self.steps + 1
        wasted = self.pending.finishing if self.pending is not None else []
        steps = 1 if wasted else ending - self.steps
        if wasted:
            while self.steps + 2 > len(self.kv):
                self.kv = np.concatenate([self.kv, np.zeros_like(self.kv)])
            self.kv[self.steps] += sum(self._tail_kv(r) for r in wasted)
        until = float("inf")
        if self.arrivals and not self.scheduler.batch_is_full and self._could_admit():
            until = self.arrivals[0][0]
        kv = self.kv[self.steps : self.steps + steps]
        if steps <= _SCALAR_STEPS:
            done = self._step_each(batch, kv.tolist(), until, received=True)
        else:
            done = self._leap(batch, kv, until)
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
        if not finishing:
            return
        if self.pending is not None:
            self.pending.finishing = sorted(finishing, key=self.scheduler.running.index)
            return
        for req in sorted(finishing, key=self.scheduler.running.index):
            self._finish(req, self.clock.host)

    def _step_each(self, batch: int, kv: list[int], until: float, *, received: bool) -> int:
        """Decode one step at a time; stops before a loop that would receive at ``until``."""
        spec = self.limits.speculative
        for j, tokens in enumerate(kv):
            if (j or not received) and self.clock.host + self.host.recv_s >= until:
                return j
            index = self._note(DECODE, batch, tokens, 0.0)
            gpu_s = self.step.decode_s(batch, tokens)
            tail_s = 0.0
            if spec and self.host_length_sync:
                tail_s = self.step.tail_s(batch, tokens)
            pending = _Pending(batch, [], (), index)
            self._step_once(index, batch, gpu_s, tail_s, pending, speculative=spec)
        return len(kv)

    def _step_once(
        self, i: int, batch: int, gpu_s: float, tail_s: float, new: _Pending, *, speculative: bool
    ) -> None:
        """One iteration of any kind in any mode: the recurrence the event engine walks."""
        c, h = self.clock, self.host
        floats = self.log.floats
        scheduled = c.host + h.recv_s + h.get_next_batch(batch)
        if self.mode == "v1" and speculative:
            start = scheduled + h.prepare_draft_s
            end = start + gpu_s + h.prepare_verify_s + h.v1_accept(batch)
            floats[1:4, i] = gpu_s, start, end
            c.gpu = end
            c.host = end + h.process(batch)
            self.pending = new
            self._settle(c.host)
            return
        if self.mode == "v2" and self.host_length_sync and speculative and self.pending is not None:
            scheduled = max(scheduled, c.publish)
        enqueued = scheduled + h.first_launch_s
        launched = enqueued + h.rest_launch_s
        start = max(c.gpu, enqueued)
        end = max(start + gpu_s, launched)
        copied = max(end, c.copy) + h.d2h_s
        floats[1:4, i] = gpu_s, start, end
        if self.mode == "v2":
            c.publish = start + gpu_s - tail_s + h.d2h_s
            host = launched
            if self.pending is not None:
                host = max(launched, c.copy) + h.process(self.pending.batch)
                self._settle(host)
            c.host, c.gpu, c.copy = host, end, copied
            self.pending = new
            return
        c.gpu, c.copy = end, copied
        c.host = copied + h.process(batch)
        self.pending = new
        self._settle(c.host)

    def _leap(self, batch: int, kv: np.ndarray, until: float) -> int:
        """Decode many steps of one batch at once."""
        gpu_s = self.step.decode_array(batch, kv)
        if self.mode != "v2":
            return self._leap_chain(batch, kv, gpu_s, until)
        h = self.host
        # Two steps bring the pipeline into the steady state of this batch.
        lead = self._step_each(batch, kv[:2].tolist(), until, received=True)
        if lead < 2:
            return lead
        pre = h.recv_s + h.get_next_batch(batch) + h.first_launch_s
        process = h.process(batch)
        rest = gpu_s[1:]
        gpu_bound = max(h.d2h_s + process + pre, process + pre + h.rest_launch_s, h.d2h_s)
        if rest.min() >= gpu_bound and not self.host_length_sync and self._gpu_led(pre):
            return 2 + self._leap_gpu_bound(batch, kv[2:], gpu_s[2:], process, until)
        return 2 + self._step_each(batch, kv[2:].tolist(), until, received=False)

    def _gpu_led(self, pre: float) -> bool:
        """Whether the host runs ahead: the next launch is enqueued before the GPU is free."""
        c = self.clock
        launched = c.host + pre + self.host.rest_launch_s
        in_step = c.copy == c.gpu + self.host.d2h_s
        return c.host + pre <= c.gpu and launched <= c.copy and in_step

    def _leap_gpu_bound(
        self, batch: int, kv: np.ndarray, gpu_s: np.ndarray, process: float, until: float
    ) -> int:
        """Steps back to back on the GPU; the host waits for each result one step later."""
        c, h = self.clock, self.host
        ends = c.gpu + np.cumsum(gpu_s)
        copies = ends + h.d2h_s
        # The loop that launches step j+1 begins when the result of step j-1 is processed.
        hosts = np.concatenate(([c.copy], copies[:-1])) + process
        n = len(gpu_s)
        if until < float("inf"):
            begins = np.concatenate(([c.host], hosts[:-1]))
            n = int(np.searchsorted(begins + h.recv_s, until, side="left"))
            if n == 0:
                return 0
        i = self.log.reserve(n)
        stop = i + n
        self.log.ints[0, i:stop], self.log.ints[1, i:stop] = DECODE, batch
        self.log.ints[2, i:stop] = kv[:n]
        floats = self.log.floats
        floats[1, i:stop] = gpu_s[:n]
        floats[2, i] = c.gpu
        floats[2, i + 1 : stop] = ends[: n - 1]
        floats[3, i:stop] = ends[:n]
        assert self.pending is not None
        floats[4, self.pending.index] = hosts[0]
        floats[4, i : stop - 1] = hosts[1:n]
        c.gpu, c.copy, c.host = float(ends[n - 1]), float(copies[n - 1]), float(hosts[n - 1])
        c.publish = c.copy
        self.pending = _Pending(batch, [], (), stop - 1)
        return n

    def _leap_chain(self, batch: int, kv: np.ndarray, gpu_s: np.ndarray, until: float) -> int:
        """Without overlap every iteration is a sum; ``until`` cuts the chain."""
        c, h = self.clock, self.host
        before = h.recv_s + h.get_next_batch(batch)
        process = h.process(batch)
        if self.mode == "v1" and self.limits.speculative:
            start_after = before + h.prepare_draft_s
            on_gpu = gpu_s + (h.prepare_verify_s + h.v1_accept(batch))
            after = process
        else:
            start_after = before + h.first_launch_s
            on_gpu = np.maximum(gpu_s, h.rest_launch_s)
            after = h.d2h_s + process
        loops = c.host + np.cumsum(start_after + on_gpu + after)
        n = len(gpu_s)
        if until < float("inf"):
            begins = np.concatenate(([c.host], loops[:-1]))
            n = int(np.searchsorted(begins + h.recv_s, until, side="left"))
        begins = np.concatenate(([c.host], loops[: n - 1]))
        i = self.log.reserve(n)
        stop = i + n
        self.log.ints[0, i:stop], self.log.ints[1, i:stop] = DECODE, batch
        self.log.ints[2, i:stop] = kv[:n]
        self.log.idle[i] = self._idle
        self._idle = False
        floats = self.log.floats
        floats[1, i:stop] = gpu_s[:n]
        floats[2, i:stop] = begins + start_after
        floats[3, i:stop] = begins + start_after + on_gpu[:n]
        floats[4, i:stop] = loops[:n]
        c.host, c.gpu = float(loops[n - 1]), float(floats[3, stop - 1])
        c.copy = c.gpu + h.d2h_s
        return n

    def _run(self) -> Run:
        n = self.log.size
        emitted = np.ones(n, bool)
        if self.pending is not None:
            emitted[self.pending.index] = False
        finish = np.array(self.finish_s)
        done = np.isfinite(finish)
        rows = np.arange(len(done))
        cycles = np.where(done, self.draws.cycles, 0)
        kind, batch, kv = (row[:n][emitted] for row in self.log.ints)
        prefix, gpu_s, start, end, emit = (row[:n][emitted] for row in self.log.floats)
        return Run(
            arrival_s=np.array(self.arrival_s),
            first_token_s=np.array(self.first_token_s),
            finish_s=finish,
            cycles=cycles,
            committed=np.where(done, self.draws.before[rows, cycles], 0).astype(np.int64),
            kind=kind,
            batch=batch,
            kv_tokens=kv,
            prefix=prefix,
            gpu_s=gpu_s,
            gpu_start_s=start,
            gpu_end_s=end,
            emit_s=emit,
            after_idle=self.log.idle[:n][emitted],
            retractions=0,
            engine="leap",
        )
