"""Where a gain passes 0: ends of stretches, and intervals from paired draws."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.studies.crossover.ends import Floats, Spread, ends, spans, stretches

X = np.log([1.0, 2, 4, 8, 16, 32])
INF = np.inf


def spread_of(*, slopes: Any, covariance: Any, offset: float = 0.0) -> Spread:
    return Spread(X[[0, -1]], np.array(slopes), np.array(covariance), offset)


@pytest.mark.parametrize(
    ("gain", "since", "until"),
    [
        ([1.0, 0.5, 0.2, 0.1, -0.1, -0.2], 0.0, 8 * 2**0.5),
        ([1.0] * 6, 0.0, INF),
        ([-1.0] * 6, INF, 0.0),
        ([-0.1, -0.1, 0.1, 0.1, 0.1, 0.1], 2 * 2**0.5, INF),
        ([0.1, -0.1, 0.1, 0.2, -0.1, -0.1], 2 * 2**0.5, 8 * 2 ** (2 / 3)),
        ([0.3, 0.2, -0.01, 0.1, -0.1, -0.1], 0.0, 8 * 2**0.5),  # a shallow dip ends nothing
        ([0.3, 0.2, 0.1, 0.0, -0.1, -0.1], 0.0, 8.0),
    ],
)
def test_the_last_stretch_that_pays(gain: list[float], since: float, until: float) -> None:
    found = ends(X, np.array([gain]))
    assert np.exp(found.since[0]) == pytest.approx(since)
    assert np.exp(found.until[0]) == pytest.approx(until)


def test_every_stretch_is_told() -> None:
    gain = np.array([0.1, -0.1, 0.1, 0.2, -0.1, 0.1])
    told = [tuple(np.exp(each)) for each in stretches(X, gain)]
    assert told == [
        (0.0, pytest.approx(2**0.5)),
        (pytest.approx(2 * 2**0.5), pytest.approx(8 * 2 ** (2 / 3))),
        (pytest.approx(16 * 2**0.5), INF),
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6))
def test_ends_are_where_the_sign_changes(gain: list[float]) -> None:
    g = np.array(gain)
    x = X[: len(g)]
    found = ends(x, g[None])
    since, until = float(found.since[0]), float(found.until[0])
    if (g > 0).any():
        assert since <= until
        inside = (x > since) & (x < until)
        assert (g[inside] >= -0.02).all()
        assert (g[x > until] <= 0).all()
    else:
        assert (since, until) == (INF, -INF)


def test_what_both_servers_share_moves_no_crossing() -> None:
    """A parameter with equal slopes on both sides is a difference of zero."""
    gain = np.array([1.0, 0.5, 0.2, 0.1, -0.1, -0.2])
    shared = spread_of(slopes=[[0.0], [0.0]], covariance=[[9.0]])
    _, until = spans(X, gain, shared, seed=1)
    assert until.low == until.value == until.high


def test_an_interval_is_that_of_a_straight_line() -> None:
    """Gain a - b x with an error in a of sd s: the crossing has the error s / b."""
    a, b, sd = 2.0, 1.0, 0.1
    for spread in (
        spread_of(slopes=[[1.0], [1.0]], covariance=[[sd**2]]),
        spread_of(slopes=[[0.0], [0.0]], covariance=[[1.0]], offset=sd**2),
    ):
        _, until = spans(X, a - b * X, spread, seed=3)
        assert until.value == pytest.approx(a / b)
        assert until.low == pytest.approx((a - 1.645 * sd) / b, abs=0.02)
        assert until.high == pytest.approx((a + 1.645 * sd) / b, abs=0.02)


def test_slopes_change_along_the_axis() -> None:
    """What widens with the batch moves a late crossing more than an early one."""
    widening = spread_of(slopes=[[0.0], [1.0]], covariance=[[0.04]])
    sd = widening.sd(X)
    assert sd[0] == 0
    assert np.all(np.diff(sd) > 0)
    early, late = (spans(X, a - X, widening, seed=5)[1] for a in (0.7, 2.8))
    assert late.high - late.low > 2 * (early.high - early.low)


def test_an_interval_may_be_open() -> None:
    gain = np.array([0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    wide = spread_of(slopes=[[1.0], [1.0]], covariance=[[0.01]])
    _, until = spans(X, gain, wide, seed=2)
    assert until.value == until.high == INF
    assert np.exp(until.low) < 16  # though it is the likelier answer, it might stop there


def test_the_same_seed_is_the_same_interval() -> None:
    gain = np.array([1.0, 0.5, 0.2, 0.1, -0.1, -0.2])
    spread = spread_of(slopes=[[1.0], [2.0]], covariance=[[0.01]])
    one, two = (spans(X, gain, spread, seed=7) for _ in range(2))
    assert one == two
    draws: Floats = spread.draws(X, seed=7)
    assert np.std(draws, axis=0) == pytest.approx(spread.sd(X), rel=0.1)
