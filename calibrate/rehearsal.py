"""The real engine's passes, timed where they will run: in its own workers, outside its scheduler.

Batches of a given size and context are prefilled and then decoded as each engine mode does it: with
the next command always waiting (v2), one command at a time (v2-sync), and in three commands with
the host between them (v1). A worker that had to wait runs its next pass more slowly. What a command
takes beyond its passes is the time of pipes and bookkeeping.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from dflash_sim.calibrate.clock import trimmed_mean
from dflash_sim.realrun.crew import Crew
from dflash_sim.realrun.faults import RunFailedError, WorkerLostError
from dflash_sim.realrun.messages import (
    GOES_ON,
    Command,
    Commit,
    Decode,
    Draft,
    Prefill,
    Result,
    Verify,
)
from dflash_sim.realrun.scheduler import accept_on_host
from dflash_sim.realrun.setup import Fitted, Setup, fit

Timed: TypeAlias = tuple[float, Result]  # wall seconds of a command, and its result
STEPS, ALONE, PREFILLS, WARM_UP = 14, 10, 5, 2
ANY_MODE = ""


@dataclass(frozen=True)
class Size:
    """A batch to rehearse: requests, and the length of their prompts [tokens]."""

    requests: int
    prompt: int


@dataclass(frozen=True)
class TimedPass:
    """Mean seconds of one phase of a batch, as it runs in an engine mode."""

    mode: str
    phase: str
    requests: int
    rows: int
    ctx: float
    seconds: float


@dataclass
class Overheads:
    """What commands take beyond their passes, by batch size [s].

    Parameters
    ----------
    queued : from one command's passes to the next one's, the next command waiting
    alone : from sending a command to having its result
    v1 : the same of each of the three commands of a V1 cycle
    """

    queued: dict[int, float] = field(default_factory=dict)
    alone: dict[int, float] = field(default_factory=dict)
    v1: dict[int, tuple[float, float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Rehearsed:
    """Passes and overheads of one method at one width."""

    passes: tuple[TimedPass, ...]
    overheads: Overheads

    def of(self, mode: str) -> tuple[TimedPass, ...]:
        """The passes of an engine mode; a V1 step of one pass is one of V2 without overlap."""
        if mode == "v1" and not self.overheads.v1:
            mode = "v2-sync"
        return tuple(p for p in self.passes if p.mode in (mode, ANY_MODE))


def rehearse(setup: Setup, sizes: Sequence[Size]) -> Rehearsed:
    """Time every size; the workers live for as long as this takes."""
    rows = max(setup.block or 1, (setup.steps or 0) + 1)
    room = (2 * WARM_UP + STEPS + 2 * ALONE + 2) * rows
    longest = max(size.prompt for size in sizes)
    fitted = fit(setup, longest_prompt=longest, longest_text=longest + room)
    try:
        with Crew(fitted) as crew:
            stage = Stage(fitted, crew)
            passes = [timed for size in sizes for timed in stage.play(size)]
    except WorkerLostError as lost:
        msg = f"while passes were timed: {lost}"
        raise RunFailedError(msg, None) from lost
    return Rehearsed(tuple(passes), stage.overheads())


@dataclass
class Gaps:
    """What commands of one size took beyond their passes [s], as in :class:`Overheads`."""

    queued: Sequence[float]
    alone: Sequence[float]
    v1: Sequence[tuple[float, ...]] = ()

    @property
    def queued_s(self) -> float:
        """From one command's passes to the next one's."""
        return trimmed_mean(self.queued)

    @property
    def alone_s(self) -> float:
        """Around a command that is sent when the last one's result is here."""
        return trimmed_mean(self.alone)

    @property
    def trip_s(self) -> float:
        """The way to the worker and back."""
        return max(0.0, self.alone_s - self.queued_s)

    def v1_s(self, i: int) -> float:
        """Around the ``i``-th command of a V1 cycle."""
        return trimmed_mean([trip[i] for trip in self.v1])


class Stage:
    """Workers that are told what to do directly."""

    def __init__(self, fitted: Fitted, crew: Crew) -> None:
        self.fitted, self.crew = fitted, crew
        self.each = fitted.pages // fitted.setup.max_running_requests
        self._gaps: dict[int, list[Gaps]] = {}

    def play(self, size: Size) -> Iterator[TimedPass]:
        """Prefill and decode one size, in every mode."""
        n, rows = size.requests, self.fitted.rows
        for _ in range(WARM_UP):
            self._ask(self._prefill(size))
        reads = [self._ask(self._prefill(size)) for _ in range(PREFILLS)]
        step = Decode(tuple(range(1, n + 1)), ())
        done, queued = self._queued(step)
        alone = [self._ask(step) for _ in range(ALONE)]
        gaps = Gaps(queued, [whole - _busy(result) for whole, result in alone])
        # What lies around a prefill's pass is part of it, but for the way there and back, which
        # the simulator adds to every pass.
        read_s = trimmed_mean([whole for whole, _ in reads]) - gaps.trip_s
        yield TimedPass(ANY_MODE, "prefill", n, size.prompt, 0.0, read_s)
        ctx = size.prompt + _committed(done) / 2 / n
        by_mode = {"v2": done, "v2-sync": [result for _, result in alone]}
        if rows > 1:
            trips = [self._v1(step.slots) for _ in range(ALONE)][1:]
            by_mode["v1"] = [result for trip in trips for _, result in trip]
            gaps.v1 = [tuple(whole - _busy(result) for whole, result in trip) for trip in trips]
        for mode, results in by_mode.items():
            for name, times in _by_phase(results).items():
                yield TimedPass(mode, name, n, rows, ctx, trimmed_mean(times))
        self._gaps.setdefault(n, []).append(gaps)

    def _prefill(self, size: Size) -> Prefill:
        """``size`` as a command: prompts of spaces and letters, pages in order."""
        slots = range(1, size.requests + 1)
        tokens = tuple(32 + i * 7 % 64 for i in range(size.prompt))
        places = range(self.each)
        pages = [(s, place, 1 + (s - 1) * self.each + place) for s in slots for place in places]
        joins = tuple((s, s) for s in slots)
        return Prefill(tuple((s, tokens, GOES_ON) for s in slots), joins, tuple(pages))

    def _ask(self, command: Command) -> Timed:
        """Wall seconds until the result is here, and the result."""
        begin = time.perf_counter()
        self.crew.send(command)
        result = self.crew.receive()
        return time.perf_counter() - begin, result

    def _queued(self, step: Decode) -> tuple[list[Result], list[float]]:
        """Steps with the next one always waiting, and what lay between their passes."""
        self.crew.send(step)
        results = []
        for _ in range(WARM_UP + STEPS):
            self.crew.send(step)
            results.append(self.crew.receive())
        results.append(self.crew.receive())
        starts = [r.spans[0][1] for r in results]
        gaps = [b - a - _busy(r) for a, b, r in zip(starts, starts[1:], results, strict=False)]
        return results[WARM_UP:], gaps[WARM_UP:]

    def _v1(self, slots: tuple[int, ...]) -> tuple[Timed, Timed, Timed]:
        """Draft, verify and commit, as three commands."""
        drafted = self._ask(Draft(slots, ()))
        verified = self._ask(Verify())
        tokens, lens = accept_on_host(verified[1])
        bonus = tuple(row[n - 1] for row, n in zip(tokens, lens, strict=True))
        return drafted, verified, self._ask(Commit(tuple(lens), bonus))

    def overheads(self) -> Overheads:
        """Of all sizes that were played: the median of those of equally many requests."""
        found = Overheads()
        for n, gaps in self._gaps.items():
            found.queued[n] = statistics.median(g.queued_s for g in gaps)
            found.alone[n] = statistics.median(g.alone_s for g in gaps)
            if gaps[0].v1:
                one, two, three = (statistics.median(g.v1_s(i) for g in gaps) for i in range(3))
                found.v1[n] = one, two, three
        return found


def _by_phase(results: Sequence[Result]) -> dict[str, list[float]]:
    """Seconds of each phase, in every result that has it."""
    times: dict[str, list[float]] = {}
    for result in results:
        for name, start, end in result.spans:
            times.setdefault(name, []).append(end - start)
    return times


def _busy(result: Result) -> float:
    return result.spans[-1][2] - result.spans[0][1]


def _committed(results: Sequence[Result]) -> int:
    return sum(sum(r.commit_len) for r in results)


def line(points: dict[int, float]) -> tuple[float, float]:
    """Fixed part and part per request of times by batch size: least squares, none negative."""
    if len(points) == 1:
        return next(iter(points.values())), 0.0
    fitted = statistics.linear_regression(list(points), list(points.values()))
    slope = max(0.0, fitted.slope)
    fixed = statistics.fmean(y - slope * x for x, y in points.items())
    return max(0.0, fixed), slope
