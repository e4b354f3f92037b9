"""Tables with a column for each method, ``Baseline (tok/s)`` beside ``DFlash (tok/s)``."""

import re
from collections.abc import Sequence

from dflash_sim.calibrate.observations.headings import column_of
from dflash_sim.simulator.cost.methods import method_of, spellings

_ACCEPTED = "accept_length"
_METHOD = "method"
_UNIT = re.compile(r"[(\[][^)\]]*[)\]]")
_NOTHING_IN = re.compile(r"\(\s*\)|\[\s*\]")
_EMPTY = ("", "-", "n/a", "—")
_MEASURED = ("_ms", "_throughput", "duration")
_WHOSE = "(of which method?)"  # no unit of a column, so that it is told and not read


def by_method(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """A table with a row for each method, where headings name two of them or more.

    An accept length that is no method's own is that of the only one that drafts; another measured
    value that is none's own may be anybody's. A width is of those that draft.

    Examples
    --------
    >>> by_method([["conc", "Baseline tok/s", "DFlash tok/s"], ["8", "900", "2700"]])
    [['conc', 'method', 'tok/s'], ['8', 'none', '900'], ['8', 'dflash', '2700']]
    """
    heads = rows[0] if rows else []
    of = {i: found for i, head in enumerate(heads) if (found := _of_method(head))}
    methods = list(dict.fromkeys(method for method, _ in of.values()))
    if len(methods) <= 1 or any(_column(head) == _METHOD for head in heads):
        return [list(row) for row in rows]
    drafting = [name for name in methods if method_of(name).speculative]
    drafts = frozenset[str]().union(*(method_of(name).takes for name in drafting))
    what = list(dict.fromkeys(head for _, head in of.values()))
    shared = [i for i in range(len(heads)) if i not in of]
    names = [f"{heads[i]} {_WHOSE}" if _measured(heads[i]) else heads[i] for i in shared]
    out = [[*names, _METHOD, *what]]
    for row in rows[1:]:
        for method in methods:
            own = {head: row[i] for i, (whose, head) in of.items() if whose == method}
            if all(cell.strip().lower() in _EMPTY for cell in own.values()):
                continue
            alone = drafting == [method]
            others = set() if alone else {_ACCEPTED}
            others |= drafts - method_of(method).takes
            kept = ["" if _column(heads[i]) in others else row[i] for i in shared]
            out.append([*kept, method, *(own.get(head, "") for head in what)])
    return out


def _measured(heading: str) -> bool:
    return _column(heading).endswith(_MEASURED)


def _column(heading: str) -> str:
    found = column_of(heading)
    return "" if found is None else found[0]


def _of_method(heading: str) -> tuple[str, str] | None:
    """The method that a heading names, and what it is without it."""
    for spelling, method in sorted(spellings().items(), key=lambda named: -len(named[0])):
        word = re.escape(spelling).replace(r"\-", "[-_ ]?")
        parts = re.split(rf"(?<![^\W_]){word}(?![^\W_])", heading, flags=re.IGNORECASE)
        if len(parts) != 2:
            continue
        rest = _NOTHING_IN.sub(" ", " ".join(parts)).strip(" *`:,/_-")
        rest = f"throughput {rest}" if _UNIT.fullmatch(rest) else rest
        if column_of(rest) is not None:
            return method, rest
    return None
