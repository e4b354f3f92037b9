"""One worker process that is given a task at a time, and replaced where it is lost."""

from collections.abc import Callable
from typing import Any

from dflash_sim.jobs.crew import NoWorkerError
from dflash_sim.jobs.processes import Processes
from dflash_sim.jobs.worker import Done, Lost, raised

TRIES = 2  # of a task whose worker was lost


class Hand:
    """A crew of one, whoever it is at the moment.

    Parameters
    ----------
    make
        Makes a crew of one process.
    """

    def __init__(self, make: Callable[[], Processes] = lambda: Processes(1)) -> None:
        self._make, self._crew = make, make()
        self._crew.reach(1)  # it loads what it needs while nothing is asked of it
        self._ready: int | None = None  # the number of the one that waits for a task
        self._busy = False

    def do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function of an importable module returns.

        Raises
        ------
        LeftError
            It was left, as :meth:`leave` asked.
        NoWorkerError
            The process was lost, and the one after it.
        Exception
            What the function raised.
        """
        why = ""
        for _ in range(TRIES):
            self._begin()
            assert self._ready is not None
            self._crew.give(self._ready, work, *arguments)
            self._busy = True
            _, word = self._crew.heard()
            self._busy = False
            if isinstance(word, Done):
                return word.value
            if not isinstance(word, Lost):
                assert word is not None
                raise raised(word)
            self._ready, why = None, word.why
        raise NoWorkerError(why)

    def leave(self) -> None:
        """Have the task that is being done left soon, from another thread than does it."""
        number = self._ready
        if self._busy and number is not None:
            self._crew.leave(number)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._crew.close()

    def _begin(self) -> None:
        """Wait for a process to be ready, unless one is."""
        if self._ready is not None:
            return
        self._crew.reach(1)
        try:
            number, word = self._crew.heard()
        except NoWorkerError:  # it never was ready: the crew is spent
            self._crew = self._make()
            self._crew.reach(1)
            number, word = self._crew.heard()
        if word is not None:
            raise raised(word) if not isinstance(word, Lost) else NoWorkerError(word.why)
        self._ready = number
