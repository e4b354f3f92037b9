"""The scheduler over requests that nobody knew before they came.

:class:`LiveScheduler` is the same loop over the same workers, in a thread of its own. Others submit
requests, take them back, and are told after every step what it brought; what is over is forgotten,
so that a server may run for days.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from dflash_sim.realrun.job.messages import Result
from dflash_sim.realrun.job.requests import Req, Request
from dflash_sim.realrun.job.setup import Fitted
from dflash_sim.realrun.scheduler.scheduler import Batch, Scheduler, Workers
from dflash_sim.simulator.engine.records import DECODE

KEPT = 64  # iterations remembered: more than are ever in flight


@dataclass(eq=False)
class Call:
    """A request that has been submitted."""

    request: Request
    req: Req | None = None


@dataclass(frozen=True)
class News:
    """What a step brought to one request.

    Parameters
    ----------
    tokens
        Its new tokens.
    commit
        Tokens that the verify step committed, before the answer was cut; 0 after a prefill.
    ended
        ``length`` or ``stop`` if these are its last.
    """

    call: Call
    tokens: tuple[int, ...]
    commit: int
    ended: str | None


@dataclass
class Counted:
    """What it has done since its start, by the names of the simulated engine's totals."""

    iterations: int = 0
    verifies: int = 0
    accepted: int = 0
    drafted: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    aborted: int = 0


class LiveScheduler(Scheduler):
    """A scheduler without an end: :meth:`work` is its thread, everything else is for others.

    Parameters
    ----------
    tell
        Called in the scheduler's thread after every step that brought tokens.
    """

    def __init__(
        self, fitted: Fitted, workers: Workers, tell: Callable[[Sequence[News]], None]
    ) -> None:
        super().__init__(fitted, workers, (), conc=None)
        self.rows, self.tell = fitted.rows, tell
        self.iterations: Any = deque(maxlen=KEPT)
        self.counted = Counted()
        self.stage_s: dict[str, float] = {}
        self._idled: tuple[float, float | None] = 0.0, None  # seconds, and since when it sleeps
        self._inbox: SimpleQueue[tuple[str, Call | None]] = SimpleQueue()
        self._calls: dict[int, Call] = {}
        self._next_rid = 0
        self._stopped = False

    # ---- for other threads ---------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Take a request: it arrives now."""
        self._inbox.put(("submit", call))

    def abort(self, call: Call) -> None:
        """Take a request back: it leaves before the next step."""
        self._inbox.put(("abort", call))

    def stop(self) -> None:
        """End the work after the step that runs."""
        self._inbox.put(("stop", None))

    @property
    def waiting(self) -> int:
        """Requests that wait to be prefilled."""
        return len(self.batching.waiting) + self._inbox.qsize()

    @property
    def running(self) -> list[Req]:
        """Requests that are decoded."""
        return [r for r in tuple(self.batching.running) if not r.done]

    @property
    def idle_s(self) -> float:
        """Seconds without anything to run, this moment's included."""
        before, since = self._idled
        return before if since is None else before + self._now() - since

    # ---- its own thread ------------------------------------------------------------------

    def work(self) -> None:
        """Serve until stopped.

        Raises
        ------
        WorkerLostError
            A worker cannot go on.
        """
        self.run()

    @property
    def _unfinished(self) -> bool:
        return not self._stopped

    def recv_requests(self, now_s: float) -> None:
        """Take what has come in."""
        try:
            while True:
                self._take(*self._inbox.get_nowait())
        except Empty:
            pass

    def _idle(self) -> None:
        """Nothing to run: sleep until something comes in."""
        if self._stopped:
            return
        before, start = self._idled[0], self._now()
        self._idled = before, start  # at once, so that others see neither half nor both
        said = self._inbox.get()
        self._idled = before + self._now() - start, None
        self._take(*said)

    def _take(self, what: str, call: Call | None) -> None:
        if call is None:
            self._stopped = True
        elif what == "submit":
            call.req = Req(self._next_rid, call.request, self._now())
            self._calls[self._next_rid] = call
            self._next_rid += 1
            self.batching.waiting.append(call.req)
            self.counted.prompt_tokens += len(call.request.prompt)
        else:
            self._abort(call)

    def _abort(self, call: Call) -> None:
        r = call.req
        if r is None or r.done:
            return
        r.done = True
        del self._calls[r.rid]
        self.counted.aborted += 1
        batching = self.batching
        if r in batching.waiting:
            batching.waiting.remove(r)
            return
        if batching.chunked_req is r:
            batching.chunked_req = None
        batching.release(r)

    def process_batch_result(self, batch: Batch, result: Result) -> None:
        """The same, and those who asked are told."""
        had = [len(r.output) for r in batch.reqs]
        super().process_batch_result(batch, result)
        note, decoded = batch.note, batch.note.kind == DECODE
        self.counted.iterations += 1
        if decoded and self.speculative:
            steps = note.batch - note.wasted
            self.counted.verifies += steps
            self.counted.accepted += note.accepted
            self.counted.drafted += (self.rows - 1) * steps
        for name, start, end in note.host:
            self._spent(name, end - start)
        news = []
        for r, before in zip(batch.reqs, had, strict=True):
            call = self._calls.get(r.rid)
            if call is None or len(r.output) == before:
                continue
            new = tuple(r.output[before:])
            ended = None
            if r.done:
                del self._calls[r.rid]
                ended = "stop" if new[-1] in r.stop else "length"
            news.append(News(call, new, r.commits[-1] if decoded else 0, ended))
        if news:
            self.tell(news)

    def _answer(self, r: Req, now_s: float) -> None:
        self.batching.release(r)
        self.counted.finished += 1
        self.counted.generated_tokens += len(r.output)

    def _spent(self, stage: str, seconds: float) -> None:
        self.stage_s[stage] = self.stage_s.get(stage, 0.0) + seconds
