"""Survival functions, and their identification from published accept lengths.

Statistical checks use fixed seeds and four standard errors or p > 1e-4, and each is shown to fail
on a wrong model.
"""

import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.simulator.survival import (
    FrailtyWeibull,
    Survival,
    fit_many,
    fit_one,
    fit_two,
)

DATA = Path(__file__).parent / "data"
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
    mean = Survival.geometric(a, gamma).mean_accept_length
    assert mean == pytest.approx((1 - a ** (gamma + 1)) / (1 - a), rel=1e-12)


@fixed
@given(s=survivals)
def test_moments_and_pmf_agree(s: Survival) -> None:
    commits = np.arange(1, s.gamma + 2)
    assert s.pmf.sum() == pytest.approx(1, abs=1e-12)
    assert np.all(s.pmf >= 0)
    assert s.mean_accept_length == pytest.approx(s.pmf @ commits, rel=1e-12)
    assert s.second_moment == pytest.approx(s.pmf @ commits**2, rel=1e-12)
    assert np.cumprod(s.hazards) == pytest.approx(s.s, abs=1e-12)
    assert Survival.from_pmf(s.pmf).s == pytest.approx(s.s, abs=1e-12)
    assert s.full_block_prob == pytest.approx(s.pmf[-1], abs=1e-15)


@fixed
@given(q=unit, gamma=gammas)
def test_weibull_of_beta_one_is_geometric(q: float, gamma: int) -> None:
    assert Survival.weibull(q, 1.0, gamma).s == pytest.approx(
        Survival.geometric(q, gamma).s, rel=1e-12
    )


@fixed
@given(lam=st.floats(0.01, 1), beta=st.floats(0.5, 2), gamma=gammas)
def test_frailty_vanishes_with_theta(lam: float, beta: float, gamma: int) -> None:
    plain = Survival.weibull(math.exp(-lam), beta, gamma).s
    assert Survival.frailty_weibull(lam, beta, 1e-12, gamma).s == pytest.approx(plain, abs=1e-9)
    assert Survival.frailty_weibull(lam, beta, 0.0, gamma).s == pytest.approx(plain, abs=1e-14)


def test_beta_geometric_hazards_are_those_of_a_mixed_geometric() -> None:
    a, b, n = 3.9, 3.4, 400_000
    rng = np.random.default_rng(5)
    accepted = rng.geometric(1 - rng.beta(a, b, n)) - 1
    s = Survival.beta_geometric(a, b, 7)
    k = np.arange(1, 8)
    assert s.hazards == pytest.approx((a + k - 1) / (a + b + k - 1), rel=1e-12)
    empirical = (accepted[:, None] >= k).mean(axis=0)
    z = (empirical - s.s) / np.sqrt(s.s * (1 - s.s) / n)
    assert np.abs(z).max() < 4
    wrong = (empirical - Survival.geometric(s.s[0], 7).s) / np.sqrt(s.s * (1 - s.s) / n)
    assert np.abs(wrong).max() > 40


@fixed
@given(al=st.floats(1, 16))
def test_min_variance_takes_two_values_with_the_exact_mean(al: float) -> None:
    s = Survival.min_variance(al, 15)
    commits = 1 + np.flatnonzero(s.pmf)
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
        Survival.geometric(0.8, 7).truncate(9)


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
    ratio = fit.accept_length(16) / fit.cycle_accept_length(16)
    assert ratio - 1 == pytest.approx(excess, abs=5e-4)


def test_errors_of_the_accept_lengths_carry_over() -> None:
    fit = fit_many([(8, 5.2, 0.05), (16, 6.6, 0.08)], beta_prior=(1.17, 100.0))
    exact = fit_two(5.2, 8, 6.6, 16)
    assert (fit.params.lam, fit.params.beta) == pytest.approx((exact.lam, exact.beta), rel=1e-5)
    assert (fit.q_se, fit.beta_se) == pytest.approx((0.011, 0.062), abs=2e-3)


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


def published_lengths(method: str) -> dict[tuple[str, ...], dict[int, float]]:
    cells: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    with (DATA / "acceptance_lengths.csv").open() as file:
        for row in csv.DictReader(file):
            if row["method"] == method:
                key = (row["version"], row["model"], row["dataset"])
                cells[key][int(row["block"])] = float(row["accept_length"])
    return cells


def published_positions(model: str) -> dict[tuple[str, str], tuple[np.ndarray, float]]:
    cells = defaultdict(list)
    with (DATA / "acceptance_positions.csv").open() as file:
        for row in csv.DictReader(file):
            if row["model"] == model:
                cells[row["method"], row["dataset"]].append(row)
    column = "survival" if cells and next(iter(cells.values()))[0]["survival"] else "conditional"
    return {
        key: (np.array([float(r[column]) for r in rows]), float(rows[0]["accept_length"]))
        for key, rows in cells.items()
    }


def rms(x: list[float]) -> float:
    return math.sqrt(np.mean(np.square(x)))


def test_weibull_from_blocks_8_and_16_predicts_block_4() -> None:
    cells = [c for c in published_lengths("dflash").values() if 4 in c]
    weibull = [fit_two(c[8], 8, c[16], 16).accept_length(4) / c[4] - 1 for c in cells]
    geometric = [fit_one(c[8], 8, beta=1.0).accept_length(4) / c[4] - 1 for c in cells]
    assert len(cells) == 20
    assert rms(weibull) < 0.025
    assert rms(geometric) > 0.028


def test_geometric_from_block_8_overshoots_block_16() -> None:
    cells = published_lengths("dflash").values()
    excess = [fit_one(c[8], 8, beta=1.0).accept_length(16) / c[16] - 1 for c in cells]
    assert np.mean(excess) > 0.05


def test_prior_on_beta_is_the_spread_of_published_pairs() -> None:
    betas = [fit_two(c[8], 8, c[16], 16).beta for c in published_lengths("dflash").values()]
    prior = PRIORS.beta["dflash"]
    assert len(betas) == 31
    assert (np.mean(betas), np.std(betas, ddof=1)) == pytest.approx(
        (prior.mean, prior.sd), abs=0.01
    )


def test_golden_mtp_curve_gives_its_prior() -> None:
    cells = published_lengths("mtp")
    on = next(c for (_, _, dataset), c in cells.items() if dataset.endswith("thinking_on"))
    fit = fit_many([(b, al, 0.03) for b, al in on.items()], beta_prior=(1.0, 100.0))
    assert fit.params.beta == pytest.approx(PRIORS.beta["mtp"].mean, abs=0.03)
    assert max(abs(fit.params.accept_length(b) - al) for b, al in on.items()) < 0.05


def test_golden_accept_lengths_difference_to_a_survival_within_noise() -> None:
    for curve in published_lengths("mtp").values():
        raw = np.diff([1.0, *(curve[b] for b in sorted(curve))])
        assert np.all((raw >= -0.05) & (raw <= 1))
        assert np.abs(Survival.from_accept_lengths(curve).s - raw).max() < 0.05


def test_full_block_share_of_the_paper() -> None:
    """The DFlash paper (arXiv 2602.06036): 35.7 % full blocks at accept length 5.21, block 8."""
    prior = PRIORS.beta["dflash"]
    weibull = fit_one(5.21, 8, beta=prior.mean).survival(7).full_block_prob
    geometric = fit_one(5.21, 8, beta=1.0).survival(7).full_block_prob
    assert weibull == pytest.approx(0.357, abs=0.015)
    assert geometric != pytest.approx(0.357, abs=0.015)


def test_vllm_per_position_acceptance_is_survival() -> None:
    cells = published_positions("gemma-4-31B-it")
    assert len(cells) == 9
    for rates, accept_length in cells.values():
        assert Survival.table(rates).mean_accept_length == pytest.approx(accept_length, abs=0.01)
        conditional = np.cumprod(rates)
        assert 1 + conditional.sum() < accept_length - 0.3


def test_dspark_conditionals_multiply_to_its_accept_lengths() -> None:
    cells = published_positions("Qwen3-4B")
    assert len(cells) == 9
    for rates, accept_length in cells.values():
        assert 1 + np.cumprod(rates).sum() == pytest.approx(accept_length, rel=0.01)
        assert 1 + rates.sum() > accept_length * 1.05
