"""The release of rows that name none: releases launch prefills in ways that rows can tell apart.

Whether prefills have CUDA graphs is no factor on their time: without graphs one of 500 tokens takes
as long as one of 5,000. So the rows are priced under a release of each way, near home, and run as
the one that they are by far likelier under. What it is called stays unknown.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from dflash_sim.calibrate.fit.gaussian import Linear, Problem
from dflash_sim.calibrate.fit.parallel_answers import Evaluator
from dflash_sim.calibrate.fit.prior import prior_of
from dflash_sim.calibrate.fit.rows import Row, rows_of
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.profiles.find import sheet_names
from dflash_sim.profiles.releases.calibration import Calibration
from dflash_sim.profiles.releases.engine_sheet import HOME, EngineSheet, load_engine
from dflash_sim.profiles.releases.engine_versions import match_engine
from dflash_sim.profiles.releases.server_levels import FACTORS, UNSTATED

_SURE = 3.0  # log of a likelihood ratio: odds of twenty to one


def marked(observations: Iterable[Observation]) -> tuple[list[Observation], int]:
    """Name the build of rows that state no release, which may be any, and count them."""
    rows = list(observations)
    stated = [o.build is not None or "engine" in o.fields for o in rows]
    named = [
        o if known else replace(o, build=UNSTATED) for o, known in zip(rows, stated, strict=True)
    ]
    return named, stated.count(False)


def launching() -> dict[str, str]:
    """Return the release nearest to home that launches prefills in each way, home's own first."""
    home = load_engine(HOME)
    sheets = [load_engine(name) for name in sheet_names("engines", ".toml")]
    dated = {s.name: match.version for s in sheets if (match := match_engine(s.version))}
    known = [s for s in sheets if s.name in dated]
    order = sorted(dated, key=lambda name: dated[name])
    known.sort(key=lambda s: abs(order.index(s.name) - order.index(home.name)))
    found = {home.prefill.backend: HOME}
    for sheet in known:
        found.setdefault(sheet.prefill.backend, sheet.name)
    return found


def likeliest_release(
    rows: Sequence[Row], engine: EngineSheet, known: Calibration | None, *, jobs: int
) -> str | None:
    """Return the release that rows are to be run as; None where they name one, or it is home's."""
    if known is None or any(row.scenario.build != UNSTATED for row in rows):
        return None
    if any("engine" in row.observation.fields for row in rows):
        return None
    some = _telling(rows)
    ways = {name: [_as(row, name, engine) for row in some] for name in launching().values()}
    found = {
        name: _evidence(same, engine, known, jobs=jobs)
        for name, tried in ways.items()
        if len(same := [row for row in tried if row is not None]) == len(some)
    }
    best = max(found, key=lambda name: found[name])
    sure = best != HOME and found[best] > found.get(HOME, -np.inf) + _SURE
    return best if sure else None


def run_as(rows: Sequence[Row], release: str, engine: EngineSheet) -> list[Row]:
    """Return rows that name no release as this one runs them; as they are where it cannot."""
    return [_as(row, release, engine) or row for row in rows]


def _as(row: Row, release: str, engine: EngineSheet) -> Row | None:
    if row.scenario.build != UNSTATED or release == HOME:
        return row
    fields = {**row.observation.fields, "engine": release}
    return next(iter(rows_of([replace(row.observation, fields=fields)], engine)[0]), None)


def _telling(rows: Sequence[Row]) -> list[Row]:
    """The shortest and the longest prompts, with the fewest and the most clients."""
    order = sorted(rows, key=lambda row: row.scenario.rate or float(row.scenario.conc or 0))
    lengths = [float(row.scenario.isl or 1) for row in order]
    middle = math.sqrt(min(lengths) * max(lengths))
    short = [row for row, isl in zip(order, lengths, strict=True) if isl <= middle]
    long = [row for row, isl in zip(order, lengths, strict=True) if isl > middle] or short
    ends = (short[0], short[-1], long[0], long[-1])
    return list({row.observation.row: row for row in ends}.values())


def _evidence(rows: Sequence[Row], engine: EngineSheet, known: Calibration, *, jobs: int) -> float:
    """Log density of the rows, factors of their server integrated out [1]."""
    whole = prior_of(rows, engine, known)
    keep = [i for i, p in enumerate(whole.parameters) if p.kind in FACTORS]
    prior = replace(
        whole,
        parameters=tuple(whole.parameters[i] for i in keep),
        covariance=whole.covariance[np.ix_(keep, keep)],
    )
    x = prior.mean
    with Evaluator(rows, engine, prior.parameters, jobs=jobs, fixed=known.values) as price:
        f, slopes = price.answers(x), price.slopes(x)
    problem = Problem(rows, prior, f)
    line = Linear(problem, x, problem.take(f), problem.take(slopes))
    return line.evidence(line.likely())
