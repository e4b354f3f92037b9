"""Errors as a table: by hand, in order, and against orders by chance."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.calibrate.fit.errors import (
    MIN_GAP,
    error_table,
    in_order,
    ranked_right,
    speedups,
    summed,
)
from dflash_sim.calibrate.fit.held_out import Outcome
from dflash_sim.calibrate.fit.rows import Row, rows_of
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.profiles.releases.engine_sheet import load_engine

ENGINE = load_engine("sglang-0.5.14")
DRAFTED = {"method": "dflash", "block": 8, "acceptance": "al:4"}


def row_of(tok_s: float, **fields: object) -> Row:
    asked = {"gpu": "b200", "tp": 1, "isl": 64, "osl": 64, "num_prompts": 8, "max_new_tokens": 64}
    asked |= {"model": "qwen3-8b", "method": "none", "conc": 1} | fields
    metrics = {"output_throughput": tok_s}
    seen = Observation(row="a:1", source="a", fields=asked, metrics=metrics)
    (row,), _ = rows_of([seen], ENGINE)
    return row


def outcome(tok_s: float, predicted: float, **fields: object) -> Outcome:
    return Outcome(
        row_of(tok_s, **fields), "", predicted, low=0.9 * predicted, high=1.1 * predicted
    )


def lines(observed: list[float], predicted: list[float], question: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"question": question, "observed": observed, "predicted": predicted})


# -- sums


def test_sums_by_hand() -> None:
    found = error_table([outcome(100, 110), outcome(100, 95), outcome(100, 130)])
    (stats,) = summed(found, ["method"]).to_dict("records")
    assert (stats["method"], stats["rows"]) == ("none", 3)
    assert stats["MAPE"] == pytest.approx(0.15)
    assert stats["bias"] == pytest.approx(0.35 / 3)
    assert stats["median"] == pytest.approx(0.10)
    assert stats["p95"] == pytest.approx(0.1 + 0.9 * 0.2)
    assert (stats["least"], stats["most"]) == pytest.approx((-0.05, 0.3))
    assert stats["inside 90 %"] == pytest.approx(2 / 3)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(-0.9, 9)), min_size=1))
def test_groups_hold_every_row_once(pairs: list[tuple[str, float]]) -> None:
    errors = pd.DataFrame(pairs, columns=["group", "error"])
    found = summed(errors, ["group"])
    assert list(found["group"]) == list(dict.fromkeys(group for group, _ in pairs))
    assert found["rows"].sum() == len(pairs)
    assert (found["rows"] * found["bias"]).sum() == pytest.approx(errors["error"].sum())
    assert (found["least"] <= found["bias"] + 1e-12).all()
    assert (found["bias"].abs() <= found["MAPE"] + 1e-12).all()


def test_without_an_interval_nothing_is_said_to_be_inside() -> None:
    bare = Outcome(row_of(100), "", 100.0)
    both = error_table([bare, outcome(100, 100)])
    assert both["inside"].isna().tolist() == [True, False]
    assert np.isnan(summed(error_table([bare]), ["method"])["inside 90 %"].item())


def test_levels_of_a_factor_are_in_order() -> None:
    found = in_order(error_table([outcome(1, 1, conc=c) for c in (8, 2, 16)]), "concurrency")
    assert list(found["concurrency"]) == ["2", "8", "16"]
    words = pd.DataFrame({"block": ["none", "16", "4", "none", "8"]})
    assert list(in_order(words, "block")["block"]) == ["4", "8", "16", "none", "none"]


# -- speed-ups


def test_a_speedup_is_over_plain_decoding_of_the_same_question() -> None:
    plain, fast = outcome(100, 110), outcome(300, 264, **DRAFTED)
    elsewhere = outcome(300, 300, conc=2, **DRAFTED)
    (found,) = speedups(error_table([plain, fast, elsewhere])).to_dict("records")
    assert found["method"] == "dflash"
    assert found["observed"] == pytest.approx(3.0)
    assert found["predicted"] == pytest.approx(2.4)
    assert found["error"] == pytest.approx(-0.2)
    assert speedups(error_table([plain])).empty


# -- order


def test_pairs_share_everything_but_method_and_block() -> None:
    plain, fast = outcome(100, 100), outcome(300, 250, **DRAFTED)
    close, elsewhere = outcome(102, 90, **DRAFTED), outcome(300, 50, conc=2)
    assert ranked_right(error_table([plain, fast])) == (1, 1)
    assert ranked_right(error_table([plain, replace(fast, predicted=90)])) == (0, 1)
    assert ranked_right(error_table([plain, close])) == (0, 0)
    assert ranked_right(error_table([plain, elsewhere])) == (0, 0)


def test_pairs_by_hand() -> None:
    """Of 100, 102, 120 and 150 the pair closer than 3 % does not count, nor does a tie win."""
    right = lines([100, 102, 120, 150], [1, 0, 2, 3])
    assert ranked_right(right) == (5, 5)
    assert ranked_right(right.assign(other=-right["predicted"]), by="other") == (0, 5)
    assert ranked_right(lines([100, 150], [1, 1])) == (0, 1)
    assert ranked_right(pd.concat([lines([100], [1]), lines([150], [3], question=1)])) == (0, 0)


@given(st.lists(st.floats(1, 1e4), max_size=12))
def test_as_observed_every_pair_is_right(observed: list[float]) -> None:
    apart = sum(b > (1 + MIN_GAP) * a for a in observed for b in observed)
    assert ranked_right(lines(observed, observed)) == (apart, apart)


def test_an_order_by_chance_is_half_right() -> None:
    """Control for the share of pairs: shuffled predictions get half of them."""
    rng = np.random.default_rng(0)
    observed = [100 * 1.1**i for i in range(20)]
    shuffled = [lines(observed, rng.permutation(20).tolist(), question=i) for i in range(50)]
    right, pairs = ranked_right(pd.concat(shuffled))
    assert pairs == 50 * 190
    assert right / pairs == pytest.approx(0.5, abs=0.05)
