"""Errors that a user can cause; anything else is a bug.

::

    DflashSimError            exit code 1, one line, no traceback
    ├── InfeasibleError       the question is understood; the answer is "does not fit"
    ├── UsageError            exit code 2: an unknown name, a malformed file, a conflict
    └── MissingProfileError   exit code 3: there is no number for this, and what would make one

Every message names the thing, the value, what is allowed and what to type next.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from difflib import SequenceMatcher
from importlib import metadata
from pathlib import Path
from typing import Any

_MANY, _SHOWN = 12, 8  # names that a message lists in full, and of more those most like
_LONGEST, _KEPT = 1200, 80  # letters of a message, and those kept of a name or value
_NUMBERS = {  # by pydantic's error
    "float_parsing": "number",
    "finite_number": "number",
    "int_parsing": "whole number",
    "int_from_float": "whole number",
}
_NO_END = 10**7  # an upper end that nobody meets needs no word
_PERCENT = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*%\s*")
_ENDLESS = re.compile(r"""(?<!\w)'[^']{200,}'|(?<!\w)"[^"]{200,}"|[^\s'"]{300,}""")
# Kinds of names that a command lists.
_LISTED = {
    "GPU": "gpus",
    "model": "models",
    "drafter": "drafters",
    "EAGLE-3 head": "drafters",
    "preset": "presets",
}


class DflashSimError(Exception):
    """An expected failure, printed as one line."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the message, in which what was typed or read takes a line at most."""
        return brief(super().__str__())


def brief(message: str) -> str:
    """Shorten names and values that would fill a screen, and what is longer all the same.

    Examples
    --------
    >>> brief(f"unknown GPU '{'ab ' * 1000}'. Have: b200.")[:30], len(brief("ab " * 1000))
    ("unknown GPU 'ab ab ab ab ab ab", 1205)
    """
    short = _ENDLESS.sub(lambda found: f"{found[0][:_KEPT]}...{found[0][-1:]}", message)
    if len(short) <= _LONGEST:
        return short
    return f"{short[: _LONGEST // 2]} ... {short[-_LONGEST // 2 :]}"


class InfeasibleError(DflashSimError):
    """The scenario is well formed but cannot run, such as a model that does not fit."""


class UsageError(DflashSimError):
    """The input cannot be understood: unknown name, bad value, malformed file, conflict."""

    exit_code = 2


class MissingProfileError(DflashSimError):
    """No sheet or table holds the number that was asked for."""

    exit_code = 3


def unknown(kind: str, value: str, allowed: Iterable[str], hint: str = "") -> UsageError:
    """A :class:`UsageError` for an unknown name, with those that it may be a slip of.

    Of many names those are shown that are spelled most like it, and the command that lists all.

    Examples
    --------
    >>> str(unknown("data set", "gsmk", ["gsm8k", "humaneval"]))
    "unknown data set 'gsmk'. Have: gsm8k, humaneval."
    >>> str(unknown("data set", "humanevel", ["gsm8k", "humaneval"]))
    "unknown data set 'humanevel'; did you mean humaneval? Have: gsm8k, humaneval."
    >>> str(unknown("GPU", "h20", ["b200", "h200"]))
    "unknown GPU 'h20'. Have: b200, h200."
    """
    names = sorted(allowed)
    close = close_to(value, names)
    guess = f"; did you mean {' or '.join(close)}?" if close else "."
    have = f"Have: {', '.join(names)}."
    if kind in _LISTED and len(names) > _MANY:
        nearest = ", ".join(_nearest(value, names))
        have = f"Nearest of {len(names)}: {nearest}; all: dflash-sim list {_LISTED[kind]}."
    msg = f"unknown {kind} '{value}'{guess} {have}{' ' + hint if hint else ''}"
    return UsageError(msg)


def to_install(extra: str) -> str:
    """Return a command that installs what an extra holds, wherever this package came from.

    From a checkout it names the checkout, from a wheel the packages themselves: it need not be
    published.
    """
    root = Path(__file__).resolve().parents[1]
    if (root / "pyproject.toml").is_file():
        return f'pip install "{"." if Path.cwd() == root else root}[{extra}]"'
    needed: list[str] = []
    with suppress(metadata.PackageNotFoundError):
        needed = metadata.requires("dflash-sim") or []
    marked = re.compile(rf"""([^;]+);.*extra == ['"]{re.escape(extra)}['"]""")
    names = [found[1].strip() for each in needed if (found := marked.match(each))]
    return f"pip install {' '.join(f'{name!r}' for name in names) or f'dflash-sim[{extra}]'}"


def _nearest(value: str, names: Iterable[str]) -> list[str]:
    """The names that are spelled most like ``value``, a repository's owner aside; best first."""
    wanted = value.rstrip("/").rpartition("/")[2].lower()
    ratio = SequenceMatcher(b=wanted, autojunk=False)

    def unlike(name: str) -> tuple[float, str]:
        ratio.set_seq1(name.lower())
        return -ratio.ratio(), name

    return sorted(names, key=unlike)[:_SHOWN]


def close_to(value: str, names: Iterable[str]) -> list[str]:
    """At most two names that ``value`` begins, or is a slip of the pen away from.

    Numbers in a name are never taken for a slip: an H20 is no H200, and Llama 4 no Llama.

    Examples
    --------
    >>> close_to("qwen3-8", ["qwen3-8b", "qwen3-80b"]), close_to("llama-4", ["llama"])
    (['qwen3-8b'], [])
    """
    wanted, known = value.lower(), list(names)
    begun = [n for n in known if _begins(wanted, n.lower())]
    if begun:
        return sorted(begun)[:2]
    digits = re.findall(r"\d+", wanted)
    most = len(wanted) // 6 if digits else (len(wanted) + 1) // 4
    most = min(2, most)
    slips = [
        (steps, n)
        for n in known
        if re.findall(r"\d+", n) == digits and (steps := _slips(wanted, n.lower(), most)) <= most
    ]
    return [n for _, n in sorted(slips)[:2]]


def _begins(wanted: str, name: str) -> bool:
    """Return True if ``name`` goes on where ``wanted`` ends, and not with another number."""
    rest = name.removeprefix(wanted)
    if not wanted or rest == name:
        return False
    other_model = rest[:1].isdigit() or len(rest) == 1  # an L40 is no L40S either
    return not (wanted[-1].isdigit() and other_model)


def _slips(a: str, b: str, most: int) -> int:
    """Letters to insert, drop, replace or swap with a neighbour; above ``most`` it may be any."""
    if abs(len(a) - len(b)) > most:
        return most + 1
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            steps = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                steps = min(steps, rows[-2][j - 2] + 1)
            row.append(steps)
        rows.append(row)
    return rows[-1][-1]


def field_error(first: Mapping[str, Any], fields: Mapping[str, Any], *, told: str) -> str:
    """Say in a line what pydantic found wrong with a value.

    Parameters
    ----------
    first
        The first of its errors.
    fields
        The fields of the record, as pydantic describes them.
    told
        The type of errors whose message says it all.
    """
    if not first["loc"]:
        return str(first["msg"]).removeprefix("Value error, ") + "."
    name, value = str(first["loc"][0]), first["input"]
    if first["type"] == "extra_forbidden":
        return str(unknown(kind="field", value=name, allowed=fields))
    if first["type"] == told:
        return str(first["msg"])
    if first["type"] == "literal_error":
        allowed = str(first["ctx"]["expected"]).split("'")[1::2]  # 'a', 'b' or 'c'
        return str(unknown(kind=name.replace("_", " "), value=str(value), allowed=allowed))
    flag = "--" + name.replace("_", "-")
    if first.get("ctx", {}).get("le") == 1:
        return f"{flag} {value}: it is a share, from 0 to 1, such as 0.9."
    if first["type"] == "float_parsing" and (part := _PERCENT.fullmatch(str(value))):
        return f"{flag} {value}: it is a number; give {float(part[1]) / 100:g}."
    otherwise = (fields[name].description or "").partition("default")[2].strip(": ")
    if fields[name].default is not None:
        otherwise = str(fields[name].default)
    left_out = f" Left out, it is {otherwise}." if otherwise else ""
    if kind := _NUMBERS.get(first["type"]):
        return f"{flag} {value}: it is a {kind}{_bounds(fields[name].metadata)}.{left_out}"
    return f"{flag} {value}: {first['msg'].lower()}.{left_out}"


def _bounds(metadata: Iterable[Any]) -> str:
    """Say how small and how large a number may be."""
    ends = {n: getattr(m, n) for m in metadata for n in ("gt", "ge", "le") if hasattr(m, n)}
    said = [f"above {ends['gt']:g}"] if "gt" in ends else []
    said += [f"at least {ends['ge']:g}"] if "ge" in ends else []
    said += [f"at most {ends['le']:,}"] if ends.get("le", _NO_END) < _NO_END else []
    return ", " + " and ".join(said) if said else ""
