"""Where a plan's simulations run: in this process, or spread over several."""

import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.studies.plan.judge import Judge, Question

_judge: Judge | None = None


def _start(question: Question) -> None:
    global _judge
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker without a word
    _judge = Judge(question)


def _call(task: tuple[Callable[..., Any], tuple[Any, ...]]) -> Any:
    assert _judge is not None
    work, arguments = task
    return work(_judge, *arguments)


R = TypeVar("R")


class Each(Protocol):
    """Applies a function of a judge to many arguments, in order."""

    def __call__(
        self, work: Callable[..., R], tasks: Iterable[tuple[Any, ...]], *, together: int = 1
    ) -> Iterable[R]:
        """Results, as they are ready; ``together`` neighbours go to one process."""


@contextmanager
def workers(question: Question, jobs: int) -> Iterator[Each]:
    """Judges of a question: one here, or one in each of several processes."""
    if jobs < 1:
        msg = f"--jobs {jobs}: at least one process is needed."
        raise UsageError(msg)
    if jobs == 1:
        judge = Judge(question)

        def here(
            work: Callable[..., R], tasks: Iterable[tuple[Any, ...]], *, together: int = 1
        ) -> Iterable[R]:
            return (work(judge, *arguments) for arguments in tasks)

        yield here
        return
    pool = ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_start, initargs=(question,)
    )

    def there(
        work: Callable[..., R], tasks: Iterable[tuple[Any, ...]], *, together: int = 1
    ) -> Iterable[R]:
        calls = [(work, arguments) for arguments in tasks]
        return pool.map(_call, calls, chunksize=together)

    try:
        yield there
    except BrokenProcessPool:
        msg = (
            f"one of {jobs} worker processes was killed, as when memory runs out; give fewer: "
            "--jobs 1."
        )
        raise DflashSimError(msg) from None
    finally:
        pool.shutdown(cancel_futures=True)
