"""The scheduler loop: SGLang's, over real workers.

:meth:`Scheduler.event_loop_normal` and :meth:`Scheduler.event_loop_overlap` read like their
namesakes in the simulated engine, and their stages have the same names.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Protocol

from dflash_sim.realrun.job.journal import Answer, Iteration, Run
from dflash_sim.realrun.job.messages import Command, Commit, Decode, Draft, Prefill, Result, Verify
from dflash_sim.realrun.job.requests import Req, Request
from dflash_sim.realrun.job.setup import Fitted
from dflash_sim.realrun.scheduler.batching import Batching, PrefillBatch, prompt_rows
from dflash_sim.simulator.engine.records import DECODE, PREFILL


class Workers(Protocol):
    """The workers: commands go to them and results come back, in order."""

    def send(self, command: Command) -> None:
        """Begin; does not wait."""
        ...

    def receive(self) -> Result:
        """The oldest result outstanding; waits for it."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """One iteration: its rows, and what is noted of it."""

    reqs: tuple[Req, ...]
    prefill: PrefillBatch | None
    note: Iteration

    def __len__(self) -> int:
        return len(self.reqs)


class Scheduler:
    """Continuous batching of requests over one group of workers.

    Parameters
    ----------
    conc
        Closed loop: requests in flight; the next is sent when one is answered. None is an open
        loop, each request arriving at its own time.
    on_answer
        Called with every answer as it is finished.
    """

    def __init__(
        self,
        fitted: Fitted,
        workers: Workers,
        requests: Sequence[Request],
        *,
        conc: int | None,
        on_answer: Callable[[Answer], None] | None = None,
    ) -> None:
        setup = fitted.setup
        self.workers, self.mode = workers, setup.mode
        self.speculative = fitted.rows > 1
        self.batching = Batching(fitted)
        self.work_s, self.work_per_request_s = setup.host_work_s, setup.host_work_per_request_s
        self.on_answer = on_answer
        self.requests = requests
        self.closed = conc is not None
        order = list(range(len(requests)))
        if not self.closed:
            order = sorted(order, key=lambda rid: requests[rid].arrival_s or 0.0)
        self.unsent = deque(order)
        self.iterations: list[Iteration] = []
        self.answers: list[Answer] = []
        self.launched = 0
        self.begun_s = perf_counter()
        if conc is not None:
            for _ in range(min(conc, len(requests))):
                self._send_next(0.0)

    # ---- the loops -----------------------------------------------------------------------

    def run(self) -> Run:
        """Until every request has been answered."""
        if self.mode == "v2":
            self.event_loop_overlap()
        else:
            self.event_loop_normal()
        return self.so_far()

    def so_far(self) -> Run:
        """Return what has been done until now; a step whose result was not processed is dropped."""
        done = (i for i in self.iterations if i.host and i.host[-1][0] == "process_batch_result")
        return Run(
            answers=tuple(sorted(self.answers, key=lambda a: a.rid)),
            iterations=tuple(done),
            asked=len(self.requests),
            duration_s=max((a.finish_s for a in self.answers), default=0.0),
            mode=self.mode,
        )

    @property
    def _unfinished(self) -> bool:
        return len(self.answers) < len(self.requests)

    def event_loop_normal(self) -> None:
        """V1 and V2 without overlap: one batch at a time, host and GPU in one chain."""
        while self._unfinished:
            batch = self._next()
            if batch is None:
                self._idle()
            elif self.mode == "v1" and batch.prefill is None and self.speculative:
                self.process_batch_result(batch, self._v1_cycle(batch))
            else:
                self.run_batch(batch)
                self.process_batch_result(batch, self._wait(batch))

    def event_loop_overlap(self) -> None:
        """V2: launch batch k, then process the result of batch k-1 while the GPU runs."""
        last: Batch | None = None
        while self._unfinished:
            batch = self._next()
            if batch is not None:
                self.run_batch(batch)
            if last is not None:
                self.process_batch_result(last, self._wait(last))
            elif batch is None:
                self._idle()
            last = batch
        if last is not None:
            self.workers.receive()  # a step of nobody, still running when the last answer came

    # ---- stages --------------------------------------------------------------------------

    def _next(self) -> Batch | None:
        """``recv_requests`` and ``get_next_batch``, timed."""
        start = self._now()
        self.recv_requests(start)
        received = self._now()
        batch = self.get_next_batch_to_run()
        if batch is not None:
            batch.note.host += [
                ("recv_requests", start, received),
                ("get_next_batch", received, self._now()),
            ]
        return batch

    def recv_requests(self, now_s: float) -> None:
        """Open loop: move requests that have arrived into the waiting queue."""
        while not self.closed and self.unsent:
            arrival_s = self.requests[self.unsent[0]].arrival_s or 0.0
            if arrival_s > now_s:
                return
            self._send_next(arrival_s)

    def _send_next(self, at_s: float) -> None:
        if self.unsent:
            rid = self.unsent.popleft()
            self.batching.waiting.append(Req(rid, self.requests[rid], at_s))

    def get_next_batch_to_run(self) -> Batch | None:
        """Prefill if possible, else decode what is running."""
        batching = self.batching
        batching.filter_finished()
        prefill = batching.get_new_batch_prefill()
        if prefill is not None:
            return self._batch(prefill.reqs, prefill, prefill.tokens)
        reqs = tuple(batching.running)
        return self._batch(reqs, None, len(reqs)) if reqs else None

    def _batch(self, reqs: tuple[Req, ...], prefill: PrefillBatch | None, tokens: int) -> Batch:
        kind = DECODE if prefill is None else PREFILL
        note = Iteration(index=self.launched, kind=kind, batch=len(reqs), tokens=tokens)
        self.launched += 1
        self.iterations.append(note)
        return Batch(reqs, prefill, note)

    def run_batch(self, batch: Batch) -> None:
        """Reserve pages and send the workers on their way."""
        start = self._now()
        pages = self.batching.reserve(batch.reqs)
        if batch.prefill is None:
            self.workers.send(Decode(tuple([r.slot for r in batch.reqs]), pages))
        else:
            starts = [start for start, _ in batch.prefill.ranges]
            new = zip(batch.reqs, starts, strict=True)
            joins = tuple((r.slot, r.rid) for r, start in new if start == 0)
            self.workers.send(Prefill(prompt_rows(batch.prefill), joins, pages))
        batch.note.host.append(("run_batch", start, self._now()))

    def _wait(self, batch: Batch, name: str = "wait") -> Result:
        """Until the result is on the host."""
        start = self._now()
        result = self.workers.receive()
        batch.note.host.append((name, start, self._now()))
        return result

    def process_batch_result(self, batch: Batch, result: Result) -> None:
        """Stop checks and streaming; rows of requests that have ended are skipped."""
        start = self._now()
        note, prefill = batch.note, batch.prefill
        self._note_gpu(note, result)
        chunked = None if prefill is None else prefill.chunked
        heard: list[Req] = []
        for r, tokens, commit in zip(batch.reqs, result.tokens, result.commit_len, strict=True):
            if r.done:
                note.wasted += 1
                continue
            if r is chunked:
                continue
            if prefill is None:
                note.kv_tokens += r.committed
                note.accepted += commit - 1
                r.committed += commit
                r.commits.append(commit)
            r.take(tokens[:commit])
            heard.append(r)
        self._other_work(len(batch))
        now = self._now()
        for r in heard:
            r.chunk_s.append(now)
            if r.done:
                self._answer(r, now)
        note.host.append(("process_batch_result", start, self._now()))

    def _answer(self, r: Req, now_s: float) -> None:
        """The request's slot and pages are free; its client sends the next."""
        self.batching.release(r)
        answer = Answer(
            rid=r.rid,
            prompt=tuple(r.prompt),
            output=tuple(r.output),
            commits=tuple(r.commits),
            arrival_s=r.arrival_s,
            finish_s=now_s,
            chunk_s=tuple(r.chunk_s),
        )
        self.answers.append(answer)
        if self.on_answer is not None:
            self.on_answer(answer)
        if self.closed:
            self._send_next(now_s)

    def _v1_cycle(self, batch: Batch) -> Result:
        """The V1 worker: host and device take turns within the cycle."""
        start = self._now()
        host, note = batch.note.host, batch.note
        pages = self.batching.reserve(batch.reqs)
        self.workers.send(Draft(tuple([r.slot for r in batch.reqs]), pages))
        host.append(("prepare_draft", start, self._now()))
        self._note_gpu(note, self._wait(batch))
        start = self._now()
        self.workers.send(Verify())
        host.append(("prepare_verify", start, self._now()))
        verified = self._wait(batch)
        self._note_gpu(note, verified)
        start = self._now()
        tokens, lens = accept_on_host(verified)
        bonus = tuple([row[n - 1] for row, n in zip(tokens, lens, strict=True)])
        self.workers.send(Commit(tuple(lens), bonus))
        host.append(("accept", start, self._now()))
        return self._wait(batch)._replace(tokens=tokens, commit_len=lens)

    # ---- time ----------------------------------------------------------------------------

    def _now(self) -> float:
        return perf_counter() - self.begun_s

    def _note_gpu(self, note: Iteration, result: Result) -> None:
        zero = self.begun_s
        note.gpu += [(name, start - zero, end - zero) for name, start, end in result.spans]
        note.comm_s += result.comm_s

    def _other_work(self, requests: int) -> None:
        """Keep the processor busy for as long as the setup asks."""
        stay_busy(self.work_s + self.work_per_request_s * requests)

    def _idle(self) -> None:
        """Nothing to run: sleep until the next arrival."""
        if self.closed or not self.unsent:
            msg = "the engine is idle with requests unanswered"
            raise RuntimeError(msg)
        sleep(max(0.0, (self.requests[self.unsent[0]].arrival_s or 0.0) - self._now()))


def stay_busy(seconds: float) -> None:
    """Keep the processor busy [s], as other work of the host does."""
    until = perf_counter() + seconds
    while perf_counter() < until:
        pass


def accept_on_host(verified: Result) -> tuple[list[list[int]], list[int]]:
    """V1: keep drafts while each is what the target said before it, token by token."""
    if verified.commit_len:
        return verified.tokens, verified.commit_len
    tokens: list[list[int]] = []
    lens: list[int] = []
    for draft, answer in zip(verified.draft, verified.tokens, strict=True):
        kept: list[int] = []
        for proposal, said in zip(draft[1:], answer, strict=False):
            if proposal != said:
                break
            kept.append(proposal)
        kept.append(answer[len(kept)])
        tokens.append(kept)
        lens.append(len(kept))
    return tokens, lens
