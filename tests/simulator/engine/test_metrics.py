"""Records reduce to the numbers of a benchmark, by identities that leave no room."""

from dataclasses import fields, replace
from typing import Any, cast

import numpy as np
import pytest
from closed_forms import length_biased_mean
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import NO_HOST, SyntheticStep, System, closed, crowded, systems

from dflash_sim.simulator.cost.cycle import PHASES
from dflash_sim.simulator.cost.parts import EVIDENCE
from dflash_sim.simulator.cost.step_table import StepModel
from dflash_sim.simulator.engine import metrics
from dflash_sim.simulator.engine.metrics import (
    Summary,
    _wide_gaps,
    inter_token_gaps,
    quantiles,
    served,
    summarise,
)
from dflash_sim.simulator.engine.records import DECODE, PREFILL, Loops, Run
from dflash_sim.simulator.predict import build_workload, predict, simulate
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.laws import (
    FixedAcceptance,
    ParametricAcceptance,
    SglangSimulated,
)
from dflash_sim.simulator.requests.parse import accept_lengths
from dflash_sim.simulator.requests.renewal import commit_moments
from dflash_sim.simulator.requests.survival import FrailtyWeibull, fit_one
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

SMALL = systems(longest=40)


def summary(system: System) -> tuple[Summary, Run]:
    """One run and what it reduces to."""
    run = system.event()
    step: Any = replace(system.step, v1=system.mode == "v1", block=system.limits.block, _tables={})
    draws = system.draws if system.limits.speculative else None
    return summarise(run, system.workload, step=step, host=system.host, draws=draws), run


def decodes(system: System) -> bool:
    """Whether some measured answer is longer than its prefill token."""
    return bool((system.workload.osl[system.workload.measured] > 1).any())


# ---- inter-token latency -----------------------------------------------------------------


@settings(max_examples=30)
@given(SMALL)
def test_inter_token_gaps_fill_the_answers(system: System) -> None:
    """One gap per cycle of every request, and together the time from first token to last."""
    # With results that take no time, two steps may end at once.
    run = system.but(host=replace(system.host, process_s=1e-4)).event()
    done = np.isfinite(run.finish_s) & system.workload.measured
    gaps, weights = inter_token_gaps(run, done)
    assert weights.sum() == run.cycles[done].sum()
    streaming_s = (run.finish_s - run.first_token_s)[done].sum()
    assert gaps @ weights == pytest.approx(streaming_s, rel=1e-9, abs=1e-12)
    assert (gaps > 0).all()


@settings(max_examples=30)
@given(crowded())
def test_gaps_with_retraction_leave_no_time_out(system: System) -> None:
    """A retracted request is counted in the steps it misses: more gaps, never more time."""
    run = system.but(host=replace(system.host, process_s=1e-4)).event()
    gaps, weights = inter_token_gaps(run, np.isfinite(run.finish_s))
    streaming_s = (run.finish_s - run.first_token_s).sum()
    assert (gaps > 0).all()
    assert gaps @ weights <= streaming_s * (1 + 1e-9) + 1e-12
    if not run.retractions:
        assert gaps @ weights == pytest.approx(streaming_s, rel=1e-9, abs=1e-12)


def test_gaps_of_one_request_are_its_emissions() -> None:
    system = System.of(closed([9, 30], conc=2), SyntheticStep(fixed_s=1e-3, prefill_fixed_s=5e-3))
    run = system.event()
    gaps, weights = inter_token_gaps(run, np.array([True, False]))
    emitted = run.emit_s[run.kind == DECODE][:8]
    expected = np.diff(emitted, prepend=run.first_token_s[0])
    np.testing.assert_allclose(np.sort(np.repeat(gaps, weights.astype(int))), np.sort(expected))


def test_chunks_of_several_tokens_are_farther_apart() -> None:
    """Eight tokens after the first, sent four at a time: two gaps over the same time."""
    system = System.of(closed([9], conc=1), SyntheticStep(fixed_s=1e-3))
    run = system.event()
    whole_ms = (run.finish_s - run.first_token_s)[0] * 1e3
    for interval, chunks in ((1, 8), (3, 3), (4, 2), (100, 1)):
        found = summarise(
            run,
            system.workload,
            step=cast(StepModel, system.step),
            host=system.host,
            draws=None,
            stream_interval=interval,
        )
        assert found.values["mean_itl_ms"] == pytest.approx(whole_ms / chunks)


@settings(max_examples=20)
@given(SMALL, st.integers(2, 9))
def test_chunks_never_come_more_often_than_cycles(system: System, interval: int) -> None:
    """An answer streams no longer for being sent in larger pieces."""
    assume(decodes(system))
    run = system.but(host=replace(system.host, process_s=1e-4)).event()
    seen = served(run, system.workload)
    gaps, chunks = _wide_gaps(run, seen, interval)
    cycles = run.cycles[seen.done]
    assert (chunks <= cycles[cycles > 0]).all()
    assert gaps @ chunks == pytest.approx((seen.e2e - seen.ttft).sum(), rel=1e-9, abs=1e-12)


@pytest.mark.slow
@settings(max_examples=20)
@given(SMALL)
def test_a_closed_loop_is_never_above_its_clients(system: System) -> None:
    """At the client's end each of them has one request in flight, and none between two."""
    assume(decodes(system) and system.workload.arrival_s is None)
    assume(system.workload.measured.all())
    values = summary(system)[0].values
    assert values["concurrency"] <= system.workload.conc * (1 + 1e-9)
    one = closed([20] * 5, conc=1)
    alone = System.of(one, SyntheticStep(fixed_s=1e-3), turnaround_s=5e-3)
    assert summary(alone)[0].values["concurrency"] == pytest.approx(1.0)


def test_a_pause_between_answers_is_no_gap() -> None:
    """Two answers ten seconds apart: nobody waited ten seconds for a token."""
    work = replace(closed([20, 20], conc=2), arrival_s=np.array([0.0, 10.0]))
    for mode in ("v2", "v2-sync"):
        system = System.of(work, SyntheticStep(fixed_s=1e-3), mode=mode)
        values = summary(system)[0].values
        assert values["p99_itl_ms"] == pytest.approx(1.0)
        assert values["mean_tpot_ms"] == pytest.approx(1.0)


# ---- totals ------------------------------------------------------------------------------


@settings(max_examples=30)
@given(SMALL)
def test_totals(system: System) -> None:
    assume(decodes(system))
    result, run = summary(system)
    values, work = result.values, system.workload
    m = work.measured
    span_s = run.finish_s[m].max() - np.nanmin(run.arrival_s) + run.client_s
    assert values["completed"] == m.sum()
    assert values["output_throughput"] * span_s == pytest.approx(work.osl[m].sum())
    assert values["total_throughput"] * span_s == pytest.approx((work.osl + work.isl)[m].sum())
    e2e_s = (run.finish_s - run.arrival_s)[m] + run.client_s
    assert values["concurrency"] == pytest.approx(  # Little
        values["request_throughput"] * values["mean_e2e_latency_ms"] / 1e3
    )
    assert values["p99_e2e_latency_ms"] <= e2e_s.max() * 1e3 * (1 + 1e-12)
    for name in ("ttft", "tpot", "itl", "e2e_latency"):
        row = [values[f"{q}_{name}_ms"] for q in ("median", "p90", "p95", "p99")]
        assert row == sorted(row)


@settings(max_examples=30)
@given(SMALL)
def test_every_second_rests_on_something(system: System) -> None:
    """Evidence adds up to GPU work and the gaps the GPU waited in."""
    assume(decodes(system))
    result, run = summary(system)
    gaps_s = np.diff(run.gpu_end_s, prepend=0.0) - run.gpu_s
    waited_s = np.maximum(0.0, gaps_s)[~run.after_idle].sum()
    assert result.evidence_s.sum() == pytest.approx(run.gpu_s.sum() + waited_s, rel=1e-9)
    values = result.values
    phases = sum(values[f"{p}_ms"] for p in PHASES)
    decode = run.kind == DECODE
    assert phases == pytest.approx(run.gpu_s[decode].mean() * 1e3, rel=1e-9)
    assert values["step_ms"] == pytest.approx(phases + values["host_exposed_ms"], rel=1e-9)
    busy = run.gpu_s.sum() / (run.gpu_end_s[-1] - run.gpu_start_s[0])
    assert values["gpu_busy"] == pytest.approx(min(1.0, busy))
    taken_s = run.gpu_end_s - run.gpu_start_s
    prefill_s = taken_s[run.kind == PREFILL].sum()
    assert values["prefill_share"] == pytest.approx(prefill_s / taken_s.sum())
    assert values["mean_batch"] == pytest.approx(run.batch[decode].mean())


def test_utilisation_law() -> None:
    """U = X D: what each request asks of the GPU, times how many leave per second."""
    step = SyntheticStep(per_request_s=1e-3, prefill_per_token_s=1e-4)
    law = ParametricAcceptance(FrailtyWeibull(0.3, 1.1, 0.1), 6)
    for mode, host in (("v1", NO_HOST), ("v2", replace(NO_HOST, recv_s=4e-3))):
        system = System.of(
            closed(np.arange(20, 60), conc=5), step, acceptance=law, mode=mode, host=host
        )
        run = system.event()
        span_s = float(run.gpu_end_s[-1])
        wasted = run.batch[run.kind == DECODE].sum() - run.cycles.sum()
        demand_s = 1e-3 * (run.cycles.sum() + wasted) / 40 + 1e-4 * 8
        assert run.gpu_s.sum() / span_s == pytest.approx(40 / span_s * demand_s, rel=1e-9)


# ---- accept lengths ----------------------------------------------------------------------


@settings(max_examples=30)
@given(SMALL)
def test_the_accept_histogram_holds_every_cycle(system: System) -> None:
    assume(system.limits.speculative and decodes(system))
    result, run = summary(system)
    m = system.workload.measured
    hist = result.accept_histogram
    assert hist.sum() == run.cycles[m].sum() == result.values["verify_steps"]
    assert hist @ np.arange(hist.size) == (run.committed - run.cycles)[m].sum()
    assert hist.size <= system.limits.block
    mean = 1 + hist @ np.arange(hist.size) / hist.sum()
    assert result.values["accept_length_cycle"] == pytest.approx(mean)
    rate = (mean - 1) / (system.limits.block - 1)
    assert result.values["accept_rate"] == pytest.approx(rate)


@settings(max_examples=30)
@given(SMALL)
def test_four_accept_lengths(system: System) -> None:
    """Each is its definition; the server's ratio of sums is sum N over sum cycles."""
    assume(system.limits.speculative and decodes(system))
    result, run = summary(system)
    values = result.values
    m = system.workload.measured & (system.workload.osl > 1)
    n, nu = system.workload.osl[m], run.cycles[m]
    assert values["accept_length"] == pytest.approx((n / nu).mean())
    assert values["accept_length_harmonic"] == pytest.approx(1 / (nu / n).mean())
    assert values["accept_length_token_weighted"] == pytest.approx((n * n / nu).sum() / n.sum())
    assert values["accept_length_harmonic"] <= values["accept_length"] * (1 + 1e-12)
    per_cycle = run.committed[m].sum() / nu.sum()
    assert values["accept_length_cycle"] == pytest.approx(per_cycle)
    # One token comes from prefill, and less than a block is cut from the end.
    cut = (run.committed - (system.workload.osl - 1))[m].sum()
    assert per_cycle == pytest.approx((n.sum() - m.sum() + cut) / nu.sum())


def test_mean_of_ratios_exceeds_the_harmonic_by_the_squared_spread() -> None:
    """Between requests whose acceptance differs: arithmetic over harmonic - 1 = CV^2."""
    rng = np.random.default_rng(1)
    n = np.full(20_000, 1000)
    a = rng.normal(5.0, 0.6, n.size)
    lengths = accept_lengths(n, n / a, 0)
    excess = lengths.al_request_mean / lengths.al_harmonic - 1
    assert excess == pytest.approx((0.6 / 5) ** 2, rel=0.1)


def test_requests_in_flight_are_the_long_ones() -> None:
    """At a random instant the running request is length-biased: E[N^2] / E[N]."""
    rng = np.random.default_rng(2)
    osl = 1 + rng.geometric(1 / 80, 4000)
    run = System.of(closed(osl, conc=6), SyntheticStep(fixed_s=1e-3), mode="v2-sync").leap()
    instants = rng.uniform(0.05, 0.9, 3000) * run.finish_s.max()
    inside = (run.first_token_s[:, None] < instants) & (instants < run.finish_s[:, None])
    seen = np.concatenate([osl[column] for column in inside.T])
    expected = length_biased_mean(osl - 1) + 1
    assert seen.mean() == pytest.approx(expected, rel=0.06)
    assert seen.mean() > 1.5 * osl.mean()


def test_a_shared_draw_has_one_length_per_step() -> None:
    work = closed(np.full(6, 40), conc=3)
    system = System.of(work, SyntheticStep(fixed_s=1e-3), acceptance=SglangSimulated(2.5, 4))
    result, run = summary(system)
    assert result.accept_histogram.sum() == (run.kind == DECODE).sum()
    assert set(np.flatnonzero(result.accept_histogram)) <= {1, 2}
    n, nu = work.osl, run.cycles
    assert result.values["accept_length"] == pytest.approx((n / nu).mean())


def test_the_first_token_and_the_last_block_bias_the_published_accept_length() -> None:
    """SGLang's completion / verify steps: below the mean commit for short answers, then equal."""
    law = ParametricAcceptance(fit_one(5.64, 16, beta=1.17), 16)
    mu = float(commit_moments(law.survival().s)[0])
    bias = {}
    for osl in (32, 128, 512):
        system = System.of(
            closed(np.full(1500, osl), conc=64), SyntheticStep(fixed_s=1e-3), acceptance=law
        )
        run = system.leap()
        bias[osl] = run.finish_s.size * osl / run.cycles.sum() / mu - 1
    assert bias[32] == pytest.approx(-0.081, abs=0.012)
    assert bias[128] == pytest.approx(-0.021, abs=0.006)
    assert bias[512] == pytest.approx(-0.005, abs=0.003)


# ---- whole predictions -------------------------------------------------------------------

QUICK: dict[str, Any] = {
    "gpu": "h200",
    "model": "qwen3-8b",
    "tp": 1,
    "conc": 4,
    "num_prompts": 24,
    "max_new_tokens": 512,
    "runs": 2,
    "acceptance": "weibull:q=0.85,beta=1.1,theta=0.05",
}


def quick(**changed: Any) -> Scenario:
    return Scenario.parse(**(QUICK | changed))


def in_bytes(value: Any) -> Any:
    """A value of a run with its arrays as bytes."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, tuple):
        return tuple(in_bytes(part) for part in value)
    if isinstance(value, Loops):
        return tuple(in_bytes(getattr(value, f.name)) for f in fields(Loops))
    return value


def test_one_seed_one_answer() -> None:
    """The same bytes again; other runs and other seeds differ."""

    def run(seed: int, number: int) -> Run:
        setup = resolve(quick(seed=seed))
        acceptance = ParametricAcceptance(FrailtyWeibull(0.2, 1.1, 0.05), setup.block)
        return simulate(setup, Expectation(acceptance, "", "assumed", 0.0), run=number)[1]

    one, again = run(0, 0), run(0, 0)
    for f in fields(Run):
        assert in_bytes(getattr(one, f.name)) == in_bytes(getattr(again, f.name)), f.name
    for other in (run(0, 1), run(1, 0)):
        assert other.finish_s.tobytes() != one.finish_s.tobytes()


def test_evidence_shares_sum_to_one() -> None:
    result = predict(quick())
    assert set(result.evidence) == set(EVIDENCE)
    assert sum(result.evidence.values()) == pytest.approx(1, abs=1e-12)
    assert result.speedup is not None
    assert result.speedup > 1
    low, high = result.intervals["output_throughput"]
    assert low < result.values["output_throughput"] < high


def test_a_prompt_longer_than_the_answers_is_priced_to_its_end() -> None:
    """Step tables reach the longest context, whatever the cap on new tokens."""
    fixed = {"dataset": None, "isl": 40_000, "osl": 64, "conc": 1, "num_prompts": 2}
    short, long = (quick(**fixed, max_new_tokens=cap, runs=1) for cap in (64, 60_000))
    one, other = predict(short, with_baseline=False), predict(long, with_baseline=False)
    assert one.values["step_ms"] == pytest.approx(other.values["step_ms"], rel=1e-9)
    near = quick(**(fixed | {"isl": 128}), max_new_tokens=64, runs=1)
    assert one.values["step_ms"] > 1.2 * predict(near, with_baseline=False).values["step_ms"]


def test_long_dataset_prompts_are_priced_to_their_end() -> None:
    """A cap of a few tokens says nothing about prompts."""
    s = quick(dataset="mt-bench", max_new_tokens=16, runs=1)
    setup = resolve(s)
    work = build_workload(setup, np.random.default_rng(0), np.random.default_rng(1))
    predict(s, setup=setup, with_baseline=False)
    assert setup.step.table(1).ctx[-1] >= work.isl.max() + 16


def test_published_settings_are_plain_decoding_at_block_one() -> None:
    """B = 1 is the baseline: the same batches, one token per step."""
    plain = System.of(closed(np.arange(5, 40), conc=4), SyntheticStep(fixed_s=1e-3))
    block_one = System.of(
        plain.workload, plain.step, acceptance=FixedAcceptance(1, 1), speculative=True
    )
    np.testing.assert_array_equal(plain.event().emit_s, block_one.event().emit_s)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.floats(0, 1))
def test_quantiles_are_numpys(sample: list[float], share: float) -> None:
    want = np.quantile(sample, share)
    assert quantiles(np.array(sample), [share])[0] == pytest.approx(want, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("weight", [np.ones(7), np.full(7, 3.0), np.array([1.0, 4, 1, 2, 1, 3, 1])])
def test_weighted_quantiles_are_those_of_as_many_values(weight: Any) -> None:
    """NumPy's of each value repeated, whether weights are alike or not."""
    sample, shares = np.array([5.0, 1, 4, 4, 9, 2, 7]), [0.01, 0.35, 0.62, 0.9, 1.0]
    many = np.repeat(sample, weight.astype(int))
    wanted = np.quantile(many, shares, method="inverted_cdf")
    assert metrics._quantiles(sample, weight, shares).tolist() == wanted.tolist()
