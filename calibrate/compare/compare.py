"""A measurement against the prediction of the same scenario, metric by metric."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from dflash_sim.calibrate.compare.causes import Diagnosis, Share, explain
from dflash_sim.calibrate.compare.common_definitions import (
    AcceptLength,
    accept_length,
    as_measured,
    beside,
    measured,
)
from dflash_sim.calibrate.compare.own_acceptance import OwnAcceptance, at_own_length
from dflash_sim.calibrate.observations.check import TIMED
from dflash_sim.calibrate.observations.observation import Observation, drafts_nothing
from dflash_sim.calibrate.observations.values import ACCEPTANCE, TOTALS
from dflash_sim.calibrate.readers.sglang_bench_serving import POOLED
from dflash_sim.profiles.errors import DflashSimError, MissingProfileError
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.schema import load_schema
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve

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
    own
        The row's accept length, where the prediction is made with it.
    notes
        What to keep in mind: of the row, and of the comparison.
    """

    observation: Observation
    scenario: Scenario
    result: Result | None
    metrics: tuple[Metric, ...] = ()
    diagnosis: Diagnosis | None = None
    own: OwnAcceptance | None = None
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
    own_acceptance: bool = True,
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
    own_acceptance
        Predict with the accept length that the row states, where the asker assumed none.
    """
    scenario = Scenario.parse(**row.fields, build=_build(row))
    options = {"simulator": simulator, "with_interval": with_interval}
    try:
        result, own, notes = _predicted(scenario, row, options, own=own_acceptance)
    except DflashSimError as error:
        return Comparison(
            observation=row, scenario=scenario, result=None, notes=row.notes, error=error
        )
    seen, remarks = measured(row, result.values)
    diagnosis = explain(result, row, seen, accept_known=own is not None) if with_causes else None
    return Comparison(
        observation=row,
        scenario=result.scenario,
        result=result,
        metrics=tuple(_metrics(row, seen, result, own)),
        diagnosis=diagnosis,
        own=own,
        notes=(*row.notes, *remarks, *notes),
    )


def _build(row: Observation) -> str | None:
    """The row's build of the engine; None for the one that the engine sheet is of."""
    name = row.fields.get("engine", Scenario.model_fields["engine"].default)
    engine = load_engine(name)
    return None if engine.is_home(row.build) else row.build


def _predicted(
    scenario: Scenario, row: Observation, options: Mapping[str, Any], *, own: bool
) -> tuple[Result, OwnAcceptance | None, list[str]]:
    """A prediction, with the accept length that the row states, unless the asker assumed one.

    Where none is published, that of the gaps between tokens will do.
    """
    plain, notes = "speedup" in row.metrics, []
    setup = resolve(scenario)
    found = accept_length(row.metrics, setup.block) if setup.speculative else None
    to_expect = scenario.acceptance is None and _published(setup, inferred=_states(found))
    if found is not None and scenario.acceptance is None and not to_expect:
        length = min(max(found.of(row.metrics), 1.0), float(setup.block))
        given = Scenario.parse(**scenario.model_dump() | {"acceptance": f"al:{length:.4g}"})
        setup = resolve(given)
        notes.append(
            f"no accept length is published for this scenario: {length:.4g} is the file's own"
        )

    def predicted(setup: Setup, **how: Any) -> Result:
        return predict(setup.scenario, setup=setup, **{**options, **how})

    if found is not None and own and _states(found) and "acceptance" not in row.assumed:
        short = {"with_baseline": False, "with_interval": False}
        expected = predicted(setup, **short)
        seen = at_own_length(expected, found, row.metrics, lambda s: predicted(s, **short))
        if seen is not None:
            at, without = seen
            without = without if to_expect else replace(without, expected=None)
            return predicted(at, with_baseline=plain), without, notes
    return predicted(setup, with_baseline=plain), None, notes


def _states(found: AcceptLength | None) -> bool:
    return found is not None and found.name != ""


def _published(setup: Setup, *, inferred: bool) -> bool:
    """Return True if an acceptance of its scenario is published; or ``inferred``, if that will do.

    Plain decoding needs none.
    """
    try:
        known = setup.expectation
    except MissingProfileError:
        return False
    return known is None or inferred or not known.inferred


def _metrics(
    row: Observation, seen: dict[str, float], result: Result, own: OwnAcceptance | None
) -> Iterable[Metric]:
    values = as_measured(result.values, row)
    if result.speedup is not None:
        values["speedup"] = result.speedup
    # What was predicted with would be compared with itself.
    with_own = result.scenario.acceptance and "acceptance" not in row.fields
    known = {*ACCEPTANCE, "accept_rate"} if own is not None or with_own else set()
    if "num_prompts" in row.assumed:  # what hangs on how many requests there were
        known |= {*TOTALS, "verify_steps"}
    for field in load_schema():
        name = field.name
        if name not in seen or name not in values or name in known:
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
