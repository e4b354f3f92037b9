"""The measured DSpark frontier: what it says itself, and what is simulated of it."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dflash_sim.profiles.dspark_published import ADAPTIVE, load_dspark
from dflash_sim.simulator.requests.laws import TableAcceptance
from dflash_sim.simulator.requests.survival import Survival
from dflash_sim.studies.published import dspark_frontier as dspark
from dflash_sim.studies.published.dspark_frontier import (
    BEFORE,
    CONC,
    DRAFTS,
    PLAIN,
    PUBLISHED,
    Arm,
    Prices,
)

MEASURED = load_dspark().frontier[PUBLISHED]


@pytest.fixture(scope="module")
def found() -> dict[Arm, float]:
    return dspark.frontier(dspark.fitted(factors=2), dspark.drafter())


def missed(found: dict[Arm, float]) -> set[tuple[int, str, str]]:
    pairs = dspark.pairs(MEASURED, found)
    return {(p.conc, p.first, p.second) for p in pairs if not p.agrees}


# ---- the published tables ----------------------------------------------------------------


def test_the_tables_are_whole() -> None:
    for figure in (PUBLISHED, BEFORE):
        arms = load_dspark().frontier[figure]
        assert set(arms) == {(d, c) for d in (*DRAFTS, ADAPTIVE) for c in CONC}
        for d in DRAFTS:
            users = [arms[d, c].user_tok_s for c in CONC]
            assert users == sorted(users, reverse=True)
    # What the article's text says of the revision with graphs up to 1,024 tokens.
    before = load_dspark().frontier[BEFORE]
    assert before[ADAPTIVE, 256].output_tok_s == pytest.approx(8855, rel=1e-3)
    assert before[PLAIN, 256].output_tok_s == pytest.approx(6267, rel=1e-3)
    assert before["7", 1].output_tok_s == pytest.approx(264, rel=2e-3)
    assert before["7", 256].output_tok_s / 6267 == pytest.approx(1 - 0.53, abs=0.01)
    for costs in (load_dspark().verify_s, load_dspark().draft_s):
        assert all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(costs))


def test_adaptive_was_best_up_to_128_requests() -> None:
    for c in CONC:
        best = max(MEASURED[d, c].output_tok_s for d in DRAFTS)
        assert MEASURED[ADAPTIVE, c].output_tok_s > (1 if c <= 128 else 0.998) * best


def test_the_step_cost_is_experts_reached_and_tokens_computed() -> None:
    """Within 3 %; a straight line misses the published table by more than 8 %."""
    curve = dspark.smooth_cost()
    assert curve.rms < 0.03
    assert 0 < curve.each < 0.1
    tokens, seconds = np.array([(n, s) for n, s in load_dspark().verify_s if n <= 1025]).T
    line = np.stack([np.ones_like(tokens), tokens], axis=1) / seconds[:, None]
    x = np.linalg.lstsq(line, np.ones(len(tokens)), rcond=None)[0]
    assert np.sqrt(np.mean((line @ x - 1) ** 2)) > 0.08


def test_prices_are_the_tables() -> None:
    unit = Prices(1, 1, stairs=True)
    assert unit.verify_s([4, 5, 160, 161]) == pytest.approx(
        [5.162e-3, 5.345e-3, 11.32e-3, 11.39e-3]
    )
    assert unit.drafting_s(256) == pytest.approx(5.38e-3)
    assert unit.drafting_s(3) == pytest.approx(0.997e-3)
    cliff = Prices(1, 1, stairs=True, cliff=True)
    assert cliff.verify_s([1024, 1026]) == pytest.approx([20.634e-3, 104.489e-3])
    assert unit.verify_s([1026]) < 1.1 * unit.verify_s([1024])
    assert unit.decode_s(8, 0, rows=8, drafted=1) == unit.verify_s([8])
    assert unit.decode_s(8, 0, rows=64, drafted=8) == unit.verify_s([64]) + unit.drafting_s(8)


# ---- the ranking of fixed arms -----------------------------------------------------------


def test_fixed_drafts_are_ranked_as_measured(found: dict[Arm, float]) -> None:
    """Wherever two counts of drafts differ by more than 3 %. Two factors are fitted on decoding
    without speculation, which is one of the arms; against it 7 drafts at 256 requests are wrong."""
    pairs = dspark.pairs(MEASURED, found)
    assert len(pairs) == 75
    assert sum(PLAIN not in (p.first, p.second) for p in pairs) == 45
    assert missed(found) <= {(256, PLAIN, "7")}


def test_speeds_are_within_a_quarter(found: dict[Arm, float]) -> None:
    errors = [found[arm] / MEASURED[arm].output_tok_s - 1 for arm in found]
    assert np.abs(errors).max() < 0.25
    assert np.sqrt(np.mean(np.square(errors))) < 0.14


def test_one_factor_is_not_enough() -> None:
    """The other model's balance of streaming and computing ranks nine or ten pairs otherwise: at
    128 requests it would verify five drafts, where three were best by 8 %."""
    law = dspark.drafter()
    wrong = {}
    for factors in (1, 2):
        prices = dspark.fitted(factors=factors)
        rates = {(d, c): dspark.steady(prices, law, (d, c)) for d in DRAFTS for c in CONC}
        wrong[factors] = missed(rates)
    assert 8 <= len(wrong[1]) <= 10
    assert (128, "3", "5") in wrong[1]
    assert len(wrong[2]) <= 2


def test_a_ranking_can_fail() -> None:
    """Free rows, or drafts that never fail: more of them would always be better."""
    prices = dspark.fitted(factors=2)
    free = replace(prices, computing=0.0)
    sure = TableAcceptance(Survival.table([1.0] * dspark.MOST), dspark.MOST + 1)
    for cost, law in ((free, dspark.drafter()), (prices, sure)):
        rates = {(d, c): dspark.steady(cost, law, (d, c)) for d in DRAFTS for c in CONC}
        assert len(missed(rates)) > 12


def test_the_engine_is_the_steady_state_but_for_ramp_and_drain(found: dict[Arm, float]) -> None:
    prices, law = dspark.fitted(factors=2), dspark.drafter()
    for arm in ((PLAIN, 16), ("5", 16), ("3", 32)):
        steady = dspark.steady(prices, law, arm)
        assert 0.9 * steady < found[arm] < 1.03 * steady


# ---- the scheduler -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "conc",
    [
        pytest.param(
            c,
            marks=[
                pytest.mark.xfail(
                    strict=True,
                    reason="0.8 % behind: one request's budget is sized from independent past "
                    "confidences, which know nothing of the draft it is for",
                )
            ]
            * (c == 1),
        )
        for c in CONC
    ],
)
def test_adaptive_is_no_worse_than_the_best_fixed_count(conc: int, found: dict[Arm, float]) -> None:
    assert found[ADAPTIVE, conc] >= max(found[d, conc] for d in DRAFTS)


def gains(of: Mapping[Arm, float]) -> list[float]:
    """The scheduler over the best fixed count, by concurrency."""
    return [of[ADAPTIVE, c] / max(of[d, c] for d in DRAFTS) for c in CONC]


def test_the_gain_of_the_scheduler_is_not_predicted(found: dict[Arm, float]) -> None:
    """It grows where the measured one vanishes. Should that change, the page is to say so."""
    was, now = gains({arm: m.output_tok_s for arm, m in MEASURED.items()}), gains(found)
    assert was[-1] < was[-2] < was[0] < max(was)
    assert now == sorted(now)
    assert np.corrcoef(was, now)[0, 1] < 0


def test_the_page_says_what_is_simulated(found: dict[Arm, float]) -> None:
    page = (Path(__file__).parents[3] / "docs/explanation/policies.md").read_text(encoding="utf-8")
    measured = {arm: m.output_tok_s for arm, m in MEASURED.items()}
    for kind, of in (("measured", measured), ("simulated", found)):
        cells = (f"{100 * (gain - 1):+.1f} %" for gain in gains(of))
        assert f"| {kind} | {' | '.join(cells)} |" in page


def test_the_scheduler_stays_below_the_cliff() -> None:
    """Held out: with graphs up to 1,024 tokens 7 fixed drafts fell to 0.47 of plain decoding at 256
    requests, and the scheduler kept 1.41."""
    before, law = load_dspark().frontier[BEFORE], dspark.drafter()
    arms = (PLAIN, "7", ADAPTIVE)
    found = dspark.frontier(dspark.fitted(factors=2, cliff=True), law, drafts=arms, conc=(256,))
    smooth = dspark.frontier(dspark.fitted(factors=2), law, drafts=arms, conc=(256,))
    for drafts, band in (("7", 0.05), (ADAPTIVE, 0.08)):
        was = before[drafts, 256].output_tok_s / before[PLAIN, 256].output_tok_s
        assert found[drafts, 256] / found[PLAIN, 256] == pytest.approx(was, abs=band)
    assert smooth["7", 256] / smooth[PLAIN, 256] > 0.9
