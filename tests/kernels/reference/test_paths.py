"""The walk through candidates, against one that looks at a single token at a time."""

import pytest

torch = pytest.importorskip("torch", reason="the references are written in torch")

from dflash_sim.kernels.reference.paths import best_tokens, score_pairs, walk  # noqa: E402

torch.set_num_threads(1)
F64 = torch.float64
REQUESTS, PLACES, WIDTH, VOCAB, RANK = 3, 4, 5, 11, 6


def lattice() -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(REQUESTS, PLACES, VOCAB, generator=draw, dtype=F64)
    before, after = torch.randn(2, VOCAB, RANK, generator=draw, dtype=F64)
    scale = torch.randn(REQUESTS, PLACES, RANK, generator=draw, dtype=F64)
    anchor = torch.tensor([3, 0, 7])
    unary, ids = best_tokens(logits, WIDTH)
    last = torch.cat([anchor[:, None, None].expand(-1, 1, WIDTH), ids[:, :-1]], 1)
    scores = score_pairs(unary, before[last] * scale[:, :, None], after[ids])
    return logits, before, after, scale, anchor, scores, ids


def row_of(parts: tuple[torch.Tensor, ...], r: int, place: int, last: int) -> dict[int, float]:
    """The score of every candidate after ``last``, by the definition of a score."""
    logits, before, after, scale = parts[:4]
    order = sorted(range(VOCAB), key=lambda token: -float(logits[r, place, token]))
    return {
        token: float(logits[r, place, token] + (before[last] * scale[r, place]) @ after[token])
        for token in order[:WIDTH]
    }


def test_the_best_path_token_by_token() -> None:
    parts = lattice()
    *_, anchor, scores, ids = parts
    got, odds = walk(scores, ids)
    assert odds is None
    strayed = 0
    for r in range(REQUESTS):
        last = int(anchor[r])
        for place in range(PLACES):
            scored = row_of(parts, r, place, last)
            last = max(scored, key=lambda token: scored[token])
            strayed += last != int(parts[0][r, place].argmax())
            assert int(got[r, place]) == last
    assert strayed, "every path is that of the logits alone: the test shows nothing"


def test_drawn_tokens_come_from_the_odds_that_are_told() -> None:
    """Every draw by hand: the softmax of its row, and the first token whose sum is above it."""
    parts = lattice()
    *_, anchor, scores, ids = parts
    numbers = torch.rand(REQUESTS, PLACES, generator=torch.Generator().manual_seed(2), dtype=F64)
    got, odds = walk(scores, ids, temperature=0.6, numbers=numbers)
    assert odds is not None
    dense = odds.dense(VOCAB)
    for r in range(REQUESTS):
        last = int(anchor[r])
        for place in range(PLACES):
            scored = row_of(parts, r, place, last)
            chances = torch.softmax(torch.tensor(list(scored.values()), dtype=F64) / 0.6, 0)
            want = torch.zeros(VOCAB, dtype=F64)
            want[list(scored)] = chances
            assert torch.allclose(dense[r, place], want)
            index = int((chances.cumsum(0) <= numbers[r, place]).sum())
            last = list(scored)[index]
            assert int(got[r, place]) == last


def test_equal_logits_are_taken_by_their_ids() -> None:
    values, ids = best_tokens(torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0]]), 3)
    assert ids.tolist() == [[1, 3, 0]]
    assert values.tolist() == [[2, 2, 1]]
