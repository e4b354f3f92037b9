"""The engine's workers under direction: passes timed outside the scheduler, runs with it, probes.

Batches of a given size and context are prefilled and then decoded as each engine mode does it: with
the next command always waiting (v2), one command at a time (v2-sync), and in three commands with
the host between them (v1). A worker that had to wait runs its next pass more slowly. What a command
takes beyond its passes is the time of pipes and bookkeeping. Times are plain means: a run pays for
its slow steps too.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from dflash_sim.calibrate.realloop.rehearsal import (
    ANY_MODE,
    Overheads,
    Probe,
    Probes,
    Rehearsed,
    Size,
    TimedPass,
    medians,
)
from dflash_sim.realrun.job.faults import RunFailedError, WorkerLostError
from dflash_sim.realrun.job.journal import Run
from dflash_sim.realrun.job.messages import (
    GOES_ON,
    Command,
    Commit,
    Decode,
    Draft,
    Prefill,
    Result,
    Verify,
)
from dflash_sim.realrun.job.requests import Request
from dflash_sim.realrun.job.setup import Fitted, Setup, fit
from dflash_sim.realrun.scheduler.crew import Crew
from dflash_sim.realrun.scheduler.scheduler import Scheduler, accept_on_host, stay_busy

_T = TypeVar("_T")
Timed: TypeAlias = tuple[float, Result]  # wall seconds of a command, and its result
STEPS, ALONE, PREFILLS, WARM_UP = 14, 10, 5, 2
PROBE_STEPS, PROBE_STEPS_ALONE, PROBE_PROMPT = 8, 20, 16


@contextmanager
def staged(setup: Setup, probes: Probes, *, longest_text: int) -> Iterator["Stage"]:
    """Workers for rehearsals and runs, for the time of a ``with`` block.

    Raises
    ------
    RunFailedError
        One of them was lost.
    """
    rows = max(setup.block or 1, (setup.steps or 0) + 1)
    room = (2 * WARM_UP + STEPS + 2 * ALONE + 2) * rows
    fitted = fit(setup, longest_text=longest_text + room)
    try:
        with Crew(fitted) as crew:
            yield Stage(fitted, crew, probes)
    except WorkerLostError as lost:
        msg = f"while the closed loop was measured and run: {lost}"
        raise RunFailedError(msg, None) from lost


@dataclass(frozen=True)
class Gaps:
    """Times of commands of one size beyond their passes [s], as in :class:`Overheads`."""

    queued: Sequence[float]
    alone: Sequence[float]
    v1: Sequence[tuple[float, ...]]

    @property
    def trip_s(self) -> float:
        """The way to the worker and back."""
        return max(0.0, statistics.fmean(self.alone) - statistics.fmean(self.queued))


class Stage:
    """Workers that are told what to do directly; ``probes`` is where probes are kept."""

    def __init__(self, fitted: Fitted, crew: Crew, probes: Probes) -> None:
        self.fitted, self.crew, self.probes = fitted, crew, probes
        self.most = fitted.setup.max_running_requests
        self.each = fitted.pages // self.most

    # ---- what is timed -------------------------------------------------------------------

    def run(self, requests: Sequence[Request], *, conc: int, mode: str) -> Run:
        """Answer requests as ``serve`` does, with these workers."""
        setup = replace(self.fitted.setup, mode=mode)
        return Scheduler(replace(self.fitted, setup=setup), self.crew, requests, conc=conc).run()

    def probe(self, requests: int) -> Probe:
        """Time a short step, for one request or as many as there can be."""
        n, steps = (1, PROBE_STEPS_ALONE) if requests == 1 else (self.most, PROBE_STEPS)
        self._ask(self._prefill(Size(n, PROBE_PROMPT)))
        results, _ = self._queued(Decode(tuple(range(1, n + 1)), ()), steps)
        return self.probes.note(Probe(n, statistics.fmean(map(_busy, results))))

    def rehearse(self, sizes: Sequence[Size]) -> Rehearsed:
        """Time every size, between probes."""
        passes: list[TimedPass] = []
        gaps: dict[int, list[Gaps]] = {}
        for size in sizes:
            n, before = size.requests, self.probe(size.requests)
            timed, around = self._play(size)
            after = self.probe(n)
            probe = replace(after, seconds=(before.seconds + after.seconds) / 2)
            passes += [replace(p, probe=probe) for p in timed]
            gaps.setdefault(n, []).append(around)
        return Rehearsed(tuple(passes), _overheads(gaps))

    def _play(self, size: Size) -> tuple[list[TimedPass], Gaps]:
        """Prefill and decode one size, in every mode."""
        n, rows = size.requests, self.fitted.rows
        for _ in range(WARM_UP):
            self._ask(self._prefill(size))
        reads = [self._ask(self._prefill(size)) for _ in range(PREFILLS)]
        step = Decode(tuple(range(1, n + 1)), ())
        done, queued = self._queued(step, STEPS)
        alone = [self._rested(n, lambda: self._ask(step)) for _ in range(ALONE)]
        cycles = []
        if rows > 1:
            cycles = [self._rested(n, lambda: self._v1(step.slots)) for _ in range(ALONE)][1:]
        gaps = Gaps(
            queued,
            [whole - _busy(result) for whole, result in alone],
            [tuple(whole - _busy(result) for whole, result in cycle) for cycle in cycles],
        )
        # What lies around a prefill's pass is part of it, but for the way there and back, which
        # the simulator adds to every pass.
        read_s = statistics.fmean(whole for whole, _ in reads) - gaps.trip_s
        read_s = max(read_s, statistics.fmean(_busy(result) for _, result in reads))
        passes = [TimedPass(ANY_MODE, "prefill", n, size.prompt, 0.0, read_s)]
        ctx = size.prompt + sum(sum(r.commit_len) for r in done) / 2 / n
        by_mode = {
            "v2": done,
            "v2-sync": [result for _, result in alone],
            "v1": [result for cycle in cycles for _, result in cycle],
        }
        for mode, results in by_mode.items():
            for name, times in _by_phase(results).items():
                passes.append(TimedPass(mode, name, n, rows, ctx, statistics.fmean(times)))
        return passes, gaps

    # ---- commands ------------------------------------------------------------------------

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

    def _rested(self, requests: int, ask: Callable[[], _T]) -> _T:
        """Ask when the host has done its other work, for which workers wait without overlap."""
        setup = self.fitted.setup
        stay_busy(setup.host_work_s + setup.host_work_per_request_s * requests)
        return ask()

    def _queued(self, step: Decode, steps: int) -> tuple[list[Result], list[float]]:
        """Steps with the next one always waiting, and what lay between their passes."""
        self.crew.send(step)
        results = []
        for _ in range(WARM_UP + steps):
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


def _busy(result: Result) -> float:
    return result.spans[-1][2] - result.spans[0][1]


def _by_phase(results: Sequence[Result]) -> dict[str, list[float]]:
    """Seconds of each phase, in every result that has it."""
    times: dict[str, list[float]] = {}
    for result in results:
        for name, start, end in result.spans:
            times.setdefault(name, []).append(end - start)
    return times


def _overheads(gaps: Mapping[int, Sequence[Gaps]]) -> Overheads:
    """The median of those of equally many requests."""
    thirds = [
        medians({n: [statistics.fmean([t[i] for t in g.v1]) for g in of] for n, of in gaps.items()})
        for i in range(3)
        if all(g.v1 for of in gaps.values() for g in of)
    ]
    return Overheads(
        queued=medians({n: [statistics.fmean(g.queued) for g in of] for n, of in gaps.items()}),
        alone=medians({n: [statistics.fmean(g.alone) for g in of] for n, of in gaps.items()}),
        v1={n: (thirds[0][n], thirds[1][n], thirds[2][n]) for n in gaps} if thirds else {},
    )
