"""Passes and overheads of the real engine are timed before it is predicted, by engine mode.

A machine that others use too is slower at one time than at another. So beside everything that is
timed a probe is: a short step that is always the same. Times are told as of the quickest probes.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

ANY_MODE = ""


@dataclass(frozen=True)
class Size:
    """A batch to rehearse: requests, and the length of their prompts [tokens]."""

    requests: int
    prompt: int


@dataclass(frozen=True)
class Probe:
    """A short step that is always the same: for how many requests, and how long it took [s]."""

    requests: int
    seconds: float


@dataclass(frozen=True)
class TimedPass:
    """Mean seconds of one phase of a batch, as it runs in an engine mode, and a probe of then."""

    mode: str
    phase: str
    requests: int
    rows: int
    ctx: float
    seconds: float
    probe: Probe | None = None


@dataclass(frozen=True)
class Overheads:
    """Times of commands beyond their passes, by batch size [s].

    Parameters
    ----------
    queued : from one command's passes to the next one's, the next command waiting
    alone : from sending a command to having its result
    v1 : the same of each of the three commands of a V1 cycle
    """

    queued: Mapping[int, float]
    alone: Mapping[int, float]
    v1: Mapping[int, tuple[float, float, float]]


class Probes:
    """All probes of one method and width; the quickest say what the machine can do."""

    def __init__(self) -> None:
        self.seconds: dict[int, list[float]] = {}

    def note(self, probe: Probe) -> Probe:
        """Keep one, and return it."""
        self.seconds.setdefault(probe.requests, []).append(probe.seconds)
        return probe

    def slowdown(self, *around: Probe) -> float:
        """Return the slowdown: the mean of the probes ``around`` over the fastest tenth's [1]."""
        found = sorted(self.seconds[around[0].requests])
        return max(1.0, statistics.fmean(p.seconds for p in around) / found[len(found) // 10])


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


def pooled(found: Sequence[Rehearsed], probes: Probes) -> Rehearsed:
    """Several rehearsals as one, at the machine's quickest.

    A time is the product of one of its size and one of its mode, both medians of all that tell.
    """
    times: dict[TimedPass, list[float]] = {}
    for p in (p for one in found for p in one.passes):
        slowdown = 1.0 if p.probe is None else probes.slowdown(p.probe)
        times.setdefault(replace(p, seconds=0.0, probe=None), []).append(p.seconds / slowdown)
    middle = {p: statistics.median(each) for p, each in times.items()}
    passes = [p for phase in {p.phase for p in middle} for p in _smoothed(middle, phase)]
    over = [one.overheads for one in found]
    trips = {
        n: (median_of(over, n, 0), median_of(over, n, 1), median_of(over, n, 2)) for n in over[0].v1
    }
    return Rehearsed(
        tuple(passes),
        Overheads(
            queued={n: statistics.median(o.queued[n] for o in over) for n in over[0].queued},
            alone={n: statistics.median(o.alone[n] for o in over) for n in over[0].alone},
            v1=trips,
        ),
    )


def _smoothed(times: Mapping[TimedPass, float], phase: str) -> list[TimedPass]:
    """The passes of a phase, their times by size and by mode."""
    by_mode: dict[str, dict[tuple[int, int, float], float]] = {}
    ours = [p for p in times if p.phase == phase]
    for p in ours:
        by_mode.setdefault(p.mode, {})[p.requests, p.rows, p.ctx] = times[p]
    base = by_mode.get("v2") or next(iter(by_mode.values()))
    factors = {
        mode: statistics.median(seconds / base[size] for size, seconds in found.items())
        for mode, found in by_mode.items()
    }
    return [
        replace(
            p,
            seconds=factors[p.mode]
            * statistics.geometric_mean(
                found[p.requests, p.rows, p.ctx] / factors[mode] for mode, found in by_mode.items()
            ),
        )
        for p in ours
    ]


def median_of(found: Sequence[Overheads], requests: int, command: int) -> float:
    """Return the median time of one command of a V1 cycle [s]."""
    return statistics.median(o.v1[requests][command] for o in found)


def line(points: Mapping[int, float]) -> tuple[float, float]:
    """Fixed part and part per request of times by batch size: least squares, none negative."""
    if len(points) == 1:
        return next(iter(points.values())), 0.0
    fitted = statistics.linear_regression(list(points), list(points.values()))
    slope = max(0.0, fitted.slope)
    fixed = statistics.fmean(y - slope * x for x, y in points.items())
    return max(0.0, fixed), slope


def medians(points: Mapping[int, Sequence[float]]) -> dict[int, float]:
    """The middle of what was found for each batch size."""
    return {n: statistics.median(found) for n, found in points.items()}
