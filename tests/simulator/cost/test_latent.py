"""Latent attention as ops: sizes in closed form, and laws that any price of them keeps."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.profiles.load import load_device
from dflash_sim.profiles.networks.mla import Indexer, MlaShape
from dflash_sim.profiles.precision import Precision
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.times.op_tables import OpTables, Timing
from dflash_sim.simulator.cost.latent_ops import (
    IndexerScores,
    MlaBmm,
    MlaDecode,
    MlaPrefill,
    SparseAttention,
    SparseModule,
    mean_seen,
)
from dflash_sim.simulator.cost.latent_price import latent_timing
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.mla_layers import mla_mixer
from dflash_sim.simulator.cost.ops import AnyCall, Gemm, split_attention
from dflash_sim.simulator.cost.price import CostModel

DEEPSEEK = MlaShape(128, 1536, 512, 128, 64, 128)
SPARSE = replace(DEEPSEEK, indexer=Indexer(64, 128, 2048))
HIDDEN, TP = 7168, 8


def mixer(shape: MlaShape, size: Rows, tp: int = TP) -> list[AnyCall]:
    return mla_mixer(shape, hidden=HIDDEN, tp=tp, size=size, count=1)


def priced() -> CostModel:
    """Prices of a B200 without tables."""
    return CostModel(load_device("b200"), load_engine("sglang-0.5.14"), None)


def seconds(shape: MlaShape, size: Rows) -> float:
    return priced().calls(mixer(shape, size)).seconds


@given(rows=st.integers(1, 40), ctx=st.integers(0, 60), most=st.integers(1, 50) | st.just(10**9))
def test_mean_tokens_seen_by_counting(rows: int, ctx: int, most: int) -> None:
    want = sum(min(ctx + i, most) for i in range(1, rows + 1)) / rows
    assert mean_seen(rows, ctx, most) == pytest.approx(want)


def test_decode_by_hand() -> None:
    op = MlaDecode("attention", requests=4, rows=2, ctx=998.0, heads=16, latent=512, rope=64)
    assert op.flops == 2 * 4 * 2 * 1000 * 16 * (576 + 512)
    cached, rows = 1000 * 576 * 2, 2 * 16 * (576 + 512) * 2
    assert op.nbytes == 4 * (cached + rows)
    half = replace(op, precision=Precision(kv_cache="fp8"))
    assert op.nbytes - half.nbytes == 4 * cached / 2


def test_prefill_by_hand() -> None:
    op = MlaPrefill("attention", 2, seq=3, prefix=10, heads=16, qk_dim=192, v_dim=128)
    assert op.flops == 2 * 2 * (11 + 12 + 13) * 16 * (192 + 128)


def test_products_by_head() -> None:
    op = MlaBmm("q_absorb", tokens=5, heads=16, k=128, n=512, phase="pre")
    assert op.flops == 2 * 5 * 16 * 128 * 512
    assert op.nbytes == 2 * 16 * (128 * 512 + 5 * (128 + 512))


def test_absorbing_does_the_work_of_kv_b_proj() -> None:
    """Both products by head together multiply with as many weights as the projection has."""
    calls = {c.op.name: c.op for c in mixer(DEEPSEEK, Rows(1, 1, 100.0))}
    up = {c.op.name: c.op for c in mixer(DEEPSEEK, Rows(1, 1, 0.0, prefill=True))}["kv_b_proj"]
    assert isinstance(up, Gemm)
    assert calls["q_absorb"].flops + calls["v_up"].flops == up.flops


def test_ranks_divide_heads_and_not_the_cache() -> None:
    eight, one = (
        next(c.op for c in mixer(DEEPSEEK, Rows(4, 1, 9999.0), tp) if isinstance(c.op, MlaDecode))
        for tp in (8, 1)
    )
    assert one.flops == 8 * eight.flops
    read = 4 * 10_000 * 576 * 2
    assert eight.nbytes > read
    assert one.nbytes - eight.nbytes == pytest.approx(4 * (128 - 16) * 1088 * 2)


def test_a_prefix_is_expanded_with_the_new_tokens() -> None:
    calls = {c.op.name: c.op for c in mixer(DEEPSEEK, Rows(2, 100, 50.0, prefill=True))}
    assert calls["kv_b_proj"].m == 2 * (100 + 50)
    assert calls["q_b_proj"].m == 2 * 100


def test_a_prefix_is_paid_by_its_products_on_top_of_the_time_of_the_new_tokens() -> None:
    tables, rate = OpTables.load("b200"), 1e15
    assert tables is not None
    op = MlaPrefill("attention", 1, seq=512, prefix=2048, heads=16, qk_dim=192, v_dim=128)
    new, both = (latent_timing(tables, x, rate) for x in (replace(op, prefix=0.0), op))
    assert new is not None
    assert both is not None
    scores = 2 * 512 * 2048 * 16 * (192 + 128)
    assert both.seconds - new.seconds == pytest.approx(scores / rate)


def test_sparse_attention_is_bounded_and_its_indexer_is_not() -> None:
    sizes = [Rows(8, 1, float(ctx)) for ctx in (2**12, 2**16, 2**20)]
    modules = [c.op for s in sizes for c in mixer(SPARSE, s) if isinstance(c.op, SparseModule)]
    reads = [next(p for p in m.parts if isinstance(p, SparseAttention)) for m in modules]
    scores = [next(p for p in m.parts if isinstance(p, IndexerScores)) for m in modules]
    assert len({r.nbytes for r in reads}) == len({r.flops for r in reads}) == 1
    assert reads[0].read == 8 * 2048
    assert scores[2].nbytes / scores[1].nbytes == pytest.approx(16, rel=1e-3)
    assert seconds(SPARSE, sizes[1]) < seconds(SPARSE, sizes[2])
    assert seconds(SPARSE, sizes[2]) < seconds(DEEPSEEK, sizes[2])


def test_a_layer_that_shares_an_indexer_does_not_grow_with_the_context() -> None:
    assert SPARSE.indexer is not None
    shared = replace(SPARSE, indexer=replace(SPARSE.indexer, shared=True))
    short, long = (seconds(shared, Rows(8, 1, ctx)) for ctx in (4096.0, 400_000.0))
    assert short == pytest.approx(long)
    assert short < seconds(SPARSE, Rows(8, 1, 4096.0))


@settings(max_examples=30)
@given(st.integers(1, 64), st.integers(1, 8), st.floats(0, 100_000))
def test_more_of_anything_costs_no_less(requests: int, rows: int, ctx: float) -> None:
    for shape in (DEEPSEEK, SPARSE):
        base = seconds(shape, Rows(requests, rows, ctx))
        assert seconds(shape, Rows(requests + 1, rows, ctx)) >= base
        assert seconds(shape, Rows(requests, rows + 1, ctx)) >= base
        assert seconds(shape, Rows(requests, rows, ctx + 100)) >= base


def test_only_what_reads_the_cache_depends_on_the_context() -> None:
    for shape in (DEEPSEEK, SPARSE):
        attention, rest = split_attention(mixer(shape, Rows(4, 2, 0.0)))
        assert len(attention) == 1
        moved = {c.op.name: c.op for c in mixer(shape, Rows(4, 2, 5000.0))}
        assert attention[0].op.at(5000.0) == moved[attention[0].op.name]
        assert all(moved[c.op.name] == c.op for c in rest)


class Tables:
    """Tables that time a kernel by the numbers they are asked with."""

    def __init__(self) -> None:
        self.asked: list[dict] = []

    def _answer(self, **asked: object) -> Timing:
        self.asked.append(asked)
        return Timing(1e-5, "measured", 0.05)

    mla_decode = mla_prefill = mla_bmm = module_decode = module_prefill = _answer


def test_rows_of_a_request_are_looked_up_as_more_heads() -> None:
    tables = Tables()
    one = MlaDecode("attention", 4, 1, 1000.0, 16, 512, 64)
    single = latent_timing(tables, one, 1e15)  # type: ignore[arg-type]
    wide = latent_timing(tables, replace(one, rows=4), 1e15)  # type: ignore[arg-type]
    over = latent_timing(tables, replace(one, rows=16), 1e15)  # type: ignore[arg-type]
    assert [a["heads"] for a in tables.asked] == [16, 64, 128]
    assert single is not None
    assert wide is not None
    assert over is not None
    assert (single.evidence, wide.evidence) == ("measured", "fitted")
    assert over.seconds == 2 * wide.seconds  # 256 rows on a cache, twice the most that was timed


def test_rows_of_a_sparse_layer_are_looked_up_as_more_requests() -> None:
    tables = Tables()
    module = mixer(SPARSE, Rows(4, 3, 1000.0))[1].op
    assert isinstance(module, SparseModule)
    found = latent_timing(tables, module, 1e15)  # type: ignore[arg-type]
    assert found is not None
    assert found.evidence == "fitted"
    asked = tables.asked[0]
    assert (asked["batch"], asked["kv_len"], asked["model"]) == (12, 1003, "deepseek-v3.2")


def test_a_sparse_layer_without_a_table_costs_its_parts() -> None:
    cost = priced()
    module = mixer(SPARSE, Rows(4, 1, 1000.0))[1].op
    assert isinstance(module, SparseModule)
    parts = sum(cost.op(part).seconds for part in module.parts)  # type: ignore[arg-type]
    assert cost.op(module).seconds == pytest.approx(parts)
