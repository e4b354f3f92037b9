"""Ops of attention to chosen or compressed tokens, of delta attention and of several streams."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.profiles.load import load_device, load_model
from dflash_sim.profiles.networks.hf_config import ModelShape
from dflash_sim.profiles.networks.quantized import everywhere
from dflash_sim.profiles.precision import Precision
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.times.op_tables import OpTables
from dflash_sim.simulator.cost.latent_ops import (
    CompressedAttention,
    IndexerScores,
    Kda,
    SparseModule,
    StreamMix,
    mean_seen,
)
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.ops import Attention, Op, split_attention
from dflash_sim.simulator.cost.passes import target_forward
from dflash_sim.simulator.cost.price import CostModel
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

NAMES = ("deepseek-v4-flash", "glm-5.3-flash", "kimi-k3", "minimax-m3", "qwen3.8-flash-next")


def prices(gpu: str = "b200") -> CostModel:
    tables = OpTables.load(gpu)
    return CostModel(load_device(gpu), load_engine("sglang-0.5.14"), tables)


def ops(model: ModelShape, size: Rows, tp: int = 4) -> dict[str, list[tuple[Op, int]]]:
    """Distinct ops by name, with their launches in a pass."""
    found: dict[str, Counter[Op]] = {}
    for call in target_forward(model, tp=tp, size=size, precision=model.precision):
        found.setdefault(call.op.name, Counter())[call.op] += call.count
    return {name: list(own.items()) for name, own in found.items()}


@pytest.mark.parametrize("name", NAMES)
def test_only_attention_hangs_on_the_context(name: str) -> None:
    model = load_model(name)
    short, long = (
        target_forward(model, tp=4, size=Rows(4, 2, ctx), precision=model.precision)
        for ctx in (100.0, 90_000.0)
    )
    attention, rest = split_attention(short)
    grown, same = split_attention(long)
    assert attention
    assert [c.op.at(90_000.0) for c in attention] == [c.op for c in grown]
    assert rest == same


@given(
    rows=st.integers(1, 6), ctx=st.integers(0, 3000), ratio=st.sampled_from([0, 4, 128]),
    topk=st.sampled_from([0, 16]),
)  # fmt: skip
def test_compressed_attention_by_counting(rows: int, ctx: int, ratio: int, topk: int) -> None:
    op = CompressedAttention("a", 3, rows, float(ctx), 8, 512, 128, ratio, topk, 584.0)
    near = sum(min(ctx + i, 128) for i in range(1, rows + 1)) / rows
    most = topk * ratio if topk else float("inf")
    far = sum(min(ctx + i, most) / ratio for i in range(1, rows + 1)) / rows if ratio else 0.0
    assert op.near == pytest.approx(near)
    assert op.far == pytest.approx(far)
    assert op.flops == pytest.approx(4 * 3 * rows * (near + far) * 8 * 512)
    longer = op.at(ctx + 10_000.0)
    assert longer.nbytes >= op.nbytes
    if topk and ratio and ctx > most:
        assert longer.far == op.far  # no more is chosen


def test_keys_that_stand_for_several_tokens_are_fewer() -> None:
    op = IndexerScores("indexer", 2, 1, 4095.0, 32, 128, 132.0)
    pooled = replace(op, stands_for=4)
    assert pooled.scores == op.scores / 4 == 2 * 4096 / 4
    assert pooled.nbytes == op.nbytes / 4
    assert replace(op, kept=0.0).nbytes == 2 * 4096 * 132


def test_a_chosen_layer_reads_no_more_than_it_chooses() -> None:
    (module, count), *_ = ops(load_model("minimax-m3"), Rows(4, 3, 50_000.0))["sparse_attention"]
    assert isinstance(module, SparseModule)
    assert (module.like, module.table, count) == ("minimax-m3", "msa", 57)
    (inner,) = (op for op in module.parts if isinstance(op, Attention))
    assert (inner.requests, inner.rows, inner.window) == (12, 1, 16 * 128)  # each row its own
    far = module.at(500_000.0)
    (wider,) = (op for op in far.parts if isinstance(op, Attention))
    assert wider.nbytes == inner.nbytes
    assert far.nbytes > module.nbytes  # keys of the small attention


@pytest.mark.parametrize("gpu", ["b200", "h200"])
def test_whole_layers_are_priced_as_they_were_timed(gpu: str) -> None:
    cost = prices(gpu)
    for name, rows in (("deepseek-v4-flash", 1), ("minimax-m3", 1), ("deepseek-v4-pro", 1)):
        for op, _ in ops(load_model(name), Rows(8, rows, 8191.0), tp=8)["sparse_attention"]:
            assert isinstance(op, SparseModule)
            if not op.like:
                continue  # a window alone was not timed
            timing = cost.table_time(op)
            assert timing is not None
            assert timing.evidence == "measured"
            drafts = cost.table_time(replace(op, rows=4))  # type: ignore[type-var]
            assert drafts is not None
            assert drafts.evidence == "fitted"
    unlike = replace(op, like="")  # type: ignore[type-var]
    parts = sum(cost.op(part).seconds for part in unlike.parts)  # type: ignore[attr-defined]
    assert cost.op(unlike).seconds == pytest.approx(parts)


def test_delta_attention_decodes_verifies_and_prefills() -> None:
    cost = prices()
    ((decode, count),) = ops(load_model("kimi-k3"), Rows(16, 1, 100.0), tp=8)["kda"]
    assert isinstance(decode, Kda)
    assert (decode.heads, count, decode.phase) == (12, 69, "decode")
    verify, prefill = replace(decode, rows=8), replace(decode, rows=4096, prefill=True)
    assert (verify.phase, prefill.phase) == ("verify", "prefill")
    times = [cost.table_time(x) for x in (decode, verify, prefill)]
    assert all(x is not None and x.evidence == "measured" for x in times)
    assert times[0].seconds < times[1].seconds < times[2].seconds  # type: ignore[union-attr]
    bf16 = replace(decode, precision=Precision(state="bfloat16"))
    half = cost.table_time(bf16)
    assert half is not None
    assert half.evidence == "fitted"
    assert half.seconds < times[0].seconds  # type: ignore[union-attr]
    assert cost.table_time(replace(decode, head_dim=64)) is None
    assert replace(verify, saves=False).nbytes < verify.nbytes


def test_streams_are_mixed_around_both_parts() -> None:
    cost = prices()
    found = ops(load_model("deepseek-v4-pro"), Rows(64, 1, 0.0))
    for side in ("pre", "post"):
        ((mix, count),) = found[f"streams_{side}"]
        assert isinstance(mix, StreamMix)
        assert (mix.count, mix.sites, count) == (4, 2, 61)
        both, one = cost.table_time(mix), cost.table_time(replace(mix, sites=1))
        assert both is not None
        assert one is not None
        assert one.seconds == both.seconds / 2
    low = ops(load_model("qwen3.8-flash-next"), Rows(64, 1, 0.0))
    assert low["streams_down"][0][0].k == 4 * 2560  # type: ignore[union-attr]
    assert sum(count for _, count in low["ngram_lookup"]) == 1


def test_sums_of_earlier_layers_are_read_more_the_deeper() -> None:
    read = [
        op.nbytes for op, _ in ops(load_model("kimi-k3"), Rows(1, 1, 0.0))["attention_residuals"]
    ]
    assert max(read) == 2 * 7168 * (8 + 2)
    assert min(read) == 2 * 7168 * 2


def test_one_product_leads_into_all_experts_of_kimi_k3() -> None:
    """Shared expert, router and latent space in one; in Nemotron, or quantised, in three."""
    model, size = load_model("kimi-k3"), Rows(4, 1, 100.0)
    found = ops(model, size, tp=8)
    apart = {"router", "latent_in", "shared_gate_up_proj"}
    assert apart.isdisjoint(found)
    ((front, count),) = found["moe_front"]
    wide = 896 + 3584 + 2 * 6144 // 8
    assert (front.m, front.n, front.k, count) == (4, wide, 7168, 92)  # type: ignore[union-attr]
    sums = [found[f"{x}_all_reduce"][0][0].nbytes for x in ("moe", "shared")]
    assert sums == [2 * 4 * 3584, 2 * 4 * 7168]
    assert {"input_norm", "post_attention_norm"}.isdisjoint(found)  # in attention_residuals
    assert apart <= ops(model.stored(everywhere("fp8")), size, tp=8).keys()
    assert "latent_in" in ops(load_model("nemotron-3-super-120b-a12b"), size, tp=8)


@pytest.mark.parametrize(
    ("model", "gpu", "backend", "page", "kv_cache"),
    [
        ("deepseek-v4-flash", "b200", "dsv4", 256, "fp8"),
        ("deepseek-v4-pro", "h200", "dsv4", 256, "fp8"),
        ("glm-5.3-flash", "gb300", "dsa", 64, "fp8"),
        ("kimi-k3", "b300", "trtllm_mla", 64, "bfloat16"),
        ("minimax-m3", "b200", "trtllm_mha", 64, "bfloat16"),
    ],
)
def test_servers_of_them(model: str, gpu: str, backend: str, page: int, kv_cache: str) -> None:
    tp = 4 if gpu == "gb300" else 8
    made = resolve(Scenario(model=model, gpu=gpu, tp=tp, method="none", isl=1024, osl=64, conc=8))
    assert (made.backend, made.limits.page_size) == (backend, page)
    assert made.precision.kv_cache == kv_cache


def test_mean_of_a_window() -> None:
    assert mean_seen(4, 1000.0, 128) == 128
