"""Temperature, top-k and top-p by a loop over sorted tokens."""

import math

import pytest

torch = pytest.importorskip("torch", reason="the references are written in torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from dflash_sim.kernels.reference.sampling import target_distribution  # noqa: E402

torch.set_num_threads(1)


def by_hand(
    logits: list[float], temperature: float, top_k: int | None, top_p: float
) -> list[float]:
    """One token after another, the likeliest first, until a cut."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    order = order[:top_k]
    most = max(logits)
    weights = {token: math.exp((logits[token] - most) / temperature) for token in order}
    whole, reached = sum(weights.values()), 0.0
    kept: dict[int, float] = {}
    for token in order:
        if reached >= top_p:
            break
        kept[token] = weights[token]
        reached += weights[token] / whole
    left = sum(kept.values())
    return [kept.get(token, 0.0) / left for token in range(len(logits))]


@given(
    logits=st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=1, max_size=9),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.none() | st.integers(1, 12),
    top_p=st.sampled_from([0.0501, 0.3503, 0.9007, 1.0]),
)
def test_cuts_by_hand(
    logits: list[float], temperature: float, top_k: int | None, top_p: float
) -> None:
    got = target_distribution(torch.tensor([logits]), temperature, top_k=top_k, top_p=top_p)
    assert got[0].tolist() == pytest.approx(by_hand(logits, temperature, top_k, top_p), abs=1e-9)


def test_top_p_cuts_what_top_k_has_left() -> None:
    """Of 0.4, 0.3, 0.2, 0.1 two are 4/7 and 3/7: the first alone is more than half."""
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert target_distribution(logits, 1.0, top_k=2, top_p=0.5).tolist() == [1, 0, 0, 0]
    assert target_distribution(logits, 1.0, top_p=0.5)[1] > 0
