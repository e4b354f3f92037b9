"""Answers that accept more because they are long: rows of the draw dealt out by length."""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.requests.draws import Runs, draw_runs
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.laws import GROUP, FixedAcceptance, ParametricAcceptance
from dflash_sim.simulator.requests.survival import FrailtyWeibull

LAW = ParametricAcceptance(FrailtyWeibull(lam=0.2, beta=1.1, theta=0.3), 16)
correlations = st.floats(-1, 1)
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def lengths(n: int, seed: int = 0) -> Ints:
    """Tokens of ``n`` answers, log-normal with a spread of 0.8."""
    drawn = np.random.default_rng(seed).lognormal(5.0, 0.8, n)
    return np.maximum(1, np.rint(drawn)).astype(np.int64)


def runs(law: ParametricAcceptance, tokens: Ints, seed: int = 1) -> Runs:
    return draw_runs(law, np.random.default_rng(seed), tokens)


def tied(rho: float, law: ParametricAcceptance = LAW) -> ParametricAcceptance:
    return replace(law, length_correlation=rho)


def request_means(found: Runs, tokens: Ints) -> Floats:
    """Accept length of every request: its tokens over its cycles."""
    return np.asarray(tokens / found.cycles)


def cycle_mean(found: Runs, tokens: Ints) -> float:
    """Tokens over cycles, all requests together."""
    return float(tokens.sum() / found.cycles.sum())


def ranks(x: npt.ArrayLike) -> Ints:
    return np.argsort(np.argsort(x))


def rank_correlation(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


# ---- what is drawn -----------------------------------------------------------------------


@pytest.mark.parametrize("law", [LAW, tied(0.0)])
def test_without_correlation_requests_take_the_rows_as_drawn(law: ParametricAcceptance) -> None:
    """Byte for byte: one seed per group of 1,024, one draw, rows in order."""
    tokens = lengths(GROUP + 300)
    found = runs(law, tokens)
    seeds = np.random.default_rng(1).integers(np.iinfo(np.int64).max, size=2).tolist()
    for i, seed in enumerate(seeds):
        n = min(GROUP, tokens.size - i * GROUP)
        part = slice(i * GROUP, i * GROUP + n)
        width = int(found.cycles[part].max())
        by_hand = LAW.draw(np.random.default_rng(seed), requests=n, cycles=width)
        assert found.commits[part, :width].tobytes() == by_hand.tobytes()


@settings(max_examples=40)
@given(n=st.integers(1, 60), rho=correlations, seed=st.integers(0, 2**32 - 1), equal=st.booleans())
def test_correlation_deals_the_same_rows_out_again(
    n: int, rho: float, seed: int, equal: bool
) -> None:
    """A permutation, whatever the lengths: the mean over requests cannot move."""
    tokens = np.full(n, 200, np.int64) if equal else lengths(n, seed)
    order = tied(rho).rows_by_length(seed, tokens)
    assert sorted(order.tolist()) == list(range(n))
    as_drawn = LAW.draw(np.random.default_rng(seed), requests=n, cycles=50)
    assert as_drawn[order].mean(axis=1).sum() == pytest.approx(as_drawn.mean(axis=1).sum())


def test_rows_of_a_group_stay_in_their_group() -> None:
    tokens = lengths(GROUP + 40)
    plain, moved = (runs(tied(rho), tokens) for rho in (0.0, 0.7))
    least = int(min(plain.cycles.min(), moved.cycles.min()))
    for part in (slice(0, GROUP), slice(GROUP, None)):
        a, b = (np.sort(found.commits[part, 0]) for found in (plain, moved))
        assert (a == b).all()
    assert least >= 1
    assert (plain.commits[:, 0] != moved.commits[:, 0]).any()


def test_two_blocks_share_their_latent_run() -> None:
    """Common random numbers survive the deal: block 8 is block 16, cut off."""
    tokens = lengths(300)
    narrow, wide = (runs(tied(0.6, replace(LAW, block=b)), tokens) for b in (8, 16))
    for i in range(tokens.size):
        n = int(wide.cycles[i])
        assert (narrow.commits[i, :n] == np.minimum(wide.commits[i, :n], 8)).all()


def test_where_requests_are_alike_there_is_nothing_to_deal_out() -> None:
    alike = replace(LAW, params=replace(LAW.params, theta=0.0))
    tokens = lengths(100)
    plain, asked = (runs(tied(rho, alike), tokens) for rho in (0.0, 0.9))
    assert plain.commits.tobytes() == asked.commits.tobytes()


# ---- what it does ------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [-0.8, -0.4, 0.4, 0.8])
def test_the_rank_correlation_is_that_of_the_copula(rho: float) -> None:
    """Spearman's, ``6/pi asin(rho/2)``: within four standard errors of 20,000 requests."""
    n, law = 20_000, tied(rho)
    tokens = lengths(n)
    factors = law._factors(np.random.default_rng(5), n)
    served = -factors[law.rows_by_length(5, tokens)]  # low rejection first
    expected = 6 / math.pi * math.asin(rho / 2)
    assert rank_correlation(tokens, served) == pytest.approx(expected, abs=4 / n**0.5)


@pytest.mark.parametrize("rho", [1.0, -1.0])
def test_full_correlation_sorts(rho: float) -> None:
    law, tokens = tied(rho), np.random.default_rng(2).permutation(500) + 1
    factors = law._factors(np.random.default_rng(3), tokens.size)
    served = -factors[law.rows_by_length(3, tokens)]
    assert rank_correlation(tokens, served) == pytest.approx(rho)


def test_without_correlation_there_is_none() -> None:
    """Control: lengths and acceptance are unrelated, within four standard errors."""
    tokens = lengths(6000)
    means = request_means(runs(LAW, tokens), tokens)
    assert abs(rank_correlation(tokens, means)) < 4 / tokens.size**0.5 + 0.02


def test_tokens_over_cycles_follow_and_the_mean_over_requests_stays() -> None:
    """Long answers weigh more in one than in the other."""
    tokens = lengths(6000)
    found = {rho: runs(tied(rho), tokens) for rho in (-0.8, -0.4, 0.0, 0.4, 0.8)}
    by_cycle = [cycle_mean(f, tokens) for f in found.values()]
    assert by_cycle == sorted(by_cycle)
    assert by_cycle[0] < 0.97 * by_cycle[2] < 0.97**2 * by_cycle[4]
    by_request = {rho: float(request_means(f, tokens).mean()) for rho, f in found.items()}
    error = float(request_means(found[0.0], tokens).std()) / tokens.size**0.5
    for mean in by_request.values():
        assert abs(mean - by_request[0.0]) < 4 * error + 0.01


def test_equal_lengths_leave_both_means() -> None:
    tokens = np.full(5000, 400, np.int64)
    plain, asked = (runs(tied(rho), tokens) for rho in (0.0, 0.9))
    assert cycle_mean(asked, tokens) == pytest.approx(cycle_mean(plain, tokens), rel=1e-3)


# ---- where it comes from -----------------------------------------------------------------


@pytest.mark.parametrize("rho", [-1.01, 1.01, math.nan])
def test_a_correlation_is_between_minus_one_and_one(rho: float) -> None:
    with pytest.raises(UsageError, match="length correlation"):
        tied(rho)


def test_an_expectation_is_adjusted_where_its_law_can_be() -> None:
    """A factor on the rejection rate, an addition to beta, a correlation; theta stays."""
    e = Expectation(LAW, "published: X", "published", 0.02)
    assert e.adjusted() == e
    law = e.adjusted(rejection=0.1, correlation=0.3).acceptance
    assert isinstance(law, ParametricAcceptance)
    assert law.params.lam == pytest.approx(LAW.params.lam * math.exp(0.1))
    assert (law.params.beta, law.params.theta) == (LAW.params.beta, LAW.params.theta)
    assert (law.block, law.length_correlation) == (LAW.block, 0.3)
    assert law.survival().mean_accept_length < LAW.survival().mean_accept_length
    fixed = Expectation(FixedAcceptance(3, 8), "given", "assumed", 0.0)
    assert fixed.adjusted(rejection=1.0, correlation=0.5) is fixed


@pytest.mark.parametrize("decay", [-0.2, 0.05, 99.0])
def test_a_bend_turns_about_the_position_that_one_in_e_reach(decay: float) -> None:
    """There ``lam k^beta`` is one before and after; beta stays within its bounds."""
    law = Expectation(LAW, "published: X", "published", 0.02).adjusted(decay=decay).acceptance
    assert isinstance(law, ParametricAcceptance)
    pivot = LAW.params.lam ** (-1 / LAW.params.beta)
    assert 1 < pivot < 16
    assert law.params.lam * pivot**law.params.beta == pytest.approx(1)
    if decay < 1:
        assert law.params.beta == pytest.approx(LAW.params.beta + decay)
    assert LAW.params.beta - 1 < law.params.beta < 99
