"""The busiest of ranks with whole experts, against routing that is drawn."""

import numpy as np
import pytest

from dflash_sim.simulator.cost.expert_ranks import EVEN, busiest_rank, expected_maximum

DRAWS = 300


def drawn(experts: int, top_k: int, tokens: int, skew: float, ep: int) -> tuple[float, float]:
    """Distinct experts and rows of the busiest rank over the mean: tokens choose by popularity."""
    rng = np.random.default_rng(experts + tokens)
    touched, rows = [], []
    for _ in range(DRAWS):
        liked = skew * rng.standard_normal(experts) + rng.gumbel(size=(tokens, experts))
        chosen = np.argpartition(-liked, top_k, axis=1)[:, :top_k]
        counts = np.bincount(chosen.ravel(), minlength=experts).reshape(ep, -1)
        touched.append((counts > 0).sum(axis=1).max() / (counts > 0).sum() * ep)
        rows.append(counts.sum(axis=1).max() / counts.sum() * ep)
    return float(np.mean(touched)), float(np.mean(rows))


@pytest.mark.parametrize(
    ("experts", "top_k", "tokens", "skew", "ep"),
    [
        (512, 10, 4, 0.0, 8),
        (512, 10, 4, 0.8, 8),
        (512, 10, 64, 0.8, 8),
        (256, 8, 64, 0.8, 4),
        (256, 8, 512, 0.8, 8),
        (128, 8, 32, 0.5, 2),
    ],
)
def test_it_is_that_of_drawn_routing(
    experts: int, top_k: int, tokens: int, skew: float, ep: int
) -> None:
    found = busiest_rank(experts, top_k, tokens=tokens, skew=skew, ep=ep)
    touched, rows = drawn(experts, top_k, tokens, skew, ep)
    assert found.touched == pytest.approx(touched, rel=0.05)
    assert found.load == pytest.approx(rows, rel=0.05)


def test_limits() -> None:
    """One group has everything; many tokens touch all experts, and chance averages out."""
    assert busiest_rank(512, 10, tokens=16, skew=0.8, ep=1) is EVEN
    many = busiest_rank(512, 10, tokens=1e6, skew=0.0, ep=8)
    assert many.touched == pytest.approx(1.0, abs=1e-6)
    assert many.load == pytest.approx(1.0, abs=2e-3)
    few = busiest_rank(8, 2, tokens=1, skew=2.0, ep=8)
    assert 1 < few.touched <= 8
    assert 1 < few.load <= 8
    uneven = [busiest_rank(256, 8, tokens=64, skew=s, ep=4).load for s in (0.0, 0.5, 1.0)]
    assert uneven == sorted(uneven)
    shares = [busiest_rank(256, 8, tokens=64, skew=0.5, ep=n).load for n in (1, 2, 4, 8)]
    assert shares == sorted(shares)


def test_the_largest_of_normal_numbers() -> None:
    """Tables of order statistics have 0, 0.5642, 1.0294 and 1.4236."""
    found = [expected_maximum(n) for n in (1, 2, 4, 8)]
    assert found == pytest.approx([0.0, 0.56419, 1.02938, 1.42360], abs=1e-4)
