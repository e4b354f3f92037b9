"""A task that nobody waits for any more: its worker leaves it at the next place where it may.

A signal asks for it. It is answered between two runs and nowhere else: what a process keeps for
later answers is whole there.
"""

import os
import signal
from contextlib import suppress
from types import FrameType

from dflash_sim.profiles.errors import DflashSimError

_SIGNAL = getattr(signal, "SIGUSR1", None)  # none on Windows, where a task is done to its end
_asked = False


class Left(BaseException):
    """Raised where a task is left; no handler of errors keeps it."""


class LeftError(DflashSimError):
    """What a worker says of a task that it left."""


def listen() -> None:
    """In a worker: hear that its task is to be left."""
    if _SIGNAL is not None:
        signal.signal(_SIGNAL, _hear)


def _hear(_number: int, _frame: FrameType | None) -> None:
    global _asked
    _asked = True


def begin() -> None:
    """In a worker: what was asked before was about another task."""
    global _asked
    _asked = False


def may_leave() -> None:
    """Leave the task, if that was asked."""
    if _asked:
        raise Left


def ask(pid: int) -> None:
    """Have a worker that listens leave its task."""
    if _SIGNAL is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, _SIGNAL)
