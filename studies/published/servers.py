"""Servers away from home: their rows, what these say of servers, and what all but some of them say.

The rule for the three rows, stated before anything was fitted: in the order of concurrency and
then verify width, the first, the middle and the last row of the server.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.fit.fit import solve
from dflash_sim.calibrate.fit.parallel_answers import Evaluator
from dflash_sim.calibrate.fit.prior import Prior, refuse_fitted, usual_elsewhere
from dflash_sim.calibrate.fit.rows import Row, rows_of, unknowns
from dflash_sim.calibrate.fit.servers import with_levels
from dflash_sim.calibrate.observations.observation import Observation, drafts_nothing
from dflash_sim.calibrate.observations.servers import measured_on
from dflash_sim.profiles.releases.calibration import Calibration
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.releases.server_levels import FACTORS, level_of
from dflash_sim.studies.compare.validate_question import published
from dflash_sim.studies.published import gh200_loop
from dflash_sim.studies.published.level_spread import Scale, spread_of_levels
from dflash_sim.studies.published.serving_rows import (
    grouped,
    open_rows,
    quantization_of,
    rows_that_test,
)

Floats = npt.NDArray[np.float64]

MOST = 10  # rows of a server that are looked at
FEWEST = 4  # rows of a server that is judged after them
KINDS = ("GPU", "model", "release")  # that are left out in turn
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

    def slopes(self, x: Floats, of: Sequence[int] | None = None) -> Floats:
        return self.s if of is None else self.s[:, :, list(of)]


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
        self._known: dict[frozenset[int], Calibration] = {}
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

    @property
    def scales(self) -> dict[str, Scale]:
        """How much wider than in the sheet the level sds of each factor should be."""
        return spread_of_levels(self.rows, self.prior, self.lines.at, self.lines.f, self.lines.s)

    def without(self, left_out: Callable[[Row], bool]) -> Calibration:
        """The calibration with the levels that the other rows speak of."""
        keep = frozenset(i for i, row in enumerate(self.rows) if not left_out(row))
        if keep not in self._known:
            self._known[keep] = self._fitted(sorted(keep)) if keep else self.home
        return self._known[keep]

    def _fitted(self, keep: Sequence[int]) -> Calibration:
        rows = [self.rows[i] for i in keep]
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
        order = in_order(own)
        step = max(1.0, (len(order) - 1) / max(1, most - 1))
        found += [order[round(k * step)] for k in range(min(most, len(order)))]
    return found


def by_source(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return rows by their source."""
    return grouped(rows, lambda row: row.observation.source)


def by_kind(rows: Sequence[Row], kind: str) -> dict[str, list[Row]]:
    """Return rows by their level of a kind, to be left out in turn: by GPU, model or release.

    A build that is matched to no release is one of its own. Rows of home's release are left out of
    no fit of levels: they move none, so none of them is here.
    """
    levels = grouped(rows, lambda row: _level(row, kind))
    return {level: own for level, own in levels.items() if level}


def _level(row: Row, kind: str) -> str:
    if kind == "release":
        keys = sorted(p.key for p in row.own if p.kind == "time")
        return next((k for k in keys if level_of(k) in ("build", "release")), "")
    return str(getattr(row.scenario, kind.lower()))


def by_server(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return rows by the server that they were measured on."""
    return grouped(rows, lambda row: str(measured_on(row.observation)))


def first_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that a server is fitted on, by the rule above."""
    order = in_order(rows)
    return [order[i] for i in sorted({0, len(order) // 2, len(order) - 1})]


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Return rows from few clients to many, then from narrow verification to wide."""
    return sorted(rows, key=lambda r: (r.scenario.conc or 0, r.scenario.rate or 0, r.width))
