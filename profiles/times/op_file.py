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
        rows = csv.reader(raw.decode().splitlines())
        header = next(rows, [])
        first = header.index("source") + 1
        self.axis = [float(name.rpartition("=")[2]) for name in header[first:]]
        self.rows: dict[Key, Times] = {
            tuple(row[: first - 1]): [float(cell) * US if cell else None for cell in row[first:]]
            for row in rows
        }
        found = [t for times in self.rows.values() for t in times if t is not None]
        if len(found) != cells or min(found, default=0.0) <= 0:
            msg = (
                f"{len(found)} times under {','.join(header[:first])}, expected {cells} above zero"
            )
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
