"""A table in the making: gathered from files, cleaned as little as it takes, written as CSV.

Four things are changed, each counted in ``notes.toml``: repeated rows take the fastest; a lone
time slower than both its neighbours by half becomes their middle; a row far slower than another
framework's timing of the same kernel takes the faster of the two; a time shorter than reading
its bytes from memory takes is lifted to that, because the benchmark found them in the L2 cache
and a real step, which reads every other layer in between, does not.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf, sqrt
from pathlib import Path
from typing import Any

from dflash_sim.calibrate.silicon.gemm_curve import Miss
from dflash_sim.calibrate.silicon.source import Library, Source
from dflash_sim.profiles.errors import MissingProfileError
from dflash_sim.profiles.times.interpolation import GemmCurve
from dflash_sim.profiles.units import MEGA, MS, US

SPIKE = 1.5
DISTURBED = 1.3  # two timings of one kernel on one GPU differ by a few per cent
PAST_ANY_CACHE_BYTES = 500 * MEGA  # the largest L2 here holds 128 MB

Key = tuple[Any, ...]
Times = dict[Key, dict[int, float]]
BytesRead = Callable[[Key, int], float]


@dataclass(frozen=True)
class Table:
    """One CSV.

    Parameters
    ----------
    family : file name without suffix
    keys : names of the key columns
    size : name of the quantity across the columns
    times : key to time by size [s]
    letters : key to source letter, one for the row or one per column
    sources : files behind the letters
    notes : what ``notes.toml`` says about the cleaning
    misses : kind of lookup to its error on points left out
    curve, curve_error : of products, the fit through them and its errors by region
    digits : significant ones of a time in the file [1]
    """

    family: str
    keys: tuple[str, ...]
    size: str
    times: Times
    letters: Mapping[Key, str]
    sources: tuple[Source, ...]
    notes: Mapping[str, object] = field(default_factory=dict)
    misses: Mapping[str, Miss] = field(default_factory=dict)
    curve: GemmCurve | None = None
    curve_error: Mapping[str, Miss] = field(default_factory=dict)
    digits: int = 4

    @property
    def axis(self) -> tuple[int, ...]:
        """Sizes that occur, rising."""
        return tuple(sorted({size for row in self.times.values() for size in row}))

    @property
    def cells(self) -> int:
        """Return how many times are kept."""
        return sum(len(row) for row in self.times.values())

    def csv(self) -> str:
        """The file, in microseconds."""
        axis = self.axis
        head = [*self.keys, "source", *(f"us:{self.size}={x}" for x in axis)]
        body = [
            [*map(str, key), self.letters[key], *self._shown(self.times[key])]
            for key in sorted(self.times, key=_sortable)
        ]
        return "".join(",".join(row) + "\n" for row in (head, *body))

    def _shown(self, row: Mapping[int, float]) -> list[str]:
        return [shown_us(row.get(x), self.digits) for x in self.axis]


class Tally:
    """Rows gathered from several files; the first file that has a key owns it."""

    def __init__(self, library: Library, family: str) -> None:
        self._library = library
        self._family = family
        self._sources: list[Source] = []
        self._repeats: list[float] = []
        self._mended: list[str] = []
        self.times: Times = {}
        self.letters: dict[Key, str] = {}

    def add(self, path: Path, rows: Iterable[tuple[Key, int, float]]) -> None:
        """Take (key, size, milliseconds) rows of keys that no earlier file had."""
        cells: dict[Key, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for key, size, time_ms in rows:
            if key not in self.times:
                cells[key][size].append(time_ms * MS)
        if not cells:
            return
        source = self._library.source(path)
        self._sources.append(source)
        for key, row in cells.items():
            self.times[key] = {size: min(times) for size, times in row.items()}
            self.letters[key] = source.letter
            self._repeats += [max(t) / min(t) for t in row.values() if len(t) > 1]

    def mend(self, path: Path, rows: Iterable[tuple[Key, int, float]]) -> None:
        """Replace disturbed rows by (key, size, milliseconds) of the same kernel elsewhere.

        A row with a time over ``DISTURBED`` times the other takes the faster of the two throughout.
        """
        others: Times = defaultdict(dict)
        for key, size, time_ms in rows:
            others[key][size] = min(time_ms * MS, others[key].get(size, inf))
        source = self._library.source(path)
        for key in sorted(self.times.keys() & others.keys(), key=_sortable):
            row, other = self.times[key], others[key]
            both = sorted(row.keys() & other.keys())
            worst = max(both, key=lambda size: row[size] / other[size], default=None)
            if worst is None or row[worst] < DISTURBED * other[worst]:
                continue
            was, now = shown_us(row[worst]), shown_us(other[worst])
            self._mended.append(f"{'/'.join(map(str, key))} at {worst}: {was} us, elsewhere {now}")
            letters = dict.fromkeys(row, self.letters[key])
            faster = {size for size in both if other[size] < row[size]}
            self.times[key] = row | {size: other[size] for size in faster}
            letters |= dict.fromkeys(faster, source.letter)
            self.letters[key] = "".join(letters[size] for size in sorted(letters))
        if self._mended:
            self._sources.append(source)

    def table(
        self,
        keys: tuple[str, ...],
        size: str,
        bytes_read: BytesRead | None = None,
        *,
        at_most_byte_s: float = inf,
    ) -> Table:
        """The cleaned table; ``bytes_read`` says what a cell must fetch from memory.

        ``at_most_byte_s`` is the rate that the memory has by its data sheet [byte/s].
        """
        if not self.times:
            raise no_rows(self._library, self._family)
        notes: dict[str, object] = {
            "repeated_cells": len(self._repeats),
            "repeated_worst_ratio": round(max(self._repeats, default=1.0), 3),
            "spikes_replaced": [name for key in self.times for name in self._smooth(key)],
        }
        if self._mended:
            notes["mended"] = self._mended
        if bytes_read is not None:
            notes |= lift(self.times, bytes_read, at_most_byte_s=at_most_byte_s)
        sources = tuple(self._sources)
        return Table(self._family, keys, size, self.times, self.letters, sources, notes)

    def _smooth(self, key: Key) -> list[str]:
        """Replace lone spikes of one row; name each."""
        row, done = self.times[key], []
        sizes = sorted(row)
        for before, here, after in zip(sizes, sizes[1:], sizes[2:], strict=False):
            low, now, high = row[before], row[here], row[after]
            if now > SPIKE * max(low, high):
                row[here] = sqrt(low * high)
                what = f"{'/'.join(map(str, key))} at {here}"
                done.append(
                    f"{what}: {shown_us(now)} us between {shown_us(low)} and {shown_us(high)}"
                )
        return done


def lift(times: Times, bytes_read: BytesRead, *, at_most_byte_s: float = inf) -> dict[str, object]:
    """Raise times no memory could serve; the rate is the best one past any cache.

    It is not above ``at_most_byte_s`` [byte/s].

    Returns what was done, for the notes.
    """
    cells = [
        (key, size, bytes_read(key, size) / seconds)
        for key, row in times.items()
        for size, seconds in row.items()
    ]
    uncached = [rate for key, size, rate in cells if bytes_read(key, size) >= PAST_ANY_CACHE_BYTES]
    best = min(at_most_byte_s, max(uncached, default=inf))
    cached = [(key, size, rate / best) for key, size, rate in cells if rate > best]
    for key, size, ratio in cached:
        times[key][size] *= ratio
    worst = max((ratio for _, _, ratio in cached), default=1.0)
    return {
        "memory_rate_byte_s": float(f"{best:.4g}") if uncached else 0.0,
        "lifted_out_of_l2": len(cached),
        "lifted_worst_ratio": round(worst, 3),
    }


def shown_us(seconds: float | None, digits: int = 4) -> str:
    """Microseconds to some significant digits; empty when unknown."""
    return "" if seconds is None else f"{float(f'{seconds / US:.{digits}g}'):g}"


def no_rows(library: Library, family: str) -> MissingProfileError:
    """The error for a family that the data do not hold."""
    msg = f"{library.origin} has no usable {family} rows for {library.system}"
    return MissingProfileError(msg)


def _sortable(key: Key) -> tuple[tuple[bool, object], ...]:
    return tuple((isinstance(part, str), part) for part in key)
