"""The real engine's passes, timed where they will run: in its own workers, outside its scheduler.

Batches of a given size and context are prefilled and then decoded, first with the next command
always waiting, as under overlap, then one at a time. What a command takes beyond its passes is the
time of pipes and bookkeeping.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

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

STEPS, ALONE, PREFILLS, WARM_UP = 14, 6, 5, 2


@dataclass(frozen=True)
class Size:
    """A batch to rehearse: requests, and the length of their prompts [tokens]."""

    requests: int
    prompt: int


@dataclass(frozen=True)
class TimedPass:
    """Mean seconds of one phase of a batch."""

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


def rehearse(setup: Setup, sizes: Sequence[Size]) -> Rehearsed:
    """Time every size; the workers live for as long as this takes."""
    rows = max(setup.block or 1, (setup.steps or 0) + 1)
    room = (2 * WARM_UP + STEPS + 2 * ALONE + 2) * rows
    longest = max(size.prompt for size in sizes)
    fitted = fit(setup, longest_prompt=longest, longest_text=longest + room)
    overheads = Overheads()
    passes: list[TimedPass] = []
    try:
        with Crew(fitted) as crew:
            stage = Stage(fitted, crew)
            for size in sizes:
                passes += stage.play(size, overheads)
    except WorkerLostError as lost:
        msg = f"while passes were timed: {lost}"
        raise RunFailedError(msg, None) from lost
    return Rehearsed(tuple(passes), overheads)


class Stage:
    """Workers that are told what to do directly."""

    def __init__(self, fitted: Fitted, crew: Crew) -> None:
        self.fitted, self.crew = fitted, crew
        self.each = fitted.pages // fitted.setup.max_running_requests

    def play(self, size: Size, overheads: Overheads) -> Iterator[TimedPass]:
        """Prefill and decode one size."""
        n, rows = size.requests, self.fitted.rows
        for _ in range(WARM_UP):
            self._ask(self._prefill(size))
        reads = [self._ask(self._prefill(size)) for _ in range(PREFILLS)]
        step = Decode(tuple(range(1, n + 1)), ())
        done, queued = self._queued(step)
        overheads.queued[n] = trimmed_mean(queued)
        alone = [self._ask(step) for _ in range(ALONE)]
        overheads.alone[n] = trimmed_mean([whole - _busy(result) for whole, result in alone])
        # What lies around a prefill's pass is part of it, but for the way there and back, which
        # the simulator adds to every pass.
        trip = max(0.0, overheads.alone[n] - overheads.queued[n])
        read_s = trimmed_mean([whole for whole, _ in reads]) - trip
        yield TimedPass("prefill", n, size.prompt, 0.0, read_s)
        ctx = size.prompt + _committed(done) / 2 / n
        names = dict.fromkeys(name for name, _, _ in done[0].spans)
        for name in names:
            times = [end - start for r in done for what, start, end in r.spans if what == name]
            yield TimedPass(name, n, rows, ctx, trimmed_mean(times))
        if rows > 1:
            overheads.v1[n] = self._v1(step.slots)

    def _prefill(self, size: Size) -> Prefill:
        """``size`` as a command: prompts of spaces and letters, pages in order."""
        slots = range(1, size.requests + 1)
        tokens = tuple(32 + i * 7 % 64 for i in range(size.prompt))
        places = range(self.each)
        pages = [(s, place, 1 + (s - 1) * self.each + place) for s in slots for place in places]
        joins = tuple((s, s) for s in slots)
        return Prefill(tuple((s, tokens, GOES_ON) for s in slots), joins, tuple(pages))

    def _ask(self, command: Command) -> tuple[float, Result]:
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

    def _v1(self, slots: tuple[int, ...]) -> tuple[float, float, float]:
        """Round trips of draft, verify and commit, beyond their passes."""
        trips: list[tuple[float, float, float]] = []
        for _ in range(ALONE):
            drafted = self._ask(Draft(slots, ()))
            verified = self._ask(Verify())
            tokens, lens = accept_on_host(verified[1])
            bonus = tuple(row[n - 1] for row, n in zip(tokens, lens, strict=True))
            kept = self._ask(Commit(tuple(lens), bonus))
            d, v, k = (whole - _busy(result) for whole, result in (drafted, verified, kept))
            trips.append((d, v, k))
        first, second, third = zip(*trips[1:], strict=True)
        return trimmed_mean(first), trimmed_mean(second), trimmed_mean(third)


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
