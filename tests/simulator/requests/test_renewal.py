"""Closed forms against simulation, brute force and each other."""

import math

import numpy as np
import pytest
from closed_forms import (
    asymptotic_bounds,
    balanced_bounds,
    birth_death_stationary,
    closed_loop_tok_s,
    commit_pmf,
    cycles_pmf,
    drain_makespan,
    expected_cycles,
    expected_cycles_asymptotic,
    geometric,
    length_biased_mean,
    mean_value_analysis,
    overshoot_pmf,
    processor_sharing_sojourn_s,
    slot_efficiency,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dflash_sim.simulator.requests.draws import draw_runs
from dflash_sim.simulator.requests.parse import ParametricAcceptance, TableAcceptance
from dflash_sim.simulator.requests.renewal import commit_moments, request_accept_length
from dflash_sim.simulator.requests.survival import FrailtyWeibull, fit_one

fixed = settings(derandomize=True, deadline=None, max_examples=60)

CYCLE = fit_one(5.64, 16, beta=1.17).survival(15)


@fixed
@given(commit=st.integers(1, 9), tokens=st.integers(0, 60))
def test_deterministic_commits_need_the_ceiling(commit: int, tokens: int) -> None:
    s = np.ones(commit - 1)
    assert expected_cycles(s, tokens)[-1] == math.ceil(tokens / commit)
    assert cycles_pmf(s, tokens)[math.ceil(tokens / commit)] == 1


@fixed
@given(a=st.floats(0.1, 0.9), gamma=st.integers(1, 8), tokens=st.integers(1, 60))
def test_cycle_distribution_has_the_mean_of_the_recursion(
    a: float, gamma: int, tokens: int
) -> None:
    s = geometric(a, gamma).s
    pmf = cycles_pmf(s, tokens)
    assert pmf.sum() == pytest.approx(1, abs=1e-12)
    assert pmf.min() > -1e-12
    assert pmf @ np.arange(tokens + 1) == pytest.approx(expected_cycles(s, tokens)[-1], rel=1e-10)


def test_drawn_runs_take_the_expected_cycles() -> None:
    law = ParametricAcceptance(fit_one(5.64, 16, beta=1.17), 16)
    cycles = draw_runs(law, np.random.default_rng(2), np.full(40_000, 127)).cycles
    exact = expected_cycles(CYCLE.s, 127)[-1]
    error = cycles.std() / math.sqrt(cycles.size)
    assert abs(cycles.mean() - exact) < 4 * error
    assert abs(cycles.mean() - 127 / CYCLE.mean_accept_length) > 20 * error


@pytest.mark.parametrize("tokens", [64, 256, 1024])
def test_asymptotic_cycles(tokens: int) -> None:
    exact = expected_cycles(CYCLE.s, tokens)[-1]
    assert expected_cycles_asymptotic(CYCLE.s, tokens) == pytest.approx(exact, abs=1e-4)


def test_wald_identity() -> None:
    u, pmf = expected_cycles(CYCLE.s, 500)[-1], overshoot_pmf(CYCLE.s)
    emitted = 500 + pmf @ np.arange(pmf.size)
    assert emitted == pytest.approx(CYCLE.mean_accept_length * u, rel=1e-9)


def test_overshoot_of_long_runs() -> None:
    s = FrailtyWeibull(lam=-math.log(0.8), beta=1.2).survival(7)
    runs = draw_runs(TableAcceptance(s, 8), np.random.default_rng(3), np.full(50_000, 200))
    used = np.arange(runs.commits.shape[1]) < runs.cycles[:, None]
    over = (runs.commits * used).sum(axis=1, dtype=np.int64) - 200
    counts = np.bincount(over, minlength=8)
    expected = overshoot_pmf(s.s) * counts.sum()
    assert stats.chisquare(counts, expected).pvalue > 1e-4
    assert stats.chisquare(counts, commit_pmf(s.s) * counts.sum()).pvalue < 1e-100


@pytest.mark.parametrize(("tokens", "bias"), [(32, -0.080), (128, -0.021), (512, -0.005)])
def test_tokens_over_mean_cycles_is_low_for_short_requests(tokens: int, bias: float) -> None:
    ratio = tokens / expected_cycles(CYCLE.s, tokens - 1)[-1] / CYCLE.mean_accept_length
    assert ratio - 1 == pytest.approx(bias, abs=1e-3)


@pytest.mark.parametrize(("tokens", "tolerance"), [(64, 4e-3), (128, 1e-3), (512, 1e-4)])
def test_mean_of_tokens_over_cycles_is_nearly_unbiased(tokens: int, tolerance: float) -> None:
    pmf = cycles_pmf(CYCLE.s, tokens - 1)
    exact = (tokens / np.arange(1, pmf.size) * pmf[1:]).sum()
    assert request_accept_length(CYCLE.s, tokens) == pytest.approx(exact, rel=tolerance)
    assert exact == pytest.approx(CYCLE.mean_accept_length, rel=2e-3)


def test_request_accept_length_keeps_leading_axes() -> None:
    s = np.stack([CYCLE.s, CYCLE.s**2])
    both = request_accept_length(s, [100, 200, 300])
    assert both.shape == (2, 3)
    assert both[1, 2] == request_accept_length(s[1], 300)
    assert commit_moments(s)[0].shape == (2,)


def test_in_flight_requests_are_length_biased() -> None:
    rng = np.random.default_rng(6)
    lengths = rng.lognormal(0, 1, 200_000)
    ends = np.cumsum(lengths)
    seen = lengths[np.searchsorted(ends, rng.uniform(0, ends[-1], 200_000))]
    error = seen.std() / math.sqrt(seen.size)
    assert abs(seen.mean() - length_biased_mean(lengths)) < 4 * error
    assert length_biased_mean(lengths) > 2 * lengths.mean()
    assert length_biased_mean(np.full(5, 3.0)) == 3


def test_refilled_slots_reach_the_renewal_throughput() -> None:
    rng = np.random.default_rng(9)
    law = TableAcceptance(CYCLE, 16)
    lengths = rng.integers(50, 150, 60_000)
    cycles = draw_runs(law, rng, lengths).cycles.reshape(32, -1)
    horizon = int(cycles.sum(axis=1).min())
    done = np.cumsum(cycles, axis=1) <= horizon
    rate = (lengths.reshape(32, -1) * done).sum() / (horizon * 0.01)
    u = expected_cycles(CYCLE.s, 150)
    formula = closed_loop_tok_s(conc=32, tokens=99.5, cycles=float(u[50:150].mean()), step_s=0.01)
    assert rate == pytest.approx(formula, rel=0.005)
    naive = 32 * CYCLE.mean_accept_length / 0.01
    assert rate < 0.98 * naive


def test_drain_of_exponential_jobs() -> None:
    rng = np.random.default_rng(11)
    jobs, slots = 128, 32
    ends = np.zeros((2000, slots))
    for work in rng.exponential(size=(jobs, 2000)):
        ends[np.arange(2000), ends.argmin(axis=1)] += work
    makespan = ends.max(axis=1)
    error = makespan.std() / math.sqrt(makespan.size)
    assert abs(makespan.mean() - drain_makespan(jobs=jobs, slots=slots)) < 4 * error
    assert slot_efficiency(jobs=128, slots=32) == pytest.approx(0.567, abs=0.001)
    assert drain_makespan(jobs=3, slots=8) == pytest.approx(1 + 1 / 2 + 1 / 3)


demand_lists = st.lists(st.floats(0.01, 2), min_size=1, max_size=5)


@fixed
@given(demands=demand_lists, users=st.integers(1, 40), think_s=st.floats(0, 20))
def test_bounds_enclose_the_exact_throughput(
    demands: list[float], users: int, think_s: float
) -> None:
    exact, queue = mean_value_analysis(demands, users=users, think_s=think_s)
    outer = asymptotic_bounds(demands, users=users, think_s=think_s)
    inner = balanced_bounds(demands, users=users, think_s=think_s)
    slack = 1 + 1e-9
    assert outer[0] <= inner[0] * slack
    assert inner[0] <= exact * slack
    assert exact <= inner[1] * slack
    assert inner[1] <= outer[1] * slack
    assert queue.sum() + exact * think_s == pytest.approx(users, rel=1e-9)  # Little, everywhere
    assert np.all(exact * np.array(demands) <= slack)  # utilisation law


@fixed
@given(users=st.integers(1, 30), think_s=st.floats(0.1, 20), demand=st.floats(0.05, 2))
def test_one_station_is_the_machine_repairman(users: int, think_s: float, demand: float) -> None:
    p = birth_death_stationary((users - np.arange(users)) / think_s, np.full(users, 1 / demand))
    exact, _ = mean_value_analysis([demand], users=users, think_s=think_s)
    assert exact == pytest.approx((1 - p[0]) / demand, rel=1e-9)


def test_two_stations_against_the_markov_chain() -> None:
    d, n = np.array([0.7, 0.3]), 4
    generator = np.zeros((n + 1, n + 1))  # state: customers at the first station
    for k in range(n + 1):
        if k > 0:
            generator[k, k - 1] = 1 / d[0]
        if k < n:
            generator[k, k + 1] = 1 / d[1]
        generator[k, k] = -generator[k].sum()
    system = np.vstack([generator.T, np.ones(n + 1)])
    p = np.linalg.lstsq(system, np.append(np.zeros(n + 1), 1))[0]
    exact, queue = mean_value_analysis(d, users=n, think_s=0)
    assert exact == pytest.approx((1 - p[0]) / d[0], rel=1e-9)
    assert queue[0] == pytest.approx(p @ np.arange(n + 1), rel=1e-9)


@pytest.mark.parametrize("load", [0.2, 0.7, 0.9])
def test_processor_sharing_by_little(load: float) -> None:
    p = birth_death_stationary(np.full(2000, load), np.ones(2000))
    in_system = p @ np.arange(p.size)
    sojourn = processor_sharing_sojourn_s(service_s=1, load=load)
    assert in_system / load == pytest.approx(sojourn, rel=1e-9)


def test_batched_decode_is_a_birth_death_chain() -> None:
    """Poisson arrivals, exponential work, equal progress; step time grows with the batch."""
    n = np.arange(1, 9)
    arrival, death = 1.5, n / (0.3 + 0.1 * n)
    p = birth_death_stationary(np.full(8, arrival), death)
    rng, state, spent, clock = np.random.default_rng(13), 0, np.zeros(9), 0.0
    for _ in range(100_000):
        up = arrival if state < 8 else 0.0
        down = death[state - 1] if state else 0.0
        stay = rng.standard_exponential() / (up + down)
        spent[state] += stay
        clock += stay
        state += 1 if rng.random() < up / (up + down) else -1
    assert spent / clock == pytest.approx(p, abs=0.01)
    constant = birth_death_stationary(np.full(8, arrival), np.full(8, death[0]))
    assert np.abs(spent / clock - constant).max() > 0.1
