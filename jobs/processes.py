"""Spawned processes with a pipe each: give one a task, hear the next word of any.

They are spawned: a fork would copy the other workers' pipes and the parent's threads. Workers never
see Ctrl-C: whoever drives them does, and ends them.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context, resource_tracker, spawn
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Lock, current_thread, main_thread
from types import ModuleType
from typing import Any

from dflash_sim.jobs import leaving
from dflash_sim.jobs.crew import NO_MEMORY, NoWorkerError
from dflash_sim.jobs.stopping import held_back
from dflash_sim.jobs.worker import OUT_OF_MEMORY, Lost, Word, serve
from dflash_sim.profiles.find import ENV, users_folders

_SPAWN = get_context("spawn")
_PATIENCE_S = 1.0  # for a worker to end by itself
_ONE_THREAD = {  # as many threads as cores in as many workers would only wait for one another
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "BLIS_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
}
_beginning = Lock()


class Processes:
    """A crew of processes of this machine; whoever drives it closes it.

    Parameters
    ----------
    jobs
        Processes at most.
    make, arguments
        Each worker calls ``make(*arguments)`` once; the result is the first argument of its tasks.
        None for tasks that need nothing of the kind.
    """

    def __init__(self, jobs: int, make: Callable[..., Any] | None = None, *arguments: Any) -> None:
        self._jobs, self._made = jobs, (make, arguments)
        self._hired, self._last = 0, -1
        self._ready: set[int] = set()
        self._why = ""
        self.workers: dict[int, tuple[BaseProcess, Connection]] = {}

    def reach(self, count: int) -> None:
        """Begin workers until there have been ``count``, or as many as there may be."""
        while self._hired < min(self._jobs, count):
            self._hire()

    def _hire(self) -> None:
        number = self._hired
        self._hired += 1
        here = {ENV: os.pathsep.join(map(str, users_folders()))}  # of this thread's question
        lasts = {"dies_with_thread": current_thread() is main_thread()}
        with _beginning_of_a_worker():
            ours, theirs = _SPAWN.Pipe()
            given = (theirs, here | _ONE_THREAD)
            process = _SPAWN.Process(target=serve, args=given, kwargs=lasts, daemon=True)
            process.start()
            self.workers[number] = process, ours
            theirs.close()
        self._send(number, self._made)

    def give(self, worker: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Send a task to a worker that is free; one that is gone is heard of later."""
        self._send(worker, (work, arguments))

    def _send(self, worker: int, message: tuple[Any, ...]) -> None:
        with suppress(OSError):
            self.workers[worker][1].send(message)

    def leave(self, worker: int) -> None:
        """Have a worker that has begun a task leave it: it says so, unless it is done before."""
        with suppress(KeyError):  # it is lost
            pid = self.workers[worker][0].pid
            assert pid is not None
            leaving.ask(pid)

    def heard(self) -> tuple[int, Word]:
        """Wait for the next word of any worker; one whose pipe ends is lost.

        Of several who have one, the next after the last heard is: none waits for ever.

        Raises
        ------
        NoWorkerError
            All are lost, the last before it was ready.
        """
        if not self.workers:
            raise NoWorkerError(self._why)
        pipes = {pipe: number for number, (_, pipe) in self.workers.items()}
        spoke = [pipes[pipe] for pipe in wait(list(pipes)) if isinstance(pipe, Connection)]
        number = min(spoke, key=lambda worker: (worker <= self._last, worker))
        ready, self._last = self.workers[number][1], number
        try:
            word: Word = ready.recv()
        except (EOFError, OSError):
            process, _ = self.workers.pop(number)
            ready.close()
            self._why = _ending(_ended(process))
            if not self.workers and number in self._ready:
                self._hire()
            return number, Lost(self._why)
        if word is None:
            self._ready.add(number)
        return number, word

    def close(self) -> None:
        """End all workers, whatever they are doing; a second Ctrl-C waits until they have."""
        with held_back():
            for process, pipe in self.workers.values():
                pipe.close()
                process.terminate()
            for process, _ in self.workers.values():
                _ended(process)


def _ended(process: BaseProcess) -> int | None:
    """Wait for a process that was told to end, and kill it if it does not; return its exit code."""
    process.join(_PATIENCE_S)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def _ending(code: int | None) -> str:
    if code == OUT_OF_MEMORY:
        return NO_MEMORY
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")
    return f"exit code {code}"


class _OfNoFile(ModuleType):
    """The program's ``__main__``, with all it holds, but without the file it is from."""

    def __init__(self, main: ModuleType) -> None:
        super().__init__("__main__")
        self._main = main

    def __getattr__(self, name: str) -> Any:
        if name == "__file__":
            raise AttributeError(name)
        return getattr(self._main, name)


@contextmanager
def _beginning_of_a_worker() -> Iterator[None]:
    """Begin a process without Ctrl-C, and without the file of ``__main__``.

    A spawned process would run the user's script again, and start what is going on here once more:
    our tasks need nothing of it. Where the script is, is told by ``sys.modules`` alone, which all
    threads share; so what stands in there meanwhile has all that others may look for.
    """
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # which lets Ctrl-C through when it begins
    with _beginning, held_back():
        main, command = sys.modules["__main__"], spawn.get_command_line
        sys.modules["__main__"] = _OfNoFile(main)
        spawn.get_command_line = lambda **pipes: _quiet(command(**pipes))
        try:
            yield
        finally:
            sys.modules["__main__"], spawn.get_command_line = main, command


def _quiet(command: list[str]) -> list[str]:
    """Have a process end without a word whose parent was killed before it said what to do."""
    at = command.index("-c") + 1 if "-c" in command else 0
    begin = [f"try: {command[at]}\nexcept EOFError: pass"] if at else []
    return [*command[:at], *begin, *command[at + len(begin) :]]
