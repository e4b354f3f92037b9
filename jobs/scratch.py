"""Scratch folders and files: gone at the end, and after a kill when the next one is made."""

import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: what a killed command leaves stays there
    fcntl = None  # type: ignore[assignment]

# Locks of other hosts are not always seen, in a folder that they share.
_HOST = re.sub(r"[^\w-]", "_", socket.gethostname())
_FOLDER = f"dflash-sim-scratch-{_HOST}-"
_FILE = f".{_FOLDER}"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for as long as the context lasts.

    Nothing removes it where the process is killed, so whoever makes the next one does. Who lives
    holds a lock on its own, which the system lets go with the process.
    """
    _remove_left(Path(tempfile.gettempdir()), _FOLDER, stat.S_ISDIR)
    with _locked(lambda: Path(tempfile.mkdtemp(prefix=_FOLDER))) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def scratch_file(place: Path) -> Iterator[Path]:
    """A hidden, empty file in a folder, to be written and renamed; what is left goes as above."""
    _remove_left(place, _FILE, stat.S_ISREG)
    with _locked(lambda: _new_file(place)) as file:
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)


def _new_file(place: Path) -> Path:
    handle, name = tempfile.mkstemp(dir=place, prefix=_FILE)
    os.close(handle)
    return Path(name)


@contextmanager
def _locked(make: Callable[[], Path]) -> Iterator[Path]:
    """Make something, and hold it as long as the context lasts."""
    made, handle = _made(make)
    try:
        yield made
    finally:
        if handle is not None:
            os.close(handle)


def _made(make: Callable[[], Path]) -> tuple[Path, int | None]:
    """Make something and hold it; another process may remove it before it is held."""
    while True:
        made = make()
        if fcntl is None:
            return made, None
        with suppress(FileNotFoundError):
            handle = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
            with suppress(OSError):  # a file system without locks: nobody can take it for left
                fcntl.flock(handle, fcntl.LOCK_EX)
            if made.exists():
                return made, handle
            os.close(handle)


def _remove_left(place: Path, prefix: str, kind: Callable[[int], bool]) -> None:
    """Remove what this user's processes made there that are gone."""
    if fcntl is None:
        return
    for path in place.glob(f"{prefix}*"):
        with suppress(OSError):  # somebody else's, a link, or gone meanwhile
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                told = os.fstat(handle)
                if told.st_uid == os.getuid() and kind(told.st_mode):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(path)
            finally:
                os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
