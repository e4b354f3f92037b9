"""Sessions of several turns: which turn is behind which, and how long after its answer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dflash_sim.calibrate.observations.values import short
from dflash_sim.calibrate.readers.request_trace_formats import TraceFormat
from dflash_sim.profiles.errors import UsageError

Rows = Sequence[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Turns:
    """The requests of a trace in order of time.

    Parameters
    ----------
    rows
        Place and fields of each.
    before
        Which request it is the next turn of; -1 of none that the trace has.
    delays
        Pause after that one's answer, in the unit of the file; None where it comes at its time.
    """

    rows: Rows
    before: Sequence[int]
    delays: Sequence[float | None]


def in_turns(rows: Rows, kind: TraceFormat, notes: list[str]) -> Turns:
    """Find the turns of sessions, and put requests with a delay where their time might be.

    A delay is the pause of a user after an answer. How long the answer takes is what is asked: the
    time that orders such a turn is as if it took none.

    Raises
    ------
    UsageError
        A turn has neither a time nor a delay, no turn before it, or comes before its parent.
    """
    if kind.parent:
        before = _by_parent(rows, kind)
        return Turns(rows, before, [None] * len(rows))
    if not kind.session or not any(row.get(kind.session) is not None for _, row in rows):
        _refuse_alone(rows, kind)
        return Turns(rows, [-1] * len(rows), [None] * len(rows))
    last: dict[str, int] = {}
    at: list[float] = []
    before = []
    delays: list[float | None] = []
    for i, (where, row) in enumerate(rows):
        known = row.get(kind.session) is not None
        session = str(row.get(kind.session))
        own = last.get(session, -1) if known else -1
        time, delay = row.get(kind.time) if kind.time else None, row.get(kind.delay)
        at_once = not kind.time and row.get("timestamp") is None  # behind the answer before
        if own >= 0 and time is None and (delay is not None or at_once):
            delays.append(_amount(delay or 0.0, kind.delay, where))
            at.append(at[own] + (delays[-1] or 0.0))
        elif kind.time and time is None:
            raise _untimed(where, kind, delay)
        else:
            delays.append(None)
            at.append((_amount(time, kind.time, where) or 0.0) if kind.time else 0.0)
        before.append(own)
        if known:
            last[session] = i
    waiting = sum(delay is not None for delay in delays)
    if not waiting:
        return Turns(rows, before, delays)
    turns = "follow-up turns come their delay after the answer before them"
    one = "follow-up turn comes its delay after the answer before it"
    notes.append(f"{waiting:,} {one if waiting == 1 else turns}")
    if not kind.time:
        return Turns(rows, before, delays)
    order = sorted(range(len(rows)), key=lambda i: at[i])
    place = {i: k for k, i in enumerate(order)}
    return Turns(
        [(rows[i][0], {**rows[i][1], kind.time: at[i]}) for i in order],
        [place.get(before[i], -1) for i in order],
        [delays[i] for i in order],
    )


def _refuse_alone(rows: Rows, kind: TraceFormat) -> None:
    for where, row in rows:
        if kind.delay and row.get(kind.time) is None and row.get(kind.delay) is not None:
            raise _untimed(where, kind, row.get(kind.delay))


def _untimed(where: str, kind: TraceFormat, delay: Any) -> UsageError:
    if delay is None:
        return UsageError(f"trace {where}: {kind.time} is missing, and {kind.delay} too.")
    return UsageError(
        f"trace {where}: it has a {kind.delay} and no {kind.time}, but no request of its "
        f"{kind.session} comes before it."
    )


def _by_parent(rows: Rows, kind: TraceFormat) -> list[int]:
    """Each request's parent; one that the trace does not have is none.

    Raises
    ------
    UsageError
        A parent comes later: its own parents lead back here, or the file is not in order.
    """
    place = {str(row.get(kind.session)): i for i, (_, row) in enumerate(rows)}
    found = []
    for i, (where, row) in enumerate(rows):
        parent = row.get(kind.parent)
        before = place.get(str(parent), -1) if parent not in (None, -1, "-1", "") else -1
        if before >= i:
            circle = _leads_back(rows, kind, place, before, i)
            why = "which descends from it: a cycle" if circle else "which comes later"
            msg = (
                f"trace {where}: its {kind.parent} is {short(parent)}, {why}; give the "
                f"{kind.session} of a request before it, or -1."
            )
            raise UsageError(msg)
        found.append(before)
    return found


def _leads_back(
    rows: Rows, kind: TraceFormat, place: Mapping[str, int], start: int, end: int
) -> bool:
    """Return True if the parents of ``start`` lead to ``end``."""
    seen: set[int] = set()
    while start >= 0 and start not in seen:
        if start == end:
            return True
        seen.add(start)
        start = place.get(str(rows[start][1].get(kind.parent)), -1)
    return False


def _amount(value: Any, field: str, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf or isinstance(value, bool):
        msg = f"trace {where}: {field} is {short(value)}; expected a time of 0 or more."
        raise UsageError(msg)
    return number
