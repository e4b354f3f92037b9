"""Workers that answer points: this process, processes of this machine, or those of a Ray cluster.

Every crew is driven alike, one point to a worker at a time, so that a point is in flight or
written, and rows cannot depend on who answered them.
"""

import traceback
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol, Self

from dflash_sim.jobs.processes import Processes
from dflash_sim.jobs.worker import Bug, Done, Lost
from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.row import Row
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.answers import Answer, answers
from dflash_sim.studies.predict.table import answer_row


@dataclass(frozen=True)
class How:
    """The options of ``predict`` with which points are answered."""

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


class Local:
    """Processes of this machine, which each start once and then answer point after point.

    One that is lost is not replaced, which leaves the others its memory; the last one is, unless
    it never began.
    """

    def __init__(self, how: How, jobs: int) -> None:
        self.processes = Processes(Worker, how)
        self.jobs = jobs
        self.begun: set[int] = set()
        self.why = ""

    def __enter__(self) -> Self:
        try:
            for _ in range(self.jobs):
                self.processes.hire()
        except BaseException:
            self.processes.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.processes.close()

    def give(self, worker: int, task: Task) -> None:
        """Send a task; a worker that is gone is heard of later."""
        self.processes.give(worker, Worker.answer, task)

    def heard(self) -> tuple[int, Word]:
        """The next word of any process."""
        if not self.processes.workers:
            raise all_lost(self.why)
        worker, word = self.processes.heard()
        if isinstance(word, Lost):
            self.why = word.why
            if not self.processes.workers and worker in self.begun:
                self.processes.hire()
            return worker, word
        self.begun.add(worker)
        if isinstance(word, DflashSimError):
            raise word
        return worker, word.value if isinstance(word, Done) else word


def all_lost(why: str) -> DflashSimError:
    """Nobody is left to answer."""
    msg = (
        f"no worker is left; the last: {why}. The points before are kept; go on with --resume, "
        "and fewer --jobs if memory ran out."
    )
    return DflashSimError(msg)


def crew_of(how: How, jobs: int) -> Crew:
    """One worker without a process of its own, or several with."""
    return Local(how, jobs) if jobs > 1 else Alone(how)
