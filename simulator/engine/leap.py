"""The leap engine: the event engine's system, advanced from one change of batch to the next.

With a fixed verify width all running requests step together and their commits are known when
they are admitted, so a request's finish is known as a step number and its KV growth is added to
a per-step timeline with one slice. Between two changes of the batch the times of all steps
follow from cumulative sums. Same draws, same policy, same times as ``engine.py``.
"""

from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import islice

import numpy as np

from dflash_sim.simulator.cost.step_table import StepModel
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.engine.leap_clock import FOREVER, Pending, Pipeline
from dflash_sim.simulator.engine.leap_memory import KvMemory
from dflash_sim.simulator.engine.records import DECODE, NOBODY, PREFILL, Loops, Run
from dflash_sim.simulator.engine.scheduler import Limits, PrefillBatch, Req, Scheduler
from dflash_sim.simulator.requests.draws import Draws
from dflash_sim.simulator.requests.workload import Workload

_CHUNK = 2**14


def refusal(draws: Draws, *, keeps: bool = False) -> str | None:
    """Why the leap engine cannot run this, or None.

    Parameters
    ----------
    keeps
        A prefix cache holds what it has room for of prompts with texts.
    """
    if keeps:
        return "the prefix cache has the room that running requests leave in every step"
    if draws.shared:
        return "acceptance is drawn per batch step, not per request"
    return None


@dataclass
class LeapEngine:
    """One run of the engine; parameters as ``events.EventEngine``.

    It stops where the KV cache runs out and a request would be retracted: ``kv_ran_out``.
    """

    step: StepModel
    host: HostTime
    limits: Limits
    workload: Workload
    draws: Draws
    mode: str = "v2"
    host_length_sync: bool = False
    turnaround_s: float = 0.0

    def __post_init__(self) -> None:
        n = len(self.workload)
        self.scheduler = Scheduler(self.limits, self.workload.prompts)
        self.pipeline = Pipeline(
            self.step,
            self.host,
            self.mode,
            speculative=self.limits.speculative,
            syncs=self.host_length_sync and self.limits.speculative,
            settle=self._settle,
        )
        self.first_token_s = [float("nan")] * n
        self.finish_s = [float("nan")] * n
        self.arrival_s = [float("nan")] * n
        self.arrivals: list[tuple[float, int]] = []
        self.loops = Loops.of(n)
        self._looked = NOBODY  # the last loop that looked for requests
        self.kv = np.zeros(_CHUNK, np.int64)
        self.steps = 0
        self.ends: list[tuple[int, int, Req]] = []  # (step after the last, rid, request)
        self.memory: KvMemory | None = None
        if self.limits.kv_tight:
            n = len(self.draws.cycles)
            self.memory = KvMemory(self.scheduler, n, overlapped=self.mode == "v2")
        self._prefilled = self._decoded = False
        self._ended: list[Req] = []  # still among those that run
        self._always_polls = self.limits.recv_interval == 1
        self._heads = iter(self.workload.heads)
        self._left = int(self.workload.measured.sum())
        self._measured = self.workload.measured.tolist()
        self._follow = self.workload.follow.tolist()
        self._isl = self.workload.isl.tolist()
        self._osl = self.workload.osl.tolist()
        self._cached = self.workload.cached.tolist()
        self._found = [0] * n  # in the prefix cache, of those that have a first token
        self._cycles = self.draws.cycles.tolist()
        self._final_kv = list(self._isl)

    @property
    def kv_ran_out(self) -> bool:
        """Return True if a request would have been retracted: it cannot go on from there."""
        return self.memory is not None and self.memory.ran_out

    @property
    def held(self) -> np.ndarray:
        """Tokens in the KV cache at each decode step so far."""
        return self.kv[: self.steps]

    def run(self) -> Run | None:
        """Run until the last measured request has been answered; None where KV runs out."""
        given = self.workload.arrival_s
        if given is not None:
            self.arrival_s = given.tolist()
            self.arrivals = [(self.arrival_s[rid], rid) for rid in self.workload.heads]
            heapify(self.arrivals)
        else:
            for rid in islice(self._heads, self.workload.conc):
                self._arrive(rid, 0.0)
        memory = self.memory
        while self._left and (memory is None or not memory.ran_out):
            self._iterate()
        return None if self.kv_ran_out else self._run()

    def _iterate(self) -> None:
        """One scheduler loop, or as many decode loops as leave the batch unchanged."""
        pipeline, s = self.pipeline, self.scheduler
        if self._always_polls or s.polls(prefilled=self._prefilled):
            before, self._looked = self._looked, pipeline.loops
            if self.arrivals and self.arrivals[0][0] <= pipeline.decides_s:
                self._receive(pipeline.decides_s, before)
        if self._ended:
            s.filter_finished(self._ended[0] if len(self._ended) == 1 else None)
            self._ended = []
        if self.memory is not None:
            self._look_at(self.memory)
        waits = s.waiting or s.chunked_req is not None
        prefill = s.get_new_batch_prefill() if waits else None
        self._prefilled = prefill is not None
        if prefill is not None:
            s.merge(prefill)
            self._prefill(prefill)
        elif s.running:
            self._decode(len(s.running))
        elif pipeline.pending is not None:
            pipeline.drain()
        elif self.arrivals:
            s.idle()
            pipeline.sleep_until(*self.arrivals[0])
        else:
            msg = "the engine is idle with requests unanswered"
            raise RuntimeError(msg)

    # ---- requests ------------------------------------------------------------------------

    def _receive(self, now: float, before: int) -> None:
        arrivals = self.arrivals
        while arrivals and arrivals[0][0] <= now:
            _, rid = heappop(arrivals)
            req = Req(
                rid, isl=self._isl[rid], osl=self._osl[rid], cached=self._cached[rid], commits=[]
            )
            self.scheduler.waiting.append(req)
            self.loops.received[rid], self.loops.missed[rid] = self._looked, before

    def _arrive(self, rid: int, at: float) -> None:
        self.arrival_s[rid] = at
        heappush(self.arrivals, (at, rid))

    def _finish(self, req: Req, now: float) -> None:
        req.done = True
        self._ended.append(req)
        rid = req.rid
        self.finish_s[rid] = now
        self.loops.last[rid] = self.pipeline.results - 1
        self._left -= self._measured[rid]
        self.scheduler.finished(req)
        then = self._follow[rid]
        if then < 0 and self.workload.arrival_s is None:
            then = next(self._heads, NOBODY)
        if then >= 0:
            self.loops.after[then] = rid
            self._arrive(then, now + self.turnaround_s + self.workload.pause_s(then))

    def _admit(self, req: Req) -> None:
        """Add the request's KV growth to the timeline and note the step that ends it."""
        n, start = self._cycles[req.rid], self.steps
        while start + n + 2 > len(self.kv):
            self.kv = np.concatenate([self.kv, np.zeros_like(self.kv)])
        before = self.draws.before(req.rid)
        if self.memory is not None:
            self.memory.admit(req, start, before)
        kv = self.kv[start : start + n]
        kv += before[:n]
        kv += req.isl
        self._final_kv[req.rid] = req.isl + int(before[n])
        if n:
            heappush(self.ends, (start + n, req.rid, req))

    def _settle(self, result: Pending, now: float) -> None:
        """The host has processed a result."""
        with_it = self.pipeline.results - 1
        for req in result.first_tokens:
            self.first_token_s[req.rid] = now
            self._found[req.rid] = req.cached
            self.scheduler.prefilled(req)
            self.loops.first[req.rid] = with_it
        for req in result.finishing:
            self._finish(req, now)

    # ---- iterations ----------------------------------------------------------------------

    def _prefill(self, batch: PrefillBatch) -> None:
        ready = batch.reqs
        if batch.chunked is not None:
            ready = tuple([r for r in ready if r is not batch.chunked])
        for req in ready:
            self._admit(req)
        finishing = [r for r in ready if not self._cycles[r.rid]]
        self.pipeline.prefill(batch, Pending(len(batch.reqs), finishing, ready))
        self._decoded = False

    def _decode(self, batch: int) -> None:
        """Decode until a request ends or one that could be admitted arrives."""
        first, pending, s = self.steps, self.pipeline.pending, self.scheduler
        if pending is not None and pending.finishing:  # a wasted step
            behind = first + 1
            while first + 2 > len(self.kv):
                self.kv = np.concatenate([self.kv, np.zeros_like(self.kv)])
            self.kv[first] += sum([self._final_kv[r.rid] for r in pending.finishing])
        else:
            behind = self.ends[0][0] if self.ends else first + 1
        until, watched = FOREVER, False
        if self._always_polls:
            free = self.limits.max_running_requests - batch
            watched = not s.batch_is_full and free > 0 and free >= self.limits.min_free_slots_delay
            if watched:
                until = self._next_arrival_s()
        elif self._next_arrival_s() < FOREVER:
            behind = min(behind, first + s.loops_until_poll)
        kv = self.kv[first:behind]
        done = self.pipeline.decode(batch, kv, until)
        if watched:  # in every loop of the leap
            self._looked = self.pipeline.loops - 1
        if not self._always_polls:
            s.pass_loops(done - 1)
        if self.memory is not None:
            self.memory.decoded(first, kv[:done], after_prefill=not self._decoded)
        self._decoded = True
        self.steps += done
        if self.ends and self.ends[0][0] <= self.steps:
            self._collect_finished()

    def _look_at(self, memory: KvMemory) -> None:
        """Before the scheduler looks for a prefill: what it knows of memory."""
        pending = self.pipeline.pending
        ending = pending.finishing if pending is not None else []
        memory.look(
            self.steps,
            cached=int(self.kv[self.steps]) + sum(self._final_kv[r.rid] for r in ending),
            lag=int(self._decoded and pending is not None),
            fresh=pending.first_tokens if pending is not None else (),
        )

    def _next_arrival_s(self) -> float:
        return self.arrivals[0][0] if self.arrivals else FOREVER

    def _collect_finished(self) -> None:
        """Requests whose last step was just launched finish with that step's result."""
        finishing, ends, steps = [], self.ends, self.steps
        while ends and ends[0][0] <= steps:
            finishing.append(heappop(ends)[2])
        if len(finishing) > 1:
            finishing.sort(key=self.scheduler.running.index)
        if self.pipeline.pending is not None:
            self.pipeline.pending.finishing = finishing
            return
        for req in finishing:
            self._finish(req, self.pipeline.clock.host)

    def _run(self) -> Run:
        log = self.pipeline.log
        n = self.pipeline.results  # a last iteration still on the GPU is dropped
        kind, batch, prefix, after_idle = log.expand()
        kv = np.empty(len(kind), np.int64)
        kv[kind == DECODE], kv[kind == PREFILL] = self.held, log.prefilled
        finish = np.array(self.finish_s)
        done = np.isfinite(finish)
        cycles = np.where(done, self.draws.cycles, 0)
        return Run(
            arrival_s=np.array(self.arrival_s),
            first_token_s=np.array(self.first_token_s),
            finish_s=finish,
            cycles=cycles,
            committed=self._committed(done),
            kind=kind[:n],
            batch=batch[:n],
            kv_tokens=kv[:n],
            prefix=prefix[:n],
            gpu_s=np.array(log.gpu_s)[:n],
            gpu_start_s=np.array(log.start)[:n],
            gpu_end_s=np.array(log.end)[:n],
            emit_s=np.array(log.emit),
            after_idle=after_idle[:n],
            cached=np.array(self._found, np.int64),
            retractions=0,
            engine="leap",
            client_s=self.turnaround_s,
            loops=replace(
                self.loops,
                pauses=log.pauses,
                launched=(kind, batch, kv, prefix),
                looked=self._looked,
            ),
        )

    def _committed(self, done: np.ndarray) -> np.ndarray:
        """Tokens that verify steps committed to each request that is done."""
        committed = np.array(self._final_kv) - self.workload.isl
        return np.where(done, committed, 0).astype(np.int64)
