"""Configured into systems with known answers, the engine gives them; and not their neighbours'."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from closed_forms import (
    asymptotic_bounds,
    balanced_bounds,
    birth_death_stationary,
    closed_loop_tok_s,
    drain_makespan,
    expected_cycles,
    mean_value_analysis,
    processor_sharing_sojourn_s,
)
from strategies import SyntheticStep, System, closed

from dflash_sim.simulator.engine.records import Run
from dflash_sim.simulator.requests.laws import (
    FixedAcceptance,
    ParametricAcceptance,
    TableAcceptance,
)
from dflash_sim.simulator.requests.survival import Survival, fit_one

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator
T = 2e-3


def sample(one: Callable[[Rng], float], runs: int, seed: int = 0) -> tuple[float, float]:
    """Mean over independent runs and its standard error."""
    rngs = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(runs)]
    values = np.array([one(rng) for rng in rngs])
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(runs)


def open_loop(
    osl: npt.NDArray[np.int64], rate: float, rng: Rng, step: SyntheticStep, **limited: int
) -> Run:
    """Plain decoding of Poisson arrivals by an engine that costs nothing but its steps."""
    work = closed(osl, conc=len(osl))
    work = replace(work, arrival_s=np.cumsum(rng.exponential(1 / rate, len(osl))))
    return System.of(work, step, mode="v2-sync", **limited).leap()


def settled_sojourn_s(run: Run) -> float:
    """Mean sojourn of arrivals after the first tenth."""
    late = slice(len(run.finish_s) // 10, None)
    return float((run.finish_s - run.arrival_s)[late].mean())


# ---- requests that are looked for now and then -------------------------------------------


@pytest.mark.parametrize("interval", [2, 10, 30])
@pytest.mark.parametrize("mode", ["v2", "v2-sync"])
def test_a_request_waits_for_half_an_interval_more(interval: int, mode: str) -> None:
    """Poisson arrivals beside a long answer meet the polls at random: uniform over an interval."""
    few, gap_s = 400, 8 * interval * T
    rng = np.random.default_rng(interval)
    at = np.concatenate([[0.0], np.cumsum(gap_s / 2 + rng.exponential(gap_s / 2, few))])
    long = int(1.1 * at[-1] / T)
    work = replace(closed([long, *[1] * few], conc=few + 1), arrival_s=at)
    waits = []
    for n in (1, interval):
        system = System.of(work, SyntheticStep(fixed_s=T), mode=mode, recv_interval=n)
        run = system.leap()
        waits.append(float((run.first_token_s - run.arrival_s)[1:].mean()))
    more_s, error_s = waits[1] - waits[0], interval * T / math.sqrt(12 * few)
    assert more_s == pytest.approx((interval - 1) / 2 * T, abs=4 * error_s)


@pytest.mark.parametrize("mode", ["v1", "v2", "v2-sync"])
def test_an_idle_server_looks_at_once(mode: str) -> None:
    """Requests that come one by one wait for nothing, whatever the interval."""
    work = replace(closed([5, 5, 5], conc=3), arrival_s=np.array([0.0, 1.0, 2.5]))
    first = [
        System.of(work, SyntheticStep(fixed_s=T), mode=mode, recv_interval=n).leap().first_token_s
        for n in (1, 1000)
    ]
    np.testing.assert_allclose(*first, rtol=1e-12)


# ---- slots refilled at once --------------------------------------------------------------


@pytest.mark.parametrize("conc", [1, 4, 9])
@pytest.mark.parametrize("commit", [1, 3, 8])
def test_renewal_reward_is_exact_for_fixed_commits(conc: int, commit: int) -> None:
    """X = c N / (nu t); overlap runs a step more per request, before its end is known."""
    osl, step = 50, SyntheticStep(fixed_s=T)
    cycles = math.ceil((osl - 1) / commit)
    for mode, wasted in (("v1", 0), ("v2-sync", 0), ("v2", 1)):
        system = System.of(
            closed(np.full(6 * conc, osl), conc=conc),
            step,
            acceptance=FixedAcceptance(commit, 8),
            mode=mode,
        )
        run = system.event()
        span_s = np.max(run.finish_s) + wasted * T  # the last request's wasted step ends the run
        expected = closed_loop_tok_s(conc=conc, tokens=osl, cycles=cycles + wasted, step_s=T)
        assert system.workload.osl.sum() / span_s == pytest.approx(expected, rel=1e-12)


def test_renewal_reward_of_random_commits() -> None:
    law = ParametricAcceptance(fit_one(5.64, 16, beta=1.17), 16)
    osl, conc, n = 128, 4, 400
    system = System.of(closed(np.full(n, osl), conc=conc), SyntheticStep(fixed_s=T), acceptance=law)

    def one(rng: Rng) -> float:
        again = System.of(
            system.workload,
            system.step,
            acceptance=law,
            seed=int(rng.integers(2**31)),
            mode="v2-sync",
        )
        finish = np.sort(again.leap().finish_s)
        return float((n - conc) * osl / finish[n - conc - 1])  # while all slots are taken

    x, se = sample(one, 12)
    cycles = float(expected_cycles(law.survival().s, osl - 1)[-1])
    expected = closed_loop_tok_s(conc=conc, tokens=osl, cycles=cycles, step_s=T)
    assert abs(x - expected) < 4 * se
    naive = conc * law.survival().mean_accept_length / T
    assert abs(x - naive) > 8 * se


def two_slot_chain(
    tau: Floats, *, tokens: int, step_s: float, prefill_s: tuple[float, float], overlap: bool
) -> float:
    """Requests per second of two slots, exactly: the chain of what each slot has left.

    A slot holds 1..tokens left, ``unknown`` (ended by the step in flight) or ``free``.
    """
    unknown, free = 0, tokens + 1
    size = tokens + 2
    move = np.zeros((size, size, size, size))
    served = np.zeros((size, size))
    seconds = np.zeros((size, size))
    ended = unknown if overlap else free

    def decoded(left: int) -> dict[int, float]:
        if left == unknown:
            return {free: 1.0}
        out: dict[int, float] = {}
        for commit, p in enumerate(tau, start=1):
            to = left - commit if commit < left else ended
            out[to] = out.get(to, 0.0) + p
        return out

    for a in range(size):
        for b in range(size):
            admitted = (a == free) + (b == free)
            if admitted:
                to = [tokens if s == free else free if s == unknown else s for s in (a, b)]
                move[a, b, to[0], to[1]] = 1
                served[a, b], seconds[a, b] = admitted, prefill_s[admitted - 1]
                continue
            seconds[a, b] = step_s
            for i, p in decoded(a).items():
                for j, q in decoded(b).items():
                    move[a, b, i, j] += p * q
    matrix = move.reshape(size**2, size**2)
    balance = np.vstack([matrix.T - np.eye(size**2), np.ones(size**2)])
    weights = np.linalg.lstsq(balance, np.append(np.zeros(size**2), 1.0), rcond=None)[0]
    return float(weights @ served.ravel() / (weights @ seconds.ravel()))


@pytest.mark.parametrize("mode", ["v2-sync", "v2"])
def test_two_slots_are_the_exact_markov_chain(mode: str) -> None:
    s, tokens = Survival.table([0.6, 0.25]), 5
    step = SyntheticStep(fixed_s=T, prefill_fixed_s=0.7 * T, prefill_per_token_s=0.02 * T)
    prefill_s = (0.86 * T, 1.02 * T)  # of one and two prompts of 8 tokens
    n = 4000

    def one(rng: Rng) -> float:
        system = System.of(
            closed(np.full(n, tokens + 1), conc=2),
            step,
            acceptance=TableAcceptance(s, 3),
            seed=int(rng.integers(2**31)),
            mode=mode,
        )
        return n / float(np.max(system.leap().finish_s))

    x, se = sample(one, 10)
    tau = -np.diff(s.s, prepend=1, append=0)
    chain = {
        overlap: two_slot_chain(tau, tokens=tokens, step_s=T, prefill_s=prefill_s, overlap=overlap)
        for overlap in (False, True)
    }
    overlap = mode == "v2"
    assert abs(x - chain[overlap]) < 4 * se + chain[overlap] * 2 / n  # filling and draining
    assert abs(x - chain[not overlap]) > 20 * se


def test_drain_of_exponential_jobs() -> None:
    """Makespan of n jobs on c slots over the mean job: ``(n - c) / c + H_c``."""
    jobs, slots, mean = 64, 16, 300

    def one(rng: Rng) -> float:
        osl = 1 + rng.geometric(1 / mean, jobs)
        system = System.of(closed(osl, conc=slots), SyntheticStep(fixed_s=T), mode="v2-sync")
        return float(np.max(system.leap().finish_s)) / (mean * T)

    makespan, se = sample(one, 150)
    assert abs(makespan - drain_makespan(jobs=jobs, slots=slots)) < 4 * se
    assert abs(makespan - jobs / slots) > 20 * se


# ---- queues ------------------------------------------------------------------------------

SHARED = SyntheticStep(per_request_s=1e-3)  # each of n requests moves at a rate 1 / n
MEAN = 300


def lengths(kind: str, n: int, rng: Rng) -> npt.NDArray[np.int64]:
    """Completion tokens whose decode steps have mean ``MEAN``."""
    if kind == "constant":
        steps = np.full(n, MEAN)
    elif kind == "geometric":
        steps = rng.geometric(1 / MEAN, n)
    else:
        mean = np.where(rng.random(n) < 0.8, MEAN / 2, 3 * MEAN)
        steps = rng.geometric(1 / mean)
    return 1 + steps


@pytest.mark.parametrize(
    "kind",
    [
        "constant",
        pytest.param("geometric", marks=pytest.mark.slow),
        pytest.param("mixed", marks=pytest.mark.slow),
    ],
)
def test_processor_sharing_is_insensitive(kind: str) -> None:
    """M/G/1-PS: E[sojourn] = E[S] / (1 - rho) whatever G; one at a time it depends on E[S^2]."""
    load, n = 0.5, 1500
    service_s = MEAN * SHARED.per_request_s
    rate = load / service_s

    def sharing(rng: Rng) -> float:
        osl = lengths(kind, n, rng)
        return settled_sojourn_s(open_loop(osl, rate, rng, SHARED))

    def alone(rng: Rng) -> float:
        osl = lengths(kind, n, rng)
        return settled_sojourn_s(open_loop(osl, rate, rng, SHARED, max_running_requests=1))

    squared = float((lengths(kind, 10**6, np.random.default_rng(1)).astype(float) ** 2).mean())
    wait_s = rate * squared * SHARED.per_request_s**2 / (2 * (1 - load))
    ps_s = processor_sharing_sojourn_s(service_s=service_s, load=load)
    for one, exact_s, other_s in (
        (sharing, ps_s, service_s + wait_s),
        (alone, service_s + wait_s, ps_s),
    ):
        mean_s, se = sample(one, 6)
        assert abs(mean_s - exact_s) < 4 * se + 0.01 * exact_s  # arrivals wait for a step to end
        if kind != "geometric":  # there both queues are M/M/1
            assert abs(mean_s - other_s) > 4 * se


def test_batched_decoding_is_a_birth_death_chain() -> None:
    """Poisson arrivals, geometric lengths, step time t(n), at most C running."""
    cap, n, rate = 4, 3000, 4.2
    step = SyntheticStep(fixed_s=1e-3, per_request_s=0.25e-3)

    def one(rng: Rng) -> float:
        osl = lengths("geometric", n, rng)
        run = open_loop(osl, rate, rng, step, max_running_requests=cap)
        return settled_sojourn_s(run) * rate

    in_system, se = sample(one, 10)
    running = np.minimum(np.arange(1, 400), cap)

    def chain(t_s: Floats) -> float:
        death = running / (MEAN * t_s)
        return float(birth_death_stationary(np.full(death.size, rate), death) @ np.arange(400))

    exact = chain(step.fixed_s + step.per_request_s * running)
    assert abs(in_system - exact) < 4 * se + 0.01 * exact
    assert abs(in_system - chain(np.full(running.size, 1.25e-3))) > 8 * se
    assert abs(in_system - chain(np.full(running.size, 2e-3))) > 8 * se


@pytest.mark.parametrize("think", [0.5, pytest.param(4.0, marks=pytest.mark.slow)])
def test_closed_network_has_the_mean_value_analysis(think: float) -> None:
    """Clients that think, and a GPU shared equally: product form, so MVA is exact."""
    users, n = 5, 1500
    demand_s = MEAN * SHARED.per_request_s
    think_s = think * demand_s

    def one(step: SyntheticStep) -> Callable[[Rng], float]:
        def run(rng: Rng) -> float:
            osl = lengths("geometric", n, rng)
            system = System.of(closed(osl, conc=users), step, mode="v2-sync", turnaround_s=think_s)
            finish = np.sort(system.leap().finish_s)
            return (n - users) / float(finish[n - users - 1])

        return run

    x, se = sample(one(SHARED), 10)
    exact, _ = mean_value_analysis([demand_s], users=users, think_s=think_s)
    assert abs(x - exact) < 4 * se + 0.005 * exact
    for low, high in (
        asymptotic_bounds([demand_s], users=users, think_s=think_s),
        balanced_bounds([demand_s], users=users, think_s=think_s),
    ):
        assert low - 4 * se < x < high + 4 * se
    batched, se = sample(one(replace(SHARED, per_request_s=0.0, fixed_s=1e-3, _tables={})), 4)
    assert batched > exact + 8 * se
