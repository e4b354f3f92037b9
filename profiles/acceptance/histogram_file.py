"""A file of accepted drafts: how many verify steps accepted none, one, two and so on."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.ways_in import UnreadableError, csv_table, parse_json, read_text

_FORM = 'Give JSON such as {"0": 161, "1": 90} or [161, 90], or a CSV with columns accepted,steps'
_ROUNDING = 1e-3  # by how much shares that were rounded may miss 1
_MOST = 1024  # drafts of the widest block


def read_histogram(path: Path) -> list[float]:
    """Read the steps by accepted drafts, from 0: counts, or shares that add up to 1.

    Raises
    ------
    UsageError
        The file cannot be read, is in no known form, or its shares do not add up to 1.
    """
    try:
        text = read_text(path)
    except UnreadableError as error:
        msg = f"histogram {path}: {error}. {_FORM}."
        raise UsageError(msg) from None
    by_accepted = _from_json(text, path) if text.lstrip()[:1] in ("{", "[") else _rows(text, path)
    if not by_accepted:
        msg = f"histogram {path}: it is empty. {_FORM}."
        raise UsageError(msg)
    steps = [0.0] * (max(by_accepted) + 1)
    for accepted, count in by_accepted.items():
        if not (math.isfinite(count) and count >= 0):
            msg = (
                f"histogram {path}: {count:g} steps with {accepted} accepted; counts are at least 0"
            )
            raise UsageError(msg)
        steps[accepted] = count
    total = math.fsum(steps)
    if not total:
        msg = f"histogram {path}: it counts no step. {_FORM}."
        raise UsageError(msg)
    if any(x != int(x) for x in steps) and abs(total - 1) > _ROUNDING:
        msg = (
            f"histogram {path}: its shares add up to {total:.6g}, not 1; give counts, or all shares"
        )
        raise UsageError(msg)
    return steps


def _from_json(text: str, path: Path) -> dict[int, float]:
    try:
        found = parse_json(text)
    except UnreadableError:
        msg = f"histogram {path}: it is not valid JSON. {_FORM}."
        raise UsageError(msg) from None
    items = found.items() if isinstance(found, Mapping) else enumerate(found)
    return _pairs(items, path)


def _rows(text: str, path: Path) -> dict[int, float]:
    try:
        table = csv_table(text)
    except UnreadableError as error:
        msg = f"histogram {path}: {error}. {_FORM}."
        raise UsageError(msg) from None
    if not table or not {"accepted", "steps"} <= set(table[0]):
        msg = f"histogram {path}: no columns accepted and steps. {_FORM}."
        raise UsageError(msg)
    return _pairs(((row["accepted"], row["steps"]) for row in table), path)


def _pairs(items: Iterable[tuple[Any, Any]], path: Path) -> dict[int, float]:
    found: dict[int, float] = {}
    for accepted, steps in items:
        try:
            key, value = int(accepted), float(steps)
        except (TypeError, ValueError, OverflowError):
            msg = f"histogram {path}: '{accepted}' and '{steps}' are not numbers. {_FORM}."
            raise UsageError(msg) from None
        if not 0 <= key < _MOST or isinstance(steps, bool):
            msg = f"histogram {path}: {key} accepted drafts are outside 0..{_MOST - 1}"
            raise UsageError(msg)
        found[key] = found.get(key, 0.0) + value
    return found
