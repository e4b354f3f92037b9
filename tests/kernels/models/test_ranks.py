"""A network cut over 2 or 4 ranks computes what it computes on one."""

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="the layers are written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from tiny_networks import (  # noqa: E402
    HIDDEN,
    PAGE,
    TARGETS,
    Drawn,
    Runner,
    drafter_spec,
    eagle3_spec,
    random_ids,
    target_spec,
)
from torch import Tensor  # noqa: E402

from dflash_sim.kernels.cache import Cache, Placement, place  # noqa: E402
from dflash_sim.kernels.comm import Comm, run_locally  # noqa: E402
from dflash_sim.kernels.models.drafter import Drafter  # noqa: E402
from dflash_sim.kernels.models.heads import Eagle3Head, MtpHead  # noqa: E402
from dflash_sim.kernels.models.target import TargetModel  # noqa: E402
from dflash_sim.kernels.rank import Rank  # noqa: E402
from dflash_sim.profiles.errors import UsageError  # noqa: E402


def on_ranks(tp: int, work: Callable[[Rank], Tensor]) -> Tensor:
    """What every rank of ``tp`` returns, which must be the same."""

    def one(comm: Comm) -> Tensor:
        return work(Rank(comm=comm, dtype=torch.float64))

    results = run_locally(tp, one)
    for other in results[1:]:
        assert torch.equal(other, results[0])
    return results[0]


def somewhere(rows: int) -> Placement:
    table = torch.tensor([[3, 1, 4], [2, 6, 5]], dtype=torch.int32)
    return place(
        table, torch.tensor([2, 0]), torch.zeros(2, dtype=torch.int64), rows=rows, page_size=PAGE
    )


@pytest.mark.parametrize("family", TARGETS)
def test_target(family: str) -> None:
    """Prefill, verify with a rollback, decode; at four ranks the two KV heads are copied."""
    drawn = Drawn(family)

    def work(rank: Rank) -> Tensor:
        runner = Runner(TargetModel(target_spec(family), drawn, rank, tokens=64), rank)
        first = runner.extend(random_ids(2, 6))
        second = runner.verify(random_ids(2, 4, seed=1), torch.tensor([3, 1]))
        return torch.cat([first, second, runner.extend(random_ids(2, 1, seed=2))], 1)

    whole = on_ranks(1, work)
    for tp in (2, 4):
        assert torch.allclose(on_ranks(tp, work), whole, atol=1e-10)


def test_argmax_over_a_split_vocabulary() -> None:
    drawn = Drawn()

    def work(rank: Rank) -> Tensor:
        target = TargetModel(target_spec("qwen3"), drawn, rank, tokens=8)
        hidden = torch.randn(50, HIDDEN, generator=torch.Generator().manual_seed(0)).double()
        ids = target.argmax(hidden)
        assert torch.equal(ids, target.logits(hidden).argmax(-1))
        return ids

    whole = on_ranks(1, work)
    assert whole.unique().numel() > 20
    for tp in (2, 4):
        assert torch.equal(on_ranks(tp, work), whole)


def test_drafter() -> None:
    drawn, spec = Drawn(), drafter_spec()
    features = torch.randn(12, 2 * HIDDEN, dtype=torch.float64)
    noise = torch.randn(10, HIDDEN, dtype=torch.float64)

    def work(rank: Rank) -> Tensor:
        drafter = Drafter(spec, drawn, rank, tokens=32)
        cache = Cache.for_attention(spec.shape.layers, pages=8, page_size=PAGE, rank=rank)
        seen = somewhere(6)
        drafter.materialise(features, seen.positions, seen.slots, cache)
        return drafter(noise, somewhere(5), cache)

    whole = on_ranks(1, work)
    for tp in (2, 4):
        assert torch.allclose(on_ranks(tp, work), whole, atol=1e-10)


@pytest.mark.parametrize("family", ["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"])
def test_mtp_head(family: str) -> None:
    drawn, spec = Drawn(), target_spec(family)
    x, hidden = torch.randn(2, 6, HIDDEN, dtype=torch.float64)
    layer = spec.shape.mtp_layer
    assert layer is not None

    def work(rank: Rank) -> Tensor:
        head = MtpHead(spec, drawn, rank, tokens=32)
        cache = Cache.for_attention([layer.mixer], pages=8, page_size=PAGE, rank=rank)  # type: ignore[list-item]
        return head(x, hidden, somewhere(3), cache)

    whole = on_ranks(1, work)
    for tp in (2, 4):
        assert torch.allclose(on_ranks(tp, work), whole, atol=1e-10)


def test_eagle3_head() -> None:
    drawn, spec = Drawn(), eagle3_spec()
    x = torch.randn(6, HIDDEN, dtype=torch.float64)
    features = torch.randn(6, 3 * HIDDEN, dtype=torch.float64)

    def work(rank: Rank) -> Tensor:
        head = Eagle3Head(spec, drawn, rank, tokens=32)
        cache = Cache.for_attention([spec.shape.attention], pages=8, page_size=PAGE, rank=rank)
        final, carried = head(x, head.fuse(features), somewhere(3), cache)
        return torch.cat([final, carried, head.argmax(final)[:, None].double()], 1)

    whole = on_ranks(1, work)
    for tp in (2, 4):
        assert torch.allclose(on_ranks(tp, work), whole, atol=1e-10)


@pytest.mark.parametrize(("changes", "tp"), [({}, 3), ({}, 8), ({"vocab_size": 95}, 2)])
def test_what_does_not_divide_is_refused(changes: dict[str, int], tp: int) -> None:
    spec = target_spec("qwen3", **changes)

    def work(comm: Comm) -> TargetModel:
        return TargetModel(spec, Drawn(), Rank(comm=comm), tokens=8)

    with pytest.raises(UsageError, match=f"tp={tp}"):
        run_locally(tp, work)


def test_a_rank_that_fails_releases_the_others() -> None:
    def work(comm: Comm) -> Tensor:
        if comm.rank == 1:
            msg = "rank 1 fell over"
            raise RuntimeError(msg)
        return comm.all_reduce(torch.ones(1))

    with pytest.raises(RuntimeError, match="rank 1 fell over"):
        run_locally(3, work)


def test_sums_and_gathers() -> None:
    def work(comm: Comm) -> Tensor:
        mine = torch.full((2,), 10.0**comm.rank)
        gathered = comm.all_gather(mine)
        assert gathered.tolist() == [[10.0**r] * 2 for r in range(3)]
        return comm.all_reduce(mine)

    assert [x.tolist() for x in run_locally(3, work)] == [[111.0, 111.0]] * 3
