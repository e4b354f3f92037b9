"""Who does the work, as whoever drives it sees them; and a crew of one, in this process."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from dflash_sim.jobs.worker import Lost, Word, attempted, made
from dflash_sim.profiles.errors import DflashSimError

NO_MEMORY = "out of memory"
FEWER = "Fewer jobs leave each more memory."


class Crew(Protocol):
    """Workers by number, each of which takes a task and says one word about it.

    A worker says None when it is ready for its first task. One that is lost is not replaced, which
    leaves the others its memory; the last one is, unless it never was ready.
    """

    def reach(self, count: int) -> None:
        """Begin workers until there have been enough for ``count`` tasks."""

    def give(self, worker: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Let a worker that is free begin a task; one that is gone is heard of later."""

    def heard(self) -> tuple[int, Word]:
        """Wait for the next word of any worker; raises :class:`NoWorkerError`."""

    def close(self) -> None:
        """End all workers, whatever they are doing."""


class NoWorkerError(DflashSimError):
    """There is no worker any more; ``why`` tells what became of the last."""

    def __init__(self, why: str, advice: str = FEWER) -> None:
        super().__init__(f"no worker is left; the last: {why}. {advice}")
        self.why = why


class Alone:
    """One worker, in this process; its tasks are done when their word is waited for.

    Parameters
    ----------
    make, arguments
        As in :class:`~dflash_sim.jobs.processes.Processes`.
    """

    def __init__(self, make: Callable[..., Any] | None = None, *arguments: Any) -> None:
        self._make = partial(made, make, arguments)
        self._tool: tuple[Any, ...] | None = None
        self._task: Callable[[], Any] | None = None

    def reach(self, count: int) -> None:
        """One worker is there from the beginning."""

    def give(self, _worker: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Keep the task until its word is waited for."""
        assert self._tool is not None
        self._task = partial(work, *self._tool, *arguments)

    def heard(self) -> tuple[int, Word]:
        """Do the task that was given; without one, say that the worker is ready."""
        try:
            if self._task is not None:
                task, self._task = self._task, None
                return 0, attempted(task)
            if self._tool is None:
                self._tool = self._make()
        except MemoryError:
            return 0, Lost(NO_MEMORY)
        except DflashSimError as error:
            return 0, error
        return 0, None

    def close(self) -> None:
        """Nothing is left to be ended."""
