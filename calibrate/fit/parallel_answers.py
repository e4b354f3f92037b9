"""Answers and slopes of many rows at once, on all cores."""

from collections.abc import Callable, Mapping, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.fit.rows import Row, TablesByGpu
from dflash_sim.jobs.pool import Pool
from dflash_sim.profiles.one_look import Looks, one_look
from dflash_sim.profiles.releases.calibration import Parameter
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.simulator.slopes import WHOLE, Response, slope_steps

Floats = npt.NDArray[np.float64]
_ALONE_RUNS = 2  # a client alone sends few requests: two runs halve the noise of their lengths


def runs_of(row: Row) -> int:
    """How many runs answer a row."""
    return _ALONE_RUNS if row.scenario.conc == 1 else 1


class _Worker:
    """The rows of one process; a row is resolved when it is first asked for."""

    def __init__(
        self,
        rows: Sequence[Row],
        engine: EngineSheet,
        parameters: Sequence[Parameter],
        fixed: Mapping[str, float],
    ) -> None:
        self.rows, self.engine, self.parameters, self.fixed = rows, engine, parameters, fixed
        self.responses: dict[int, Response] = {}
        self.tables: TablesByGpu = {}
        self.files: Looks = {}  # read once for all rows
        self.steps = slope_steps(parameters)

    def response(self, i: int) -> Response:
        if i not in self.responses:
            with one_look(self.files):
                self.responses[i] = self.rows[i].response(self.engine, self.tables)
        return self.responses[i]

    def answer(self, i: int, x: Floats) -> Floats:
        at = {p.name: p.value(v) for p, v in zip(self.parameters, x.tolist(), strict=True)}
        values = {**self.fixed, **at}
        return self.response(i).answer(values, runs=runs_of(self.rows[i]))

    def slopes(self, i: int, x: Floats, of: Sequence[int]) -> Floats:
        chosen = [self.parameters[k] for k in of]
        at = {p.name: p.value(v) for p, v in zip(self.parameters, x.tolist(), strict=True)}
        return self.response(i).slopes(
            chosen, x[of], self.steps[of], whole=WHOLE, fixed={**self.fixed, **at}
        )


class Evaluator:
    """Prices rows at given parameters, with ``jobs`` processes; use it as a context.

    Parameters
    ----------
    fixed
        Values of parameters that are not looked at.
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
        fixed: Mapping[str, float] | None = None,
        on_row: Callable[[], None] | None = None,
    ) -> None:
        self._count, self._jobs = len(rows), jobs
        self._on_row = on_row or (lambda: None)
        self._pool = Pool(jobs, _Worker, list(rows), engine, tuple(parameters), dict(fixed or {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.__exit__(*error)

    def answers(self, x: Floats) -> Floats:
        """Logs of the metrics, shape [rows, metrics]."""
        return self._all(_Worker.answer, x)

    def slopes(self, x: Floats, of: Sequence[int] | None = None) -> Floats:
        """Their derivatives, shape [rows, metrics, parameters], by all parameters or by some."""
        return self._all(_Worker.slopes, x, list(range(len(x)) if of is None else of))

    def _all(self, work: Callable[..., Floats], *more: object) -> Floats:
        tasks = [(i, *more) for i in range(self._count)]
        together = max(1, self._count // (8 * self._jobs))
        done = self._pool.map(work, tasks, together=together, on_done=lambda _: self._on_row())
        return np.array(list(done))
