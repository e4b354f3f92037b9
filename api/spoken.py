"""Errors of a call in the words of Python: a flag of the command line is the keyword it stands for.

The rooms below serve both doors and name flags; a call says ``conc=0`` where they say ``--conc 0``.
"""

import inspect
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from dflash_sim.profiles.errors import DflashSimError

P = ParamSpec("P")
R = TypeVar("R")
# A command to be typed, which stays as it is; or a flag, and perhaps its value.
_FLAG = re.compile(
    r"dflash-sim [a-z][^\"']*|(?<![\w-])(--[a-z][a-z-]*|-o)(?![\w-])"
    r"(?: ('[^']*'|\"[^\"]*\"|\S*[^\s.,;:)\"]))?"
)
_OWN = {"--format": "formats", "--tune": "what", "--merge": "resume"}  # keywords of other names
_PLACES = ("folder", "output", "out", "path")  # what -o is called
_LAUNCH = "--from-launch: "  # what follows are flags of a server
# What follows a flag is its value where it looks like one: a number, text, a placeholder, a name.
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
_PLACEHOLDER = re.compile(r"[A-Z]+|[kBN]|True|False|None")
_TEXT = re.compile(r".*[\d:/\\].*|none|dflash|fixed|shipped|model|ray|tiny|cpu|cuda")
_SWITCHES = (
    "allow_partial",
    "cuda_graphs",
    "ignore_eos",
    "linear_replayssm_spec",
    "quick",
    "radix_cache",
    "resume",
    "speculative_use_rejection_sampling",
    "thinking",
)


def spoken(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function's errors name its keywords."""
    names = list(inspect.signature(function).parameters)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with speaking(names):
            return function(*args, **kwargs)

    return call


@contextmanager
def speaking(names: Collection[str]) -> Iterator[None]:
    """Have errors of this block name these keywords."""
    try:
        yield
    except DflashSimError as error:
        error.args = (in_python(str(error), names), *error.args[1:])
        raise


def in_python(text: str, names: Collection[str]) -> str:
    """Return a message with keywords in place of those flags that stand for them.

    Parameters
    ----------
    names
        Keywords that there are; other flags, such as those of a server, stay as they are.

    Examples
    --------
    >>> in_python("--conc 0: too few. Try --no-baseline, or --method none.", ["conc", "method",
    ... "baseline"])
    "conc=0: too few. Try baseline=False, or method='none'."
    """
    head = _LAUNCH if text.startswith(_LAUNCH) and "from_launch" in names else ""
    if head:
        return "from_launch: " + text.removeprefix(_LAUNCH)
    return _FLAG.sub(lambda found: _keyword(found, names), text)


def _keyword(found: re.Match[str], names: Collection[str]) -> str:
    flag, value = found[1], found[2]
    if flag is None:
        return found[0]
    name = _name(flag, names)
    off = flag.removeprefix("--no-").replace("-", "_")
    rest = "" if value is None else f" {value}"
    if name is None:
        return f"{off}=False{rest}" if flag.startswith("--no-") and off in names else found[0]
    if name in _SWITCHES:
        return f"{name}=True{rest}"
    if value is None or found.string[: found.start()].endswith("unknown "):
        return f"{name}{rest}"
    if value[0] in "'\"" or _NUMBER.fullmatch(value) or _PLACEHOLDER.fullmatch(value):
        return f"{name}={value}"
    return f"{name}={value!r}" if _TEXT.fullmatch(value) else f"{name}{rest}"


def _name(flag: str, names: Collection[str]) -> str | None:
    """Return the keyword of a flag; None if there is none."""
    if flag == "-o":
        return next((place for place in _PLACES if place in names), None)
    named = (_OWN.get(flag), flag[2:].replace("-", "_"))
    return next((name for name in named if name in names), None)
