"""Rows of servers, predicted from what is known without them, or after some rows of theirs."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import pandas as pd

from dflash_sim.calibrate.fit.fit import fit
from dflash_sim.calibrate.fit.rows import Row, rows_of
from dflash_sim.calibrate.observations.servers import measured_on
from dflash_sim.jobs.pool import Pool
from dflash_sim.profiles.releases.calibration import Calibration
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.published.servers import FEWEST, first_rows, in_order

RUNS = 1
METRICS_SHOWN = (
    "output_throughput", "mean_tpot_ms", "median_tpot_ms", "mean_ttft_ms", "median_ttft_ms",
)  # fmt: skip
Lines = list[dict[str, object]]


class Asked(NamedTuple):
    """Rows to predict, what is known before, and rows of their server that are fitted first."""

    known: Calibration
    rows: Sequence[Row]
    told: tuple[Row, ...] = ()


def after_three(known: Calibration, rows: Sequence[Row], engine: EngineSheet) -> Asked | None:
    """Ask for a server after three of its rows; None where too few are left to judge."""
    if len(rows) < FEWEST:
        return None
    own, _ = rows_of([row.observation for row in rows], engine)
    told = first_rows(own)
    return Asked(known, [row for row in own if row not in told], tuple(told))


def after_plain(known: Calibration, rows: Sequence[Row], engine: EngineSheet) -> Asked | None:
    """Ask for speculation with its accept length given, after the plain row of fewest requests."""
    own, _ = rows_of([row.observation for row in rows], engine)
    plain = [row for row in in_order(own) if not row.scenario.speculation.speculative]
    asked = [row for row in own if row.scenario.acceptance is not None]
    return Asked(known, asked, tuple(plain[:1])) if plain and asked else None


class Judge:
    """Predicts rows in one crew of processes; use it as a context.

    Parameters
    ----------
    jobs
        Processes; the answers do not depend on it.
    interval
        Also tell whether intervals hold what was measured.
    """

    def __init__(self, engine: EngineSheet, *, jobs: int, interval: bool = True) -> None:
        self._engine, self._interval, self._pool = engine, interval, Pool(jobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.__exit__(*error)

    def each(self, parts: Sequence[Sequence[Asked | None]]) -> list[pd.DataFrame]:
        """Predict the rows of every part, and compare every speed and time that they have.

        Questions that say the same are answered once: what is left out with a GPU is often what
        is left out with a source.

        Returns
        -------
        list of DataFrame
            Of each part, one line per row and metric: ``error`` is predicted over measured, less
            one [1]; ``inside`` tells whether the interval holds what was measured.
        """
        every = [asked for part in parts for asked in part if asked]
        fits = {_fit_of(asked): asked for asked in every}
        told = [(asked.told, asked.known, self._engine) for asked in fits.values()]
        known = dict(zip(fits, self._pool.map(_fitted, told), strict=True))
        rows = {(_fit_of(a), row.observation.row): row for a in every for row in a.rows}
        tasks = [(row, known[fit], self._interval) for (fit, _), row in rows.items()]
        lines = dict(zip(rows, self._pool.map(_judge, tasks), strict=True))
        return [
            pd.DataFrame(
                [
                    line
                    for asked in part
                    if asked
                    for row in asked.rows
                    for line in lines[_fit_of(asked), row.observation.row]
                ]
            )
            for part in parts
        ]


def judged(
    known: Calibration,
    rows: Sequence[Row],
    *,
    engine: EngineSheet,
    jobs: int,
    interval: bool = True,
) -> pd.DataFrame:
    """Predict rows, and compare every speed and time that they have: :meth:`Judge.each`."""
    with Judge(engine, jobs=jobs, interval=interval) as judge:
        (found,) = judge.each([[Asked(known, rows)]])
    return found


def _fit_of(asked: Asked) -> tuple[object, ...]:
    return id(asked.known), *(row.observation.row for row in asked.told)


def _fitted(told: Sequence[Row], known: Calibration, engine: EngineSheet) -> Calibration:
    return fit(told, engine=engine, name="some rows", known=known).calibration if told else known


def _judge(row: Row, known: Calibration, interval: bool) -> list[dict[str, object]]:
    scenario = Scenario.parse(**(row.scenario.model_dump(exclude_unset=True) | {"runs": RUNS}))
    setup = resolve(scenario, calibration=known)
    result = predict(scenario, with_baseline=False, with_interval=interval, setup=setup)
    about = {
        "row": row.observation.row,
        "id": str(row.observation.about.get("id", "")),
        "server": str(measured_on(row.observation)),
        "source": row.observation.source,
        "GPU": scenario.gpu,
        "model": scenario.model,
        "release": scenario.engine,
        "method": scenario.method,
        "conc": scenario.conc,
        "accept length given": scenario.acceptance is not None,
    }
    lines: list[dict[str, object]] = []
    for metric in METRICS_SHOWN:
        measured = row.observation.metrics.get(metric)
        if not measured or not result.values.get(metric):
            continue
        line: dict[str, object] = {
            **about,
            "metric": metric.partition("_")[2],
            "measured": measured,
            "predicted": result.values[metric],
            "error": result.values[metric] / measured - 1,
        }
        if interval:
            low, high = result.intervals[metric]
            line["inside"] = float(low <= measured <= high)
        lines.append(line)
    return lines
