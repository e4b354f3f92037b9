"""Samplers, the runs they draw, the accept lengths reported, and the text that names them.

Statistical checks use fixed seeds and four standard errors or p > 1e-4, and each is shown to fail
on a wrong model.
"""

import math

import numpy as np
import pytest
from closed_forms import commit_pmf, cycle_accept_length
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.simulator.requests.draws import Draws, draw_runs
from dflash_sim.simulator.requests.parse import (
    Acceptance,
    FixedAcceptance,
    HistogramAcceptance,
    MinVarianceAcceptance,
    NoSpeculation,
    ParametricAcceptance,
    SglangSimulated,
    TableAcceptance,
    accept_lengths,
    parse_acceptance,
)
from dflash_sim.simulator.requests.survival import (
    FrailtyWeibull,
    Survival,
    fit_two,
)

PRIORS = load_acceptance_priors()

fixed = settings(derandomize=True, deadline=None, max_examples=60)

gammas = st.integers(1, 24)
blocks = st.integers(2, 24)
weibulls = st.builds(
    FrailtyWeibull,
    lam=st.floats(0.01, 2),
    beta=st.floats(0.3, 3),
    theta=st.sampled_from([0.0, 0.05, 0.3]),
)
survivals = st.builds(lambda p, gamma: p.survival(gamma), weibulls, gammas)

PARAMS = FrailtyWeibull(lam=0.11, beta=1.17, theta=0.3)
LAWS: list[Acceptance] = [
    ParametricAcceptance(PARAMS, 16),
    ParametricAcceptance(FrailtyWeibull(lam=0.2, beta=1.0), 8),
    TableAcceptance(Survival.table([0.9, 0.6, 0.6, 0.1]), 5),
    HistogramAcceptance(np.array([161.0, 90, 40, 3]), 4),
    HistogramAcceptance(np.array([[9.0, 90, 40, 3], [80, 15, 5, 0]]), 4),
    MinVarianceAcceptance(3.24, 8),
    SglangSimulated(3.24, 8),
    SglangSimulated(6.9, 8, "multinomial"),
]


def p_value(commits: np.ndarray, pmf: np.ndarray) -> float:
    """Chi-square of commit counts, rare cells pooled."""
    counts = np.bincount(commits.ravel(), minlength=pmf.size + 1)[1:].astype(float)
    expected = pmf * counts.sum()
    rare = expected < 10
    assert counts[pmf == 0].sum() == 0
    cells = [np.append(x[~rare], x[rare].sum()) for x in (counts, expected)]
    observed, wanted = (x[cells[1] > 0] for x in cells)
    assert observed.size > 1
    return float(stats.chisquare(observed, wanted * (observed.sum() / wanted.sum())).pvalue)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_draws_follow_the_survival(law: Acceptance) -> None:
    n = 200_000
    shape = (1, n) if law.shared_batch_draw else (n, 1)
    commits = law.draw(np.random.default_rng(7), requests=n, cycles=n if shape[0] == 1 else 1)
    assert commits.shape == shape
    assert commits.min() >= 1
    assert commits.max() <= law.block
    pmf = commit_pmf(law.survival().s)
    assert p_value(commits, pmf) > 1e-4
    shifted = np.clip(law.survival().s * 0.97, 0, 1)
    wrong = commit_pmf(Survival(shifted).s)
    if np.all(wrong[pmf == 0] == 0) or not np.any(pmf == 0):
        assert p_value(commits, wrong) < 1e-4


@fixed
@given(params=weibulls, block=blocks, seed=st.integers(0, 2**32), cycles=st.integers(1, 12))
def test_one_seed_is_one_latent_run(
    params: FrailtyWeibull, block: int, seed: int, cycles: int
) -> None:
    longest = ParametricAcceptance(params, 64).draw(
        np.random.default_rng(seed), requests=5, cycles=12
    )
    shorter = ParametricAcceptance(params, block).draw(
        np.random.default_rng(seed), requests=5, cycles=cycles
    )
    assert np.array_equal(shorter, np.minimum(longest, block)[:, :cycles])


def test_nesting_needs_the_same_seed() -> None:
    law = ParametricAcceptance(PARAMS, 16)
    a, b = (law.draw(np.random.default_rng(s), requests=5, cycles=50) for s in (0, 1))
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("block", [1, 2, 127, 128, 200])
def test_certain_acceptance_fills_the_block_and_none_commits_one(block: int) -> None:
    rng = np.random.default_rng(0)
    for lam, commit in ((0.0, block), (math.inf, 1)):
        law = ParametricAcceptance(FrailtyWeibull(lam=lam, beta=1.2, theta=0.3), block)
        assert np.all(law.draw(rng, requests=50, cycles=50) == commit)
        assert law.survival().mean_accept_length == commit


def test_sglang_moves_the_whole_batch_together_and_vllm_does_not() -> None:
    rng = np.random.default_rng(3)
    assert SglangSimulated(3.24, 8).shared_batch_draw
    assert SglangSimulated(3.24, 8).draw(rng, requests=32, cycles=100).shape == (1, 100)
    own = MinVarianceAcceptance(3.24, 8)
    assert not own.shared_batch_draw
    commits = own.draw(rng, requests=32, cycles=100)
    assert set(np.unique(commits)) == {3, 4}
    assert commits.var(axis=0).max() > 0


@pytest.mark.parametrize(("value", "mean"), [(0.2, 1.0), (99.0, 8.0)])
def test_sglang_clamps_to_the_block(value: float, mean: float) -> None:
    law = SglangSimulated(value, 8)
    assert law.survival().mean_accept_length == mean
    assert np.all(law.draw(np.random.default_rng(0), requests=1, cycles=50) == mean)


def test_recorded_requests_keep_their_spread() -> None:
    rows = np.array([[9.0, 1], [1, 9]])
    commits = HistogramAcceptance(rows, 2).draw(np.random.default_rng(2), requests=400, cycles=400)
    pooled = HistogramAcceptance(rows.sum(axis=0), 2).draw(
        np.random.default_rng(2), requests=400, cycles=400
    )
    assert commits.mean() == pytest.approx(pooled.mean(), abs=0.05)
    assert commits.mean(axis=1).std() == pytest.approx(0.4, abs=0.01)
    assert pooled.mean(axis=1).std() < 0.03


def test_runs_end_when_their_tokens_are_out() -> None:
    tokens = np.random.default_rng(0).integers(0, 900, 1500)
    runs = draw_runs(ParametricAcceptance(PARAMS, 16), np.random.default_rng(1), tokens)
    done = np.cumsum(runs.commits, axis=1)
    row = np.arange(tokens.size)
    busy = tokens > 0
    assert np.array_equal(runs.cycles > 0, busy)
    assert np.all(done[row, runs.cycles - 1][busy] >= tokens[busy])
    longer = runs.cycles > 1
    assert np.all(done[row, runs.cycles - 2][longer] < tokens[longer])


def test_runs_of_two_blocks_share_their_draws() -> None:
    tokens = np.random.default_rng(0).integers(1, 900, 1500)
    wide, narrow = (
        draw_runs(ParametricAcceptance(PARAMS, block), np.random.default_rng(1), tokens)
        for block in (16, 4)
    )
    width = np.arange(wide.commits.shape[1])
    used = width < wide.cycles[:, None]
    clipped = np.minimum(wide.commits, 4)
    assert np.array_equal(clipped[used], narrow.commits[:, : width.size][used])
    assert np.all(narrow.cycles >= wide.cycles)


def test_shared_draws_have_no_runs() -> None:
    with pytest.raises(ValueError, match="draws per step"):
        draw_runs(SglangSimulated(3.0, 8), np.random.default_rng(0), [10])


def simulate(law: Acceptance, tokens: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Cycles of each request of ``tokens`` completion tokens, and drafts accepted in all."""
    runs = draw_runs(law, np.random.default_rng(seed), tokens - 1)
    used = np.arange(runs.commits.shape[1]) < runs.cycles[:, None]
    return runs.cycles, int((runs.commits[used].astype(np.int64) - 1).sum())


def test_published_mean_is_the_marginal_and_throughput_follows_the_harmonic() -> None:
    params = fit_two(5.2, 8, 6.6, 16, theta=0.3)
    tokens = np.full(6000, 4000)
    cycles, accepted = simulate(ParametricAcceptance(params, 16), tokens, seed=4)
    seen = accept_lengths(tokens, cycles, accepted)
    error = 4 * (tokens / cycles).std() / math.sqrt(tokens.size)
    assert seen.al_request_mean == pytest.approx(6.6, abs=error)
    assert seen.al_cycle == pytest.approx(cycle_accept_length(params, 16), abs=error)
    assert seen.al_harmonic == pytest.approx(cycle_accept_length(params, 16), abs=error)
    assert seen.al_cycle < 6.6 - 2 * error  # the two are told apart
    wanted = seen.al_request_mean * cycle_accept_length(params, 16) / params.accept_length(16)
    assert wanted == pytest.approx(seen.al_cycle, abs=error)


def test_a_fit_to_short_requests_reproduces_the_published_estimator() -> None:
    tokens = np.random.default_rng(8).integers(60, 240, 300)
    params = fit_two(5.2, 8, 6.6, 16, theta=0.05, tokens=tokens)
    assert params.accept_length(16) != pytest.approx(6.6, abs=1e-3)
    for block, al in ((8, 5.2), (16, 6.6)):
        many = np.tile(tokens, 100)
        cycles, accepted = simulate(ParametricAcceptance(params, block), many, seed=block)
        seen = accept_lengths(many, cycles, accepted).al_request_mean
        assert seen == pytest.approx(al, rel=0.004)


@fixed
@given(seed=st.integers(0, 1000))
def test_mean_of_ratios_exceeds_harmonic_by_squared_variation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    each = rng.gamma(100, 0.06, 500)
    cycles = np.full(500, 1e6)
    seen = accept_lengths(each * cycles, cycles, 0)
    cv2 = (each.std() / each.mean()) ** 2
    assert seen.al_request_mean / seen.al_harmonic - 1 == pytest.approx(cv2, rel=0.15)


def test_accept_lengths_of_a_run_by_hand() -> None:
    seen = accept_lengths([101, 51, 1], [20, 25, 0], 105)
    assert seen.al_cycle == pytest.approx(1 + 105 / 45)
    assert seen.al_request_mean == pytest.approx((101 / 20 + 51 / 25) / 2)
    assert seen.al_token_weighted == pytest.approx((101**2 / 20 + 51**2 / 25) / 152)
    assert seen.al_harmonic == pytest.approx(2 / (20 / 101 + 25 / 51))
    with pytest.raises(UsageError, match="no request"):
        accept_lengths([1], [0], 0)


@fixed
@given(s=survivals, seed=st.integers(0, 1000))
def test_cycle_accept_length_is_tokens_over_cycles(s: Survival, seed: int) -> None:
    law = TableAcceptance(s, s.gamma + 1)
    tokens = np.full(3, 40)
    runs = draw_runs(law, np.random.default_rng(seed), tokens)
    used = [row[:n] for row, n in zip(runs.commits, runs.cycles, strict=True)]
    committed = sum(int(u.sum()) for u in used)
    seen = accept_lengths(tokens, runs.cycles, committed - int(runs.cycles.sum()))
    assert seen.al_cycle == pytest.approx(committed / runs.cycles.sum(), rel=1e-12)


@pytest.mark.parametrize(
    ("text", "mean"),
    [
        ("weibull:q=0.9,beta=1.17", 1 + sum(0.9 ** (k**1.17) for k in range(1, 16))),
        ("geometric:0.8", (1 - 0.8**16) / 0.2),
        ("al:6.6", 6.6),
        ("al:16=6.6,beta=1.3,theta=0", 6.6),
        ("al:8=5.2,16=6.6", 6.6),
        ("al:16=6.6,8=5.2,theta=0", 6.6),
        ("al:1", 1.0),
        ("al:16", 16.0),
        ("table:" + ",".join(["0.5"] * 15), 8.5),
        ("histogram:0=1,15=3", 12.25),
        ("sglang-simulated:3.24", 3.24),
        ("vllm-synthetic:3.24", 3.24),
        ("fixed:4", 4.0),
        ("none", 1.0),
    ],
)
def test_text_forms(text: str, mean: float) -> None:
    law = parse_acceptance(text, block=16, priors=PRIORS)
    assert law.survival().mean_accept_length == pytest.approx(mean, rel=1e-9)


def test_three_accept_lengths_are_compromised_between() -> None:
    law = parse_acceptance("al:4=3.3,8=5.2,16=6.6", block=8, priors=PRIORS)
    assert law.survival().mean_accept_length == pytest.approx(5.2, rel=0.01)


def test_the_method_selects_the_prior() -> None:
    dflash, mtp = (
        parse_acceptance("al:5", block=16, priors=PRIORS, law=m) for m in ("dflash", "mtp")
    )
    assert dflash.survival().s[-1] > 1.5 * mtp.survival().s[-1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("al:17", r"17 is outside \[1, 16\]"),
        ("al:0.99", r"0\.99 is outside \[1, 16\]"),
        ("al:nan", "'nan' is not a finite number"),
        ("al:inf", "'inf' is not a finite number"),
        ("al:8=5.2", "block 16 is beyond 8"),
        ("al:8=5.2,16=11", "strictly between 5.2 and 10"),
        ("al:8=5.2,16=6.6,beta=1", "exactly one accept length"),
        ("al:8=5,8=6", "given twice"),
        ("table:0.9,0.8", "block 16 is outside 1..3"),
        ("table:0.8,0.9", "non-increasing"),
        ("weibull:q=0.9,bta=1", "unknown parameter 'bta'"),
        ("weibull:q=1.2", r"q must lie in \(0, 1\]"),
        ("weibull:q=0.9,theta=-1", "0 <= theta <= 4"),
        ("vllm-synthetic:20", r"20.0 is outside \[1, 16\]"),
        ("sglang-simulated:3,often", "unknown method 'often'"),
        ("sglang-simulated:0", "must be positive"),
        ("fixed:3.5", "'3.5' is not a whole number"),
        ("histogram:0=0", "at least one step"),
        ("none:1", "takes no value"),
        ("weibul:q=0.9", "did you mean weibull"),
    ],
)
def test_errors_name_the_value_and_the_form(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as error:
        parse_acceptance(text, block=16, priors=PRIORS)
    assert ":" in str(error.value)


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="dflash2"):
        parse_acceptance("al:5", block=16, priors=PRIORS, law="medusa")


def test_degenerate_laws() -> None:
    rng = np.random.default_rng(0)
    assert np.all(NoSpeculation().draw(rng, requests=3, cycles=4) == 1)
    assert np.all(FixedAcceptance(4, 8).draw(rng, requests=3, cycles=4) == 4)
    with pytest.raises(UsageError, match=r"outside \[1, 8\]"):
        FixedAcceptance(9, 8)


def test_tokens_before_each_cycle_are_sums_of_commits() -> None:
    """Whoever asks in whatever order: sums are made for several requests, and few are kept."""
    rng = np.random.default_rng(0)
    commits = rng.integers(1, 9, (300, 40)).astype(np.int8)
    cycles = rng.integers(0, 39, 300)
    draws = Draws(commits, cycles)
    for rid in [*range(300), *rng.integers(0, 300, 60).tolist()]:
        by_hand = [sum(commits[rid, :n].tolist()) for n in range(cycles[rid] + 1)]
        assert draws.before(rid).tolist() == by_hand
    plain = Draws(np.broadcast_to(np.int8(1), (300, 40)), cycles)
    assert plain.before(7).tolist() == list(range(cycles[7] + 1))
