"""Tables as plain text that reads well, and as Markdown."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"[-+]?[\d,.]+( ?%)?")
_GAP = "  "


@dataclass(frozen=True)
class Table:
    """A title, column heads, and cells that are never empty."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """Aligned columns two spaces apart; columns of numbers to the right."""
        lines = [self.head, *self.rows]
        columns = list(zip(*lines, strict=True))
        widths = [max(map(len, c)) for c in columns]
        right = [all(_NUMBER.fullmatch(cell) for cell in c[1:]) for c in columns]
        shown = [
            _GAP.join(
                cell.rjust(w) if r else cell.ljust(w)
                for cell, w, r in zip(line, widths, right, strict=True)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([f"== {self.title} ==", *shown])

    def markdown(self) -> str:
        """Return this table in Markdown."""
        lines = [self.head, ("---",) * len(self.head), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def cell(self, key: str, column: str) -> str:
        """The cell of ``column`` in the first row that starts with ``key``."""
        return next(row for row in self.rows if row[0] == key)[self.head.index(column)]


def text_of(tables: Sequence[Table]) -> str:
    """Tables with an empty line between."""
    return "\n\n".join(t.text() for t in tables) + "\n"
