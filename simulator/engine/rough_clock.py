"""What a closed loop decides, before its times are known exactly: the leap engine on a rough clock.

What the scheduler decides hangs on time only through which loop receives a request, and a client's
next request comes soon after an answer. So a decode step takes what its batch takes on average, no
step is written down, and :mod:`again` puts what was decided on the exact clock, where every arrival
is looked at. Where one lies in another loop there is no run, and the engine has to be asked.
"""

from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import islice
from math import ceil

import numpy as np

from dflash_sim.simulator.engine.again import walked_again
from dflash_sim.simulator.engine.leap import LeapEngine
from dflash_sim.simulator.engine.leap_clock import Columns
from dflash_sim.simulator.engine.records import DECODE, NOBODY, PREFILL, Loops, Run
from dflash_sim.simulator.engine.scheduler import PrefillBatch, Req, Scheduler


def decided(engine: LeapEngine) -> Run | None:
    """Return what an engine that has not begun will answer; None where its decisions hang on time.

    Those of an open loop do, those of conversations whose users pause, and those of a scheduler
    that does not look in every loop. What tight memory decides is left to the engine too.
    """
    work, limits = engine.workload, engine.limits
    closed = work.arrival_s is None and work.delay_s is None
    if not closed or limits.kv_tight or limits.recv_interval != 1:
        return None
    rough = _Overlapped(engine) if engine.mode == "v2" else _InTurn(engine)
    run = rough.run()
    if run is None:
        return None
    return walked_again(
        run,
        engine.step,
        engine.host,
        mode=engine.mode,
        speculative=limits.speculative,
        syncs=engine.pipeline.syncs,
        turnaround_s=engine.turnaround_s,
    )


class _Overlapped:
    """The loops of a scheduler over the requests of a closed loop, and about when each begins."""

    overlapped = True
    loop_s = 0.0  # that of the latest, without overlap

    def __init__(self, engine: LeapEngine) -> None:
        self.engine, self.work = engine, engine.workload
        self.scheduler = Scheduler(engine.limits)
        self.cycles: list[int] = engine.draws.cycles.tolist()
        n = len(self.work)
        self.loops, self.log = Loops.of(n), Columns()
        self.host = self.gpu = self.copy = 0.0  # when each is free [s]
        self.loop = self.launched = self.steps = 0
        self.looked = NOBODY  # the last loop that looked for requests
        self.idle = True
        self.first_step = [NOBODY] * n  # of requests that decode
        self.wasted: list[tuple[int, int]] = []  # steps that finished requests still ran in
        self.ends: list[tuple[int, int, Req]] = []  # (step after the last, rid, request)
        self.batch = 0  # requests of the iteration whose result is pending; 0: of none
        self.fresh: list[Req] = []  # who has a first token with it
        self.finishing: list[Req] = []  # and who a last one
        heads = iter(self.work.heads)
        self.first = list(islice(heads, self.work.conc))  # who is there from the start
        self._heads = heads
        self.due = [(0.0, rid) for rid in self.first]  # (when a request is there, rid)
        heapify(self.due)
        self._context = float(self.work.isl.mean() + self.work.osl.mean() / 2)
        self._step_s: dict[int, float] = {}  # by batch
        self._prefill_s: dict[tuple[int, int, float], tuple[float, float]] = {}

    def run(self) -> Run | None:
        """Go on until the last measured request has been answered; None where nobody is left."""
        work, loops, due, s = self.work, self.loops, self.due, self.scheduler
        isl, osl, cached = work.isl.tolist(), work.osl.tolist(), work.cached.tolist()
        measured, follow = work.measured.tolist(), work.follow.tolist()
        recv_s, turnaround_s = self.engine.host.recv_s, self.engine.turnaround_s
        left = int(work.measured.sum())
        ended: list[Req] = []  # still among those that run
        while left:
            loop, before, now = self.loop, self.looked, self.host + recv_s
            self.looked = loop
            while due and due[0][0] <= now:
                _, rid = heappop(due)
                s.waiting.append(
                    Req(rid, isl=isl[rid], osl=osl[rid], cached=cached[rid], commits=[])
                )
                loops.received[rid], loops.missed[rid] = loop, before
            if ended:
                s.filter_finished(ended[0] if len(ended) == 1 else None)
            told, ended = self.fresh, self.finishing
            waits = s.waiting or s.chunked_req is not None
            prefill = s.get_new_batch_prefill() if waits else None
            result = self.launched - 1
            if prefill is not None:
                told_s = self._prefill(prefill)
            elif s.running:
                told_s = self._decode(len(s.running))
            elif self.batch or due:
                told_s = self._pause(now)
            else:
                return None
            if not self.overlapped:
                told, ended, told_s = self.fresh, self.finishing, self.host
                result = self.launched - 1
                self.fresh, self.finishing = [], []
            for req in told:
                loops.first[req.rid] = result
            for req in ended:
                rid, req.done = req.rid, True
                loops.last[rid] = result
                left -= measured[rid]
                then = follow[rid] if follow[rid] >= 0 else next(self._heads, NOBODY)
                if then >= 0:
                    loops.after[then] = rid
                    heappush(due, (told_s + turnaround_s, then))
        return self._run()

    def _pause(self, now: float) -> float:
        """Launch nothing: process a result that was wasted on ended requests, or sleep."""
        log, due = self.log, self.due
        if self.batch:
            log.pauses.append((self.launched, NOBODY))
            self.host = max(now, self.copy) + self.engine.host.process(self.batch)
            self.batch = 0
        else:
            log.pauses.append((self.launched, due[0][1]))
            self.host, self.idle = max(now, due[0][0]), True
            self.scheduler.idle()
        self.loop += 1
        self.fresh, self.finishing = [], []
        return self.host

    def _prefill(self, batch: PrefillBatch) -> float:
        """Launch a prefill; returns when the loop ends."""
        many = len(batch.reqs)
        self.scheduler.merge(batch)
        self.fresh, self.finishing = [], []
        for req in batch.reqs:
            if req is batch.chunked:
                continue
            self.fresh.append(req)
            if n := self.cycles[req.rid]:
                self.first_step[req.rid] = self.steps
                heappush(self.ends, (self.steps + n, req.rid, req))
            else:
                self.finishing.append(req)
        self.log.prefilled.append(batch.tokens)
        self._note(PREFILL, many, 1, batch.prefix)
        shape = many, batch.tokens, batch.prefix
        times = self._prefill_s.get(shape)
        if times is None:
            times = self._prefill_s[shape] = self._price(*shape)
        return self._launch(PREFILL, many, *times)

    def _price(self, requests: int, tokens: int, prefix: float) -> tuple[float, float]:
        """What a prefill takes on the GPU, and to launch [s]."""
        step = self.engine.step
        gpu_s = step.prefill_s(requests=requests, tokens=tokens, prefix=prefix)
        return gpu_s, max(self.engine.host.rest_launch_s, step.prefill_launch_s(tokens))

    def _decode(self, batch: int) -> float:
        """Decode until a request ends or one that could be admitted is received.

        Returns when the first loop ends.
        """
        s, ends, most = self.scheduler, self.ends, 1
        if self.finishing:
            self.wasted += [(self.steps, r.rid) for r in self.finishing]
        elif ends:
            most = ends[0][0] - self.steps
        step_s = self._step_s.get(batch)
        if step_s is None:
            step_s = self._step_s[batch] = self.engine.step.table(batch).seconds(self._context)
        told_s = self._launch(DECODE, batch, step_s, self.engine.host.rest_launch_s)
        free, many = self.engine.limits.max_running_requests - batch, 1
        watched = not s.batch_is_full and free > 0 and free >= s.limits.min_free_slots_delay
        if most > 1:
            many = self._leap(batch, step_s, most, self.due[0][0] if watched and self.due else None)
        self._note(DECODE, batch, many, 0.0)
        if watched:  # in every loop of the leap
            self.looked = self.loop - 1
        self.steps += many
        self.fresh, self.finishing = [], []
        while ends and ends[0][0] <= self.steps:
            self.finishing.append(heappop(ends)[2])
        if len(self.finishing) > 1:
            self.finishing.sort(key=s.running.index)
        return told_s

    def _launch(self, kind: int, batch: int, gpu_s: float, launch_s: float) -> float:
        """One loop that launches an iteration and processes the result before; returns its end."""
        h, gpu, before = self.engine.host, self.gpu, self.batch
        enqueued = self.host + (
            h.recv_s + h.schedule_s + h.schedule_per_request_s * batch + h.first_launch_s
        )
        host = enqueued + launch_s
        gpu = (gpu if gpu > enqueued else enqueued) + gpu_s
        if gpu < host:
            gpu = host
        if before:
            if self.copy > host:
                host = self.copy
            host += h.process_s + h.process_per_request_s * before
        self.host, self.gpu, self.copy, self.batch = host, gpu, gpu + h.d2h_s, batch
        return host

    def _leap(self, batch: int, step_s: float, most: int, until: float | None) -> int:
        """Steps of one batch, the first of them launched: up to ``most``, or till one is there."""
        h, more = self.engine.host, most - 1
        busy_s = h.recv_s + h.get_next_batch(batch) + h.first_launch_s + h.rest_launch_s
        process_s = h.process(batch)
        step_s = max(step_s, busy_s + process_s)
        if until is not None and self.host + h.recv_s >= until:
            return 1
        told_s = max(self.copy, self.host + busy_s) + process_s  # the end of the next loop
        if until is not None:
            more = min(more, 1 + max(0, int((until - h.recv_s - told_s) // step_s) + 1))
        self.host, self.gpu = told_s + (more - 1) * step_s, self.gpu + more * step_s
        self.copy = self.gpu + h.d2h_s
        return 1 + more

    def _note(self, kind: int, batch: int, many: int, prefix: float) -> None:
        self.log.spans.append((kind, batch, prefix, self.idle, many))
        self.launched += many
        self.loop += many
        self.idle = False

    # ---- the record ----------------------------------------------------------------------

    def _run(self) -> Run:
        """Return the decisions; times are those that a walk is to fill in."""
        log, loops, n = self.log, self.loops, len(self.work)
        kind, batch, prefix, after_idle = log.expand()
        kv, final_kv = self._kv()
        tokens = np.empty(len(kind), np.int64)
        tokens[kind == DECODE], tokens[kind == PREFILL] = kv, log.prefilled
        known = self.launched - bool(self.batch)  # a result that is pending is dropped
        done, began = (np.array(at) != NOBODY for at in (loops.last, loops.first))
        never, none = np.full(n, np.nan), np.zeros(0)
        arrival = never.copy()
        arrival[self.first] = 0.0
        return Run(
            arrival_s=arrival,
            first_token_s=never,
            finish_s=never,
            cycles=np.where(done, self.engine.draws.cycles, 0),
            committed=np.where(done, final_kv - self.work.isl, 0),
            kind=kind[:known],
            batch=batch[:known],
            kv_tokens=tokens[:known],
            prefix=prefix[:known],
            gpu_s=none,
            gpu_start_s=none,
            gpu_end_s=none,
            emit_s=none,
            after_idle=after_idle[:known],
            cached=np.where(began, self.work.cached, 0),
            retractions=0,
            engine="leap",
            client_s=self.engine.turnaround_s,
            loops=replace(
                loops,
                pauses=log.pauses,
                launched=(kind, batch, tokens, prefix),
                looked=self.looked,
            ),
        )

    def _kv(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens in the KV cache at each decode step, and of each request in the end."""
        first, cycles = np.array(self.first_step), self.cycles
        last = max(self.steps, int((first + self.engine.draws.cycles).max(initial=0)))
        kv = np.zeros(last + 1, np.int64)
        final = self.work.isl.astype(np.int64)
        before, isl = self.engine.draws.before, self.work.isl.tolist()
        for rid in np.flatnonzero(first != NOBODY).tolist():
            n, at, committed = cycles[rid], self.first_step[rid], before(rid)
            held = kv[at : at + n]
            held += committed[:n]
            held += isl[rid]
            final[rid] += committed[n]
        if self.wasted:
            steps, rids = (np.array(c) for c in zip(*self.wasted, strict=True))
            np.add.at(kv, steps, final[rids])
        return kv[: self.steps], final


class _InTurn(_Overlapped):
    """The loops where host and GPU work in turns: each tells the result of what it launches."""

    overlapped = False

    def _launch(self, kind: int, batch: int, gpu_s: float, launch_s: float) -> float:
        h = self.engine.host
        self.loop_s = h.recv_s + h.get_next_batch(batch) + h.process(batch)
        if kind == DECODE and self.engine.mode == "v1" and self.engine.limits.speculative:
            self.loop_s += h.prepare_draft_s + gpu_s + h.prepare_verify_s + h.v1_accept(batch)
        else:
            self.loop_s += h.first_launch_s + max(gpu_s, launch_s) + h.d2h_s
        self.host += self.loop_s
        return self.host

    def _leap(self, batch: int, step_s: float, most: int, until: float | None) -> int:
        more = most - 1
        if until is not None:
            ahead_s = until - self.engine.host.recv_s - self.host
            more = min(more, max(0, ceil(ahead_s / self.loop_s)))
        self.host += more * self.loop_s
        return 1 + more
