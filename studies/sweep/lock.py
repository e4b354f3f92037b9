"""One sweep at a time writes one file."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from dflash_sim.profiles.errors import UsageError
from dflash_sim.studies.show.files import writing

try:
    import fcntl
except ImportError:  # not a POSIX system: the file alone is the lock
    fcntl = None  # type: ignore[assignment]


class Lock:
    """A file that names the process that holds it.

    The kernel frees it with the process, however that ends; what is left is the file, and the next
    sweep takes it over with a note. A file of another machine is left alone: whether that machine
    lives cannot be seen from here, and not every network file system shares its locks.

    Parameters
    ----------
    note
        Told when the lock of a dead process is taken over.
    """

    def __init__(self, path: Path, note: Callable[[str], None]) -> None:
        self.path, self.note = path, note
        self.handle: int | None = None

    def __enter__(self) -> "Lock":
        self.handle = self._acquire()
        holder = _read(self.handle)
        if holder:
            if holder.get("host") != socket.gethostname() or fcntl is None:
                self._close()
                raise _held(self.path, holder)
            self.note(f"took over {self.path} of process {holder.get('pid')}, which is gone")
        os.ftruncate(self.handle, 0)
        mine = {"pid": os.getpid(), "host": socket.gethostname()}
        with writing(self.path):
            os.pwrite(self.handle, json.dumps(mine).encode(), 0)
        return self

    def _acquire(self) -> int:
        while True:
            with writing(self.path):
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            if not _locked(handle):
                holder = _read(handle)
                os.close(handle)
                raise _held(self.path, holder)
            if self.path.exists() and self.path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
            os.close(handle)  # its holder has finished and removed it meanwhile

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None


def refuse_held(path: Path) -> None:
    """Refuse to go on while another process holds this lock."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        if not _locked(handle):
            raise _held(path, _read(handle))
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: the file alone is the lock
        return not _read(handle)
    return True


def _read(handle: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(handle, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _held(path: Path, holder: dict[str, Any]) -> UsageError:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
    msg = (
        f"{path.parent}: {who} is writing it already. Wait for it, choose another folder with -o, "
        f"or, if that process is gone for good, remove {path}."
    )
    return UsageError(msg)
