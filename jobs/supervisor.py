"""Tasks given to a crew one at a time, whoever works, and done again where a worker was lost.

Every program of ours with workers is driven from here, so that it is interrupted in one way:
Ctrl-C arrives in this process alone, as KeyboardInterrupt in the loop over the outcomes, and
leaving the context ends the workers. A worker whose parent is gone ends by itself.
"""

import logging
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol, Self, TypeAlias, TypeVar

from dflash_sim.jobs.crew import Crew
from dflash_sim.jobs.worker import Bug, Done, Lost, Word, raised
from dflash_sim.profiles.errors import DflashSimError

TRIES = 2  # of a task whose worker was lost
T = TypeVar("T", bound=Hashable)
Outcome: TypeAlias = Done | DflashSimError | Bug | Lost
Call: TypeAlias = tuple[Any, ...]  # a function and its arguments
_log = logging.getLogger(__name__)  # to stderr, unless a program wants it elsewhere


class Queue(Protocol[T]):
    """Tasks that wait for a worker."""

    def take(self, worker: int) -> T | None:
        """Return the next task for a worker; None if all are taken."""

    def put_back(self, task: T) -> None:
        """Have a task done again, soon."""


class Supervisor:
    """Use it as a context, at whose end no worker is left.

    Parameters
    ----------
    crew
        Who works; it belongs to the supervisor from now on.
    """

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self._ready: set[int] = set()
        self._free: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.crew.close()

    def outcomes(
        self, queue: Queue[T], call: Callable[[T], Call], count: int
    ) -> Iterator[tuple[T, Outcome]]:
        """Yield each task and what became of it, whichever is done first.

        A task whose worker was lost is done once more by another one, and a line of the log says
        so; what ends the second one too has the outcome Lost.

        Parameters
        ----------
        queue
            Holds ``count`` tasks.
        call
            Returns the function of a task, of an importable module, and its arguments.

        Raises
        ------
        DflashSimError
            No worker is left, or none could make its tool.
        """
        given, before = dict[int, T](), set[T]()
        self.crew.reach(count)
        self._deal(queue, call, given)
        while count:
            worker, word = self.crew.heard()
            task = given.pop(worker, None)  # none, where it is ready or a run was left before
            again = isinstance(word, Lost) and task is not None and task not in before
            self._note(worker, word)
            if isinstance(word, Lost):
                _log.warning("a worker was lost: %s%s", word.why, _AGAIN if again else "")
            if again and task is not None:
                before.add(task)
                queue.put_back(task)
                task = None
            self._deal(queue, call, given)
            if task is not None and word is not None:
                count -= 1
                yield task, word

    def _note(self, worker: int, word: Word) -> None:
        """Keep who is free; an error of a worker that never was ready is that of its tool."""
        if isinstance(word, Lost):
            self._free.discard(worker)
            return
        if worker not in self._ready and word is not None:
            raise raised(word)
        self._ready.add(worker)
        self._free.add(worker)

    def _deal(self, queue: Queue[T], call: Callable[[T], Call], given: dict[int, T]) -> None:
        for worker in sorted(self._free):
            task = queue.take(worker)
            if task is None:
                return
            self._free.remove(worker)
            given[worker] = task
            self.crew.give(worker, *call(task))


_AGAIN = "; another one does its task again"
