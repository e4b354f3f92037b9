"""Survival functions, and their identification from published accept lengths.

Statistical checks use fixed seeds and four standard errors or p > 1e-4, and each is shown to fail
on a wrong model.
"""

import math

import numpy as np
import pytest
from closed_forms import commit_pmf, cycle_accept_length, geometric, hazards
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.laws import ParametricAcceptance
from dflash_sim.simulator.requests.renewal import commit_moments
from dflash_sim.simulator.requests.survival import (
    MAX_BETA,
    MAX_THETA,
    FrailtyWeibull,
    Survival,
    fit_many,
    fit_one,
    fit_two,
)

PRIORS = load_acceptance_priors()

fixed = settings(derandomize=True, deadline=None, max_examples=60)

gammas = st.integers(1, 24)
unit = st.floats(0.01, 0.99)
weibulls = st.builds(
    FrailtyWeibull,
    lam=st.floats(0.01, 2),
    beta=st.floats(0.3, 3),
    theta=st.sampled_from([0.0, 0.05, 0.3]),
)
survivals = st.builds(lambda p, gamma: p.survival(gamma), weibulls, gammas)


@fixed
@given(a=unit, gamma=gammas)
def test_geometric_mean_is_leviathans(a: float, gamma: int) -> None:
    mean = geometric(a, gamma).mean_accept_length
    assert mean == pytest.approx((1 - a ** (gamma + 1)) / (1 - a), rel=1e-12)


@fixed
@given(s=survivals)
def test_moments_and_pmf_agree(s: Survival) -> None:
    commits = np.arange(1, s.gamma + 2)
    pmf = commit_pmf(s.s)
    assert pmf.sum() == pytest.approx(1, abs=1e-12)
    assert np.all(pmf >= 0)
    assert s.mean_accept_length == pytest.approx(pmf @ commits, rel=1e-12)
    assert commit_moments(s.s) == pytest.approx((pmf @ commits, pmf @ commits**2), rel=1e-12)
    assert np.cumprod(hazards(s.s)) == pytest.approx(s.s, abs=1e-12)


@fixed
@given(q=unit, gamma=gammas)
def test_weibull_of_beta_one_is_geometric(q: float, gamma: int) -> None:
    weibull = FrailtyWeibull(lam=-math.log(q), beta=1.0).survival(gamma)
    assert weibull.s == pytest.approx(geometric(q, gamma).s, rel=1e-12)


@fixed
@given(lam=st.floats(0.01, 1), beta=st.floats(0.5, 2), gamma=gammas)
def test_frailty_vanishes_with_theta(lam: float, beta: float, gamma: int) -> None:
    plain = np.exp(-lam * np.arange(1, gamma + 1) ** beta)
    for theta, within in ((1e-12, 1e-9), (0.0, 1e-14)):
        assert FrailtyWeibull(lam, beta, theta).survival(gamma).s == pytest.approx(
            plain, abs=within
        )


@fixed
@given(al=st.floats(1, 16))
def test_min_variance_takes_two_values_with_the_exact_mean(al: float) -> None:
    s = Survival.min_variance(al, 15)
    commits = 1 + np.flatnonzero(commit_pmf(s.s))
    assert s.mean_accept_length == pytest.approx(al, rel=1e-12)
    assert set(commits) <= {math.floor(al), math.ceil(al)}


@fixed
@given(s=survivals, data=st.data())
def test_accept_lengths_at_every_block_return_the_survival(
    s: Survival, data: st.DataObject
) -> None:
    curve = {b: s.truncate(b).mean_accept_length for b in range(2, s.gamma + 2)}
    assert Survival.from_accept_lengths(curve).s == pytest.approx(s.s, abs=1e-9)
    some = data.draw(st.sets(st.sampled_from(sorted(curve)), min_size=1))
    coarse = Survival.from_accept_lengths({b: curve[b] for b in some})
    for b in some:
        assert coarse.truncate(b).mean_accept_length == pytest.approx(curve[b], abs=1e-9)


def test_filling_gaps_comes_close_to_the_weibull_it_does_not_know() -> None:
    s = fit_two(5.2, 8, 6.6, 16).survival(15)
    filled = Survival.from_accept_lengths({4: 3.35, 8: 5.2, 16: 6.6})
    assert np.abs(filled.s - s.s).max() < 0.015


def test_rising_accept_length_differences_are_projected() -> None:
    noisy = Survival.from_accept_lengths({2: 1.5, 3: 2.1, 4: 2.4})
    assert noisy.s == pytest.approx([0.55, 0.55, 0.3])


@pytest.mark.parametrize("s", [[0.5, 0.6], [1.1], [-0.1], [math.nan], [[0.5]]])
def test_a_table_that_is_no_survival_is_refused(s: list[float]) -> None:
    with pytest.raises(UsageError, match="non-increasing"):
        Survival.table(s)


def test_a_survival_is_not_extrapolated() -> None:
    with pytest.raises(UsageError, match="block 9 is outside"):
        geometric(0.8, 7).truncate(9)


@fixed
@given(
    q=st.floats(0.5, 0.97),
    beta=st.floats(0.6, 2.2),
    theta=st.sampled_from([0.0, 0.05, 0.3]),
    pair=st.sampled_from([(8, 16), (4, 8), (4, 16)]),
)
def test_two_accept_lengths_return_the_parameters(
    q: float, beta: float, theta: float, pair: tuple[int, int]
) -> None:
    truth = FrailtyWeibull(lam=-math.log(q), beta=beta, theta=theta)
    (b1, al1), (b2, al2) = ((b, truth.accept_length(b)) for b in pair)
    if al2 - al1 < 0.05:  # the second block adds nothing to fit
        return
    fit = fit_two(al1, b1, al2, b2, theta=theta)
    assert fit.lam == pytest.approx(truth.lam, rel=1e-9)
    assert fit.beta == pytest.approx(truth.beta, rel=1e-9)


@pytest.mark.parametrize("theta", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("al8", [1.2, 3.0, 5.2, 7.5])
def test_accept_length_at_16_falls_strictly_with_beta(al8: float, theta: float) -> None:
    betas = np.linspace(0.05, 8, 60)
    curve = np.array([fit_one(al8, 8, beta=b, theta=theta).accept_length(16) for b in betas])
    apart = curve[:-1] > al8 + 1e-9  # then the second block adds no more than rounding
    assert apart[:8].all()
    assert np.all(np.diff(curve)[apart] < 0)
    assert curve[-1] >= al8 - 1e-9
    top = fit_one(al8, 8, beta=1e-9, theta=theta).accept_length(16)
    assert top == pytest.approx(1 + 15 * (al8 - 1) / 7, rel=1e-6)


@pytest.mark.parametrize("al16", [5.0, 5.2, 10.0, 11.0])
def test_infeasible_pairs_are_refused_with_their_range(al16: float) -> None:
    with pytest.raises(UsageError, match=r"strictly between 5\.2 and 10"):
        fit_two(5.2, 8, al16, 16)


@pytest.mark.parametrize(("theta", "beta", "excess"), [(0, 1.141, 0), (0.05, 1.170, 0.021)])
def test_worked_example(theta: float, beta: float, excess: float) -> None:
    fit = fit_two(5.2, 8, 6.6, 16, theta=theta)
    assert fit.beta == pytest.approx(beta, abs=5e-4)
    ratio = fit.accept_length(16) / cycle_accept_length(fit, 16)
    assert ratio - 1 == pytest.approx(excess, abs=5e-4)


def test_errors_of_the_accept_lengths_carry_over() -> None:
    fit = fit_many([(8, 5.2, 0.05), (16, 6.6, 0.08)], beta_prior=(1.17, 100.0))
    exact = fit_two(5.2, 8, 6.6, 16)
    assert (fit.params.lam, fit.params.beta) == pytest.approx((exact.lam, exact.beta), rel=1e-5)
    log_lam_se, beta_se = np.sqrt(np.diag(fit.covariance))
    q_se = fit.params.q * fit.params.lam * log_lam_se
    assert (q_se, beta_se) == pytest.approx((0.011, 0.062), abs=2e-3)


def coverage(stated: float) -> tuple[float, float]:
    """Share of 200 data sets whose 90 % interval holds (ln lam, beta), errors times ``stated``."""
    rng = np.random.default_rng(12)
    prior = PRIORS.beta["dflash"]
    inside = np.zeros(2)
    for _ in range(200):
        beta = rng.normal(prior.mean, prior.sd)
        truth = fit_one(rng.uniform(4, 8), 16, beta=beta)
        points = []
        for block in (8, 16):
            al = truth.accept_length(block)
            points.append((block, al * (1 + 0.02 * rng.standard_normal()), 0.02 * al * stated))
        fit = fit_many(points, beta_prior=(prior.mean, prior.sd * stated))
        error = np.log(fit.params.lam / truth.lam), fit.params.beta - truth.beta
        inside += np.abs(error) < stats.norm.ppf(0.95) * np.sqrt(np.diag(fit.covariance))
    return tuple(inside / 200)


def test_ninety_per_cent_intervals_hold_the_truth() -> None:
    assert all(0.83 <= share <= 0.96 for share in coverage(1.0))
    assert all(share < 0.7 for share in coverage(0.5))


@pytest.mark.parametrize("theta", [1e-300, 1e-12, float(MAX_THETA)])
@pytest.mark.parametrize("beta", [0.0, 1e-300, 1.0, float(MAX_BETA)])
def test_extreme_laws_give_the_accept_length_they_are_given(theta: float, beta: float) -> None:
    found = fit_one(2.0, 16, beta=beta, theta=theta)
    assert found.accept_length(16) == pytest.approx(2.0, abs=1e-6)
    with pytest.raises(UsageError, match="theta"):
        fit_one(2.0, 16, beta=beta, theta=2 * MAX_THETA)


def test_a_law_that_hardly_rejects_is_bent_all_the_same() -> None:
    law = ParametricAcceptance(FrailtyWeibull(lam=1e-12, beta=1e-300), 16)
    bent = Expectation(law, "s", "assumed", 0.1).adjusted(rejection=0.1, decay=0.2, correlation=0)
    assert isinstance(bent.acceptance, ParametricAcceptance)
    assert bent.acceptance.params.accept_length(16) == pytest.approx(16, rel=1e-6)
