"""The matrix products and sums over ranks that layers make are those the simulator prices."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the layers are written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from tiny_networks import (  # noqa: E402
    HIDDEN,
    MARKOV,
    PAGE,
    PATHS,
    RECURRENT,
    TARGETS,
    Drawn,
    Runner,
    drafter_spec,
    eagle3_spec,
    random_ids,
    target_spec,
)
from torch import Tensor  # noqa: E402
from torch.nn.functional import linear  # noqa: E402

from dflash_sim.kernels.cache import Cache, Placement, place  # noqa: E402
from dflash_sim.kernels.comm import Comm, OneRank, run_locally  # noqa: E402
from dflash_sim.kernels.layers import attention as layer_attention  # noqa: E402
from dflash_sim.kernels.layers import convolution as layer_convolution  # noqa: E402
from dflash_sim.kernels.layers import gdn as layer_gdn  # noqa: E402
from dflash_sim.kernels.layers import mlp as layer_mlp  # noqa: E402
from dflash_sim.kernels.models import block_heads, heads  # noqa: E402
from dflash_sim.kernels.models import target as model  # noqa: E402
from dflash_sim.kernels.models.blocks import PathBlock  # noqa: E402
from dflash_sim.kernels.models.cycle import Running  # noqa: E402
from dflash_sim.kernels.models.drafter import Drafter  # noqa: E402
from dflash_sim.kernels.models.heads import Eagle3Head, MtpHead  # noqa: E402
from dflash_sim.kernels.models.target import TargetModel  # noqa: E402
from dflash_sim.kernels.rank import Rank  # noqa: E402
from dflash_sim.kernels.reference import draft as ref_draft  # noqa: E402
from dflash_sim.simulator.cost import passes as graph  # noqa: E402
from dflash_sim.simulator.cost.cycle import Cycle  # noqa: E402
from dflash_sim.simulator.cost.layers import Rows  # noqa: E402
from dflash_sim.simulator.cost.methods import METHODS  # noqa: E402
from dflash_sim.simulator.cost.ops import AnyCall, Collective, Gemm  # noqa: E402

REQUESTS, ROWS = 2, 5
SIZE = Rows(REQUESTS, ROWS, ctx=6.0)
Shapes = Counter[tuple[int, int, int]]


def priced(calls: Iterable[AnyCall]) -> Shapes:
    """``(m, n, k)`` of every GEMM of a pass, with its count."""
    found: Shapes = Counter()
    for call in calls:
        if isinstance(call.op, Gemm):
            found[call.op.m, call.op.n, call.op.k] += call.count
    return found


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Shapes:
    """``(m, n, k)`` of every product that layers make, the shared expert's gate aside.

    That gate has one output: the simulator prices it as a small kernel, by its bytes.
    """
    seen: Shapes = Counter()

    def spy(x: Tensor, weight: Tensor) -> Tensor:
        if weight.shape[0] > 1:
            seen[x.shape[0], weight.shape[0], weight.shape[1]] += 1
        return linear(x, weight)

    layers = (layer_attention, layer_convolution, layer_gdn, layer_mlp)
    for module in (block_heads, heads, *layers, model, ref_draft):
        monkeypatch.setattr(module, "linear", spy)
    return seen


def rank_of(tp: int, rank: int = 0) -> Rank:
    """One rank of ``tp`` that only counts: its partners say what it says."""

    class Echo(OneRank):
        def __init__(self) -> None:
            self.rank, self.size, self.reduced = rank, tp, 0

        def all_reduce(self, x: Tensor) -> Tensor:
            self.reduced += tp > 1
            return x

        def all_gather(self, x: Tensor) -> Tensor:
            return x.expand(tp, *x.shape)

    return Rank(comm=Echo())


def reduced(rank: Rank) -> int:
    count: int = rank.comm.reduced  # type: ignore[attr-defined]
    return count


def all_reduces(calls: Iterable[AnyCall]) -> int:
    ops = [(c.op, c.count) for c in calls]
    return sum(n for op, n in ops if isinstance(op, Collective) and op.kind == "all_reduce")


def somewhere(rows: int) -> Placement:
    table = torch.tensor([[3, 1, 4], [2, 6, 5]], dtype=torch.int32)
    zero = torch.zeros(REQUESTS, dtype=torch.int64)
    return place(table, zero + 6, zero, rows=rows, page_size=PAGE)


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("family", TARGETS)
def test_verify_pass(family: str, tp: int, made: Shapes) -> None:
    spec, rank = target_spec(family), rank_of(tp)
    runner = Runner(TargetModel(spec, Drawn(family), rank, tokens=32), rank)
    runner.run(random_ids(REQUESTS, ROWS), keep_states=True)
    calls = graph.target_forward(spec.shape, tp=tp, size=SIZE)
    assert made == priced(calls)
    assert reduced(rank) == all_reduces(calls)


@pytest.mark.parametrize("tp", [1, 4])
def test_draft_pass_and_materialisation(tp: int, made: Shapes) -> None:
    spec, target, rank = drafter_spec(), target_spec("qwen3").shape, rank_of(tp)
    drafter = Drafter(spec, Drawn(), rank, tokens=32)
    cache = Cache.for_attention(spec.shape.layers, pages=8, page_size=PAGE, rank=rank)
    at = somewhere(ROWS)
    drafter(torch.randn(REQUESTS * ROWS, HIDDEN), at, cache)
    calls = graph.draft_block(spec.shape, target, tp=tp, size=SIZE)
    assert made == priced(calls)
    embedding = all_reduces(graph.embedding(target, tp=tp, tokens=SIZE.tokens))
    assert reduced(rank) == all_reduces(calls) - embedding
    made.clear()
    features = torch.randn(REQUESTS * ROWS, 2 * HIDDEN)
    drafter.materialise(features, at.positions, at.slots, cache)
    layers, width, hidden = drafter.kv_weight.shape
    made[SIZE.tokens, layers * width, hidden] += 1  # one batched product
    assert made == priced(graph.materialise(spec.shape, tp=tp, tokens=SIZE.tokens))


@pytest.mark.parametrize("tp", [1, 4])
@pytest.mark.parametrize(
    ("method", "parts"), [("dflash2", PATHS), ("dspark", MARKOV), ("domino", RECURRENT)]
)
def test_a_block_and_its_head(method: str, parts: dict[str, Any], tp: int, made: Shapes) -> None:
    """The draft phase of a cycle as it is run, and as it is priced."""
    spec, target, rank = drafter_spec(**parts), target_spec("qwen3"), rank_of(tp)
    pages = {"pages": 8, "page_size": PAGE, "rank": rank}
    block = PathBlock(
        TargetModel(target, Drawn(), rank, tokens=32),
        Drafter(spec, Drawn(), rank, tokens=32),
        Cache.for_target(target.shape, slots=3, requests=REQUESTS, rows=ROWS, **pages),
        Cache.for_attention(spec.shape.layers, **pages),
    )
    at, zero = somewhere(ROWS), torch.zeros(REQUESTS, dtype=torch.int64)
    block.propose(Running(zero, zero + 6, at.page_table, zero))
    cycle = Cycle(METHODS[method], target.shape, tp, ROWS, spec.shape)
    draft, *_ = cycle.decode(requests=REQUESTS, ctx=6.0)
    assert made == priced(draft.calls)
    assert reduced(rank) == all_reduces(draft.calls)


@pytest.mark.parametrize("family", ["qwen3_5_text", "qwen3_5_moe_text"])
def test_mtp_step(family: str, made: Shapes) -> None:
    spec, drawn = target_spec(family), Drawn(family)
    head, target = MtpHead(spec, drawn, tokens=32), TargetModel(spec, drawn, tokens=32)
    cache = Cache.for_attention(spec.shape.attention_layers[:1], pages=8, page_size=PAGE)
    x = torch.randn(REQUESTS * ROWS, HIDDEN)
    target.logits(head(x, x, somewhere(ROWS), cache))
    assert made == priced(graph.mtp_step(spec.shape, tp=1, size=SIZE))


def test_eagle3_step(made: Shapes) -> None:
    spec = eagle3_spec()
    head = Eagle3Head(spec, Drawn(), tokens=32)
    cache = Cache.for_attention([spec.shape.attention], pages=8, page_size=PAGE)
    x, features = torch.randn(REQUESTS * ROWS, HIDDEN), torch.randn(REQUESTS * ROWS, 3 * HIDDEN)
    head.argmax(head(x, head.fuse(features), somewhere(ROWS), cache)[0])
    assert made == priced(graph.eagle3_step(spec.shape, tp=1, size=SIZE, fuse_features=True))


def test_a_changed_layer_is_seen(made: Shapes) -> None:
    spec = target_spec("qwen3")
    Runner(TargetModel(spec, Drawn(), tokens=32), Rank()).run(random_ids(REQUESTS, ROWS))
    other = target_spec("qwen3", intermediate_size=44).shape
    assert made != priced(graph.target_forward(other, tp=1, size=SIZE))


def test_gathered_values_of_the_draft_head() -> None:
    """Two values per row and rank cross, never logits."""
    sizes: list[int] = []

    def work(comm: Comm) -> None:
        target = TargetModel(target_spec("qwen3"), Drawn(), Rank(comm=comm), tokens=8)
        original = comm.all_gather

        def counted(x: Tensor) -> Tensor:
            if comm.rank == 0:
                sizes.append(x.numel())
            return original(x)

        comm.all_gather = counted  # type: ignore[method-assign]
        target.argmax(torch.randn(7, HIDDEN, generator=torch.Generator().manual_seed(0)))

    run_locally(2, work)
    assert sizes == [7, 7]
