"""The event engine, stepped by requests that nobody knew before they came.

:class:`LiveEngine` is the same scheduler loop over the same prices. Requests are submitted while
it runs, may be taken back, and tell what they have; what is over is forgotten, so that a server
may run for days.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappush
from typing import Any

import numpy as np
import simpy

from dflash_sim.simulator.engine.events import Batch, EventEngine, Steps
from dflash_sim.simulator.engine.records import Run
from dflash_sim.simulator.engine.scheduler import Req, Scheduler
from dflash_sim.simulator.requests.draws import Draws
from dflash_sim.simulator.requests.prompts import Text
from dflash_sim.simulator.requests.workload import Workload

KEPT = 64  # iterations remembered: more than are ever in flight
# SGLang's words for what its scheduler thread does; a V1 worker's cycle lies inside run_batch.
CATEGORIES = {
    "recv_requests": "recv_requests",
    "get_next_batch": "get_next_batch_to_run",
    "run_batch": "run_batch",
    "process_batch_result": "process_batch_result",
    "prepare_draft": "run_batch",
    "prepare_verify": "run_batch",
    "accept": "run_batch",
}
IDLE, OTHER = "idle", "other"


@dataclass(eq=False)
class Call:
    """A request that has been submitted.

    Parameters
    ----------
    isl, osl
        Prompt tokens, and tokens of the answer.
    commits
        Tokens that each of its verify cycles commits, and two cycles more.
    on_tokens
        Called with the tokens that it has in all, when more have left the scheduler.
    on_end
        Called when it has been answered.
    text
        The prompt for a prefix cache, see :func:`~..requests.prompts.text_of_ids`; empty: it shares
        nothing.
    """

    isl: int
    osl: int
    commits: list[int]
    on_tokens: Callable[["Call", int], None]
    on_end: Callable[["Call"], None]
    cached: int = 0
    text: Text = ()
    rid: int = -1
    arrival_s: float = 0.0
    req: Req | None = None
    gone: bool = False

    @property
    def cycles(self) -> int:
        """Verify cycles that the host has seen of it."""
        return self.req.seen if self.req else 0

    @property
    def committed(self) -> int:
        """Tokens that those cycles have committed."""
        return sum(self.commits[: self.cycles])


@dataclass
class Totals:
    """What a server counts since its start."""

    iterations: int = 0
    verifies: int = 0
    accepted: int = 0
    drafted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    aborted: int = 0


class LiveTexts:
    """Prompts of the requests that are served."""

    def __init__(self) -> None:
        self.asked: dict[int, Text] = {}

    @property
    def answered(self) -> dict[int, Text]:
        """The prompts alone: clients write answers back in words of their own."""
        return self.asked


class LiveLog:
    """A log that remembers the last iterations and the sum of all."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.kv_tokens: dict[int, int] = {}
        self._order: deque[int] = deque()

    @property
    def launched(self) -> int:
        """Iterations launched so far."""
        return self.totals.iterations

    def idle(self) -> None:
        """Keep nothing of a pause."""

    def launch(self, kind: int, batch: int, kv: int, prefix: float, gpu_s: float) -> int:
        """Note a launched iteration; returns its index."""
        index = self.totals.iterations
        self.totals.iterations += 1
        self.kv_tokens[index] = kv
        self._order.append(index)
        while len(self._order) > KEPT:
            del self.kv_tokens[self._order.popleft()]
        return index

    def first_token(self, rid: int, now_s: float, *, cached: int) -> None:
        """Count what was found of a prompt."""
        self.totals.cached_tokens += cached

    def gpu(self, index: int, start_s: float, end_s: float) -> None:
        """Keep nothing of when an iteration ran."""

    def emit(self, index: int, now_s: float) -> None:
        """Keep nothing of when its tokens left."""


_NO = np.zeros(0, np.int64)
_NOBODY = Workload(_NO, _NO, _NO, _NO.astype(bool), _NO, conc=1)
_NOTHING = Draws(np.zeros((0, 0), np.int64), _NO)


@dataclass(kw_only=True)
class LiveEngine(EventEngine):
    """An engine without an end, in simulated time that somebody else lets pass.

    Parameters
    ----------
    drafts
        Draft tokens verified in a cycle of one request; 0 without speculation.
    """

    workload: Workload = field(default_factory=lambda: _NOBODY)
    draws: Draws = field(default_factory=lambda: _NOTHING)
    drafts: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.log: Any = LiveLog()
        self.texts = LiveTexts()
        self.scheduler = Scheduler(self.limits, self.texts)
        self.calls: dict[int, Call] = {}
        self.stage_s: dict[str, float] = dict.fromkeys((*CATEGORIES.values(), IDLE), 0.0)
        self.on_interval = self._note
        self._next = 0
        self._asleep: simpy.Event | None = None
        self.begin()

    def run(self) -> Run:
        """Refuse: there is no end to run to."""
        raise NotImplementedError

    @property
    def totals(self) -> Totals:
        """What has been counted since the start."""
        found: Totals = self.log.totals
        return found

    @property
    def now_s(self) -> float:
        """Simulated time [s]."""
        return self.env.now

    @property
    def next_s(self) -> float:
        """When something will happen by itself; infinite when nothing will [s]."""
        return self.env.peek()

    def stages(self) -> dict[str, float]:
        """Seconds of the host by SGLang's categories; ``other`` is what it waited for the GPU."""
        left = self.env.now - sum(self.stage_s.values())
        return {**self.stage_s, OTHER: max(0.0, left)}

    def advance(self, to_s: float) -> None:
        """Let everything happen that happens by ``to_s``."""
        while self.env.peek() <= to_s:
            self.env.step()

    def submit(self, call: Call, at_s: float) -> None:
        """Take a request that arrives at ``at_s``, not before now."""
        call.rid = self._next
        self._next += 1
        call.arrival_s = max(at_s, self.env.now)
        self.calls[call.rid] = call
        heappush(self.arrivals, (call.arrival_s, call.rid))
        if self._asleep is not None:
            self._asleep.succeed()
            self._asleep = None

    def abort(self, call: Call) -> None:
        """Take a request back: it leaves the queue now, or the batch at the next schedule."""
        if call.gone:
            return
        call.gone = True
        self.totals.aborted += 1
        self._forget(call.rid)
        if call.req is None:
            self.arrivals = sorted(a for a in self.arrivals if a[1] != call.rid)
            return
        s = self.scheduler
        call.req.done = True
        s.dropped(call.req)
        if s.chunked_req is call.req:
            s.chunked_req = None
        if call.req in s.waiting:
            s.waiting.remove(call.req)

    def flush_cache(self) -> bool:
        """Empty the prefix cache; False, and nothing is done, while requests are served."""
        if self.calls:
            return False
        self.scheduler.flush_cache()
        return True

    # ---- hooks of the event engine -------------------------------------------------------

    @property
    def _unfinished(self) -> bool:
        return True

    def _request(self, rid: int) -> Req:
        call = self.calls[rid]
        call.req = Req(rid, isl=call.isl, osl=call.osl, cached=call.cached, commits=call.commits)
        self.totals.prompt_tokens += call.isl
        self.texts.asked[rid] = call.text
        return call.req

    def _note(self, lane: str, name: str, start_s: float, end_s: float, iteration: int) -> None:
        if lane == "host":
            self.stage_s[CATEGORIES[name]] += end_s - start_s

    def _idle(self) -> Steps:
        start_s = self.env.now
        yield from super()._idle()
        self.stage_s[IDLE] += self.env.now - start_s

    def _nothing_comes(self) -> simpy.Event:
        self._asleep = self.env.event()
        return self._asleep

    def _process(self, batch: Batch) -> Steps:
        if batch.prefill is None and self.limits.speculative:
            self.totals.verifies += len(batch)
            self.totals.drafted += self.drafts * len(batch)
        yield from super()._process(batch)

    def _verified(self, batch: Batch) -> None:
        super()._verified(batch)
        self.totals.accepted += sum(self._accepted(batch))

    def _streamed(self, r: Req) -> None:
        call = self.calls.get(r.rid)
        if call is not None:
            call.on_tokens(call, min(r.generated, r.osl))

    def _finish(self, r: Req, now: float) -> None:
        r.done = True
        self.scheduler.finished(r)
        call = self._forget(r.rid)
        if call is None:
            return
        call.gone = True
        self.totals.finished += 1
        self.totals.generated_tokens += r.osl
        call.on_end(call)

    def _forget(self, rid: int) -> Call | None:
        self.texts.asked.pop(rid, None)
        return self.calls.pop(rid, None)
