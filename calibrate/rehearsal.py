"""What is timed of the real engine before it is predicted: passes by engine mode, and overheads.

A machine that others use too is slower at one time than at another. So beside everything that is
timed a probe is: a short step that is always the same. Times are told as of the quickest probe.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

ANY_MODE = ""


@dataclass(frozen=True)
class Size:
    """A batch to rehearse: requests, and the length of their prompts [tokens]."""

    requests: int
    prompt: int


@dataclass(frozen=True)
class TimedPass:
    """Mean seconds of one phase of a batch, as it runs in an engine mode.

    ``probe`` is what a probe took then: for how many requests, and its seconds.
    """

    mode: str
    phase: str
    requests: int
    rows: int
    ctx: float
    seconds: float
    probe: tuple[int, float] | None = None


@dataclass(frozen=True)
class Overheads:
    """What commands take beyond their passes, by batch size [s].

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
    """Seconds of the probes of one batch size; the quickest say what the machine can do."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def note(self, seconds: float) -> float:
        """Keep one, and return it."""
        self.seconds.append(seconds)
        return seconds

    @property
    def quick_s(self) -> float:
        """What a tenth of them do not exceed."""
        return sorted(self.seconds)[len(self.seconds) // 10]

    def slowdown(self, *around: float) -> float:
        """Of a time between probes ``around`` it [1]."""
        return max(1.0, statistics.fmean(around) / self.quick_s)


@dataclass(frozen=True)
class Rehearsed:
    """Passes and overheads of one method at one width; ``probes`` by the size of their batch."""

    passes: tuple[TimedPass, ...]
    overheads: Overheads
    probes: Mapping[int, Probes] = field(default_factory=dict)

    def of(self, mode: str) -> tuple[TimedPass, ...]:
        """The passes of an engine mode, as of the quickest probe.

        A V1 step of one pass is one of V2 without overlap.
        """
        if mode == "v1" and not self.overheads.v1:
            mode = "v2-sync"
        return tuple(self._quick(p) for p in self.passes if p.mode in (mode, ANY_MODE))

    def _quick(self, timed: TimedPass) -> TimedPass:
        if timed.probe is None:
            return timed
        requests, seconds = timed.probe
        slowdown = self.probes[requests].slowdown(seconds)
        return replace(timed, seconds=timed.seconds / slowdown, probe=None)


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
