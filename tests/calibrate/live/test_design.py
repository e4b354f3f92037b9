"""Cells are chosen that narrow the predictions of all cells most for their time."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dflash_sim.calibrate.fit.prior import Prior
from dflash_sim.calibrate.live.design import Design, choose_cells
from dflash_sim.profiles.releases.calibration import Parameter
from dflash_sim.simulator.slopes import METRICS


def row(setting: str, noise: float) -> Any:
    """A row of which the throughput alone is measured."""
    logs = np.full(len(METRICS), np.nan)
    logs[0] = 0.0
    errors = np.full(len(METRICS), noise)
    return SimpleNamespace(logs=logs, errors=errors, speed=0, setting=setting)


def designed(slopes: list[list[float]], noise: float = 0.01, sd: float = 0.1) -> Design:
    """A design in which each row's speed answers to the unknowns by its slopes."""
    unknowns = [Parameter("constant", f"c{i}", "log", 0.0, sd) for i in range(len(slopes[0]))]
    prior = replace(Prior.independent(unknowns), discrepancy=(1e-6, 1e-6, 1.0))
    rows = [row(str(i), noise) for i in range(len(slopes))]
    taken = np.zeros((len(rows), len(METRICS), len(unknowns)))
    taken[:, 0] = slopes
    return Design(rows, prior, taken)


def choose(design: Design, cost_s: list[float], **limits: Any) -> Any:
    asked = {"seconds": 1e9, "most_requests": 10**9, "fewest": 0} | limits
    return choose_cells(design, cost_s, [1] * len(cost_s), **asked)


def test_doubt_is_that_of_the_closed_form() -> None:
    design = designed([[1.0, 0.0], [0.0, 1.0]], noise=0.05, sd=0.2)
    prior, noise = 0.2**2, 0.05**2
    assert design.doubt([]) == pytest.approx(prior)
    one = prior - prior**2 / (prior + noise)
    assert design.doubt([0]) == pytest.approx((one + prior) / 2, rel=1e-6)
    assert design.doubt([0, 1]) == pytest.approx(one, rel=1e-6)


def test_a_row_that_answers_to_nothing_unknown_is_not_measured() -> None:
    found = choose(designed([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]), [1.0, 0.01, 1.0])
    assert set(found.order) == {0, 2}


def test_of_two_that_tell_the_same_the_quick_one_is_measured() -> None:
    found = choose(designed([[1.0], [1.0], [1.0]]), [5.0, 1.0, 5.0])
    assert found.order[0] == 1


def test_doubt_falls_with_every_row_and_limits_hold() -> None:
    slopes = np.random.default_rng(1).normal(size=(12, 6)).tolist()
    design, cost = designed(slopes, noise=0.1), [float(1 + i % 3) for i in range(12)]
    found = choose(design, cost, seconds=9.0, most_requests=5)
    assert sum(cost[i] for i in found.order) <= 9.0
    assert 1 <= len(found.order) <= 5
    falling = [found.prior_sd, *found.after]
    assert falling == sorted(falling, reverse=True)
    assert found.after[-1] ** 2 == pytest.approx(design.doubt(found.order))


def test_greedy_choice_is_better_than_most_others_of_its_size() -> None:
    rng = np.random.default_rng(2)
    design = designed(rng.normal(size=(14, 5)).tolist(), noise=0.1)
    found = choose(design, [1.0] * 14, most_requests=3)
    others = [design.doubt(rng.choice(14, 3, replace=False).tolist()) for _ in range(200)]
    assert np.mean(np.array(others) >= design.doubt(found.order)) > 0.97


def test_what_is_measured_already_is_neither_measured_again_nor_forgotten() -> None:
    design = designed([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    found = choose(design, [1.0] * 3, done=[0])
    assert found.order[0] == 2
    assert 0 not in found.order
    assert found.prior_sd**2 == pytest.approx(design.doubt([0]))


def test_the_fewest_are_taken_even_where_little_is_to_learn() -> None:
    design = designed([[1.0]] * 5, noise=0.0001)
    assert len(choose(design, [1.0] * 5, fewest=5).order) == 5
    assert len(choose(design, [1.0] * 5).order) == 4  # an average of four is off by half of one
