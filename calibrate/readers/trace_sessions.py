"""Sessions of several turns, of which a trace gives the first a time and the others a delay."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dflash_sim.calibrate.observations.values import short
from dflash_sim.calibrate.readers.request_trace_formats import TraceFormat
from dflash_sim.profiles.errors import UsageError

Rows = Sequence[tuple[str, Mapping[str, Any]]]
_SESSION = "session_id"


def with_follow_ups(rows: Rows, kind: TraceFormat, notes: list[str]) -> Rows:
    """Give every later turn a time, and put the requests in order of time.

    The delay is the pause of a user after an answer. How long the answer takes is what is asked,
    so it is left out, and turns come closer together than they did.

    Raises
    ------
    UsageError
        A turn has neither a time nor a delay, or no turn before it.
    """
    if all(row.get(kind.delay) is None or row.get(kind.time) is not None for _, row in rows):
        return rows
    last: dict[Any, float] = {}
    timed = []
    later = 0
    for where, row in rows:
        session = str(row.get(_SESSION))
        if row.get(kind.time) is not None:
            at = _amount(row[kind.time], kind.time, where)
        elif row.get(kind.delay) is None:
            msg = f"trace {where}: {kind.time} is missing, and {kind.delay} too."
            raise UsageError(msg)
        elif session not in last or row.get(_SESSION) is None:
            msg = (
                f"trace {where}: it has a {kind.delay} and no {kind.time}, but no request of its "
                f"{_SESSION} comes before it."
            )
            raise UsageError(msg)
        else:
            at = last[session] + _amount(row[kind.delay], kind.delay, where)
            later += 1
        last[session] = at
        timed.append((at, where, {**row, kind.time: at}))
    timed.sort(key=lambda one: one[0])
    notes.append(
        f"{later:,} follow-up turns come their delay after the turn before them was sent, as if "
        "its answer took no time"
    )
    return [(where, row) for _, where, row in timed]


def _amount(value: Any, field: str, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf or isinstance(value, bool):
        msg = f"trace {where}: {field} is {short(value)}; expected a time of 0 or more."
        raise UsageError(msg)
    return number
