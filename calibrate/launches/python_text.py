"""Launches in Python: ``Engine(model_path=...)``, ``ServerArgs(...)`` of a log, lists of words."""

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from dflash_sim.calibrate.launches.options import words_of
from dflash_sim.calibrate.launches.server_args import words_of_resolved

_CALL = re.compile(r"\b(ServerArgs|Engine|Runtime)\(")
_LAUNCHER = re.compile(r"launch_server|sglang[\"']")
_WORD = re.compile(r"""\s*(?:f|r)?("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^,"']+)\s*(?:,|$)""")
_NAME = re.compile(r"\s*(?:\*\*\w+\s*,\s*)?([A-Za-z_]\w*)\s*=\s*")
_MODELS = ("model_path", "model")
_LONGEST = 30_000
_MOST = 20  # calls and lists that are looked at


def launches_in_python(text: str) -> Iterator[list[str]]:
    """Words behind the launcher of every server that Python text starts, or that a log tells of."""
    for listed in _lists(text):
        words = [_text(one[1]) for one in _WORD.finditer(listed)]
        at = next((i for i, w in enumerate(words) if w.endswith("launch_server")), None)
        if at is None and "serve" in words:
            at = words.index("serve")
        if at is not None:
            yield words[at + 1 :]
    for found in islice(_CALL.finditer(text), _MOST):
        arguments = dict(_arguments(text[found.end() : found.end() + _LONGEST]))
        if not any(name in arguments for name in _MODELS):
            continue
        resolved = found[1] == "ServerArgs" and len(arguments) > 40
        yield list(words_of_resolved(arguments) if resolved else words_of(_set(arguments)))


def _lists(text: str) -> Iterator[str]:
    """The inside of every list without lists in it that has a launcher among its words."""
    seen = -1
    for found in islice(_LAUNCHER.finditer(text), _MOST):
        begins = text.rfind("[", max(0, found.start() - _LONGEST), found.start())
        ends = text.find("]", found.end(), found.end() + _LONGEST)
        if begins > seen and ends >= 0 and text.find("]", begins, ends) < 0:
            seen = begins
            yield text[begins + 1 : ends]


def _set(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value not in (None, False)}


def _arguments(text: str) -> Iterator[tuple[str, Any]]:
    """``name=value`` pairs up to the parenthesis that closes."""
    at = 0
    while named := _NAME.match(text, at):
        end = _end_of_value(text, named.end())
        yield named[1], _value(text[named.end() : end].strip())
        rest = re.compile(r"\s*(?:,\s*(?:#[^\n]*)?\s*)+").match(text, end)
        if rest is None:
            return
        at = rest.end()


def _end_of_value(text: str, at: int) -> int:
    depth, quote = 0, ""
    for end in range(at, len(text)):
        char = text[end]
        if quote:
            quote = "" if char == quote and text[end - 1] != "\\" else quote
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            if depth == 0:
                return end
            depth -= 1
        elif char == "," and depth == 0:
            return end
    return len(text)


def _value(text: str) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return f"${text[:40]}" if re.fullmatch(r"[\w.]+", text) else None


def _text(word: str) -> str:
    value = _value(word.strip())
    return "$" if value is None else str(value)
