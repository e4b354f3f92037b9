"""Tables that were printed for people: Markdown, boxes and grids -> cells."""

import re
from collections.abc import Iterator, Sequence

_BARS = str.maketrans(dict.fromkeys("│┃║", "|"))
_RULE = re.compile(r"[\s|+:=\-━─┏┓┡┩╇┳╞╪╡├┼┤┌┬┐└┴┘╭╮╰╯═╔╗╚╝╠╣╦╩╬┠┨┯┷┿]*")
_COLUMN = re.compile(r"(?<!\\)\|")
_FEWEST = 2


def text_tables(text: str) -> Iterator[list[list[str]]]:
    """Rows of cells of every table in a text; the first row is the heading.

    A cell that is broken over lines is put together where its row goes on without a first cell
    between two rules.

    Examples
    --------
    >>> list(text_tables("| a | b |\\n|---|---|\\n| 1 | 2 |"))
    [[['a', 'b'], ['1', '2']]]
    """
    rows: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        bare = line.translate(_BARS).strip()
        if _RULE.fullmatch(bare) and bare:
            continue
        cells = _cells(bare)
        if cells is not None and (not rows or len(cells) == len(rows[0])):
            _add(rows, cells)
            continue
        if len(rows) > 1:
            yield rows
        rows = [] if cells is None else [cells]


def _cells(line: str) -> list[str] | None:
    if line.count("|") < _FEWEST:
        return None
    parts = _COLUMN.split(line)
    first, last = not parts[0].strip(), not parts[-1].strip()
    return [part.strip(" *`") for part in parts[first : len(parts) - last]]


def _add(rows: list[list[str]], cells: list[str]) -> None:
    """Put a row behind the others, or its only cell to the one above it."""
    goes_on = len(rows) > 1 and cells[0] and not any(cells[1:])
    if goes_on:
        rows[-1][0] = f"{rows[-1][0]} {cells[0]}"
    else:
        rows.append(cells)


def pairs(rows: Sequence[Sequence[str]]) -> dict[str, str]:
    """A table of two columns as names and values."""
    return {row[0]: row[1] for row in rows if len(row) == _FEWEST}
