"""Root finding, quadrature, least squares and projection against known answers."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from dflash_sim.simulator.requests.numerics import (
    gamma_quadrature,
    gauss_newton,
    non_increasing,
    root,
)
from dflash_sim.simulator.requests.survival import Survival

fixed = settings(derandomize=True, deadline=None, max_examples=60)


@fixed
@given(shift=st.floats(-5, 5), power=st.sampled_from([1, 3, 5]))
def test_root_of_odd_powers(shift: float, power: int) -> None:
    assert root(lambda x: (x - shift) ** power, -6, 7) == pytest.approx(shift, abs=1e-5)


@pytest.mark.parametrize(
    ("f", "low", "high"),
    [
        (lambda x: math.exp(x) - 2, -30, 30),
        (lambda x: math.cos(x) - x, 0, 1),
        (lambda x: 1 if x > 1 / 3 else -1, 0, 1),
    ],
    ids=["smooth", "cosine", "jump"],
)
def test_root_agrees_with_brent(f: Callable[[float], float], low: float, high: float) -> None:
    assert root(f, low, high) == pytest.approx(optimize.brentq(f, low, high), abs=1e-12)
    assert root(f, low, high) == pytest.approx(root(f, high, low), abs=1e-12)


def test_survival_too_small_to_differ_is_filled() -> None:
    """Differences of 1e-30 beside 0.4: root once divided by what two equal values differ in."""
    s = np.exp(-(np.arange(1, 9) ** 2.0))
    blocks = (2, 3, 6, 8, 9)
    lengths = {b: 1 + float(s[: b - 1].sum()) for b in blocks}
    filled = Survival.from_accept_lengths(lengths)
    for b in blocks:
        assert filled.truncate(b).mean_accept_length == pytest.approx(lengths[b], abs=1e-9)


@pytest.mark.parametrize("theta", [1e-4, 0.05, 0.3])
def test_gamma_quadrature_gives_the_laplace_transform(theta: float) -> None:
    z, weights = gamma_quadrature(theta)
    x = np.array([0.0, 0.1, 1, 5, 20])
    exact = (1 + theta * x) ** (-1 / theta)
    assert np.exp(-np.outer(x, z)) @ weights == pytest.approx(exact, abs=1e-7)
    assert weights @ (z - 1) ** 2 == pytest.approx(theta, rel=1e-10)


@fixed
@given(
    values=st.lists(st.floats(-3, 3), min_size=1, max_size=12),
    weights=st.lists(st.integers(1, 9), min_size=12, max_size=12),
)
def test_projection_is_the_isotonic_regression(values: list[float], weights: list[int]) -> None:
    y, w = np.array(values), np.array(weights[: len(values)], dtype=float)
    exact = optimize.isotonic_regression(y, weights=w, increasing=False).x
    assert non_increasing(y, w) == pytest.approx(exact, abs=1e-9)


def test_gauss_newton_finds_the_linear_solution_and_its_information() -> None:
    a = np.array([[1.0, 2], [3, 4], [5, 7]])
    b = np.array([1.0, 0, 2])
    x, information = gauss_newton(lambda x: a @ x - b, np.zeros(2))
    assert x == pytest.approx(np.linalg.lstsq(a, b)[0], abs=1e-9)
    assert information == pytest.approx(a.T @ a, rel=1e-6)
