"""Mixed traffic: shares, laws request by request, and the workload that goes with them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.simulator.requests.draws import draw_commits, draw_runs
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.laws import (
    HistogramAcceptance,
    ParametricAcceptance,
    SglangSimulated,
    TableAcceptance,
)
from dflash_sim.simulator.requests.mixtures import MixedAcceptance, parse_shares
from dflash_sim.simulator.requests.other_laws import accept_length, truncated, with_accept_length
from dflash_sim.simulator.requests.survival import FrailtyWeibull, Survival
from dflash_sim.simulator.requests.workload import mixed_workload, parts_of

EASY = ParametricAcceptance(FrailtyWeibull(0.08, 1.2, 0.05), 16)
HARD = ParametricAcceptance(FrailtyWeibull(0.5, 1.1, 0.12), 16)
MIX = MixedAcceptance((EASY, HARD), (0.3, 0.7), ("easy", "hard"))


def test_survival_is_the_mean_of_the_parts() -> None:
    want = 0.3 * EASY.survival().s + 0.7 * HARD.survival().s
    assert MIX.survival().s == pytest.approx(want)
    assert MIX.name == "mix of 0.3 easy, 0.7 hard"


@given(
    st.lists(st.tuples(st.floats(0.01, 3), st.floats(0.3, 3), st.floats(0, 1)), min_size=1,
             max_size=4),
    st.integers(2, 24),
    st.data(),
)  # fmt: skip
def test_survival_falls_and_the_accept_length_is_between_the_parts(
    params: list[tuple[float, float, float]], block: int, data: st.DataObject
) -> None:
    parts = tuple(ParametricAcceptance(FrailtyWeibull(*p), block) for p in params)
    weights = data.draw(st.lists(st.floats(0.1, 1), min_size=len(parts), max_size=len(parts)))
    shares = tuple(w / math.fsum(weights) for w in weights)
    mix = MixedAcceptance(parts, shares, tuple(map(str, range(len(parts)))))
    s = mix.survival().s
    assert np.all(np.diff(s) <= 0)
    lengths = [p.survival().mean_accept_length for p in parts]
    assert min(lengths) - 1e-9 <= mix.survival().mean_accept_length <= max(lengths) + 1e-9
    assert 1 <= mix.survival().mean_accept_length <= block


def test_a_mixture_of_one_is_that_one() -> None:
    alone = MixedAcceptance((EASY,), (1.0,), ("easy",))
    assert alone.survival().s == pytest.approx(EASY.survival().s)
    need = np.full(400, 200)
    mixed = draw_runs(alone, np.random.default_rng(1), need)
    plain = draw_runs(EASY, np.random.default_rng(2), need)
    means = [np.mean(200 / r.cycles) for r in (mixed, plain)]
    assert means[0] == pytest.approx(means[1], rel=0.03)


def test_each_request_has_the_law_of_its_part() -> None:
    part = np.array([0, 1] * 300)
    runs = draw_runs(MIX, np.random.default_rng(0), np.full(600, 500), part=part)
    for i, law in enumerate((EASY, HARD)):
        each = 500 / runs.cycles[part == i]
        assert each.mean() == pytest.approx(law.survival().mean_accept_length, rel=0.04)
    # The spread is between requests: two kinds are further apart than the requests of either.
    assert (500 / runs.cycles).std() > 2 * (500 / runs.cycles[part == 1]).std()


def test_a_stream_says_the_same_twice() -> None:
    """A seed sequence is not used up: slopes compare runs with one latent acceptance."""
    sequence = np.random.SeedSequence(3)
    need = np.full(50, 100)
    a, b = (draw_runs(MIX, np.random.default_rng(sequence), need) for _ in range(2))
    assert np.array_equal(a.cycles, b.cycles)
    c, d = (MIX.draw(np.random.default_rng(sequence), requests=9, cycles=9) for _ in range(2))
    assert np.array_equal(c, d)


def test_a_law_moves_part_by_part() -> None:
    law = Expectation(MIX, "", "assumed", 0.1)
    worse = law.adjusted(rejection=0.2).acceptance
    assert isinstance(worse, MixedAcceptance)
    for was, now in zip(MIX.parts, worse.parts, strict=True):
        assert now.survival().mean_accept_length < was.survival().mean_accept_length
    half = truncated(law, 8).acceptance
    assert half.survival().s == pytest.approx(MIX.survival().s[:7])
    assert accept_length(with_accept_length(law, 4.0)) == pytest.approx(4.0)


def test_tables_and_histograms_mix_with_laws() -> None:
    table = TableAcceptance(Survival.table([0.9, 0.5, 0.1]), 4)
    counts = HistogramAcceptance(np.array([5.0, 3, 1, 1]), 4)
    mix = MixedAcceptance((table, counts), (0.5, 0.5), ("a", "b"))
    assert mix.survival().s == pytest.approx([0.7, 0.35, 0.1])
    assert mix.draw(np.random.default_rng(0), requests=40, cycles=9).shape == (40, 9)


def test_a_law_of_whole_batches_cannot_be_mixed() -> None:
    with pytest.raises(UsageError, match="drawn once for a whole batch"):
        MixedAcceptance((SglangSimulated(3.0, 8), SglangSimulated(4.0, 8)), (0.5, 0.5), ("a", "b"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gsm8k:0.3,mbpp:0.6", "the shares add up to 0.9, not 1"),
        ("gsm8k:0.3,mbpp", "'mbpp' has no share"),
        ("gsm8k:-0.3,mbpp:1.3", "the share -0.3 of gsm8k is outside"),
        ("gsm8k:half,mbpp:0.5", "the share 'half' of gsm8k is not a number"),
        ("gsm8k:nan,mbpp:0.5", "outside"),
        ("gsm8k:0.5,gsm8k:0.5", "gsm8k comes twice"),
        ("gsm8k:0.5,grade-school-math:0.5", "unknown dataset"),
        ("gsm8k:0.5,:0.5", "has no share"),
        ("prose", "give --content prose with --isl and --osl"),
        ("gsm8k:0.5,mbp:0.5", "did you mean mbpp"),
    ],
)
def test_bad_mixtures_are_one_line(text: str, said: str) -> None:
    with pytest.raises(DflashSimError, match=said) as refused:
        parts_of(text)
    assert "\n" not in str(refused.value)


def test_a_share_of_nothing_is_left_out_and_one_name_is_all_of_it() -> None:
    assert parse_shares("humaneval") == [("humaneval", 1.0)]
    assert parse_shares("humaneval:1, mt-bench:0") == [("humaneval", 1.0)]
    assert [p.dataset.name for p in parts_of("human-eval")] == ["humaneval"]
    assert parts_of(None) == ()


@pytest.mark.parametrize("conc", [1, 8])
def test_requests_come_in_the_shares(conc: int) -> None:
    """Second turns count too: shares are of requests, not of conversations."""
    parts = parts_of("humaneval:0.3,mt-bench:0.7")
    work = mixed_workload(
        parts,
        thinking=True,
        conc=conc,
        max_new_tokens=4096,
        cache_unit=64,
        num_prompts=None,
        rng=np.random.default_rng(0),
    )
    assert work.part is not None
    assert np.mean(work.part[work.measured] == 0) == pytest.approx(0.3, abs=0.01)
    assert (~work.measured).any() == (conc > 1)
    later = work.follow[work.follow >= 0]
    assert np.array_equal(later, np.flatnonzero(work.follow >= 0) + 1)
    assert np.all(work.part[later] == 1), "only MT-Bench has second turns"
    means = [work.osl[work.part == i].mean() for i in (0, 1)]
    assert means[0] > 1.1 * means[1], "HumanEval thinks for longer"
    draws = draw_commits(MIX, work, np.random.default_rng(1))
    assert draws.cycles.shape == work.osl.shape
