"""DFlash2, DSpark and Domino: what they draft, token by token, and on several ranks."""

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the layers are written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from tiny_networks import (  # noqa: E402
    DOUBLE,
    MARKOV,
    PAGE,
    PATHS,
    RECURRENT,
    VOCAB,
    Drawn,
    drafter_spec,
    random_ids,
    target_spec,
)
from torch import Tensor  # noqa: E402

from dflash_sim.kernels.cache import Cache  # noqa: E402
from dflash_sim.kernels.comm import Comm, run_locally  # noqa: E402
from dflash_sim.kernels.models.block_heads import RecurrentHead  # noqa: E402
from dflash_sim.kernels.models.blocks import Dice, PathBlock  # noqa: E402
from dflash_sim.kernels.models.cycle import Drafted, Running  # noqa: E402
from dflash_sim.kernels.models.drafter import Drafter  # noqa: E402
from dflash_sim.kernels.models.target import TargetModel  # noqa: E402
from dflash_sim.kernels.rank import Rank  # noqa: E402

F64 = torch.float64
DRAWN = {"dflash2": PATHS, "dspark": MARKOV}  # whose proposals are drawn at a temperature
SHIFTED = RECURRENT | {"shift_label": True, "pure_draft_prefix_len": 2}
KINDS = DRAWN | {"domino": RECURRENT, "domino-shifted": SHIFTED}
TEMPERATURE, BEST = 0.8, 5
WIDTH = 5  # rows that are verified
LOUD = 3000  # times its drawn weights, Domino's head decides


def numbers(running: Running, count: int) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return torch.rand(len(running.anchor), count, generator=draw, dtype=F64)


def made(
    parts: dict[str, Any], rank: Rank = DOUBLE, *, dice: Dice | None = None
) -> tuple[PathBlock, Running, Drawn]:
    """A block drafter over a target, two prompts of nine tokens read."""
    spec, size, drawn = target_spec("qwen3"), drafter_spec(**parts), Drawn()
    pages = {"pages": 40, "page_size": PAGE, "rank": rank}
    block = PathBlock(
        TargetModel(spec, Drawn("qwen3"), rank, tokens=72),
        Drafter(size, drawn, rank, tokens=72),
        Cache.for_target(spec.shape, slots=4, requests=3, rows=WIDTH, **pages),
        Cache.for_attention(size.shape.layers, **pages),
        dice=dice,
    )
    if isinstance(block.head, RecurrentHead):
        block.head.up *= LOUD
    table = (1 + torch.arange(36)).view(2, 18).to(torch.int32)
    start = torch.zeros(2, dtype=torch.int64)
    running = Running(start, start, table, torch.tensor([3, 1]))
    return block, block.prefill(random_ids(2, 9), running), drawn


Rows = Callable[[int, int, list[int]], Tensor]  # (request, place, tokens so far) -> scores [V]


def scores(kind: str, block: PathBlock, running: Running, w: dict[str, Tensor]) -> Rows:
    """Scores of every token after those before it, a row of the block at a time."""
    rows = WIDTH - (kind == "dspark")
    hidden = block.block(running, running.rows(rows, PAGE))
    head = block.target.vocabulary.head

    def dspark(r: int, place: int, told: list[int]) -> Tensor:
        more = w["markov_head.markov_w2.weight"] @ w["markov_head.markov_w1.weight"][told[-1]]
        return head @ hidden[r, place] + more

    def dflash2(r: int, place: int, told: list[int]) -> Tensor:
        at, own = "candidate_selector.", hidden[r, place + 1]
        logits = head @ own
        scale = w[at + "hidden_projection.weight"] @ own
        scaled = w[at + "predecessor_codebook"][told[-1]] * scale
        whole = logits + w[at + "successor_codebook"] @ scaled
        left = logits.sort(descending=True).indices[BEST:]
        return whole.index_fill(0, left, -torch.inf)

    def domino(r: int, place: int, told: list[int]) -> Tensor:
        shape = block.drafter.spec.shape.recurrent
        assert shape is not None
        own = hidden[r, place + (not shape.shift_label)]
        if place < shape.prefix:
            return head @ own
        gru = torch.nn.GRU(own.shape[0], shape.hidden, bias=False, dtype=F64)
        gru.load_state_dict({k.removeprefix("prefix_gru."): v for k, v in w.items() if "gru" in k})
        with torch.no_grad():
            _, state = gru(block.target.vocabulary.embed(torch.tensor(told)))
        narrow = w["embed_proj.0.weight"] @ torch.cat([own, state[0]])
        return head @ own + LOUD * w["embed_proj.2.weight"] @ torch.nn.functional.silu(narrow)

    return {"dspark": dspark, "dflash2": dflash2}.get(kind, domino)


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_drafts_token_by_token(kind: str) -> None:
    block, running, drawn = made(KINDS[kind])
    assert block.block_rows == WIDTH
    drafted = block.propose(running)
    row = scores(kind, block, running, drawn.made)
    assert drafted.odds is None
    for r in range(2):
        told = [int(running.anchor[r])]
        for place in range(WIDTH - 1):
            told.append(int(row(r, place, told).argmax()))
        assert drafted.tokens[r].tolist() == told


@pytest.mark.parametrize("kind", ["domino", "domino-shifted"])
def test_a_correction_counts(kind: str) -> None:
    """The negative control: without its GRU's projection, Domino drafts what its block says."""
    block, running, _ = made(KINDS[kind])
    corrected = block.propose(running).tokens
    assert isinstance(block.head, RecurrentHead)
    block.head.up.zero_()
    assert not torch.equal(block.propose(running).tokens, corrected)


@pytest.mark.parametrize("kind", DRAWN)
def test_drafts_are_drawn_from_the_odds_that_are_told(kind: str) -> None:
    block, running, drawn = made(KINDS[kind], dice=Dice(TEMPERATURE, numbers))
    drafted = block.propose(running)
    assert drafted.odds is not None
    odds = drafted.odds.dense(VOCAB)
    row = scores(kind, block, running, drawn.made)
    for r in range(2):
        for place in range(WIDTH - 1):
            *told, token = drafted.tokens[r, : place + 2].tolist()
            want = torch.softmax(row(r, place, told) / TEMPERATURE, 0)
            assert torch.allclose(odds[r, place], want)
            assert want[token] > 0
    other = made(KINDS[kind], dice=Dice(TEMPERATURE, lambda *of: 1 - numbers(*of)))[0]
    assert not torch.equal(other.propose(running).tokens, drafted.tokens)


@pytest.mark.parametrize("dice", [None, Dice(TEMPERATURE, numbers)], ids=["best", "drawn"])
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_draft_what_one_does(kind: str, dice: Dice | None) -> None:
    block, running, _ = made(KINDS[kind], dice=dice)
    whole = block.propose(running)

    def work(comm: Comm) -> Drafted:
        mine, begun, _ = made(KINDS[kind], Rank(comm=comm, dtype=F64), dice=dice)
        return mine.propose(begun)

    for one in run_locally(2, work):
        assert torch.equal(one.tokens, whole.tokens)
        assert (one.odds is None) == (whole.odds is None)
        if one.odds is not None and whole.odds is not None:
            assert torch.allclose(one.odds.dense(VOCAB), whole.odds.dense(VOCAB))


def test_only_the_first_tokens_can_be_chosen() -> None:
    """A selector of a smaller vocabulary, half of it on either rank."""
    few = PATHS | {"selector_vocab_size": 7}

    def work(comm: Comm) -> Tensor:
        block, running, _ = made(few, Rank(comm=comm, dtype=F64))
        return block.propose(running).tokens[:, 1:]

    [alone], both = run_locally(1, work), run_locally(2, work)
    assert int(alone.max()) < 7
    assert all(torch.equal(one, alone) for one in both)
