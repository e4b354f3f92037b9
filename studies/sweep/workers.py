"""Who answers points: this process, processes of this machine, or those of a Ray cluster.

Every crew is driven alike, one point to a worker at a time, so that a point is in flight or
written, and rows cannot depend on who answered them.
"""

import signal
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, Self

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.row import Row
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.answers import Answer, answers
from dflash_sim.studies.predict.table import answer_row


@dataclass(frozen=True)
class How:
    """How points are answered: the options of ``predict``."""

    simulator: str = "auto"
    baseline: bool = True
    interval: bool = True
    tag: str | None = None


@dataclass(frozen=True)
class Task:
    """One point for a worker; tasks of one group share their plain decoding."""

    number: int
    group: tuple[Any, ...]
    scenario: Scenario


@dataclass(frozen=True)
class Lost:
    """A worker that will answer no more, and why."""

    why: str


@dataclass(frozen=True)
class Bug:
    """The traceback of an error that nobody expected."""

    trace: str


Word = Row | Lost | Bug | None  # None: a worker is ready for its first task


class Worker:
    """Answers points one by one, and keeps what the points of a group share."""

    def __init__(self, how: How) -> None:
        self.how = how
        self.group: tuple[Any, ...] | None = None
        self.baselines: dict[str, Result] = {}

    def answer(self, task: Task) -> Row | Bug:
        """The row of a task; what cannot be answered is a row with its error."""
        if task.group != self.group:
            self.group, self.baselines = task.group, {}
        try:
            (answer,) = answers(
                [task.scenario],
                simulator=self.how.simulator,
                with_baseline=self.how.baseline,
                with_interval=self.how.interval,
                baselines=self.baselines,
            )
        except DflashSimError as error:
            answer = Answer(task.scenario, error)
        except Exception:
            return Bug(traceback.format_exc())
        return answer_row(answer, self.how.tag)


class Crew(Protocol):
    """Workers with names, each of which takes a task and says one word about it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def give(self, worker: int, task: Task) -> None:
        """Let a worker begin."""

    def heard(self) -> tuple[int, Word]:
        """The next word of any worker; waits for it."""


class Alone:
    """One worker, in this process."""

    def __init__(self, how: How) -> None:
        self.worker = Worker(how)
        self.words: deque[Word] = deque([None])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def give(self, _worker: int, task: Task) -> None:
        """Answer at once."""
        self.words.append(self.worker.answer(task))

    def heard(self) -> tuple[int, Word]:
        """The only word there is."""
        return 0, self.words.popleft()


class Processes:
    """Processes of this machine.

    They are spawned: a fork would copy the other workers' pipes, and a worker sees that its sweep
    is gone by the end of its own pipe; nor do threads, such as those of a progress bar, survive a
    fork. A worker starts once and then answers point after point, which pays for its start.

    One that is lost is not replaced, which leaves the others its memory; the last one is, unless
    it never began.
    """

    def __init__(self, how: How, jobs: int) -> None:
        self.how, self.jobs = how, jobs
        self.workers: dict[int, tuple[BaseProcess, Connection]] = {}
        self.begun: set[int] = set()
        self.why = ""

    def __enter__(self) -> Self:
        for number in range(self.jobs):
            self._hire(number)
        return self

    def _hire(self, number: int) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.how), daemon=True)
        process.start()
        theirs.close()
        self.workers[number] = (process, ours)

    def __exit__(self, *_error: object) -> None:
        for process, pipe in self.workers.values():
            pipe.close()
            process.terminate()
        for process, _ in self.workers.values():
            process.join()

    def give(self, worker: int, task: Task) -> None:
        """Send a task; a worker that is gone is heard of later."""
        with suppress(OSError):
            self.workers[worker][1].send(task)

    def heard(self) -> tuple[int, Word]:
        """The next word through any pipe."""
        if not self.workers:
            raise all_lost(self.why)
        pipes = {pipe: number for number, (_, pipe) in self.workers.items()}
        ready = wait(list(pipes))[0]
        assert isinstance(ready, Connection)
        number = pipes[ready]
        try:
            word: Word = ready.recv()
        except (EOFError, OSError):
            process, _ = self.workers.pop(number)
            ready.close()
            process.join()
            self.why = _ending(process.exitcode)
            word = Lost(self.why)
            if not self.workers and number in self.begun:
                self._hire(number + self.jobs)
        else:
            self.begun.add(number)
        return number, word


def _serve(pipe: Connection, how: How) -> None:
    """Life of a worker process; it ends with the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which then ends us
    worker = Worker(how)
    with suppress(EOFError, OSError):
        pipe.send(None)
        while True:
            pipe.send(worker.answer(pipe.recv()))


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")
    return f"exit code {code}"


def all_lost(why: str) -> DflashSimError:
    """Nobody is left to answer."""
    msg = (
        f"no worker is left; the last: {why}. The points before are kept; go on with --resume, "
        "and fewer --jobs if memory ran out."
    )
    return DflashSimError(msg)


def crew_of(how: How, jobs: int) -> Crew:
    """One worker without a process of its own, or several with."""
    return Processes(how, jobs) if jobs > 1 else Alone(how)
