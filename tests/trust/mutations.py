"""Inputs that are almost right: seeds with bytes, numbers, values and lines exchanged."""

import copy
import gzip
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

PACKED = 0.01  # share of inputs that are gzip, and some of those cut off
NUMBER = re.compile(rb"(?<![\w.])-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.])")
WORDS: tuple[bytes, ...] = (
    *b"-1 0 -0.0 nan inf -inf 1e400 1e308 -1e308 1e-320 1e9 1e12 1e18 0x7f 1_000".split(),
    *b"true false null none None ~ .inf .nan NaN Infinity [] {} '' 2024-13-45".split(),
    *b'"" = : , - * & ! % @ |'.split(),
    b"9" * 400,
    b"9" * 5000,
    b"[" * 3000,
    b"x" * 3000,
    b"a b " * 800,
    b"\x1b]0;x\x07",
    b"\x1b[31m",
    b"\xff\xfe",
    b"\0",
    b"\r\n",
    b"\\ud800",
    "\u202e\u0663\U0001f600".encode(),
    b"=1+1",
    b"!!int abc",
    b"../../x",
    b"~nosuch",
    b"/dev/zero",
)
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 10**400, -1.5, 1e308, float("nan"), float("inf"),
    1e-320, "", "x", "1", "-1", "nan", "1e999", "\x1b[31m", "\ud800", "a b " * 300, [], {}, [None],
    [[]], [-1], {"": 0}, {"0": -1}, "9" * 400, [1, "x", None], "2024-13-45", "Infinity",
)  # fmt: skip


def mutated(seed: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """Return a seed with one to four changes."""
    changed = seed
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        changed = draw.choice(CHANGES)(changed, others, draw)
    return (
        gzip.compress(changed)[: draw.choice((None, None, -9))] if draw.random() < 0.01 else changed
    )


def renumbered(seed: bytes, draw: random.Random) -> bytes:
    """Return a seed with one number exchanged or scaled."""
    return draw.choice((_number, _scaled, _scaled))(seed, (), draw)


def _number(seed: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    places = list(NUMBER.finditer(seed))
    if not places:
        return seed
    place = draw.choice(places)
    return seed[: place.start()] + draw.choice(WORDS) + seed[place.end() :]


def _scaled(seed: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    places = list(NUMBER.finditer(seed))
    if not places:
        return seed
    place = draw.choice(places)
    by = draw.choice((-1.0, 1e-9, 1e3, 1e9, 0.5))
    return seed[: place.start()] + f"{float(place[0]) * by:g}".encode() + seed[place.end() :]


def _word(seed: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    at = draw.randint(0, len(seed))
    return seed[:at] + draw.choice(WORDS) + seed[at + draw.choice((0, 0, 1, 5)) :]


def _bytes(seed: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    if not seed:
        return bytes(draw.randrange(256) for _ in range(8))
    at = draw.randrange(len(seed))
    return seed[:at] + bytes([draw.randrange(256)]) + seed[at + 1 :]


def _cut(seed: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    at = draw.randint(0, len(seed))
    return seed[:at] + seed[at + draw.choice((1, 3, 30, len(seed))) :]


def _twice(seed: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    at = draw.randint(0, len(seed))
    span = seed[at : at + draw.choice((1, 8, 80))]
    return seed[:at] + span * draw.choice((2, 3, 200)) + seed[at + len(span) :]


def _lines(seed: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    lines = seed.splitlines(keepends=True)
    more = draw.choice(others).splitlines(keepends=True)
    if not lines or not more:
        return seed
    at = draw.randrange(len(lines))
    match draw.randrange(4):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[draw.randrange(len(lines))])
        case 2:
            lines[at] = draw.choice(more)
        case _:
            other = draw.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
    return b"".join(lines)


def _value(seed: bytes, _: Sequence[bytes], draw: random.Random) -> bytes:
    """Exchange a value somewhere in JSON, or in a line of it."""
    lines = seed.splitlines()
    at = draw.randrange(len(lines)) if len(lines) > 1 else 0
    for text, whole in ((seed, True), (lines[at] if lines else b"", False)):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            continue
        changed = json.dumps(exchanged(found, draw)).encode()
        return changed if whole else b"\n".join([*lines[:at], changed, *lines[at + 1 :]])
    return _word(seed, _, draw)


def exchanged(found: Any, draw: random.Random) -> Any:
    """Return a document with a value of it exchanged, dropped, or moved."""
    found = copy.deepcopy(found)
    places = list(_places(found))
    if not places:
        return draw.choice(VALUES)
    holder, key = draw.choice(places)
    match draw.randrange(6):
        case 0:
            del holder[key]
        case 1:
            other, there = draw.choice(places)
            try:
                holder[key] = copy.deepcopy(other[there])
            except (KeyError, IndexError):
                holder[key] = None
        case 2:
            holder[key] = [holder[key]]
        case _:
            holder[key] = draw.choice(VALUES)
    return found


def _places(found: Any, depth: int = 0) -> Any:
    if depth > 8 or not isinstance(found, dict | list):
        return
    entries = found.items() if isinstance(found, dict) else enumerate(found)
    for key, value in list(entries):
        yield found, key
        yield from _places(value, depth + 1)


CHANGES: tuple[Callable[[bytes, Sequence[bytes], random.Random], bytes], ...] = (
    _number, _number, _number, _scaled, _word, _bytes, _cut, _twice, _lines, _value, _value,
)  # fmt: skip


def soup(parts: Sequence[str], draw: random.Random) -> str:
    """Return words of a small language in any order, rarely with one that is none of it."""
    words = [draw.choice(parts) for _ in range(draw.choice((1, 2, 3, 5, 8, 13)))]
    if draw.random() < 0.3:
        words.insert(draw.randrange(len(words) + 1), draw.choice(WORDS).decode("utf-8", "replace"))
    return "".join(words)


def smallest(data: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """Return a part of an input that still fails: as small as leaving spans out makes it."""
    size, tries = max(1, len(data) // 2), 400
    while size and tries:
        at, shrunk = 0, False
        while at < len(data) and tries:
            tries -= 1
            without = data[:at] + data[at + size :]
            if fails(without):
                data, shrunk = without, True
            else:
                at += size
        size = size if shrunk and size < len(data) else size // 2
    return data
