"""Times that no choice of kernel explains, found by counting bytes and comparing frameworks.

A framework whose every product takes several times as long as another's timed the host's launches.
Experts that arrive faster than memory delivers were not all asked for: a model's own routing, with
its groups, replaced the even one of the benchmark. Experts in a narrow format that arrive at a
small part of the rate that another framework reaches were widened first. Rows that are slow
without such a reason are another kernel: they are kept, and counted.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from dflash_sim.calibrate.silicon.table import Key, Times
from dflash_sim.profiles.units import MEGA

HOST_BOUND = 2.0  # median over a framework's products, of its time by the fastest one's
SLOW_ROW = 1.5  # median over a row's sizes, of its time by the fastest other framework's
WIDENED = 0.6  # of the best framework's rate, below which a kernel does not read its format
JUMP = 1.25  # a step between two sizes, by the same step of another framework
PAST_CACHE_BYTES = 256 * MEGA  # twice the largest L2
DELIVERED = 0.96  # of the data sheet's rate; the best kernels that read everything reach 0.95
UNREAD = "not all experts were read"

Bytes = Callable[[Key, int], float]


@dataclass(frozen=True)
class Suspect:
    """A row that is slower than another framework's by more than kernels usually differ.

    Parameters
    ----------
    key : of the row
    ratio : median over its sizes of its time by the fastest other one's [1]
    other : letter of that framework
    """

    key: Key
    ratio: float
    other: str

    def __str__(self) -> str:
        return f"{'/'.join(map(str, self.key))}: {self.ratio:.2f} x {self.other}"


def host_bound(cells: Mapping[str, Mapping[Key, float]]) -> dict[str, float]:
    """Frameworks that timed launches, by their median ratio to the fastest.

    Parameters
    ----------
    cells : framework's letter to time by cell [s]
    """
    best: dict[Key, float] = {}
    shared: set[Key] = set()
    for times in cells.values():
        shared |= best.keys() & times.keys()
        for key, seconds in times.items():
            best[key] = min(seconds, best.get(key, seconds))
    ratios = {
        letter: median([times[key] / best[key] for key in shared & times.keys()] or [1.0])
        for letter, times in cells.items()
    }
    return {letter: round(ratio, 2) for letter, ratio in ratios.items() if ratio > HOST_BOUND}


def reading_rates(times: Times, bytes_read: Bytes) -> dict[Key, float]:
    """Best rate at which the experts of each layer arrive [byte/s], past any cache.

    Parameters
    ----------
    times : rows whose keys begin with the four sizes of a layer
    bytes_read : of a row at a number of tokens; its rows of skewed routing say too little
    """
    rates: dict[Key, float] = {}
    for key, row in times.items():
        for size, seconds in row.items():
            read = bytes_read(key, size)
            if read >= PAST_CACHE_BYTES:
                rates[key[:4]] = max(read / seconds, rates.get(key[:4], 0.0))
    return rates


def refused_layers(
    rates: Mapping[str, Mapping[Key, float]], memory_byte_s: float, *, narrow: bool
) -> dict[tuple[str, Key], str]:
    """Layers of each file that did not run what they say, and why.

    A layer that every file reads too fast stays; one that only a slow file has goes.

    Parameters
    ----------
    rates : name of a file to rate by layer [byte/s], as :func:`reading_rates` says
    memory_byte_s : what the data sheet allows [byte/s]
    narrow : True if the weights are in a format that a kernel might widen first
    """
    shares = {
        name: {layer: rate / memory_byte_s for layer, rate in told.items()}
        for name, told in rates.items()
    }
    possible = {
        name: {layer: share for layer, share in told.items() if share <= DELIVERED}
        for name, told in shares.items()
    }
    most = max((max(told.values()) for told in possible.values() if told), default=0.0)
    refused = {}
    for name, told in shares.items():
        slow_file = narrow and max(possible[name].values(), default=1.0) < WIDENED * most
        for layer, share in told.items():
            others = {other: p[layer] for other, p in possible.items() if layer in p}
            best = max(others, key=lambda other: others[other], default=name)
            what = f"{'/'.join(map(str, layer))} at {share:.2f} of the memory's rate"
            if share > DELIVERED and best != name:
                refused[name, layer] = f"{what}: {UNREAD}"
            elif narrow and share < WIDENED * others.get(best, 0.0):
                refused[name, layer] = f"{what}, {best} at {others[best]:.2f}"
            elif slow_file:
                refused[name, layer] = f"{what}, other layers elsewhere at {most:.2f}"
    return refused


def slow_rows(mine: Times, others: Iterable[tuple[str, Times]]) -> list[Suspect]:
    """Rows that another framework ran faster throughout, the worst first."""
    found = []
    told = list(others)
    for key, row in mine.items():
        rated = {}
        for letter, times in told:
            both = row.keys() & times.get(key, {}).keys()
            if len(both) >= 3:
                rated[letter] = median(row[size] / times[key][size] for size in sorted(both))
        other = max(rated, key=lambda letter: rated[letter], default="")
        if other and rated[other] >= SLOW_ROW:
            found.append(Suspect(key, rated[other], other))
    return sorted(found, key=lambda suspect: (-suspect.ratio, str(suspect)))


def jumps(mine: Times, others: Iterable[tuple[str, Times]]) -> list[str]:
    """Steps from one size to the next that no other framework has, the worst first."""
    found = []
    told = [times for _, times in others]
    for key, row in mine.items():
        for low, high in pairwise(sorted(row)):
            rows = [t[key] for t in told if low in t.get(key, {}) and high in t[key]]
            if rows:
                usual = max(1.0, *(other[high] / other[low] for other in rows))
                ratio = row[high] / row[low] / usual
                if ratio > JUMP:
                    found.append((-ratio, f"{'/'.join(map(str, key))} from {low} to {high}"))
    return [f"{what}: {-ratio:.2f} x the step elsewhere" for ratio, what in sorted(found)]
