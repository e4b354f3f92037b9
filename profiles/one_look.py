"""One look at the files: within a block each is read once, however often it is asked for.

A prediction looks a sheet up in many places. Outside a block every reading is a fresh one, so that
a process that lives on gets what the files say now.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from pathlib import Path
from typing import TypeVar

_Parsed = TypeVar("_Parsed")
_SEEN: ContextVar[dict[Path, object] | None] = ContextVar("seen", default=None)


@contextmanager
def one_look() -> Iterator[None]:
    """Read each file at most once in this block; blocks within it share its look."""
    if _SEEN.get() is not None:
        yield
        return
    token = _SEEN.set({})
    try:
        yield
    finally:
        _SEEN.reset(token)


def seen(path: Path, read: Callable[[Path], _Parsed]) -> _Parsed:
    """Return what ``read`` makes of a file, or a copy of it if this look has been there before."""
    before = _SEEN.get()
    if before is None:
        return read(path)
    if path not in before:
        before[path] = read(path)
    found: _Parsed = deepcopy(before[path])  # type: ignore[assignment]
    return found
