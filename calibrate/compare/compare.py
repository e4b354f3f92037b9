"""A measurement against the prediction of the same scenario, metric by metric."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from dflash_sim.calibrate.compare.causes import Diagnosis, Share, explain
from dflash_sim.calibrate.compare.common_definitions import (
    accept_length,
    as_measured,
    beside,
    measured,
)
from dflash_sim.calibrate.observations.check import TIMED
from dflash_sim.calibrate.observations.observation import Observation, drafts_nothing
from dflash_sim.calibrate.observations.values import ACCEPTANCE
from dflash_sim.calibrate.readers.sglang_bench_serving import POOLED
from dflash_sim.profiles.errors import DflashSimError, MissingProfileError
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.schema import load_schema
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

_SAME = ("gpu", "model", "method", "block", "tp")

Amount: TypeAlias = float  # in the unit that the metric's name ends with


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measured value and the predicted one.

    Parameters
    ----------
    name
        As in ``profiles/schema.csv``.
    interval
        Of the prediction, where it has one.
    """

    name: str
    observed: Amount
    predicted: Amount
    interval: tuple[Amount, Amount] | None = None

    @property
    def rel_err(self) -> Share:
        """Prediction over measurement, less one."""
        return self.predicted / self.observed - 1

    @property
    def inside(self) -> bool | None:
        """Return True if the measurement lies in the interval; None without one."""
        if self.interval is None:
            return None
        return self.interval[0] <= self.observed <= self.interval[1]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One row of a file against its prediction.

    Parameters
    ----------
    result
        The prediction; None if there is none, and ``error`` says why.
    diagnosis
        The gap taken apart; None where it was not asked for or nothing to explain was measured.
    notes
        What to keep in mind: of the row, and of the comparison.
    """

    observation: Observation
    scenario: Scenario
    result: Result | None
    metrics: tuple[Metric, ...] = ()
    diagnosis: Diagnosis | None = None
    notes: tuple[str, ...] = ()
    error: DflashSimError | None = None

    def metric(self, name: str) -> Metric | None:
        """The metric called ``name``, if it was compared."""
        return next((m for m in self.metrics if m.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Relative errors of the output throughput over rows; not-a-number without any.

    Parameters
    ----------
    judged, inside
        Rows whose prediction has an interval, and those measured inside it.
    """

    rows: int
    mape: Share
    bias: Share
    judged: int = 0
    inside: int = 0


def is_benchmark(row: Observation) -> bool:
    """Return True if times or throughputs were measured, not acceptance or the scheduler alone."""
    return not TIMED.isdisjoint(row.metrics)


def joined(rows: Sequence[Observation]) -> tuple[list[Observation], list[str]]:
    """Rows that only measured acceptance or the scheduler, joined to the one benchmark there is.

    With several benchmarks nobody can tell which one they belong to: they stay by themselves, as
    does a row of another model or block. Also returns remarks.
    """
    benchmarks = [row for row in rows if is_benchmark(row)]
    if len(benchmarks) != 1:
        return list(rows), []
    whole, alone, remarks = benchmarks[0], [], []
    # A histogram tells more than a mean: it comes last, and stands.
    for row in sorted(rows, key=lambda row: row.accept_histogram is not None):
        if is_benchmark(row):
            continue
        if other := _conflicts(whole, row):
            alone.append(row)
            remarks.append(f"{row.row}: not of the same run as {whole.row}, its {other} differs")
            continue
        remarks.append(f"{row.row}: taken for the same run as {whole.row}")
        whole = replace(
            whole,
            metrics=beside(whole, row),
            accept_histogram=row.accept_histogram or whole.accept_histogram,
            notes=tuple(n for n in whole.notes if n != POOLED or not _has_acceptance(row)),
        )
    return [whole, *alone], remarks


def _conflicts(whole: Observation, part: Observation) -> str:
    """A condition that two files state differently."""
    if _has_acceptance(part) and drafts_nothing(whole.fields):
        return "method"
    stated = [name for name in _SAME if name in part.fields and name not in part.assumed]
    differing = [n for n in stated if whole.fields.get(n, part.fields[n]) != part.fields[n]]
    return ", ".join(differing)


def _has_acceptance(row: Observation) -> bool:
    return any(name in row.metrics for name in ACCEPTANCE)


def compare(
    row: Observation,
    *,
    simulator: str = "auto",
    with_causes: bool = True,
    with_interval: bool = True,
) -> Comparison:
    """Predict the scenario of a row and compare every metric that both sides have.

    Parameters
    ----------
    simulator
        ``auto``, ``leap`` or ``event``.
    with_causes
        Also take the gap apart, which takes some dozen short predictions more.
    with_interval
        Also the 90 % intervals of the prediction, which take as many.
    """
    scenario = Scenario.parse(**row.fields, build=_build(row))
    options = {"simulator": simulator, "with_interval": with_interval}
    try:
        result, notes = _predicted(scenario, row, options)
    except DflashSimError as error:
        return Comparison(
            observation=row, scenario=scenario, result=None, notes=row.notes, error=error
        )
    seen, remarks = measured(row, result.values)
    diagnosis = explain(result, row, seen) if with_causes else None
    return Comparison(
        observation=row,
        scenario=result.scenario,
        result=result,
        metrics=tuple(_metrics(row, seen, result)),
        diagnosis=diagnosis,
        notes=(*row.notes, *remarks, *notes),
    )


def _build(row: Observation) -> str | None:
    """The row's build of the engine; None for the one that the engine sheet is of."""
    name = row.fields.get("engine", Scenario.model_fields["engine"].default)
    engine = load_engine(name)
    return None if engine.is_home(row.build) else row.build


def _predicted(
    scenario: Scenario, row: Observation, options: Mapping[str, Any]
) -> tuple[Result, list[str]]:
    """A prediction; where no accept length is published, with the one that was measured."""
    plain = "speedup" in row.metrics
    setup, missing = resolve(scenario), None
    try:
        known = setup.expectation
    except MissingProfileError as error:
        known, missing = None, error
    found = None
    if missing or (known is not None and known.inferred):
        found = accept_length(row.metrics, setup.block)
    if found is None or scenario.acceptance:
        if missing:
            raise missing
        return predict(scenario, with_baseline=plain, setup=setup, **options), []
    length = min(max(found.of(row.metrics), 1.0), float(setup.block))
    given = Scenario.parse(**scenario.model_dump() | {"acceptance": f"al:{length:.4g}"})
    note = f"no accept length is published for this scenario: {length:.4g} is the file's own"
    return predict(given, with_baseline=plain, **options), [note]


def _metrics(row: Observation, seen: dict[str, float], result: Result) -> Iterable[Metric]:
    values = as_measured(result.values, row)
    if result.speedup is not None:
        values["speedup"] = result.speedup
    own = (*ACCEPTANCE, "accept_rate") if result.scenario.acceptance else ()
    given = "acceptance" not in row.fields
    for field in load_schema():
        name = field.name
        if name not in seen or name not in values or (given and name in own):
            continue
        if not seen[name] or not values[name]:
            continue
        yield Metric(
            name=name,
            observed=seen[name],
            predicted=values[name],
            interval=result.intervals.get(name),
        )


def summary(found: Sequence[Comparison]) -> Summary:
    """Mean absolute and mean error of the output throughput over all rows that have one."""
    metrics = [m for c in found if (m := c.metric("output_throughput")) is not None]
    errors = np.array([m.rel_err for m in metrics])
    if not len(errors):
        return Summary(rows=0, mape=float("nan"), bias=float("nan"))
    judged = [m.inside for m in metrics if m.inside is not None]
    return Summary(
        rows=len(errors),
        mape=float(np.abs(errors).mean()),
        bias=float(errors.mean()),
        judged=len(judged),
        inside=sum(judged),
    )
