"""Latent attention: absorbed and expanded forms agree, and the sparse choice is what it says."""

import pytest

torch = pytest.importorskip("torch", reason="the references are written in torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from dflash_sim.kernels.reference.latent import (  # noqa: E402
    absorb,
    choose,
    expanded_attention,
    index_scores,
    latent_attention,
    rotate_pairs,
    values_of,
)

torch.set_num_threads(1)
F64 = torch.float64
LATENT, ROPE, NOPE, VALUE, HEADS, PAGE = 6, 4, 5, 3, 3, 4


def draw(rows: int, lens: "list[int]", seed: int = 0):  # type: ignore[no-untyped-def]
    """Queries, up projections and a pool of shuffled pages."""
    g = torch.Generator().manual_seed(seed)
    requests = len(lens)
    width = -(-(max(lens) + rows) // PAGE)
    pool = torch.randn(requests * width, PAGE, LATENT + ROPE, dtype=F64, generator=g)
    table = torch.randperm(requests * width, generator=g).view(requests, width).int()
    q = torch.randn(requests, rows, HEADS, NOPE + ROPE, dtype=F64, generator=g)
    w_k = torch.randn(HEADS, NOPE, LATENT, dtype=F64, generator=g)
    w_v = torch.randn(HEADS, VALUE, LATENT, dtype=F64, generator=g)
    return q, w_k, w_v, pool, table, torch.tensor(lens, dtype=torch.int32) + rows


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 5),
    lens=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    keep=st.none() | st.integers(1, 6),
)
def test_absorbed_and_expanded_agree(rows: int, lens: "list[int]", keep: "int | None") -> None:
    q, w_k, w_v, pool, table, seq = draw(rows, lens)
    tokens = table.shape[1] * PAGE
    chosen = None
    if keep is not None:
        chosen = torch.rand(len(lens), rows, tokens) < keep / 10
    want = expanded_attention(q, pool, table, seq, w_k, w_v, scale=0.4, chosen=chosen)
    inside = torch.cat([absorb(q[..., :NOPE], w_k), q[..., NOPE:]], -1)
    got = latent_attention(inside, pool, table, seq, latent=LATENT, scale=0.4, chosen=chosen)
    assert (values_of(got, w_v) - want).abs().max() < 1e-9


def test_a_row_is_a_decode_at_its_place() -> None:
    """Verification of several rows is each of them decoded over the tokens before it."""
    q, w_k, _, pool, table, seq = draw(4, [7, 2])
    inside = torch.cat([absorb(q[..., :NOPE], w_k), q[..., NOPE:]], -1)
    whole = latent_attention(inside, pool, table, seq, latent=LATENT, scale=0.4)
    for i in range(4):
        one = latent_attention(
            inside[:, i : i + 1], pool, table, seq - 3 + i, latent=LATENT, scale=0.4
        )
        assert (whole[:, i] - one[:, 0]).abs().max() < 1e-12


def test_a_rotation_keeps_lengths_and_turns_neighbours() -> None:
    x, angle = torch.randn(3, ROPE, dtype=F64), torch.randn(3, ROPE // 2, dtype=F64)
    turned = rotate_pairs(x, angle.cos(), angle.sin())
    for i in range(0, ROPE, 2):
        pair = torch.view_as_complex(x[:, i : i + 2].contiguous())
        want = pair * torch.polar(torch.ones(3, dtype=F64), angle[:, i // 2])
        assert (torch.view_as_complex(turned[:, i : i + 2].contiguous()) - want).abs().max() < 1e-12


def test_the_choice_is_the_highest_scores_that_are_seen() -> None:
    scores = torch.tensor([[[0.5, 3.0, -1.0, 2.0, -torch.inf]]])
    assert choose(scores, 2).tolist() == [[[False, True, False, True, False]]]
    assert choose(scores, 9).tolist() == [[[True, True, True, True, False]]]


def test_scores_weigh_positive_products_and_look_at_no_later_token() -> None:
    g = torch.Generator().manual_seed(3)
    pool = torch.randn(2, PAGE, 5, dtype=F64, generator=g)
    q, w = torch.randn(1, 2, 2, 5, dtype=F64, generator=g), torch.rand(1, 2, 2, dtype=F64)
    got = index_scores(q, w, pool, torch.tensor([[1, 0]]), torch.tensor([6]))
    keys = torch.cat([pool[1], pool[0]])
    for row, last in ((0, 4), (1, 5)):
        for token in range(8):
            if token > last:
                assert got[0, row, token] == -torch.inf
                continue
            each = [max(0.0, float(q[0, row, h] @ keys[token])) for h in range(2)]
            want = sum(float(w[0, row, h]) * each[h] for h in range(2))
            assert float(got[0, row, token]) == pytest.approx(want)
