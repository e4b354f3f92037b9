"""Tables that were printed for people: Markdown, boxes and grids -> cells."""

import csv
import io
import re
from collections.abc import Iterator, Sequence

_BARS = str.maketrans(dict.fromkeys("│┃║", "|"))
_RULE = re.compile(r"[\s|+:=\-━─┏┓┡┩╇┳╞╪╡├┼┤┌┬┐└┴┘╭╮╰╯═╔╗╚╝╠╣╦╩╬┠┨┯┷┿]*")
_COLUMN = re.compile(r"(?<!\\)\|")
_FEWEST = 2
_DECIMAL = re.compile(r"\A\s*(\d+),(\d+)\s*\Z")
_THOUSANDS = re.compile(r"\s*[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?\s*")


def text_tables(text: str) -> Iterator[list[list[str]]]:
    """Rows of cells of every table in a text; the first row is the heading.

    A cell that is broken over lines is put together where its row goes on between two rules: that
    has no first cell, or nothing but words in it. Under a heading of Markdown a row may have more
    or fewer cells than that.

    Examples
    --------
    >>> list(text_tables("| a | b |\\n|---|---|\\n| 1 | 2 |"))
    [[['a', 'b'], ['1', '2']]]
    """
    block: list[list[str] | None] = []
    for line in [*text.splitlines(), ""]:
        bare = line.translate(_BARS).strip()
        cells = _cells(bare)
        if bare and _RULE.fullmatch(bare):
            block.append(None)
        elif cells is not None:
            block.append(cells)
        else:
            yield from _of_block(block)
            block = []


def with_commas(text: str) -> str:
    """A table between tabs or semicolons as CSV; its numbers may have a comma for a point.

    Between tabs ``1,234`` is above a thousand, unless another number has a comma for a point.

    Examples
    --------
    >>> with_commas("conc;ttft\\n1;35,5")
    'conc,ttft\\n1,35.5\\n'
    """
    head = text.lstrip("\ufeff").lstrip().partition("\n")[0]
    between = next((sign for sign in "\t;" if sign in head and "," not in head), "")
    if not between:
        return text
    try:
        rows = list(csv.reader(io.StringIO(text.lstrip("\ufeff")), delimiter=between))
    except csv.Error:
        return text
    cells = [cell for row in rows for cell in row]
    points = any(_DECIMAL.match(cell) and not _THOUSANDS.fullmatch(cell) for cell in cells)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in rows:
        writer.writerow([_with_point(cell, points=points or between == ";") for cell in row])
    return out.getvalue()


def _with_point(cell: str, *, points: bool) -> str:
    if not points and _THOUSANDS.fullmatch(cell):
        return cell.replace(",", "")
    return _DECIMAL.sub(r"\1.\2", cell)


def _of_block(block: Sequence[list[str] | None]) -> Iterator[list[list[str]]]:
    """Tables of lines that follow each other, rules as None; a box ends with one."""
    boxed = bool(block) and block[-1] is None
    rows: list[list[str]] = []
    ruled = False  # since the heading
    for above, cells in zip([None, *block], block, strict=False):
        if cells is None:
            ruled = bool(rows)
        elif rows and len(cells) != len(rows[0]) and (boxed or not ruled):
            if len(rows) > 1:
                yield rows
            rows, ruled = [cells], False
        elif boxed and above is not None and _goes_on(rows, cells, ruled=ruled):
            rows[-1] = [" ".join(filter(None, pair)) for pair in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    if len(rows) > 1:
        yield rows


def _cells(line: str) -> list[str] | None:
    if line.count("|") < _FEWEST:
        return None
    parts = _COLUMN.split(line)
    first, last = not parts[0].strip(), not parts[-1].strip()
    return [part.strip(" *`") for part in parts[first : len(parts) - last]]


def _goes_on(rows: Sequence[Sequence[str]], cells: Sequence[str], *, ruled: bool) -> bool:
    """Return True if it is no row of its own: a load without results is one.

    A heading that begins without a word is broken over lines up to the rule below it.
    """
    if len(rows) <= 1:
        return bool(rows) and not ruled and not rows[0][0]
    return not cells[0] or not (any(cells[1:]) or re.fullmatch(r"[\d.,]+", cells[0]))


def pairs(rows: Sequence[Sequence[str]]) -> dict[str, str]:
    """A table of two columns as names and values."""
    return {row[0]: row[1] for row in rows if len(row) == _FEWEST}
