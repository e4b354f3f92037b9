"""One look at the files: within a block each is read once, however often it is asked for.

A prediction looks a sheet up in many places. Outside a block every reading is a fresh one, so that
a process that lives on gets what the files say now. What is shipped stays read for as long as the
date and the size of a file are what they were.
"""

import os
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from importlib.resources import files as of_package
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

_Parsed = TypeVar("_Parsed")
Looks: TypeAlias = dict[Hashable, object]  # by file and by who reads it
_JUST_NOW_NS = 2_000_000_000  # longer than any file system's resolution of dates
_SHIPPED = str(of_package("dflash_sim.profiles"))
_LASTING: dict[Hashable, tuple[tuple[int, int], object]] = {}  # of what is shipped, and its state
_SHARED = (str, float, int, bool, type(None))
_SEEN: ContextVar[Looks | None] = ContextVar("seen", default=None)


@contextmanager
def one_look(files: Looks | None = None) -> Iterator[None]:
    """Read each file at most once in this block; blocks within it share its look.

    Parameters
    ----------
    files
        What was read so far, to go on with the look of a block that has ended.
    """
    if _SEEN.get() is not None:
        yield
        return
    token = _SEEN.set({} if files is None else files)
    try:
        yield
    finally:
        _SEEN.reset(token)


def seen(path: Path, read: Callable[[Path], _Parsed], *, frozen: bool = False) -> _Parsed:
    """Return what ``read`` makes of a file, or made of it before in this look.

    Parameters
    ----------
    frozen
        True if nobody can change it, so that all may share one; else each gets a copy.
    """
    reader = getattr(read, "func", read)  # of a partial, what it calls
    look = (path, str(reader.__qualname__))  # one file may be read as a sheet and as text
    lasts = str(path).startswith(_SHIPPED)
    found = made(look, lambda: _lasting(path, look, read) if lasts else read(path))
    return found if frozen or not (lasts or _SEEN.get() is not None) else _copied(found)


def listed(folder: Path, suffix: str) -> tuple[Path, ...]:
    """Return the files of a folder whose names end so, by name; none where there is no folder."""

    def read(folder: Path) -> tuple[Path, ...]:
        return tuple(sorted(folder.glob(f"*{suffix}"), key=lambda path: path.name))

    look = (folder, suffix)
    lasts = str(folder).startswith(_SHIPPED)
    return made(look, lambda: _lasting(folder, look, read) if lasts else read(folder))


def _lasting(path: Path, what: Hashable, read: Callable[[Path], _Parsed]) -> _Parsed:
    """Return what ``read`` makes of a path, or made of it in its present state."""
    try:
        told = path.stat()
    except OSError:
        return read(path)
    state, before = (told.st_mtime_ns, told.st_size), _LASTING.get(what)
    if before is not None and before[0] == state:
        return before[1]  # type: ignore[return-value]
    found = read(path)
    if time.time_ns() - told.st_mtime_ns > _JUST_NOW_NS:
        _LASTING[what] = state, found
    return found


def _copied(found: Any) -> Any:
    """What a parser made, to be changed by one who asked; texts and numbers are shared."""
    if type(found) is dict:
        return {key: _copied(value) for key, value in found.items()}
    if type(found) is list:
        return [_copied(value) for value in found]
    return found if type(found) in _SHARED else deepcopy(found)


def made(what: Hashable, make: Callable[[], _Parsed]) -> _Parsed:
    """Return what ``make`` returns, or returned before in this look; nobody may change it."""
    before = _SEEN.get()
    if before is None:
        return make()
    if what not in before:
        before[what] = make()
    return before[what]  # type: ignore[return-value]


def state_of(folder: Path) -> tuple[tuple[str, int, int], ...] | None:
    """Name, date and size of every file in a folder; None where one was written just now.

    What was read under one state holds while the state does. A file that is written twice within
    the resolution of dates would look the same: such a folder has no state yet.
    """
    now_ns = time.time_ns()
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            told = entry.stat()
            if now_ns - told.st_mtime_ns < _JUST_NOW_NS:
                return None
            found.append((entry.name, told.st_mtime_ns, told.st_size))
    return tuple(sorted(found))
