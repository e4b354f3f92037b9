"""Ctrl-C and the signals that ask a program to end: heard anywhere, answered in one way.

All of them arrive as KeyboardInterrupt in the main thread, so that whatever is open there is
closed, workers and scratch files among it. This module imports nothing heavy: it is there before
anything that takes time.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it
_ASKED = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]
_AGAIN_S = 0.01
_PR_SET_PDEATHSIG = 1
_heard: list[int] = []
_waiting: list[bool] = []  # one for each held_back that the main thread is in: something was heard
_instead: list[Callable[[], object]] = []  # what is done in place of raising it


def listen() -> None:
    """Turn the signals that ask this process to end into KeyboardInterrupt.

    One that is ignored stays so, as ``nohup`` and background jobs of a shell have it.
    """
    for number in (signal.SIGINT, *_ASKED):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    shown = sys.unraisablehook

    def unraisable(what: Any) -> None:
        if not isinstance(what.exc_value, KeyboardInterrupt):
            shown(what)
        elif hasattr(signal, "setitimer"):  # it was heard where it could not be raised
            signal.signal(signal.SIGALRM, _stop)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)

    sys.unraisablehook = unraisable


def _stop(number: int, _frame: FrameType | None) -> None:
    _heard.append(number)
    if number in _ASKED:  # asked once more, it ends at once
        signal.signal(number, signal.SIG_DFL)
    if _waiting:
        _waiting[0] = True
        return
    if _instead:
        _instead[-1]()
        return
    raise KeyboardInterrupt


@contextmanager
def ended_by(ask: Callable[[], object]) -> Iterator[None]:
    """Have what runs meanwhile asked to end, where it could not bear a KeyboardInterrupt anywhere.

    Whoever drives an event loop asks its task, and raises KeyboardInterrupt once that has ended.
    Signals are heard in the main thread alone: elsewhere this does nothing.
    """
    mine = [ask] if current_thread() is main_thread() else []
    _instead.extend(mine)
    try:
        yield
    finally:
        if mine:
            _instead.pop()


def asked_to_stop() -> bool:
    """Return True once a signal has asked this process to end; errors after it are its effects."""
    return bool(_heard)


def leave(code: int) -> NoReturn:
    """End with an exit code, or by the signal that asked for it; one that comes now ends it too."""
    for number in (signal.SIGINT, *_ASKED):
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)
    asked = next((number for number in _heard if number in _ASKED), None)
    if asked is not None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        signal.signal(asked, signal.SIG_DFL)
        os.kill(os.getpid(), asked)
    sys.exit(code)


@contextmanager
def held_back(*more: int) -> Iterator[None]:
    """Let a Ctrl-C of this thread wait; a process that is begun meanwhile never sees one.

    A signal reaches a process in any thread that lets it in, and is answered in the main one: so
    there it waits as well, and so do those that ask the process to end, which are not blocked.

    Parameters
    ----------
    more
        Other signals that wait; a process that is forked meanwhile lets them in again.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    mine = [False] if current_thread() is main_thread() else []
    _waiting.extend(mine)
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *more))
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if mine and _waiting.pop() and not _waiting:
            raise KeyboardInterrupt


@contextmanager
def forking() -> Iterator[None]:
    """Hold all of them back while a process is forked, which begins with :func:`forked`."""
    with held_back(*_ASKED):
        yield


def forked() -> None:
    """In a forked process: be deaf to Ctrl-C, which is for the parent, and end when asked to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _ASKED:
        signal.signal(number, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKED)


def die_with_parent(parent: int) -> None:
    """Have Linux kill this process when the thread that began it ends, also one that is stopped.

    No thread of ours can do that while a task keeps the interpreter to itself.

    Parameters
    ----------
    parent
        The number of its process, which may be gone already.
    """
    if sys.platform != "linux":
        return
    from ctypes import CDLL

    with suppress(OSError):
        CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
