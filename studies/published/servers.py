"""Servers away from home: predicted unfitted, each source left out, and after three rows of theirs.

The rule for the three rows, stated before anything was fitted: in the order of concurrency and
then verify width, the first, the middle and the last row of the server.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from dflash_sim.calibrate.fit.fit import fit, solve
from dflash_sim.calibrate.fit.parallel_answers import Evaluator
from dflash_sim.calibrate.fit.prior import Prior, refuse_fitted, usual_elsewhere
from dflash_sim.calibrate.fit.rows import Row, rows_of, unknowns
from dflash_sim.calibrate.fit.servers import with_levels
from dflash_sim.calibrate.observations.observation import Observation, drafts_nothing
from dflash_sim.calibrate.observations.servers import measured_on
from dflash_sim.jobs.pool import Pool
from dflash_sim.profiles.releases.calibration import Calibration
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.releases.server_levels import FACTORS
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.compare.validate_question import published
from dflash_sim.studies.published import gh200_loop
from dflash_sim.studies.published.serving_rows import (
    grouped,
    open_rows,
    quantization_of,
    rows_that_test,
)

Floats = npt.NDArray[np.float64]

MOST = 10  # rows of a server that are looked at
FEWEST = 4  # rows of a server that is judged after them
RUNS = 1
METRICS_SHOWN = (
    "output_throughput", "mean_tpot_ms", "median_tpot_ms", "mean_ttft_ms", "median_ttft_ms",
)  # fmt: skip
MEAN_OF = {"median_tpot_ms": "mean_tpot_ms", "median_ttft_ms": "mean_ttft_ms"}
UNTESTED = ("mt-bench",)  # first-release harnesses send first turns only


@dataclass(frozen=True)
class Straight:
    """Answers as straight lines through one point: any part of the rows is fitted at once.

    Parameters
    ----------
    at
        Where answers ``f`` [rows, metrics] and slopes [rows, metrics, parameters] were taken.
    """

    at: Floats
    f: Floats
    s: Floats

    def of(self, rows: Sequence[int], parameters: Sequence[int]) -> "Straight":
        """Return the lines of some rows and parameters."""
        keep = list(rows)
        return Straight(self.at[list(parameters)], self.f[keep], self.s[keep][:, :, parameters])

    def answers(self, x: Floats) -> Floats:
        return np.asarray(self.f + self.s @ (x - self.at))

    def slopes(self, x: Floats) -> Floats:
        return self.s


def elsewhere(engine: EngineSheet) -> list[Row]:
    """Every open bf16 row of other servers that can be simulated, with its owner.

    Quantised rows are another study's, which predicts them unfitted.

    Accept lengths that a source prints are given: drafters of other releases were others.
    """
    old = [o for o in published().observations if not engine.is_home(o.build)]
    old = [gh200_loop.as_served(o) for o in old if o.fields.get("dataset") not in UNTESTED]
    plain = [given(o) for o in (*old, *open_rows(doubtful=False)) if quantization_of(o) is None]
    return [row for row in rows_of(plain, engine, owners=True)[0] if row.elsewhere]


def given(o: Observation) -> Observation:
    """Return the row with the accept length that was measured as a condition."""
    length = o.metrics.get("accept_length")
    if not length or drafts_nothing(o.fields) or "acceptance" in o.fields:
        return o
    metrics = {k: v for k, v in o.metrics.items() if k != "accept_length"}
    return replace(o, fields={**o.fields, "acceptance": f"al:{length}"}, metrics=metrics)


class LeftOut:
    """The levels of servers, from all rows and from all but some.

    Constants and acceptance stand where home has them: only factors of servers are unknown.

    Parameters
    ----------
    home
        The calibration of home, which nothing here moves.
    """

    def __init__(
        self,
        home: Calibration,
        rows: Sequence[Row],
        *,
        engine: EngineSheet,
        jobs: int,
        on_row: Callable[[], None] | None = None,
    ) -> None:
        self.home, self.rows, self.engine = home, list(rows), engine
        self.prior = self._prior(rows)
        price = Evaluator(
            rows, engine, self.prior.parameters, jobs=jobs, fixed=home.values, on_row=on_row
        )
        with price:
            self.fit = solve(rows, self.prior, price, iterations=3)
            at = self.fit.calibration.mean
            self.lines = Straight(at, price.answers(at), price.slopes(at))

    def _prior(self, rows: Sequence[Row]) -> Prior:
        refuse_fitted(rows, self.home)
        asked = [p for p in unknowns(rows, self.engine) if p.kind in FACTORS]
        return replace(Prior.independent(asked), discrepancy=usual_elsewhere(self.engine))

    @property
    def whole(self) -> Calibration:
        """The calibration with the levels that all rows speak of."""
        return with_levels(self.home, self.fit)

    def without(self, left_out: Callable[[Row], bool]) -> Calibration:
        """The calibration with the levels that the other rows speak of."""
        keep = [i for i, row in enumerate(self.rows) if not left_out(row)]
        rows = [self.rows[i] for i in keep]
        if not rows:
            return self.home
        prior = self._prior(rows)
        place = {p.name: i for i, p in enumerate(self.prior.parameters)}
        lines = self.lines.of(keep, [place[p.name] for p in prior.parameters])
        return with_levels(self.home, solve(rows, prior, lines))


def tests(engine: EngineSheet) -> list[Row]:
    """Every bf16 row that only tests."""
    plain = [given(o) for o in rows_that_test() if quantization_of(o) is None]
    return rows_of(plain, engine)[0]


def of_home(shipped: Calibration) -> Calibration:
    """The calibration without what rows elsewhere say of servers."""
    keep = [i for i, p in enumerate(shipped.parameters) if p.kind not in FACTORS]
    about = {k: v for k, v in shipped.about.items() if k != "server_sources"}
    return replace(
        shipped,
        parameters=tuple(shipped.parameters[i] for i in keep),
        mean=shipped.mean[keep],
        covariance=shipped.covariance[np.ix_(keep, keep)],
        about=about,
    )


def picked(rows: Iterable[Row], most: int) -> list[Row]:
    """At most so many rows of each server, evenly in the order of concurrency and width."""
    found: list[Row] = []
    for own in by_server(rows).values():
        order = _in_order(own)
        step = max(1.0, (len(order) - 1) / max(1, most - 1))
        found += [order[round(k * step)] for k in range(min(most, len(order)))]
    return found


def by_source(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return rows by their source."""
    return grouped(rows, lambda row: row.observation.source)


def by_kind(rows: Sequence[Row]) -> Iterator[tuple[Callable[[Row], bool], list[Row]]]:
    """Return each GPU and each model with its rows, to be left out in turn."""
    for field in ("gpu", "model"):
        for level in dict.fromkeys(getattr(row.scenario, field) for row in rows):

            def out(row: Row, field: str = field, level: str = level) -> bool:
                return bool(getattr(row.scenario, field) == level)

            yield out, [row for row in rows if out(row)]


def by_server(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return rows by the server that they were measured on."""
    return grouped(rows, lambda row: str(measured_on(row.observation)))


def first_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that a server is fitted on, by the rule above."""
    order = _in_order(rows)
    return [order[i] for i in sorted({0, len(order) // 2, len(order) - 1})]


def _in_order(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda r: (r.scenario.conc or 0, r.scenario.rate or 0, r.width))


def after_three(
    known: Calibration, rows: Sequence[Row], *, engine: EngineSheet, jobs: int
) -> pd.DataFrame:
    """Fit a server on three of its rows, and predict the others."""
    own, _ = rows_of([row.observation for row in rows], engine)
    told = first_rows(own)
    found = fit(told, engine=engine, name="three rows", known=known, jobs=jobs)
    return judged(found.calibration, [r for r in own if r not in told], jobs=jobs)


def after_plain(
    known: Calibration, rows: Sequence[Row], *, engine: EngineSheet, jobs: int
) -> pd.DataFrame:
    """Fit a server on its plain row of fewest requests, and predict speculation from there.

    Returns
    -------
    DataFrame
        As :func:`judged`, for the rows with their accept length given; none without a plain row.
    """
    own, _ = rows_of([row.observation for row in rows], engine)
    plain = [row for row in _in_order(own) if not row.scenario.speculation.speculative]
    asked = [row for row in own if row.scenario.acceptance is not None]
    if not plain or not asked:
        return pd.DataFrame()
    found = fit(plain[:1], engine=engine, name="a plain row", known=known, jobs=jobs)
    return judged(found.calibration, asked, jobs=jobs)


def judged(
    known: Calibration, rows: Sequence[Row], *, jobs: int, with_interval: bool = True
) -> pd.DataFrame:
    """Predict rows, and compare every speed and time that they have.

    Returns
    -------
    DataFrame
        One line per row and metric: ``error`` is predicted over measured, less one [1]; ``inside``
        tells whether the interval holds what was measured, where there is one.
    """
    tasks = [(row, known, with_interval) for row in rows]
    with Pool(jobs) as pool:
        lines = [line for found in pool.map(_judge, tasks) for line in found]
    return pd.DataFrame(lines)


def _judge(row: Row, known: Calibration, with_interval: bool) -> list[dict[str, object]]:
    scenario = Scenario.parse(**(row.scenario.model_dump(exclude_unset=True) | {"runs": RUNS}))
    setup = resolve(scenario, calibration=known)
    result = predict(scenario, with_baseline=False, with_interval=with_interval, setup=setup)
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
        if with_interval:
            low, high = (
                result.intervals.get(metric) or result.intervals[MEAN_OF.get(metric, metric)]
            )
            line["inside"] = float(low <= measured <= high)
        lines.append(line)
    return lines
