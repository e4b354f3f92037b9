"""Requests as a benchmark sends them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import workloads

from dflash_sim.profiles.load import load_dataset
from dflash_sim.profiles.sheets import Dataset, LengthModel
from dflash_sim.simulator.requests.workload import (
    Workload,
    card_workload,
    fixed_workload,
    open_loop,
    shortened,
)

CARDS = ("gsm8k", "math500", "humaneval", "mbpp", "mt-bench")


def card(
    name: str | Dataset, *, conc: int = 4, unit: int = 64, seed: int = 0, num: int | None = None
) -> Workload:
    return card_workload(
        load_dataset(name) if isinstance(name, str) else name,
        thinking=True,
        conc=conc,
        max_new_tokens=4096,
        cache_unit=unit,
        num_prompts=num,
        rng=np.random.default_rng(seed),
    )


@settings(max_examples=60)
@given(
    name=st.sampled_from(CARDS),
    conc=st.integers(1, 40),
    unit=st.sampled_from([0, 1, 64, 256]),
    seed=st.integers(0, 2**32 - 1),
    num=st.one_of(st.none(), st.integers(1, 300)),
)
def test_every_prompt_has_a_token_to_compute(
    name: str, conc: int, unit: int, seed: int, num: int | None
) -> None:
    """The cache holds whole units, never a whole prompt, though turns differ in length."""
    work = card(name, conc=conc, unit=unit, seed=seed, num=num)
    assert (work.cached < work.isl).all()
    assert (work.cached >= 0).all()
    assert (work.cached % max(1, unit) == 0).all()
    assert ((work.osl >= 1) & (work.osl <= 4096)).all()
    assert (work.isl >= 1).all()


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("conc", [1, 8])
def test_the_cards_harness(name: str, conc: int) -> None:
    """One copy alone; whole copies until 1,024 turns together, with warm-down behind the tail."""
    data = load_dataset(name)
    work = card(name, conc=conc)
    turns = data.turns
    measured = int(work.measured.sum())
    assert measured % (data.num_prompts * turns) == 0
    if conc == 1:
        assert measured == data.num_prompts * turns == len(work)
    else:
        assert data.min_turns <= measured < data.min_turns + data.num_prompts * turns
        assert len(work) - measured == conc * turns
    assert work.measured[:measured].all()


def test_a_repeated_prompt_is_cached_but_for_its_last_tokens() -> None:
    data = load_dataset("humaneval")
    work = card("humaneval", conc=4)
    n = data.num_prompts
    np.testing.assert_array_equal(work.isl[n : 2 * n], work.isl[:n])
    assert (work.cached[:n] == 0).all()
    np.testing.assert_array_equal(work.cached[n : 2 * n], (work.isl[:n] - 1) // 64 * 64)


def test_turns_follow_each_other() -> None:
    work = card("mt-bench", conc=4)
    heads = work.heads
    assert len(heads) == len(work) // 2
    assert (work.follow[heads] == np.array(heads) + 1).all()
    assert (work.follow[np.array(heads) + 1] == -1).all()
    assert (work.measured[heads] == work.measured[np.array(heads) + 1]).all()


def test_lengths_have_the_moments_of_the_sheet() -> None:
    """Log-normal, before rounding and the cap."""
    data = load_dataset("humaneval")
    many = replace(data, num_prompts=40_000)
    isl = card(many, conc=1).isl
    given_ = data.isl[0]
    assert isinstance(given_, LengthModel)
    assert isl.mean() == pytest.approx(given_.mean.si, rel=0.01)
    assert isl.std() == pytest.approx(given_.sd.si, rel=0.03)
    assert np.log(isl).std() == pytest.approx(
        np.sqrt(np.log1p((given_.sd.si / given_.mean.si) ** 2)), rel=0.02
    )


def test_fixed_requests() -> None:
    work = fixed_workload(isl=100, osl=7, requests=5, conc=2)
    assert work.isl.tolist() == [100] * 5
    assert work.osl.tolist() == [7] * 5
    assert work.measured.all()
    assert not work.cached.any()
    assert work.heads == list(range(5))


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 4.0])
def test_arrivals_have_the_rate_and_the_burstiness(burstiness: float) -> None:
    """Gamma gaps: mean 1 / rate, coefficient of variation 1 / sqrt(shape)."""
    n = 40_000
    base = fixed_workload(isl=10, osl=5, requests=n, conc=1)
    work = open_loop(base, rate=3.0, burstiness=burstiness, rng=np.random.default_rng(5))
    assert work.arrival_s is not None
    gaps = np.diff(work.arrival_s)
    se = gaps.std() / np.sqrt(n)
    assert abs(gaps.mean() - 1 / 3) < 4 * se
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.03)
    assert (gaps >= 0).all()
    assert (work.follow == -1).all()


def test_the_same_seed_asks_for_the_same_requests() -> None:
    """Common random numbers: concurrency changes how many copies run, not what is asked."""
    one, two = card("gsm8k", conc=2, seed=9), card("gsm8k", conc=32, seed=9)
    n = min(len(one), len(two))
    np.testing.assert_array_equal(one.isl[:n], two.isl[:n])
    np.testing.assert_array_equal(one.osl[:n], two.osl[:n])
    assert (card("gsm8k", seed=10).osl[:50] != one.osl[:50]).any()


# ---- the first turns of a workload -------------------------------------------------------

FIELDS = ("isl", "osl", "cached", "follow", "arrival_s")


@settings(max_examples=200)
@given(work=workloads(conc=4, step_s=1e-3, longest=40), turns=st.integers(1, 80))
def test_a_short_workload_keeps_whole_conversations_and_its_warm_down(
    work: Workload, turns: int
) -> None:
    short = shortened(work, turns)
    n, kept = len(short), int(short.measured.sum())
    behind = max(len(work) - int(work.measured.sum()), work.conc)
    for name in FIELDS:
        whole, part = getattr(work, name), getattr(short, name)
        assert (part is None and whole is None) or (part == whole[:n]).all()
    assert short.conc == work.conc
    # No conversation is cut, neither at the end nor where measuring stops.
    assert (short.follow < n).all()
    assert {int(f) for f in short.follow[:kept] if f >= 0} <= set(range(kept))
    assert (short.measured == (np.arange(n) < kept)).all()
    # A few turns more than asked for, at most the rest of a conversation each time.
    longest = int((work.follow >= 0).sum() / max(1, len(work.heads))) + 1
    assert min(turns, int(work.measured.sum())) <= kept
    if short is not work:
        assert n - kept >= behind  # clients stay busy until the last measured turn
        assert kept < turns + longest
        assert n - kept < behind + longest
        assert n < len(work)


def test_a_short_card_run_measures_what_it_is_asked_to() -> None:
    """Two turns each: five turns are six; eight clients, so eight conversations behind."""
    work = card("mt-bench", conc=8)
    short = shortened(work, 5)
    assert int(short.measured.sum()) == 6
    assert len(short) == 6 + 16
    assert shortened(work, len(work)) is work
    assert shortened(card("humaneval", conc=1), 7).measured.tolist() == [True] * 7
