"""JSON text -> records: one object, a list, or one a line; damage is passed over and told."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_BLANK = " \t\r\n,]"  # between members too, so that a list cut off gives up its whole ones


@dataclass
class Records:
    """Parsed values with their place, and places that could not be parsed with the reason."""

    found: list[tuple[str, Any]] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)


def json_records(text: str, name: str) -> Records:
    """Every value in ``text``, in order; the members of a list each.

    ``Infinity`` and ``NaN`` are read, as SGLang writes them. After damage, such as a line that
    was cut off, reading goes on at the next line that opens an object.
    """
    records = Records()
    at, line = _skip(text, 0), 1 + text.count("\n", 0, _skip(text, 0))
    while at < len(text):
        try:
            value, end = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            end = _resume(text, at)
            records.damaged.append((f"{name}:{line}", _why(error, text, at, end)))
        else:
            records.found.extend(_members(value, name, line))
        after = _skip(text, end)
        line, at = line + text.count("\n", at, after), after
    return records


def _members(value: Any, name: str, line: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        yield from ((f"{name}[{i}]", member) for i, member in enumerate(value))
    else:
        yield f"{name}:{line}", value


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at


def _resume(text: str, at: int) -> int:
    if re.compile(r"\[\s*\{").match(text, at):
        return at + 1
    found = text.find("\n{", at)
    return len(text) if found < 0 else found + 1


def _why(error: Exception, text: str, at: int, end: int) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return f"not JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}"
    cut = (
        "Unterminated" in error.msg
        or error.pos >= len(text.rstrip())
        or "\n" in text[at : error.pos]
    )
    lines = text.count("\n", at, end)
    passed = f"; passed over {lines} lines" if lines > 1 else ""
    return f"not JSON{', cut off' if cut else ''}: {error.msg}{passed}"
