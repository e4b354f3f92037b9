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
from typing import Any, NoReturn, TypeVar

from dflash_sim.jobs.stopping import forked, forking

T = TypeVar("T")
_busy = False  # something is done meanwhile, or this process was begun for that
_apart = False


def apart() -> bool:
    """Return True in a process that was begun here: what it prints would be in the way."""
    return _apart


@contextmanager
def meanwhile(work: Callable[[], T]) -> Iterator[Callable[[], T]]:
    """Call ``work`` in a forked process; what is yielded waits for its result.

    Where there are other threads, another system than Linux, one core, or something done meanwhile
    already, ``work`` is called when its result is asked for. Where it fails in the other process it
    is called here once more, for its error. It has to return all that counts: what it changes in
    memory is lost.
    """
    global _busy
    if not _may_fork():
        yield work
        return
    ours, theirs = os.pipe()
    process = 0
    try:
        with warnings.catch_warnings(), forking():
            # NumPy's threads are idle, and hold no lock.
            warnings.simplefilter("ignore", DeprecationWarning)
            process = os.fork()
            if not process:
                os.close(ours)
                _serve(work, theirs)
        os.close(theirs)
        _busy = True
        with os.fdopen(ours, "rb") as pipe:
            yield lambda: _result(pipe, work)
    finally:
        _busy = False
        if process:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _may_fork() -> bool:
    if _busy or sys.platform != "linux" or threading.active_count() > 1:
        return False
    known = sys.modules.get("multiprocessing.process")  # a pool's worker has its core
    worker = known is not None and known.parent_process() is not None
    return not worker and len(os.sched_getaffinity(0)) > 1


def _result(pipe: Any, work: Callable[[], T]) -> T:
    try:
        result: T = pickle.load(pipe)
    except EOFError:  # it was killed or met an error, which is met here again
        return work()
    return result


def _serve(work: Callable[[], T], to: int) -> NoReturn:
    global _busy, _apart
    _busy = _apart = True
    try:
        forked()
        found = pickle.dumps(work(), pickle.HIGHEST_PROTOCOL)
        with os.fdopen(to, "wb") as pipe:
            pipe.write(found)
    finally:
        os._exit(0)  # the parent's exit handlers and streams are its own
