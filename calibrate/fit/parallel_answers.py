"""Answers and slopes of many rows at once, on all cores."""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.fit.rows import Row, TablesByGpu
from dflash_sim.profiles.calibration import Parameter
from dflash_sim.profiles.engine_sheet import EngineSheet
from dflash_sim.simulator.slopes import WHOLE, Response, slope_steps

Floats = npt.NDArray[np.float64]
Task = tuple[int, Floats]  # a row, and where
_ALONE_RUNS = 2  # a client alone sends few requests: two runs halve the noise of their lengths


class _Worker:
    """The rows of one process; a row is resolved when it is first asked for."""

    def __init__(
        self, rows: Sequence[Row], engine: EngineSheet, parameters: Sequence[Parameter]
    ) -> None:
        self.rows, self.engine, self.parameters = rows, engine, parameters
        self.responses: dict[int, Response] = {}
        self.tables: TablesByGpu = {}
        self.steps = slope_steps(parameters)

    def response(self, i: int) -> Response:
        if i not in self.responses:
            self.responses[i] = self.rows[i].response(self.engine, self.tables)
        return self.responses[i]

    def answer(self, task: Task) -> Floats:
        i, x = task
        values = {p.name: p.value(v) for p, v in zip(self.parameters, x.tolist(), strict=True)}
        runs = _ALONE_RUNS if self.rows[i].scenario.conc == 1 else 1
        return self.response(i).answer(values, runs=runs)

    def slopes(self, task: Task) -> Floats:
        i, x = task
        return self.response(i).slopes(self.parameters, x, self.steps, whole=WHOLE)


_worker: _Worker | None = None  # in a process of the pool


def _start(*parts: Any) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is answered once, by the parent
    _worker = _Worker(*parts)


def _answer(task: Task) -> Floats:
    assert _worker is not None
    return _worker.answer(task)


def _slopes(task: Task) -> Floats:
    assert _worker is not None
    return _worker.slopes(task)


class Evaluator:
    """Prices rows at given parameters, with ``jobs`` processes; use it as a context.

    Parameters
    ----------
    on_row
        Called after each row.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        engine: EngineSheet,
        parameters: Sequence[Parameter],
        *,
        jobs: int,
        on_row: Callable[[], None] | None = None,
    ) -> None:
        self._parts = (list(rows), engine, tuple(parameters))
        self._jobs, self._on_row = jobs, on_row
        self._pool: ProcessPoolExecutor | None = None
        self._here = _Worker(*self._parts)  # where there is no pool

    def __enter__(self) -> Self:
        if self._jobs > 1:
            self._pool = ProcessPoolExecutor(self._jobs, initializer=_start, initargs=self._parts)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def answers(self, x: Floats) -> Floats:
        """Logs of the metrics, shape [rows, metrics]."""
        return self._all(_answer if self._pool else self._here.answer, x)

    def slopes(self, x: Floats) -> Floats:
        """Their derivatives, shape [rows, metrics, parameters]."""
        return self._all(_slopes if self._pool else self._here.slopes, x)

    def _all(self, work: Callable[[Task], Floats], x: Floats) -> Floats:
        tasks = [(i, x) for i in range(len(self._parts[0]))]
        chunk = max(1, len(tasks) // (8 * self._jobs))
        done: Iterable[Floats] = (
            self._pool.map(work, tasks, chunksize=chunk) if self._pool else map(work, tasks)
        )
        return np.array(list(self._counted(done)))

    def _counted(self, done: Iterable[Floats]) -> Iterator[Floats]:
        for found in done:
            if self._on_row is not None:
                self._on_row()
            yield found
