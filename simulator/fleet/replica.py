"""One replica of a fleet: the leap engine, fed by a router, stopped as soon as too much is late.

Times of a fleet may be stretched: the simulation then runs on shorter gaps between arrivals and
against shorter limits, which is the same as all times of the engine being longer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from heapq import heappush
from math import nextafter

from dflash_sim.simulator.engine.leap import LeapEngine
from dflash_sim.simulator.engine.leap_clock import FOREVER, Pending
from dflash_sim.simulator.engine.scheduler import Req

LATE = ("ttft", "tpot", "e2e")
# What the replicas of a fleet have in common: a request is answered by one of them.
_SHARED = (
    "arrival_s", "first_token_s", "finish_s", "_final_kv",
    "_isl", "_osl", "_cached", "_found", "_cycles", "_measured", "_follow", "loops",
)  # fmt: skip


@dataclass
class Tally:
    """Requests later than their limits, of all replicas of a fleet.

    Parameters
    ----------
    limits_s
        By name of ``LATE`` [s]; a metric that is not there has no limit.
    budget
        Requests that may be late by each metric; one more and the fleet fails. None: run to the
        end and count.
    since_s
        Requests that arrive before are served and not counted [s].
    first_factor
        First tokens come so many times as late as simulated [1].
    client_s
        What a client sees on top of a latency [s].
    """

    limits_s: Mapping[str, float]
    budget: int | None = None
    since_s: float = 0.0
    first_factor: float = 1.0
    client_s: float = 0.0
    late: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LATE, 0))
    over: bool = False

    def __post_init__(self) -> None:
        self.ttft_s, self.tpot_s, self.e2e_s = (self.limits_s.get(n, FOREVER) for n in LATE)

    def first_token(self, *, arrived_s: float, after_s: float) -> None:
        """A request had its first token."""
        if self.ttft(after_s) > self.ttft_s and arrived_s >= self.since_s:
            self._count("ttft")

    def answer(self, *, arrived_s: float, decode_s: float, whole_s: float, tokens: int) -> None:
        """A request has been answered."""
        if arrived_s < self.since_s:
            return
        if tokens > 1 and decode_s > self.tpot_s * (tokens - 1):
            self._count("tpot")
        if decode_s + self.ttft(whole_s - decode_s) > self.e2e_s:
            self._count("e2e")

    def ttft(self, simulated_s: float) -> float:
        """Time to first token as the client sees it [s]."""
        return self.first_factor * (simulated_s + self.client_s)

    def _count(self, name: str) -> None:
        self.late[name] += 1
        if self.budget is not None and self.late[name] > self.budget:
            self.over = True


@dataclass
class Replica(LeapEngine):
    """The leap engine where arrivals are told one at a time.

    It stops where KV runs out, since a fleet that throws work away is not one to plan.

    Parameters
    ----------
    tally
        Counts what is late, and says when to stop; shared by the replicas of a fleet.
    """

    tally: Tally = field(default_factory=lambda: Tally({}))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.horizon_s = FOREVER
        self.routed = self.answered = 0
        self.done_s: list[float] = []
        self._left = 0
        self.sends_on: Callable[[int, float], None] | None = None

    def beside(self) -> "Replica":
        """Another replica of the same fleet, with the same requests and answers of its own."""
        none = self.workload.isl[:0]
        empty = replace(
            self.workload,
            isl=none,
            osl=none,
            cached=none,
            measured=none.astype(bool),
            follow=none,
            arrival_s=none.astype(float),
        )
        twin = replace(self, workload=empty)
        for name in _SHARED:
            setattr(twin, name, getattr(self, name))
        return twin

    # ---- what the router sees ------------------------------------------------------------

    def take(self, rid: int, at_s: float) -> None:
        """A request arrives, not before any that came earlier."""
        self.arrival_s[rid] = at_s
        heappush(self.arrivals, (at_s, rid))
        self.routed += 1
        self._left += 1

    @property
    def busy(self) -> bool:
        """Return True if requests that were sent here are not answered."""
        return self._left > 0

    @property
    def decides_s(self) -> float:
        """When the next scheduler loop looks for requests; that of an idle one, for its first."""
        s, pipeline = self.scheduler, self.pipeline
        idle = not s.running and not s.waiting and s.chunked_req is None
        if idle and pipeline.pending is None and self.arrivals:
            return max(pipeline.decides_s, self.arrivals[0][0])
        return pipeline.decides_s

    @property
    def cached(self) -> list[int]:
        """Prompt tokens found in the prefix cache, by request."""
        return self._found

    def pass_loops(self, to_s: float) -> None:
        """Pass a scheduler loop, and those of the same batch that cannot receive at ``to_s``."""
        self.horizon_s = max(to_s, nextafter(self.pipeline.decides_s, FOREVER))
        self._iterate()
        self.horizon_s = FOREVER

    def _arrive(self, rid: int, at: float) -> None:
        """A next turn goes through the router."""
        if self.sends_on is None:
            super()._arrive(rid, at)
        else:
            self.sends_on(rid, at)

    def in_flight(self, now_s: float) -> int:
        """Requests sent here and not answered; call :meth:`advance` before."""
        while self.answered < len(self.done_s) and self.done_s[self.answered] <= now_s:
            self.answered += 1
        return self.routed - self.answered

    def advance(self, to_s: float) -> None:
        """Pass all scheduler loops that cannot receive what arrives at ``to_s``."""
        self.horizon_s = to_s
        while self._left and not self.stopped and self.pipeline.decides_s < to_s:
            self._iterate()
        self.horizon_s = FOREVER

    def serve_all(self) -> None:
        """Take every request of the workload at its time, and answer it."""
        assert self.workload.arrival_s is not None
        self.arrival_s = self.workload.arrival_s.tolist()
        self.arrivals = list(zip(self.arrival_s, range(len(self.arrival_s)), strict=True))
        self.routed = self._left = len(self.arrivals)
        self.drain()

    def drain(self) -> None:
        """Answer all that has arrived."""
        while self._left and not self.stopped:
            self._iterate()

    @property
    def stopped(self) -> bool:
        """Return True if there is no use in going on."""
        return self.tally.over or self.kv_ran_out

    @property
    def quiet_until_s(self) -> float:
        """No answer leaves before; infinite with nothing to do [s]."""
        if not self._left:
            return FOREVER
        s, pending = self.scheduler, self.pipeline.pending
        if self.arrivals or s.waiting or s.chunked_req is not None or not s.running:
            return 0.0
        if pending is not None and (pending.finishing or pending.first_tokens):
            return 0.0
        steps = self.ends[0][0] - self.steps if self.ends else 0
        shortest = float(self.step.table(len(s.running)).total.min())
        return self.pipeline.clock.host + steps * shortest

    # ---- the leap engine's hooks ---------------------------------------------------------

    def _next_arrival_s(self) -> float:
        return min(super()._next_arrival_s(), self.horizon_s)

    def _settle(self, result: Pending, now: float) -> None:
        for req in result.first_tokens:
            arrived = self.arrival_s[req.rid]
            self.tally.first_token(arrived_s=arrived, after_s=now - arrived)
        super()._settle(result, now)

    def _finish(self, req: Req, now: float) -> None:
        rid = req.rid
        arrived = self.arrival_s[rid]
        first = self.first_token_s[rid]
        self.done_s.append(now)
        self.tally.answer(
            arrived_s=arrived,
            decode_s=now - first,
            whole_s=now - arrived,
            tokens=self._osl[rid],
        )
        super()._finish(req, now)
