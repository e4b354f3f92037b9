"""Launches in Python: ``Engine(model_path=...)``, ``ServerArgs(...)`` of a log, lists of words."""

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dflash_sim.calibrate.launches.options import flag_name, words_of
from dflash_sim.calibrate.launches.server_args import RESOLVED, words_of_resolved
from dflash_sim.calibrate.launches.server_flags import spellings

_CALL = re.compile(r"\b(ServerArgs|Engine|Runtime)\(")
_STARTED = re.compile(r"(?<!def )\bpopen_launch_server\(")
_LAUNCHER = re.compile(r"launch_server|sglang[\"']")
_NAME = re.compile(r"([A-Za-z_]\w*)\s*=(?!=)\s*|")
_BETWEEN = re.compile(r"(?:\s|,|#[^\n]*)+")
_ASSIGNED = re.compile(r"^([ \t]*)([A-Za-z_][\w.]*)[ \t]*(?::[^=\n]*)?=[ \t]*\Z", re.MULTILINE)
_PLUS = re.compile(r"\s*\+\s*")
_MODELS = ("model_path", "model")
_LONGEST = 30_000
_MOST = 20  # calls and lists that are looked at
_SHOWN = 40  # letters of what is not known
_MORE = "more arguments are added, which the text does not say"
_OPEN = "the text does not say whether it is set; it is left out"


@dataclass(frozen=True)
class Spoken:
    """A launch in Python: words behind the launcher, and what the text leaves out, with why."""

    words: tuple[str, ...]
    unsaid: tuple[tuple[str, str], ...] = ()


def launches_in_python(text: str) -> Iterator[Spoken]:
    """Every server that Python text starts, or that a log tells of."""
    for begins, ends in _lists(text):
        words, unsaid = _items(text[begins + 1 : ends])
        for more in _added(text, begins, ends):
            listed = more.strip().startswith("[") and more.strip().endswith("]")
            further, open_ones = _items(more.strip()[1:-1]) if listed else ([], [_shown(more)])
            words += further
            unsaid += open_ones
        at = next((i for i, w in enumerate(words) if w.endswith("launch_server")), None)
        if at is None and "serve" in words:
            at = words.index("serve")
        if at is not None:
            yield Spoken(tuple(words[at + 1 :]), tuple((one, _MORE) for one in unsaid))
    yield from _started(text)
    for found in islice(_CALL.finditer(text), _MOST):
        pairs = list(_arguments(text[found.end() : found.end() + _LONGEST]))
        arguments = {name: value for name, value in pairs if name}
        if not any(name in arguments for name in _MODELS):
            continue
        left = [(value, _MORE) for name, value in pairs if not name]
        switches = [name for name, value in arguments.items() if _is_open_switch(name, value)]
        left += [(f"{name}={arguments.pop(name)[1:]}", _OPEN) for name in switches]
        resolved = found[1] == "ServerArgs" and len(arguments) > RESOLVED
        said = words_of_resolved(arguments) if resolved else words_of(_set(arguments))
        yield Spoken(tuple(said), tuple(left))


def _started(text: str) -> Iterator[Spoken]:
    """Servers that SGLang's own tests start: a model, and a list of other arguments."""
    for found in islice(_STARTED.finditer(text), _MOST):
        pairs = list(_arguments(text[found.end() : found.end() + _LONGEST]))
        said = {name: value for name, value in pairs if name}
        first = next((value for name, value in pairs if not name), "MODEL")
        literal = first.strip("'\"") if first[0] in "'\"" else f"${first}"
        target = str(said.get("model", literal))
        others = said.get("other_args") or ()
        known = isinstance(others, list | tuple)
        words = ("--model-path", target, *(map(str, others) if known else ()))
        yield Spoken(words, () if known else ((str(others).lstrip("$"), _MORE),))


def _lists(text: str) -> Iterator[tuple[int, int]]:
    """Where every list begins and ends that has a launcher among its words."""
    seen = -1
    for found in islice(_LAUNCHER.finditer(text), _MOST):
        begins = text.rfind("[", max(0, found.start() - _LONGEST), found.start())
        if begins <= seen:
            continue
        ends = _end_of_value(text[: begins + _LONGEST], begins + 1, comma="")
        if found.end() <= ends < len(text) and text[ends] == "]":
            seen = begins
            yield begins, ends


def _items(listed: str) -> tuple[list[str], list[str]]:
    """The words of a list, and what is unpacked into it."""
    words, unsaid, at = list[str](), list[str](), 0
    while at < len(listed):
        between = _BETWEEN.match(listed, at)
        at = between.end() if between else at
        end = _end_of_value(listed, at)
        if item := listed[at:end].strip():
            if item.startswith("*"):
                unsaid.append(_shown(item))
            else:
                words.append(_text(item))
        at = max(end, at + 1)
    return words, unsaid


def _added(text: str, begins: int, ends: int) -> Iterator[str]:
    """What is added to a list later on: a list of its own where the text says that it is."""
    at = ends + 1
    while plus := _PLUS.match(text, at):
        at = _end_of_value(text, plus.end(), comma=",+\n")
        yield text[plus.end() : at]
    begun = _ASSIGNED.search(text[max(0, begins - _SHOWN * 4) : begins])
    if begun is None:
        return
    name = re.escape(begun[2])
    later = re.compile(
        rf"^([ \t]*){name}(?:[ \t]*(\+?=)[ \t]*({name}[ \t]*\+[ \t]*)?|\.(extend|append|insert)\()"
        rf"|(?<![\w.]){name}[ \t]*\+[ \t]*",
        re.MULTILINE,
    )
    for found in islice(later.finditer(text, at), _MOST):
        if found[2] == "=" and not found[3]:
            return  # another list
        value = text[found.end() : _end_of_value(text, found.end(), comma=",\n")]
        value = f"[{value}]" if found[4] == "append" else value
        sure = found[1] in (None, begun[1]) and found[4] != "insert"
        yield value if sure else found[0].lstrip() + value


def _is_open_switch(name: str, value: Any) -> bool:
    """Return True if it is not known whether a flag without a value is there."""
    known = spellings().get(flag_name(name))
    takes_none = known is not None and known.flag.takes == "none"
    return takes_none and isinstance(value, str) and value.startswith("$")


def _set(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value not in (None, False)}


def _arguments(text: str) -> Iterator[tuple[str, Any]]:
    """``name=value`` pairs up to the parenthesis that closes; others have no name."""
    at = 0
    while True:
        between = _BETWEEN.match(text, at)
        at = between.end() if between else at
        named = _NAME.match(text, at)
        begins = named.end() if named else at
        end = _end_of_value(text, begins)
        if end == at:
            return
        value = text[begins:end].strip()
        yield (named[1], _value(value)) if named and named[1] else ("", _shown(value))
        at = end


def _shown(text: str) -> str:
    return " ".join(text.split())[:_SHOWN]


def _end_of_value(text: str, at: int, comma: str = ",") -> int:
    """Where a value ends: at one of the letters of ``comma``, or at a bracket that closes."""
    depth, quote, end = 0, "", at
    while end < len(text):
        char = text[end]
        if quote:
            end += char == "\\"
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#":
            end = text.find("\n", end)
            if end < 0:
                return len(text)
            continue
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            if depth == 0:
                return end
            depth -= 1
        elif char in comma and depth == 0:
            return end
        end += 1
    return len(text)


def _value(text: str) -> Any:
    """A literal, or its text behind a ``$`` where it is not known before the program runs."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return f"${_shown(text)}"


def _text(word: str) -> str:
    value = _value(word.strip())
    return "$" if value is None else str(value)
