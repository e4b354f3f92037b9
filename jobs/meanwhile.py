"""Two things at once: one of them in a forked process, where that is safe and a core is free.

A forked process knows at once all that is known here, where a spawned worker of a pool would begin
by reading it: so it pays for work of a tenth of a second. It shares no pipe with anybody, and
nothing of it is left when the context ends.
"""

import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, NoReturn, TypeVar

from dflash_sim.jobs.stopping import die_with_parent, forked, forking

T = TypeVar("T")
_busy = False  # something is done meanwhile, or this process was begun for that
_apart = False


def apart() -> bool:
    """Return True in a process that was begun here: what it prints would be in the way."""
    return _apart


@contextmanager
def meanwhile(work: Callable[[], T]) -> Iterator[Callable[[], T]]:
    """Call ``work`` in a forked process; what is yielded waits for its result, and is called once.

    Where there are other threads, another system than Linux, one core, or something done meanwhile
    already, and where no process can be forked, ``work`` is called when its result is asked for.
    Where it fails in the other process it is called here once more, for its error. It has to return
    all that counts: what it changes in memory is lost.
    """
    global _busy
    other = None
    try:
        if _may_fork():
            with forking(), suppress(OSError):
                other = _Forked(work)
                _busy = True
        yield work if other is None else other.result
    finally:
        if other is not None:
            _busy = False
            with forking():  # who interrupts waits until it is gone
                other.end()


def _may_fork() -> bool:
    if _busy or sys.platform != "linux" or threading.active_count() > 1:
        return False
    known = sys.modules.get("multiprocessing.process")  # a pool's worker has its core
    worker = known is not None and known.parent_process() is not None
    return not worker and len(os.sched_getaffinity(0)) > 1


class _Forked(Generic[T]):
    """A process that calls a function, and sends what it returns."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work, self._told, here = work, False, os.getpid()
        ours, theirs = os.pipe()
        try:
            with warnings.catch_warnings():
                # NumPy's threads are idle, and hold no lock.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._process = os.fork()
            if not self._process:
                os.close(ours)
                _serve(work, theirs, here)
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self._pipe = os.fdopen(ours, "rb")

    def result(self) -> T:
        """Wait for what the function returns, or call it here."""
        try:
            found: T = pickle.load(self._pipe)
        except (EOFError, pickle.UnpicklingError):  # killed, or it met an error
            return self._work()
        self._told = True
        return found

    def end(self) -> None:
        """Leave nothing of it; one that has told its result ends by itself."""
        if not self._told:
            with suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
        with suppress(ChildProcessError):  # somebody else has waited for it
            os.waitpid(self._process, 0)
        self._pipe.close()


def _serve(work: Callable[[], Any], to: int, parent: int) -> NoReturn:
    global _busy, _apart
    _busy = _apart = True
    try:
        forked()
        die_with_parent(parent)
        found = work()
        with os.fdopen(to, "wb") as pipe:
            pickle.dump(found, pipe, pickle.HIGHEST_PROTOCOL)
    finally:
        os._exit(0)  # the parent's exit handlers and streams are its own
