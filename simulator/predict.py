"""Scenario -> Result: draw the workload, run an engine, reduce, compare with plain decoding."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dflash_sim.jobs.meanwhile import meanwhile
from dflash_sim.profiles.one_look import one_look
from dflash_sim.profiles.sheets import PublishedPoint
from dflash_sim.profiles.units import in_percent
from dflash_sim.simulator.caveats import overload, same_latents
from dflash_sim.simulator.cost.parts import EVIDENCE
from dflash_sim.simulator.engine.metrics import Summary, queue_growth, summarise
from dflash_sim.simulator.engine.records import Run, without_times
from dflash_sim.simulator.intervals import (
    Sensitivity,
    batch_of,
    intervals,
    sensitivity,
    untimed_sd,
)
from dflash_sim.simulator.published import nearest_published
from dflash_sim.simulator.requests.draws import draw_commits, draw_latent
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.laws import HistogramAcceptance, NoSpeculation
from dflash_sim.simulator.requests.mixtures import MixedAcceptance
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.simulator.trial import beside, build_workload, run_engine


@dataclass(frozen=True, kw_only=True)
class _How:
    """What was asked for besides the scenario."""

    simulator: str
    with_interval: bool
    keep_runs: bool


# The latest predictions of plain decoding, and how they were asked for: questions about one server
# that differ in how it drafts share them.
_BASELINES: "deque[tuple[_How, Result]]" = deque(maxlen=2**2)


@dataclass(frozen=True)
class Result:
    """A prediction.

    Parameters
    ----------
    values
        Means over runs, by result-schema name (milliseconds and tokens per second).
    sensitivity
        How the metrics answer to what is uncertain; None if not asked for.
    intervals
        90 % intervals of a measurement, by metric name and ``speedup``; empty if not asked for.
    baseline
        The same scenario without speculation; None for plain decoding.
    evidence
        Shares of the simulated time that are measured, fitted, roofline and assumed [1].
    published
        The nearest published point of the same scenario, and our relative error against it.
    runs
        What was simulated, without its times, where it was asked for.
    """

    scenario: Scenario
    setup: Setup
    expectation: Expectation | None
    values: dict[str, float]
    evidence: dict[str, float]
    accept_histogram: list[int]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    sensitivity: Sensitivity | None = field(default=None, repr=False)
    baseline: "Result | None" = None
    published: PublishedPoint | None = None
    warnings: tuple[str, ...] = ()
    simulator_used: str = "leap"
    per_run: list[dict[str, float]] = field(default_factory=list, repr=False)
    runs: tuple[Run, ...] = field(default=(), repr=False, compare=False)

    @property
    def speedup(self) -> float | None:
        """Throughput over plain decoding."""
        if self.baseline is None:
            return None
        return self.values["output_throughput"] / self.baseline.values["output_throughput"]

    @property
    def published_fitted(self) -> tuple[str, ...]:
        """Name what was fitted on the published point; if anything was, it proves nothing."""
        point, fit = self.published, self.setup.calibration
        if point is None:
            return ()
        used = fit is not None and point.source_id in fit.about.get("sources", ())
        return (*point.fitted_what, *([f"calibration {fit.name}"] if fit and used else []))

    @property
    def published_error(self) -> float | None:
        """Relative error of the throughput against the published point."""
        if self.published is None:
            return None
        return self.values["output_throughput"] / self.published.output_tok_s - 1


def simulate(
    setup: Setup, expectation: Expectation | None, *, run: int, simulator: str = "auto"
) -> tuple[Summary, Run]:
    """Run number ``run`` of a scenario: its own streams of lengths, arrivals and acceptance."""
    seeds = np.random.SeedSequence([setup.scenario.seed, run]).spawn(3)
    lengths, arrivals, acceptance = (np.random.default_rng(s) for s in seeds)
    workload = build_workload(setup, lengths, arrivals)
    law = expectation.acceptance if expectation else NoSpeculation()
    if setup.policy is None:
        draws = draw_commits(law, workload, acceptance)
    else:
        draws = draw_latent(law, workload, acceptance, spread=setup.policy.spread)
    record = run_engine(setup, workload, draws, simulator=simulator)
    shown = draws if setup.speculative else None
    step = setup.step if setup.policy is None else setup.widths
    summary = summarise(
        record,
        workload,
        step=step,
        host=setup.host,
        draws=shown,
        stream_interval=setup.scenario.stream_interval,
    )
    return summary, record


def predict(
    scenario: Scenario,
    *,
    simulator: str = "auto",
    with_baseline: bool = True,
    with_interval: bool = True,
    baseline: "Result | None" = None,
    setup: Setup | None = None,
    keep_runs: bool = False,
    on_run: Callable[[int], None] | None = None,
) -> Result:
    """Answer a scenario.

    Parameters
    ----------
    simulator
        ``auto``, ``leap`` or ``event``.
    with_baseline
        Also predict plain decoding, for the speed-up.
    with_interval
        Also the 90 % intervals, which take some dozen short runs more.
    baseline
        The prediction of plain decoding, where it is known already.
    setup
        A resolved scenario, to reuse its price tables or changed constants.
    keep_runs
        Keep what is simulated.
    on_run
        Called with the number of each finished run.
    """
    how = _How(simulator=simulator, with_interval=with_interval, keep_runs=keep_runs)
    with one_look():
        setup = setup or resolve(scenario)
        if baseline is not None or not with_baseline or not setup.speculative:
            return _predict(scenario, setup, how, lambda: baseline, on_run)
        with _plain_decoding(setup, scenario, how) as plain:
            return _predict(scenario, setup, how, plain, on_run)


def _predict(
    scenario: Scenario,
    setup: Setup,
    how: _How,
    plain: Callable[[], "Result | None"],
    on_run: Callable[[int], None] | None,
) -> Result:
    expectation = setup.expectation
    summaries, growths, used = [], [], "leap"
    kept: list[Run] = []  # all of them, or the first
    for run in range(scenario.runs):
        summary, record = simulate(setup, expectation, run=run, simulator=how.simulator)
        summaries.append(summary)
        growths.append(queue_growth(record) if scenario.rate is not None else 0.0)
        if how.keep_runs or not run:
            kept.append(without_times(record) if run else record)
        used = record.engine
        if on_run is not None:
            on_run(run)
    evidence = np.sum([s.evidence_s for s in summaries], axis=0)
    warnings = doubts(setup)
    per_run = [s.values for s in summaries]
    own, found = None, {}
    if how.with_interval:
        # How an answer moves with what is uncertain is taken at the full width.
        fixed = setup.policy is None
        own = sensitivity(setup, kept[0]) if fixed else sensitivity(setup.under(None))
    baseline = plain()
    if own is not None:
        found = intervals(
            setup,
            own,
            per_run,
            plain=baseline.sensitivity if baseline else None,
            plain_runs=baseline.per_run if baseline else (),
        )
    result = Result(
        scenario=scenario,
        setup=setup,
        expectation=expectation,
        values=_means(summaries),
        evidence=dict(zip(EVIDENCE, (evidence / evidence.sum()).tolist(), strict=True)),
        accept_histogram=_histogram(summaries),
        intervals=found,
        sensitivity=own,
        baseline=baseline,
        warnings=tuple(warnings),
        simulator_used=used,
        per_run=per_run,
        runs=tuple(without_times(r) for r in kept) if how.keep_runs else (),
    )
    return replace(
        result,
        published=nearest_published(setup),
        warnings=(
            *warnings,
            *overload(
                scenario, setup.engine, setup.device.name, result.values, float(np.mean(growths))
            ),
            *same_latents(scenario, setup.model, setup.tp, setup.memory, result.values),
        ),
    )


@contextmanager
def _plain_decoding(setup: Setup, scenario: Scenario, how: _How) -> Iterator[Callable[[], Result]]:
    """Predict the baseline meanwhile, or know what this process predicted for the same server."""
    plain = beside(setup, scenario.without_speculation(tp=setup.tp))
    known = next((r for kept, r in list(_BASELINES) if kept == how and _same(r.setup, plain)), None)
    if known is not None:
        found = replace(known, published=nearest_published(plain))
        yield lambda: found
        return

    def predicted() -> dict[str, Any]:
        """Return what another process sends: all but what both know."""
        found = predict(
            plain.scenario,
            simulator=how.simulator,
            with_baseline=False,
            with_interval=how.with_interval,
            setup=plain,
            keep_runs=how.keep_runs,
        )
        return {name: value for name, value in vars(found).items() if name != "setup"}

    def kept() -> Result:
        found = Result(setup=plain, **later())
        if not how.keep_runs:
            _BASELINES.appendleft((how, found))
        return found

    with meanwhile(predicted) as later:
        yield kept


def _same(one: Setup, other: Setup) -> bool:
    """Return True if two setups are equal; tables and calibrations are what was read once."""
    if one.tables is not other.tables or one.measured is not other.measured:
        return False
    return one.calibration is other.calibration and one == other


def doubts(setup: Setup) -> list[str]:
    """Return what to distrust of a server and of its acceptance, before anything is run."""
    expectation = setup.expectation
    warnings = list(setup.warnings)
    if setup.tables is None and setup.measured is None:
        warnings.append(
            f"no operator times for {setup.device.name}: every kernel is a roofline estimate"
        )
    elif (sd := untimed_sd(setup)) > max(setup.engine.fit.discrepancy):
        batch = batch_of(setup)
        share, (most, *rest) = setup.step.untimed(batch), setup.step.untimed_ops(batch)
        more = f" and {len(rest)} more" if rest else ""
        warnings.append(
            f"unconfirmed: up to {in_percent(share)} of a step is a roofline estimate, as no table "
            f"of {setup.device.name} has kernels of {setup.model.name} ({most}{more}); the "
            f"interval allows for +-{in_percent(sd)} more"
        )
    if setup.lender is not None:
        warnings.append(
            f"no operator times for {setup.device.name}: those of {setup.lender.name} are scaled "
            "by the rates of the two sheets"
        )
    if pool := setup.step.cycle.pool_tokens:
        warnings.append(
            f"{setup.backend} casts all {pool:,} tokens of the cache of {setup.model.name} to bf16 "
            "in each layer of each step (sgl-project/sglang issue 35291); with --kv-cache-dtype "
            "bfloat16 it does not, nor does --attention-backend flashmla on Hopper"
        )
    if expectation is not None and expectation.evidence == "assumed" and expectation.rel_err:
        warnings.append(f"acceptance is {expectation.source}, +-{in_percent(expectation.rel_err)}")
    law = expectation.acceptance if expectation else None
    parts = law.parts if isinstance(law, MixedAcceptance) else (law,)
    return warnings + [
        f"{in_percent(part.cut, 1)} of the histogram's steps accepted more than the "
        f"{part.block - 1} drafts of block {part.block}: they are counted as {part.block - 1}"
        for part in parts
        if isinstance(part, HistogramAcceptance) and part.cut
    ]


def _means(summaries: list[Summary]) -> dict[str, float]:
    names = summaries[0].values
    return {n: float(np.mean([s.values[n] for s in summaries])) for n in names}


def _histogram(summaries: list[Summary]) -> list[int]:
    total = np.sum([s.accept_histogram for s in summaries], axis=0)
    return [int(x) for x in total]
