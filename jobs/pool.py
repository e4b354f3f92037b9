"""Tasks mapped over worker processes, or done in this process where there is one job."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from dflash_sim.jobs.crew import Alone
from dflash_sim.jobs.processes import Processes
from dflash_sim.jobs.supervisor import TRIES, Call, Outcome, Supervisor
from dflash_sim.jobs.worker import Done, Lost, raised
from dflash_sim.profiles.errors import DflashSimError, UsageError

R = TypeVar("R")
Task = tuple[Any, ...]


class Pool(Supervisor):
    """Up to ``jobs`` processes; use it as a context, at whose end none is left.

    Parameters
    ----------
    jobs
        Processes at most; with one, the work is done here.
    make, arguments
        ``make(*arguments)`` is called once in each process; the result is the first argument of
        every task. None for tasks that need nothing of the kind.

    Raises
    ------
    UsageError
        There is no job.
    """

    def __init__(self, jobs: int, make: Callable[..., Any] | None = None, *arguments: Any) -> None:
        if jobs < 1:
            msg = f"jobs {jobs}: at least one process is needed."
            raise UsageError(msg)
        self.jobs = jobs
        super().__init__(
            Alone(make, *arguments) if jobs == 1 else Processes(jobs, make, *arguments)
        )

    def map(
        self,
        work: Callable[..., R],
        tasks: Iterable[Task],
        *,
        together: int = 1,
        on_done: Callable[[int], object] | None = None,
    ) -> Iterator[R]:
        """Results of ``work`` in the order of the tasks; parameters as in :meth:`as_done`.

        Parameters
        ----------
        on_done
            Called with the number of tasks that are done, as they are.
        """
        early: dict[int, R] = {}
        due = 0
        for count, (number, result) in enumerate(self.as_done(work, tasks, together=together), 1):
            if on_done is not None:
                on_done(count)
            early[number] = result
            while due in early:
                yield early.pop(due)
                due += 1

    def as_done(
        self, work: Callable[..., R], tasks: Iterable[Task], *, together: int = 1
    ) -> Iterator[tuple[int, R]]:
        """Number and result of each task, whichever is done first.

        Parameters
        ----------
        work
            A function of an importable module; it is given the tool, if one is made, and a task.
        together
            Neighbours that go to one process at once.

        Raises
        ------
        DflashSimError
            As a task raised it, or because workers were killed or ran out of memory.
        RuntimeError
            A task met a bug; holds the worker's traceback.
        """
        rest = list(tasks)
        size = 1 if self.jobs == 1 else together
        firsts = range(0, len(rest), size)

        def call(first: int) -> Call:
            return _several, work, rest[first : first + size]

        for first, word in self.outcomes(_InTurn(firsts), call, len(firsts)):
            where = f"task {first + 1}" if size == 1 else f"a task from {first + 1} on"
            yield from enumerate(_results(word, f"{where} of {len(rest)}"), first)


class _InTurn:
    """A queue of the first tasks of batches, in their order."""

    def __init__(self, firsts: Iterable[int]) -> None:
        self._left = deque(firsts)

    def take(self, _worker: int) -> int | None:
        return self._left.popleft() if self._left else None

    def put_back(self, first: int) -> None:
        self._left.appendleft(first)


def _results(word: Outcome, where: str) -> Sequence[Any]:
    """Return the results of a batch, or raise what became of it instead."""
    if isinstance(word, Lost):
        msg = (
            f"{TRIES} workers were lost at {where}: {word.why}. Fewer jobs leave each more memory."
        )
        raise DflashSimError(msg)
    if isinstance(word, Done):
        found: Sequence[Any] = word.value
        return found
    raise raised(word)


def _several(*parts: Any) -> list[Any]:
    """Do a batch of tasks: with the tool if there is one, a function, and the tasks."""
    *tool, work, batch = parts
    return [work(*tool, *task) for task in batch]
