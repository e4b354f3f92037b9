"""Tasks mapped over worker processes, or done in this process where there is one job."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self, TypeVar

from dflash_sim.jobs.processes import Processes
from dflash_sim.jobs.worker import Bug, Done, Lost, Word, made
from dflash_sim.profiles.errors import DflashSimError, UsageError

R = TypeVar("R")
Task = tuple[Any, ...]


class Pool:
    """Up to ``jobs`` processes; use it as a context, at whose end none is left.

    Ctrl-C arrives in this process alone, as KeyboardInterrupt in the loop over the results. A
    worker whose parent is gone ends by itself.

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
            msg = f"--jobs {jobs}: at least one process is needed."
            raise UsageError(msg)
        self.jobs = jobs
        self._tool = made(make, arguments) if jobs == 1 else ()
        self._processes = Processes(make, *arguments)
        self._free: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._processes.close()

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
            As a task raised it, or because a worker was killed or ran out of memory.
        RuntimeError
            A task met a bug; holds the worker's traceback.
        """
        if self.jobs == 1:
            yield from ((i, work(*self._tool, *task)) for i, task in enumerate(tasks))
            return
        todo, begun = _batches(tasks, together), dict[int, int]()
        while len(self._processes.workers) < min(self.jobs, len(todo)):
            self._processes.hire()
        self._deal(work, todo, begun)
        while begun or todo:
            worker, word = self._processes.heard()
            results = self._results(word)
            self._free.append(worker)
            first = begun.pop(worker, None)  # none of a worker that only says that it is ready
            self._deal(work, todo, begun)
            if first is not None:
                yield from enumerate(results, first)

    def _deal(self, work: Callable[..., Any], todo: "Batches", begun: dict[int, int]) -> None:
        """Give every free worker a batch; ``begun`` is the first task of each that has one."""
        while todo and self._free:
            worker, (first, batch) = self._free.pop(), todo.popleft()
            begun[worker] = first
            self._processes.give(worker, _several, work, batch)

    def _results(self, word: Word) -> Sequence[Any]:
        """Return the results of a batch, or raise what became of it instead."""
        if isinstance(word, Lost):
            msg = (
                f"one of {self.jobs} worker processes was lost: {word.why}. Give fewer, such as "
                "--jobs 1."
            )
            raise DflashSimError(msg)
        if isinstance(word, DflashSimError):
            raise word
        if isinstance(word, Bug):
            msg = f"a bug, met in a worker process\n{word.trace}"
            raise RuntimeError(msg)
        found: Sequence[Any] = word.value if isinstance(word, Done) else ()
        return found


Batches = deque[tuple[int, list[Task]]]


def _batches(tasks: Iterable[Task], together: int) -> Batches:
    """Neighbouring tasks, with the number of the first."""
    rest = list(tasks)
    return deque((i, rest[i : i + together]) for i in range(0, len(rest), together))


def _several(*parts: Any) -> list[Any]:
    """Do a batch of tasks: with the tool if there is one, a function, and the tasks."""
    *tool, work, batch = parts
    return [work(*tool, *task) for task in batch]
