"""The file format of operator times: a matrix with its sizes in the header.

::

    op,gpus,source,us:bytes=256,us:bytes=512
    all_reduce,8,s,3.47,2.99

Key columns, the letter of the source in ``notes.toml``, then microseconds at each size; an empty
cell was not measured.
"""

import csv
from collections.abc import Sequence

from dflash_sim.profiles.times.interpolation import Line, Sheet
from dflash_sim.profiles.units import US
from dflash_sim.profiles.ways_in import reading_csv

MOST_S, MOST_SIZE = 1e3, 1e15  # of one kernel; bytes, tokens or requests
Key = tuple[str, ...]
Times = Sequence[float | None]


class Matrix:
    """One parsed file.

    Parameters
    ----------
    raw : its bytes
    cells : how many times it must hold, so that a truncated file is noticed
    """

    def __init__(self, raw: bytes, *, cells: int) -> None:
        with reading_csv():
            rows = list(csv.reader(raw.decode().splitlines()))
        header = rows.pop(0) if rows else []
        first = header.index("source") + 1
        self.axis = [float(name.rpartition("=")[2]) for name in header[first:]]
        self.rows: dict[Key, Times] = {
            tuple(row[: first - 1]): [float(cell) * US if cell else None for cell in row[first:]]
            for row in rows
        }
        found = [t for times in self.rows.values() for t in times if t is not None]
        if len(found) != cells or not all(0 < time <= MOST_S for time in found):
            msg = (
                f"{len(found)} times under {','.join(header[:first])}, expected {cells} above 0 s "
                f"and at most {MOST_S:g} s"
            )
            raise ValueError(msg)
        if not all(0 <= size <= MOST_SIZE for size in self.axis) or self.axis != sorted(self.axis):
            msg = f"sizes {self.axis}: they must rise from 0 to at most {MOST_SIZE:g}"
            raise ValueError(msg)

    def lines(self) -> dict[Key, Line]:
        """Time against size, one line per row."""
        return {key: Line(self.axis, times) for key, times in self.rows.items()}

    def sheets(self, *, first: str = "", power: bool = False) -> dict[Key, Sheet]:
        """Time against the last key column and size, keyed by the columns before it.

        ``first`` selects rows by their first column, and drops it.
        """
        grouped: dict[Key, dict[float, Line]] = {}
        for (*name, across), times in self.rows.items():
            if not first or name[0] == first:
                line = Line(self.axis, times, power=power)
                grouped.setdefault(tuple(name[bool(first) :]), {})[float(across)] = line
        return {name: Sheet(lines) for name, lines in grouped.items()}
