"""The event engine: SGLang's scheduler loop over a simulated GPU, in SimPy.

This is the definition of the simulated system; ``leap.py`` must reproduce it. The host thread,
the forward stream and the copy stream are processes. :meth:`EventEngine.event_loop_normal` and
:meth:`EventEngine.event_loop_overlap` read like their namesakes in SGLang's scheduler.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

import simpy

from dflash_sim.simulator.cost.step_table import StepModel
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.engine.records import DECODE, PREFILL, Run, RunLog
from dflash_sim.simulator.engine.scheduler import Limits, PrefillBatch, Req, Scheduler
from dflash_sim.simulator.requests.draws import Draws
from dflash_sim.simulator.requests.workload import Workload

Steps = Generator[simpy.Event, Any, None]
Interval = Callable[[str, str, float, float, int], None]
Count = Callable[[str, float, int], None]


@dataclass(eq=False)
class Batch:
    """One launched iteration: its rows, its GPU time, and the events other processes wait for."""

    index: int
    reqs: tuple[Req, ...]
    epochs: tuple[int, ...]
    prefill: PrefillBatch | None
    gpu_s: float
    tail_s: float
    launch_s: float
    launched: simpy.Event
    publish: simpy.Event
    copy_done: simpy.Event

    def __len__(self) -> int:
        return len(self.reqs)


@dataclass
class EventEngine:
    """One run of the engine.

    Parameters
    ----------
    mode
        ``v1``, ``v2-sync`` or ``v2``.
    host_length_sync
        The attention backend plans with host lengths: an overlapped step waits for the previous
        one's accepted lengths before its first launch.
    turnaround_s
        From a finished answer to the client's next request, both ways of the network [s].
    on_interval
        Called with ``(lane, name, start_s, end_s, iteration)`` of every stage, for timelines.
    on_count
        Called with ``(name, at_s, value)``: requests running and tokens cached when a step is
        chosen, drafts accepted when its result has been processed.
    stop_after
        Iterations to launch at most; None is to the end.
    """

    step: StepModel
    host: HostTime
    limits: Limits
    workload: Workload
    draws: Draws
    mode: str = "v2"
    host_length_sync: bool = False
    turnaround_s: float = 0.0
    on_interval: Interval | None = None
    on_count: Count | None = None
    stop_after: int | None = None
    env: simpy.Environment = field(default_factory=simpy.Environment)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.limits, self.workload.prompts)
        self.log = RunLog(self.workload)
        self.arrivals: list[tuple[float, int]] = []
        self.forward_stream: simpy.Store = simpy.Store(self.env)
        self.copy_stream: simpy.Store = simpy.Store(self.env)
        self.decode_steps = 0
        self._prefilled = False
        self._heads = iter(self.workload.heads)
        self._left = int(self.workload.measured.sum())

    def run(self) -> Run:
        """Run until the last measured request has been answered."""
        if self.workload.arrival_s is not None:
            for rid in self.workload.heads:
                heappush(self.arrivals, (float(self.workload.arrival_s[rid]), rid))
        else:
            for _ in range(self.workload.conc):
                self._next_sample(0.0)
        self.env.run(until=self.begin())
        return self.log.run(self.scheduler.retractions, "event", client_s=self.turnaround_s)

    def begin(self) -> simpy.Process:
        """Set the streams and the host thread going; returns the latter."""
        self.env.process(self._gpu())
        self.env.process(self._copy())
        loop = self.event_loop_overlap if self.mode == "v2" else self.event_loop_normal
        return self.env.process(loop())

    @property
    def _unfinished(self) -> bool:
        return self._left > 0 and self.log.launched != self.stop_after

    # ---- the host thread -----------------------------------------------------------------

    def event_loop_normal(self) -> Steps:
        """V1 and V2 without overlap: one batch at a time, host and GPU in one chain."""
        while self._unfinished:
            yield from self._spend("recv_requests", self.host.recv_s, self.log.launched)
            self.recv_requests()
            batch = self.get_next_batch_to_run()
            if batch is None:
                yield from self._idle()
                continue
            n, k = len(batch), batch.index
            yield from self._spend("get_next_batch", self.host.get_next_batch(n), k)
            if self.mode == "v1" and batch.prefill is None and self.limits.speculative:
                yield from self._v1_cycle(batch)
            else:
                yield from self._spend("run_batch", self.host.first_launch_s, k)
                self.forward_stream.put(batch)
                yield from self._spend("run_batch", batch.launch_s, k)
                batch.launched.succeed()
                yield batch.copy_done
            yield from self._process(batch)

    def event_loop_overlap(self) -> Steps:
        """V2: launch batch k, then process the result of batch k-1 while the GPU runs."""
        last: Batch | None = None
        while self._unfinished:
            yield from self._spend("recv_requests", self.host.recv_s, self.log.launched)
            self.recv_requests()
            batch = self.get_next_batch_to_run()
            if batch is not None:
                n, k = len(batch), batch.index
                yield from self._spend("get_next_batch", self.host.get_next_batch(n), k)
                if self._needs_lengths(batch) and last is not None:
                    yield last.publish
                yield from self._spend("run_batch", self.host.first_launch_s, k)
                self.forward_stream.put(batch)
                yield from self._spend("run_batch", batch.launch_s, k)
                batch.launched.succeed()
            if last is not None:
                yield last.copy_done
                yield from self._process(last)
            elif batch is None:
                yield from self._idle()
            last = batch

    def _needs_lengths(self, batch: Batch) -> bool:
        """Return True if planning this step waits for accepted lengths on the host."""
        return self.host_length_sync and self.limits.speculative and batch.prefill is None

    def recv_requests(self) -> None:
        """Move requests that have arrived into the waiting queue, if this loop looks for them."""
        if not self.scheduler.polls(prefilled=self._prefilled):
            return
        while self.arrivals and self.arrivals[0][0] <= self.env.now:
            _, rid = heappop(self.arrivals)
            self.scheduler.waiting.append(self._request(rid))

    def _request(self, rid: int) -> Req:
        """Return the request as the scheduler sees it when it comes."""
        row = 0 if self.draws.shared else rid
        w = self.workload
        return Req(
            rid,
            isl=int(w.isl[rid]),
            osl=int(w.osl[rid]),
            cached=int(w.cached[rid]),
            commits=self.draws.commits[row, : self._width(rid)].tolist(),
        )

    def _width(self, rid: int) -> int:
        return int(self.draws.cycles[rid]) + 1 if not self.draws.shared else 0

    def get_next_batch_to_run(self) -> Batch | None:
        """Prefill if possible, else decode what is running."""
        s = self.scheduler
        s.filter_finished()
        prefill = s.get_new_batch_prefill()
        self._prefilled = prefill is not None
        if prefill is not None:
            s.merge(prefill)
            self._tell_running()
            seconds = self.step.prefill_s(
                requests=len(prefill.reqs), tokens=prefill.tokens, prefix=prefill.prefix
            )
            return self._batch(prefill.reqs, prefill, seconds, prefill.tokens)
        if not s.running:
            return None
        if self.limits.kv_tight:
            s.check_decode_mem()
        self._tell_running()
        reqs = tuple(s.running)
        kv = self._advance(reqs)
        return self._batch(reqs, None, self._decode_s(len(reqs), kv), kv)

    def _tell_running(self) -> None:
        if self.on_count is not None:
            running, now = self.scheduler.running, self.env.now
            self.on_count("running_requests", now, len(running))
            self.on_count("kv_tokens", now, sum(r.kv for r in running))

    def _advance(self, reqs: tuple[Req, ...]) -> int:
        """Launch one cycle of every row; returns the tokens cached on the GPU before it."""
        total = 0
        if self.draws.shared:
            commit = int(self.draws.commits[0, self.decode_steps])
            for r in reqs:
                r.commits[r.launched :] = [commit]  # what a retracted step drew is void
        for r in reqs:
            total += r.kv
            r.kv += r.commits[r.launched] if r.launched < len(r.commits) else 1
            r.launched += 1
        self.decode_steps += 1
        return total

    def _batch(
        self, reqs: tuple[Req, ...], prefill: PrefillBatch | None, gpu_s: float, kv: int
    ) -> Batch:
        kind = DECODE if prefill is None else PREFILL
        prefix = 0.0 if prefill is None else prefill.prefix
        index = self.log.launch(kind, len(reqs), kv, prefix, gpu_s)
        tail, launch_s = 0.0, self.host.rest_launch_s
        if prefill is not None:
            launch_s = max(launch_s, self.step.prefill_launch_s(kv))
        elif self.limits.speculative:
            needs_tail = self.host_length_sync or self.mode == "v1"
            tail = self._tail_s(len(reqs), kv) if needs_tail else 0.0
        epochs = tuple(r.epoch for r in reqs) if self.limits.kv_tight else ()
        env = self.env
        events = env.event(), env.event(), env.event()
        return Batch(index, reqs, epochs, prefill, gpu_s, tail, launch_s, *events)

    def _process(self, batch: Batch) -> Steps:
        """``process_batch_result``: stop checks, streaming; finished requests are skipped."""
        seconds = self.host.process(len(batch))
        yield from self._spend("process_batch_result", seconds, batch.index)
        now = self.env.now
        self.log.emit(batch.index, now)
        prefill = batch.prefill
        if prefill is None and self.limits.speculative:
            self._verified(batch)
        for i, r in enumerate(batch.reqs):
            if r.done or (batch.epochs and batch.epochs[i] != r.epoch):
                continue
            if prefill is None:
                r.generated += r.commits[r.seen]
                r.seen += 1
            elif r is prefill.chunked:
                continue
            else:
                r.generated += 1
                self.scheduler.prefilled(r)
                if r.generated == 1:
                    self.log.first_token(r.rid, now, cached=r.cached)
            self._streamed(r)
            if r.generated >= r.osl:
                self._finish(r, now)

    def _streamed(self, r: Req) -> None:
        """Tokens of a request have left the scheduler, ``r.generated`` of them in all."""

    def _verified(self, batch: Batch) -> None:
        """A step's result is on the host."""
        if self.on_count is not None:
            self.on_count("accepted_tokens", self.env.now, sum(self._accepted(batch)))

    def _accepted(self, batch: Batch) -> list[int]:
        """Drafts that a step's result accepts of each request that has not ended."""
        epochs = batch.epochs or tuple(r.epoch for r in batch.reqs)
        rows = zip(batch.reqs, epochs, strict=True)
        return [r.commits[r.seen] - 1 for r, e in rows if e == r.epoch and not r.done]

    # ---- prices of the step about to be launched -----------------------------------------

    def _decode_s(self, batch: int, kv: int) -> float:
        return self.step.decode_s(batch, kv)

    def _tail_s(self, batch: int, kv: int) -> float:
        return self.step.tail_s(batch, kv)

    def _draft_s(self, batch: int, kv: int) -> float:
        return self.step.draft_s(batch, kv)

    def _finish(self, r: Req, now: float) -> None:
        r.done = True
        self.log.finish(r.rid, now, cycles=r.seen, committed=sum(r.commits[: r.seen]))
        self._left -= int(self.workload.measured[r.rid])
        self.scheduler.finished(r)
        follow = int(self.workload.follow[r.rid])
        if follow >= 0:
            self._arrive(follow, now + self.turnaround_s + self.workload.pause_s(follow))
        elif self.workload.arrival_s is None:
            self._next_sample(now + self.turnaround_s)

    def _next_sample(self, at: float) -> None:
        rid = next(self._heads, None)
        if rid is not None:
            self._arrive(rid, at)

    def _arrive(self, rid: int, at: float) -> None:
        self.log.arrival_s[rid] = at
        heappush(self.arrivals, (at, rid))

    def _idle(self) -> Steps:
        """Nothing to run: sleep until the next arrival."""
        self.log.idle()
        self.scheduler.idle()
        if not self.arrivals:
            yield self._nothing_comes()
        wait = self.arrivals[0][0] - self.env.now if self.arrivals else 0.0
        if wait > 0:
            yield self.env.timeout(wait)

    def _nothing_comes(self) -> simpy.Event:
        """Return what to wait for with nothing to run and nothing on its way."""
        msg = "the engine is idle with requests unanswered"
        raise RuntimeError(msg)

    def _spend(self, stage: str, seconds: float, iteration: int) -> Steps:
        start = self.env.now
        yield self.env.timeout(seconds)
        if self.on_interval is not None:
            self.on_interval("host", stage, start, self.env.now, iteration)

    # ---- the GPU -------------------------------------------------------------------------

    def _gpu(self) -> Steps:
        """The forward stream: batches in order, each no faster than the host launches it."""
        while True:
            batch: Batch = yield self.forward_stream.get()
            start = self.env.now
            yield self.env.timeout(batch.gpu_s - batch.tail_s)
            if self.host_length_sync and self.mode == "v2":
                self.env.process(self._publish(batch))
            if batch.tail_s:
                yield self.env.timeout(batch.tail_s)
            if not batch.launched.triggered:
                yield batch.launched
            self.log.gpu(batch.index, start, self.env.now)
            if self.on_interval is not None:
                name = "prefill" if batch.prefill else "decode"
                self.on_interval("gpu", name, start, self.env.now, batch.index)
            self.copy_stream.put(batch)

    def _publish(self, batch: Batch) -> Steps:
        """Accepted lengths reach the host."""
        yield self.env.timeout(self.host.d2h_s)
        batch.publish.succeed()

    def _copy(self) -> Steps:
        """The copy stream: tokens and lengths to the host."""
        while True:
            batch: Batch = yield self.copy_stream.get()
            start = self.env.now
            yield self.env.timeout(self.host.d2h_s)
            batch.copy_done.succeed()
            if self.on_interval is not None:
                self.on_interval("copy", "result", start, self.env.now, batch.index)

    def _v1_cycle(self, batch: Batch) -> Steps:
        """The V1 worker: host and GPU take turns within the cycle."""
        draft_s = self._draft_s(len(batch), self.log.kv_tokens[batch.index])
        k = batch.index
        yield from self._spend("prepare_draft", self.host.prepare_draft_s, k)
        start = self.env.now
        yield from self._on_gpu("draft", draft_s, k)
        yield from self._spend("prepare_verify", self.host.prepare_verify_s, k)
        yield from self._on_gpu("verify", batch.gpu_s - draft_s - batch.tail_s, k)
        yield from self._spend("accept", self.host.v1_accept(len(batch)), k)
        yield from self._on_gpu("materialise", batch.tail_s, k)
        self.log.gpu(k, start, self.env.now)

    def _on_gpu(self, name: str, seconds: float, iteration: int) -> Steps:
        start = self.env.now
        yield self.env.timeout(seconds)
        if self.on_interval is not None:
            self.on_interval("gpu", name, start, self.env.now, iteration)
