"""Greedy acceptance by its definition; rejection sampling leaves the target's distribution."""

import pytest

torch = pytest.importorskip("torch", reason="the references are written in torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from dflash_sim.kernels.reference.accept import (  # noqa: E402
    NO_TOKEN,
    chain_rejection_sample,
    greedy_accept,
    inverse_cdf,
)

torch.set_num_threads(1)
torch.manual_seed(0)
F64 = torch.float64
TOKENS = st.integers(0, 2)


@given(st.data())
def test_greedy_keeps_what_the_target_would_have_said(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 6))
    block = st.lists(TOKENS, min_size=rows, max_size=rows)
    draft = data.draw(st.lists(block, min_size=1, max_size=4))
    answer = data.draw(st.lists(block, min_size=len(draft), max_size=len(draft)))
    got = greedy_accept(torch.tensor(draft), torch.tensor(answer))
    for r, (proposed, said) in enumerate(zip(draft, answer, strict=True)):
        kept = 0
        while kept < rows - 1 and proposed[kept + 1] == said[kept]:
            kept += 1
        assert got.accept_len[r] == kept
        assert got.commit_len[r] == kept + 1
        assert got.bonus[r] == said[kept]
        emitted = said[: kept + 1]  # what the target says, token by token: greedy is lossless
        assert got.tokens[r].tolist() == emitted + [NO_TOKEN] * (rows - kept - 1)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8).filter(any), st.floats(0, 0.999))
def test_inverse_cdf_never_takes_what_has_no_weight(weights: list[int], uniform: float) -> None:
    got = inverse_cdf(torch.tensor([weights], dtype=F64), torch.tensor([uniform], dtype=F64))
    index = int(got)
    assert weights[index] > 0
    assert sum(weights[:index]) <= uniform * sum(weights) + 1e-9
    assert sum(weights[: index + 1]) >= uniform * sum(weights) - 1e-9


STEPS = 200


def grid() -> "tuple[torch.Tensor, torch.Tensor]":
    """Midpoints of a square: a quadrature over two uniform draws, one request per point."""
    points = (torch.arange(STEPS, dtype=F64) + 0.5) / STEPS
    first, second = torch.meshgrid(points, points, indexing="ij")
    return first.flatten(), second.flatten()


@pytest.mark.parametrize("proposal", [0, 1, 2, 3])
def test_the_first_token_is_the_targets(proposal: int) -> None:
    p = torch.tensor([0.4, 0.05, 0.25, 0.3], dtype=F64)
    accept, bonus = grid()
    many = accept.shape[0]
    got = chain_rejection_sample(
        torch.tensor([[9, proposal]]).expand(many, 2),
        p.expand(many, 2, 4),
        accept[:, None],
        bonus,
    )
    share = torch.bincount(got.tokens[:, 0], minlength=4) / many
    assert torch.allclose(share, p.float(), atol=2 / STEPS)


def test_resampling_from_the_whole_distribution_would_not_be() -> None:
    """The quadrature is sharp enough to see the classical mistake."""
    p = torch.tensor([0.4, 0.05, 0.25, 0.3], dtype=F64)
    accept, bonus = grid()
    mistaken = torch.where(accept < p[0], 0, inverse_cdf(p.expand(accept.shape[0], 4), bonus))
    share = torch.bincount(mistaken, minlength=4) / accept.shape[0]
    assert (share - p).abs().max() > 0.2


def test_two_tokens_are_jointly_the_targets() -> None:
    first = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    second = torch.tensor([0.1, 0.6, 0.3], dtype=F64)
    accept, again = grid()
    many = accept.shape[0]
    bonus = torch.rand(many, generator=torch.Generator().manual_seed(0), dtype=F64)
    got = chain_rejection_sample(
        torch.tensor([[9, 0, 1]]).expand(many, 3),
        torch.stack([first, second, second]).expand(many, 3, 3),
        torch.stack([accept, again], 1),
        bonus,
    )
    begun = got.tokens[:, 0] == 0
    assert begun.double().mean() == pytest.approx(0.5, abs=2 / STEPS)
    share = torch.bincount(got.tokens[begun, 1], minlength=3) / begun.sum()
    assert torch.allclose(share, second.float(), atol=0.015)
    assert (got.tokens[~begun, 1] == NO_TOKEN).all()


def test_a_certain_target_accepts_only_itself() -> None:
    p = torch.zeros(2, 3, 5, dtype=F64)
    p[..., 2] = 1
    u = torch.full((2, 2), 0.999, dtype=F64)
    got = chain_rejection_sample(torch.tensor([[0, 2, 2], [0, 2, 4]]), p, u, u[:, 0])
    assert got.tokens.tolist() == [[2, 2, 2], [2, 2, NO_TOKEN]]
    assert got.accept_len.tolist() == [2, 1]


Q = (0.1, 0.5, 0.0, 0.4)


def drawn_and_kept(p: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """The distribution of the first token of proposals drawn from Q, by quadrature."""
    accept, bonus = grid()
    many, share = accept.shape[0], torch.zeros(4, dtype=F64)
    for proposal, chance in enumerate(Q):
        got = chain_rejection_sample(
            torch.tensor([[9, proposal]]).expand(many, 2),
            p.expand(many, 2, 4),
            accept[:, None],
            bonus,
            told.expand(many, 1, 4),
        )
        share += chance * torch.bincount(got.tokens[:, 0], minlength=4) / many
    return share


@pytest.mark.parametrize("p", [(0.4, 0.05, 0.25, 0.3), (0.0, 0.0, 1.0, 0.0), Q])
def test_a_drawn_first_token_is_the_targets(p: tuple[float, ...]) -> None:
    """Proposals that are likelier, rarer and never drawn; and a drafter that is the target."""
    wanted = torch.tensor(p, dtype=F64)
    got = drawn_and_kept(wanted, torch.tensor(Q, dtype=F64))
    assert torch.allclose(got, wanted, atol=2 / STEPS)


def test_wrong_odds_would_be_seen() -> None:
    p = torch.tensor([0.4, 0.05, 0.25, 0.3], dtype=F64)
    got = drawn_and_kept(p, torch.full((4,), 0.25, dtype=F64))
    assert (got - p).abs().max() > 0.1


def test_what_the_target_would_draw_itself_is_always_kept() -> None:
    p = torch.tensor(Q, dtype=F64)
    got = chain_rejection_sample(
        torch.tensor([[9, 1]]),
        p.expand(1, 2, 4),
        torch.tensor([[0.9999]]),
        torch.tensor([0.5]),
        p.expand(1, 1, 4),
    )
    assert got.accept_len.tolist() == [1]


@given(st.data())
def test_one_hot_odds_are_those_of_a_greedy_drafter(data: st.DataObject) -> None:
    rows, vocab = data.draw(st.integers(1, 5)), 4
    seed = data.draw(st.integers(0, 1000))
    draw = torch.Generator().manual_seed(seed)
    draft = torch.randint(vocab, (3, rows), generator=draw)
    p = torch.softmax(torch.randn(3, rows, vocab, generator=draw, dtype=F64), -1)
    u = torch.rand(3, rows, generator=draw, dtype=F64)
    hot = torch.nn.functional.one_hot(draft[:, 1:], vocab).to(F64)
    plain = chain_rejection_sample(draft, p, u[:, 1:], u[:, 0])
    told = chain_rejection_sample(draft, p, u[:, 1:], u[:, 0], hot)
    assert torch.equal(plain.tokens, told.tokens)
