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
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    handle = os.open(folder, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)) if fcntl else None
    try:
        if handle is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
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
