"""Life of a worker process: it makes its tool, answers tasks with it, and ends with its parent.

This module imports nothing heavy, so that a worker watches its parent from the beginning.
"""

import os
import pickle
import signal
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any, NoReturn, TypeAlias

from dflash_sim.jobs import leaving
from dflash_sim.jobs.stopping import die_with_parent
from dflash_sim.profiles.errors import DflashSimError

_LEFT = "left, as it was asked to"
OUT_OF_MEMORY = 71  # exit code of a worker that could not allocate: EX_OSERR of sysexits.h


@dataclass(frozen=True)
class Done:
    """The value of a task."""

    value: Any


@dataclass(frozen=True)
class Bug:
    """An error that nobody expected: its traceback, and in the process that met it, itself."""

    trace: str
    error: Exception | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Bug, (self.trace,)  # not every error travels between processes


@dataclass(frozen=True)
class Lost:
    """A worker that will answer no more, and why."""

    why: str


# None: a worker has made its tool and is ready for its first task.
Word: TypeAlias = Done | DflashSimError | Bug | Lost | None


def attempted(act: Callable[[], Any]) -> Done | DflashSimError | Bug:
    """Return the value of an act, or the error it ended with, but for a lack of memory."""
    try:
        return Done(act())
    except DflashSimError as error:
        return error
    except MemoryError:
        raise
    except Exception as error:
        return Bug(traceback.format_exc(), error)


def raised(word: DflashSimError | Bug | Done) -> Exception:
    """Return the error that a word tells of, to be raised by whoever waits for a value."""
    if isinstance(word, DflashSimError):
        return word
    if isinstance(word, Bug):
        return word.error or RuntimeError(f"a bug, met in a worker process\n{word.trace}")
    msg = f"a worker said {word} before it was ready"
    return RuntimeError(msg)


def made(make: Callable[..., Any] | None, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return what precedes the arguments of every task: the tool, or nothing where none is made."""
    return () if make is None else (make(*arguments),)


def serve(pipe: Connection, environment: Mapping[str, str], *, dies_with_thread: bool) -> NoReturn:
    """Answer what comes through the pipe until it ends.

    The first message is what :func:`made` takes, every other one a function and its arguments.

    Parameters
    ----------
    environment
        Set here, before anything heavy is loaded: in the parent other threads would see it too.
    dies_with_thread
        The thread that began this process lives as long as the parent.
    """
    os.environ.update(environment)
    if os.name == "posix":
        os.set_inheritable(pipe.fileno(), False)  # or a process begun by a task would keep it open
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    if dies_with_thread and (parent := parent_process()) and parent.pid:
        die_with_parent(parent.pid)
    leaving.listen()
    Thread(target=_end_with_parent, daemon=True).start()
    code = 0
    try:
        with suppress(EOFError, OSError):
            _answer_all(pipe)
    except MemoryError:
        code = OUT_OF_MEMORY
    os._exit(code)  # what libraries do at an exit may wait for a thread that is stopped by then


def _end_with_parent() -> None:
    """End at once when the parent is gone, however it ended.

    The parent holds one end of a pipe that the system closes with it. Unlike Linux's death signal,
    that works everywhere and does not end workers with the thread that began them.
    """
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def with_parent(message: bytes, **arguments: Any) -> None:
    """Do what a pickled function does, and end when the parent is gone, also while it is loaded.

    Parameters
    ----------
    arguments
        Of the function, such as pipes, which are pickled only while a process begins.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    pickle.loads(message)(**arguments)


def _answer_all(pipe: Connection) -> None:
    word = attempted(partial(_acted, made, pipe.recv_bytes()))
    if not isinstance(word, Done):
        pipe.send(word)
        return
    call = partial(_called, word.value)
    pipe.send(None)
    while True:
        message = pipe.recv_bytes()
        leaving.begin()
        try:
            word = attempted(partial(_acted, call, message))
        except leaving.Left:
            word = leaving.LeftError(_LEFT)
        try:
            pipe.send(word)
        except (OSError, MemoryError):
            raise
        except Exception:  # a value that cannot be pickled
            pipe.send(Bug(traceback.format_exc()))


def _acted(act: Callable[..., Any], message: bytes) -> Any:
    return act(*pickle.loads(message))


def _called(tool: tuple[Any, ...], work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return work(*tool, *arguments)
