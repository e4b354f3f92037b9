"""Tables that leave out columns where the terminal is too narrow for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from dflash_sim.studies.show.styles import LABEL

_FOLDED = 24  # columns of the terminal that a folded column needs at least


@dataclass
class FittedTable:
    """Cells in rows, numbers to the right.

    Parameters
    ----------
    words
        Heads of columns that read from the left.
    spare
        Heads that may be left out, the first one first.
    folded
        Head of the column whose text may break into lines; none is ``""``.
    """

    heads: tuple[str, ...]
    words: frozenset[str]
    spare: tuple[str, ...] = ()
    folded: str = ""
    rows: list[tuple[str | Text, ...]] = field(default_factory=list)

    def add(self, *cells: str | Text) -> None:
        """A row; cells that are missing at its end are empty."""
        self.rows.append((*cells, *[""] * (len(self.heads) - len(cells))))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = list(range(len(self.heads)))
        for head in self.spare:
            if self._width(shown) > options.max_width:
                shown.remove(self.heads.index(head))
        yield self._table(shown)

    def _width(self, shown: Sequence[int]) -> int:
        """Columns of the terminal that these columns need."""
        cells = [[Text(self.heads[i]), *(_text(row[i]) for row in self.rows)] for i in shown]
        needs = [max(t.cell_len for t in column) for column in cells]
        folds = [self.heads[i] == self.folded for i in shown]
        least = [min(n, _FOLDED) if f else n for n, f in zip(needs, folds, strict=True)]
        return sum(least) + len(shown) - 1

    def _table(self, shown: Sequence[int]) -> RenderableType:
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style=LABEL)
        for i in shown:
            head = self.heads[i]
            table.add_column(
                Text(head),
                justify="left" if head in self.words else "right",
                overflow="fold",
                no_wrap=head != self.folded,
                style=LABEL if i == 0 else "",
            )
        for row in self.rows:
            table.add_row(*(_text(row[i]) for i in shown))
        return table


def _text(cell: str | Text) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)
