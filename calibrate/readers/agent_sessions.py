"""Recorded sessions of coding agents, one object each with its requests: the corpus of AgentX.

Written by Weka's kv-cache-tester, replayed by AIPerf for SemiAnalysis's AgentX benchmark.
"""

from collections.abc import Mapping
from typing import Any

from dflash_sim.calibrate.observations.values import short
from dflash_sim.profiles.errors import UsageError

LEFT_OUT = "left out"
_SESSION, _REQUESTS = "id", "requests"


def is_session(record: Mapping[str, Any]) -> bool:
    """Return True for an object that holds the requests of one session."""
    return isinstance(record.get(_REQUESTS), list) and "block_size" in record


def opened(
    record: Mapping[str, Any], where: str, notes: dict[str, int]
) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the requests of a session as rows; those of sub-agents are counted in ``notes``.

    The pause before a request is its ``think_time``, else the time since the one before, without
    what that took (``api_time``).

    Raises
    ------
    UsageError
        A request is none.
    """
    rows: list[tuple[str, Mapping[str, Any]]] = []
    scope = record.get(_SESSION, where) if record.get("hash_id_scope", "local") == "local" else ""
    last: Mapping[str, Any] | None = None
    for i, one in enumerate(record[_REQUESTS]):
        place = f"{where}, request {i}"
        if not isinstance(one, Mapping):
            msg = f"trace {place}: {short(one)} is no request; each is an object."
            raise UsageError(msg)
        if _REQUESTS in one:  # of another agent, that this one began
            inner = one[_REQUESTS] if isinstance(one[_REQUESTS], list) else []
            notes[LEFT_OUT] = notes.get(LEFT_OUT, 0) + len(inner)
            continue
        row = {k: v for k, v in one.items() if k in ("in", "out", "hash_ids")}
        row |= {"id": record.get(_SESSION, where), "scope": scope, "think_time": _pause(one, last)}
        row["block_size"] = record["block_size"]
        rows.append((place, row))
        last = one
    return rows


def _pause(one: Mapping[str, Any], last: Mapping[str, Any] | None) -> Any:
    if last is None:
        return None
    if one.get("think_time") is not None:
        return one["think_time"]
    try:
        since = float(one["t"]) - float(last["t"]) - float(last.get("api_time") or 0.0)
    except (KeyError, TypeError, ValueError):
        return 0.0
    return max(0.0, since)
