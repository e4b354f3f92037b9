"""Folders of scratch files: gone at the end, and after a kill when the next one is made."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: what a killed command leaves stays there
    fcntl = None  # type: ignore[assignment]

_PREFIX = "dflash-sim-scratch-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for as long as the context lasts.

    Nothing removes it where the process is killed, so whoever makes the next one does. Who lives
    holds a lock on its own, which the system lets go with the process.
    """
    _remove_left()
    folder, handle = _locked()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _locked() -> tuple[Path, int | None]:
    """Make a folder, and hold it; another process may remove it before it is held."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        if fcntl is None:
            return folder, None
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            with suppress(OSError):  # a file system without locks: nobody can take it for left
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                return folder, handle
            os.close(handle)


def _remove_left() -> None:
    """Remove folders of this user whose processes are gone."""
    if fcntl is None:
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else's, or gone meanwhile
            handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if os.fstat(handle).st_uid == os.getuid():
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)
