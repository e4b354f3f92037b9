"""Prices: what they rest on, how they add up, and tables that say what pricing would."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.profiles.load import load_device, load_model
from dflash_sim.profiles.precision import Precision
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.times.op_tables import OpTables
from dflash_sim.simulator.cost import passes as graph
from dflash_sim.simulator.cost.cycle import PHASES
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.ops import (
    Attention,
    Call,
    Collective,
    Elementwise,
    GdnRecurrent,
    Gemm,
    Moe,
    Op,
)
from dflash_sim.simulator.cost.parts import EVIDENCE, PARTS, Cost
from dflash_sim.simulator.cost.price import CostModel
from dflash_sim.simulator.cost.step_table import BatchTable, padded_size
from dflash_sim.simulator.engine.metrics import step_anatomy
from dflash_sim.simulator.predict import run_engine
from dflash_sim.simulator.requests.draws import draw_commits
from dflash_sim.simulator.requests.laws import FixedAcceptance
from dflash_sim.simulator.requests.workload import fixed_workload
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve

ENGINE = load_engine("sglang-0.5.14")


@cache
def tables(gpu: str) -> OpTables | None:
    return OpTables.load(gpu)


def cost_model(gpu: str, *, measured: bool = True) -> CostModel:
    return CostModel(load_device(gpu), ENGINE, tables(gpu) if measured else None)


@cache
def setup(**fields: Any) -> Setup:
    given_ = {} if fields.get("method") == "none" else {"acceptance": "fixed:2"}
    return resolve(Scenario.parse(calibration="none", **(given_ | fields)))


SETUPS: list[dict[str, Any]] = [
    {},
    {"method": "mtp", "steps": 3},
    {"method": "none"},
    {"gpu": "h200", "model": "qwen3-8b", "tp": 1},
    {"gpu": "b200", "model": "gpt-oss-20b", "tp": 1},
    {"gpu": "mi300x", "model": "qwen3-8b", "tp": 1},
    {"gpu": "h100", "model": "qwen3.5-35b-a3b", "tp": 2, "engine_mode": "v1"},
]


# ---- evidence ----------------------------------------------------------------------------


def test_without_tables_nothing_is_measured() -> None:
    cm = cost_model("b200", measured=False)
    calls = graph.target_forward(load_model("qwen3.5-397b-a17b"), tp=8, size=Rows(8, 16, 900.0))
    total = cm.calls(calls)
    by = dict(zip(EVIDENCE, total.by_evidence, strict=True))
    assert by["measured"] == by["fitted"] == 0
    assert by["roofline"] > by["assumed"] > 0
    measured = cost_model("b200").calls(calls)
    by = dict(zip(EVIDENCE, measured.by_evidence, strict=True))
    assert by["measured"] + by["fitted"] > 0.5 * measured.seconds
    assert 0.3 < total.seconds / measured.seconds < 1.5


@pytest.mark.parametrize("fields", SETUPS, ids=str)
def test_shares_add_up_in_every_table(fields: dict[str, Any]) -> None:
    s = setup(**fields)
    for batch in (1, 9, 32):
        t = s.step.table(batch)
        assert (t.parts >= 0).all()
        np.testing.assert_allclose(t.parts[:, :4].sum(axis=(0, 1)), t.total, rtol=1e-12)
        phases = t.parts[:, :4].sum(axis=1)
        np.testing.assert_allclose(phases[PHASES.index("draft")], t.draft, rtol=1e-12)
        np.testing.assert_allclose(phases[PHASES.index("materialise")], t.tail, rtol=1e-12)
        assert (t.parts[:, 4] <= phases + 1e-15).all()
        if s.tp == 1:
            assert not t.parts[:, 4].any()


def test_cost_is_the_sum_of_its_calls() -> None:
    cm = cost_model("h200")
    gemm = Gemm("g", 64, 4096, 4096)
    norm = Elementwise("n", 1e6, "norm")
    both = cm.calls([Call(gemm, 3), Call(norm, 2)])
    assert both.seconds == pytest.approx(3 * cm.op(gemm).seconds + 2 * cm.op(norm).seconds)
    total = cm.op(gemm) + cm.op(norm)
    assert total.seconds == pytest.approx(cm.op(gemm).seconds + cm.op(norm).seconds)
    assert cm.calls([]) == Cost()


def test_a_hidden_kernel_counts_by_its_exposed_share() -> None:
    cm = cost_model("b200")
    op = Gemm("shared", 16, 2048, 4096)
    seen, hidden = cm.calls([Call(op, 4)]), cm.calls([Call(op, 4, "shared_expert_exposed")])
    assert hidden.seconds == pytest.approx(ENGINE["shared_expert_exposed"] * seen.seconds)


def test_only_collectives_are_communication() -> None:
    for measured in (True, False):
        cm = cost_model("b200", measured=measured)
        reduce = Collective("r", "all_reduce", 1e6, 8)
        calls: list[Call[Op]] = [Call(reduce, 2), Call(Gemm("g", 8, 64, 64), 1)]
        on_the_wire = cm.op(reduce).seconds - ENGINE["graph_node_gap"]
        assert cm.calls(calls).comm_s == pytest.approx(2 * on_the_wire)


def test_every_launch_pays_the_gap_to_the_next() -> None:
    gap = ENGINE["graph_node_gap"]
    ops: list[Op] = [Gemm("g", 1, 64, 64), Attention("a", 1, 1, 10.0, 8, 2, 128)]
    ops += [Collective("r", "all_gather", 1e3, 2), Elementwise("e", 0.0)]
    for cm in (cost_model("b200"), cost_model("b200", measured=False)):
        assert all(cm.op(op).seconds > gap for op in ops)
        assert all(cm.op(op).by_evidence[3] >= gap for op in ops)


# ---- orderings ---------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    gpu=st.sampled_from(["b200", "h100", "mi300x"]),
    m=st.integers(1, 4096),
    more=st.integers(1, 512),
    n=st.sampled_from([256, 4096, 20480]),
    k=st.sampled_from([512, 4096]),
)
def test_a_roofline_is_never_cheaper_for_more(gpu: str, m: int, more: int, n: int, k: int) -> None:
    cm = cost_model(gpu, measured=False)
    for small, large in (
        (Gemm("g", m, n, k), Gemm("g", m + more, n, k)),
        (Moe("m", m, 128, 8, k, 768, 1), Moe("m", m + more, 128, 8, k, 768, 1)),
        (Attention("a", 4, 4, m, 32, 8, 128), Attention("a", 4, 4, m + more, 32, 8, 128)),
        (Collective("c", "all_reduce", m, 8), Collective("c", "all_reduce", m + more, 8)),
    ):
        assert cm.op(small).seconds <= cm.op(large).seconds


TARGETS = [
    ("b200", "qwen3.5-397b-a17b", 8),
    ("b200", "gpt-oss-20b", 1),
    ("h200", "qwen3-8b", 1),
    ("h100", "qwen3.5-35b-a3b", 2),
    ("a100", "qwen3.5-27b", 2),
    ("mi300x", "qwen3-8b", 1),
]


@pytest.mark.parametrize(("gpu", "name", "tp"), TARGETS)
def test_verification_is_not_cheaper_than_decoding(gpu: str, name: str, tp: int) -> None:
    """At any batch and block; measured tables are given 3 % of noise."""
    cm, model = cost_model(gpu), load_model(name)
    for requests in (1, 2, 4, 8, 16, 32):
        decode, *wide = (
            cm.calls(graph.target_forward(model, tp=tp, size=Rows(requests, rows, 1000.0))).seconds
            for rows in (1, 2, 4, 8, 16)
        )
        assert min(wide) > 0.97 * decode
        assert wide[-1] > 0.97 * max(wide)
        assert wide[-1] < 16 * decode  # or nobody would speculate


def test_verifying_is_cheaper_than_as_many_requests() -> None:
    """B rows of one request read one cache; B requests read B."""
    cm, model = cost_model("b200"), load_model("qwen3-8b")
    wide = cm.calls(graph.target_forward(model, tp=1, size=Rows(4, 16, 8000.0))).seconds
    many = cm.calls(graph.target_forward(model, tp=1, size=Rows(64, 1, 8000.0))).seconds
    assert wide < 0.8 * many


# ---- tables of whole steps ---------------------------------------------------------------


def priced_s(s: Setup, batch: int, ctx: float) -> float:
    """One cycle priced op by op."""
    padded = s.step.table(batch).padded
    total = sum(s.step._eager_s(batch))
    for phase in s.step.cycle.decode(requests=padded, ctx=ctx * batch / padded):
        total += s.step.cost.calls(phase.calls).seconds
        total += phase.graphs * s.engine["graph_launch_gap"]
        total += phase.steps * s.engine["chain_step_gap"]
    return total


@pytest.mark.parametrize("fields", SETUPS, ids=str)
def test_step_tables_are_the_prices(fields: dict[str, Any]) -> None:
    """Exact at the nodes, within 2 % between them."""
    s = setup(**fields)
    rng = np.random.default_rng(1)
    for batch in (1, 9, 32):
        t = s.step.table(batch)
        for ctx in t.ctx.tolist():
            assert t.seconds(ctx) == pytest.approx(priced_s(s, batch, ctx), rel=1e-12)
        for ctx in [*rng.uniform(0, t.ctx[-1], 6), *rng.uniform(0, 300, 3)]:
            assert t.seconds(ctx) == pytest.approx(priced_s(s, batch, ctx), rel=0.02)


@given(
    times=st.lists(st.floats(1e-6, 1e-1), min_size=2, max_size=8),
    ctx=st.floats(-10, 3000),
)
def test_the_scalar_look_up_is_numpys(times: list[float], ctx: float) -> None:
    nodes, total = np.arange(len(times)) * 300.0, np.array(times)
    t = BatchTable(1, nodes, np.zeros((len(PHASES), len(PARTS), len(times))), total, total, total)
    assert t.seconds(ctx) == pytest.approx(float(np.interp(ctx, nodes, total)), rel=1e-12)


def test_array_and_scalar_prices_agree() -> None:
    step = setup().step
    kv = np.arange(0, 40_000, 77)
    for batch in (1, 7, 32):
        one_by_one = [step.decode_s(batch, k) for k in kv.tolist()]
        np.testing.assert_allclose(step.decode_array(batch, kv), one_by_one, rtol=1e-12)


def test_batches_are_padded_to_a_captured_graph() -> None:
    sizes = ENGINE.graph_sizes["spec"]
    assert [padded_size(sizes, b, 512) for b in (1, 8, 9, 11, 33, 41)] == [1, 8, 10, 12, 40, 44]
    plain = ENGINE.graph_sizes["plain"]
    assert [padded_size(plain, b, 512) for b in (3, 5, 9, 17, 33)] == [4, 8, 12, 24, 40]
    assert padded_size(sizes, 33, 32) == 33  # beyond the largest: eager, unpadded
    step = setup(gpu="h200", model="qwen3-8b", tp=1).step
    assert step.table(9).padded == 10
    nine, ten = (step.table(b).total[0] for b in (9, 10))  # without context
    more = ENGINE["step_eager_spec_per_request"] + ENGINE["cycle_residue_per_request"]
    assert ten - nine == pytest.approx(more)


def test_expert_times_are_those_of_their_dtype() -> None:
    """gpt-oss has measured times for MXFP4 experts, none for the same experts in bf16."""
    cm = cost_model("b200")
    shape = {"experts": 128, "top_k": 4, "hidden": 2880, "inter": 2880, "tp": 1}
    mxfp4, bf16 = (
        cm.op(Moe("e", tokens=8, **shape, precision=Precision(weights=dtype)))
        for dtype in ("mxfp4", "bfloat16")
    )
    assert mxfp4.by_evidence[EVIDENCE.index("roofline")] == 0
    assert bf16.by_evidence[EVIDENCE.index("roofline")] > 0


def test_what_is_read_between_tables_is_not_measured() -> None:
    """Experts by popularity, and a decode scan read for verification, are fitted."""
    cm = cost_model("b200")
    moe = Moe("e", tokens=32, experts=512, top_k=10, hidden=4096, inter=1024, tp=8)
    scan = {"v_heads": 8, "k_heads": 2, "head_k_dim": 128, "head_v_dim": 128}
    measured = EVIDENCE.index("measured")
    assert cm.op(moe).by_evidence[measured] == 0
    assert cm.op(GdnRecurrent("g", 4, 1, **scan)).by_evidence[measured] > 0
    assert cm.op(GdnRecurrent("g", 4, 16, **scan)).by_evidence[measured] == 0


def test_without_a_graph_a_step_takes_its_launches() -> None:
    """Smaller graphs are never faster; a launch-bound step lasts as long as launching it."""
    fields = {"gpu": "b200", "model": "qwen3-8b", "tp": 1, "method": "none", "block": None}
    captured, eager = (setup(**fields, cuda_graph_max_bs=n).step for n in (32, 0))
    for batch in (1, 8, 32):
        assert eager.table(batch).seconds(100.0) >= captured.table(batch).seconds(100.0)
    calls = sum(p.launches for p in eager.cycle.decode(requests=1, ctx=0))
    floor = calls * ENGINE["eager_launch"]
    assert eager.table(1).seconds(0.0) >= floor


def test_prefill_is_exact_on_powers_of_two() -> None:
    s = setup(gpu="h200", model="qwen3-8b", tp=1)
    for requests, seq, prefix in ((1, 128, 0.0), (4, 512, 0.0), (2, 256, 64.0)):
        phases = s.step.cycle.prefill(requests=requests, seq=seq, prefix=prefix)
        calls = [c for p in phases for c in p.calls]
        priced = s.step.cost.calls(calls).seconds
        expected = priced + s.engine["step_eager_plain"]
        got = s.step.prefill_s(requests=requests, tokens=requests * seq, prefix=prefix)
        assert got == pytest.approx(expected, rel=1e-12)


def test_an_eager_prefill_is_launched_kernel_by_kernel() -> None:
    """Counted by hand for a dense model; the hybrid one launches a scan of many kernels a layer."""
    dense = setup(gpu="h200", model="qwen3-8b", tp=1, method="none", block=None,
                  cuda_graph_backend_prefill="disabled")  # fmt: skip
    each_s, sheet = dense.engine["eager_launch"], dense.engine.prefill
    layer = 1 + 1 + 3 + 1 + 1 + 1  # norm, qkv, q/k norms and rope, write, attention, output
    layer += 1 + 1 + 1 + 1  # norm, gate_up, activation, down
    head = 1 + 1 + 1 + 1 + 1  # embedding, final norm, head, cast, argmax
    launches = 36 * layer + head + sheet.around
    for tokens in (8, 5000):
        assert dense.step.prefill_launch_s(tokens) == pytest.approx(launches * each_s, rel=1e-12)
    hybrid = setup(gpu="h200", model="qwen3.5-4b", tp=1, method="none", block=None,
                   cuda_graph_backend_prefill="disabled")  # fmt: skip
    assert hybrid.step.prefill_launch_s(8) / 32 > 1.3 * dense.step.prefill_launch_s(8) / 36


def test_graphs_of_prefills_leave_the_mixers_to_launch() -> None:
    """A piece and its mixer a layer, the head; above the largest graph all kernels."""
    fields = {"gpu": "h200", "model": "qwen3-8b", "tp": 1, "method": "none", "block": None}
    eager, graphs = (
        setup(**fields, cuda_graph_backend_prefill=b).step for b in ("disabled", "breakable")
    )
    each_s, sheet = graphs.engine["eager_launch"], graphs.engine.prefill
    launches = 36 * (sheet.piece + 1 + 1) + 3 + sheet.around  # write, attention; head, cast, argmax
    assert graphs.prefill_launch_s(500) == pytest.approx(launches * each_s, rel=1e-12)
    assert graphs.prefill_launch_s(10**6) == eager.prefill_launch_s(500)
    assert graphs.prefill_s(requests=1, tokens=1025) == graphs.prefill_s(requests=1, tokens=1280)
    assert eager.prefill_s(requests=1, tokens=1025) < graphs.prefill_s(requests=1, tokens=1025)
    drafted = setup(gpu="h200", model="qwen3-8b", tp=1).step
    cache = 1 + 1 + 1 + 1 + 5  # fc, norm, one product for all layers, norm and rope, five writes
    more_s = drafted.prefill_launch_s(500) - graphs.prefill_launch_s(500)
    assert more_s == pytest.approx(cache * each_s, rel=1e-9)


@pytest.mark.parametrize(
    ("asked", "hybrid", "speculative", "sheet", "graphs"),
    [
        (None, False, False, {}, True),
        (None, True, False, {"hybrid": False}, False),
        ("tc_piecewise", True, False, {"hybrid": False}, True),  # asked for by name
        ("disabled", False, False, {}, False),
        (None, False, True, {"hidden_states": False}, False),  # captured without hidden states
        ("tc_piecewise", False, True, {"hidden_states": False}, False),
        (None, False, False, {"backend": "disabled"}, False),
    ],
)
def test_which_prefills_are_graphs(
    asked: str | None, hybrid: bool, speculative: bool, sheet: dict[str, Any], graphs: bool
) -> None:
    rules = replace(ENGINE.prefill, **sheet)
    assert rules.replays(asked, hybrid=hybrid, speculative=speculative) is graphs


@pytest.mark.parametrize(
    ("release", "backend", "most"),
    [
        ("0.5.10", "trtllm_mla", 2048),
        ("0.5.14", "fa3", 2048),
        ("0.5.15", "trtllm_mla", 0),
        ("0.5.15", "fa3", 2048),
        ("0.5.16", "fa3", 0),
        ("0.5.23", "fa3", 8192),
        ("0.5.14", None, 16384),
    ],
)
def test_which_prefills_of_latent_attention_are_graphs(
    release: str, backend: str | None, most: int
) -> None:
    rules = load_engine(f"sglang-{release}").prefill
    asked = {"hybrid": False, "speculative": False, "latent": backend, "chunk": 16384}
    assert rules.most_tokens(None, **asked) == most
    assert rules.most_tokens("disabled", **asked) == 0


def test_a_captured_prefill_of_latents_casts_the_pool() -> None:
    """Up to 2,048 tokens, where latents are in FP8 and not in bf16."""
    asked = {"model": "deepseek-v3", "gpu": "b200", "tp": 8, "method": "none"}
    for kv, casts in (("fp8_e4m3", 61), ("bfloat16", 0)):
        graphs, eager = (
            setup(**asked, kv_cache_dtype=kv, cuda_graph_backend_prefill=how).step
            for how in (None, "disabled")
        )
        pool = graphs.cycle.captured_pool * 576 / 1e6 / graphs.cost.device.sm_count
        for tokens, captured in ((2048, 1), (4096, 0)):
            both = [x.prefill_s(requests=1, tokens=tokens) for x in (graphs, eager)]
            cast_s = captured * casts * pool * graphs.engine["pool_cast"]
            factor = graphs.engine["time_factor"]
            assert both[0] - both[1] == pytest.approx(factor * cast_s, rel=0.1, abs=1e-9)
            launch = graphs.prefill_launch_s(tokens) / eager.prefill_launch_s(tokens)
            assert (launch < 0.2) is bool(captured)


@pytest.mark.parametrize("chunk", [8192, 16384, 32768])
def test_a_prefill_is_padded_to_the_next_graph_up_to_the_chunk(chunk: int) -> None:
    step = setup(gpu="h200", model="qwen3-8b", tp=1, chunked_prefill_size=chunk).step

    def padded(tokens: int) -> bool:
        """True if a prefill of one token less takes as long."""
        times = [step.prefill_s(requests=1, tokens=n) for n in (tokens - 1, tokens)]
        return times[0] == times[1]

    for size in (4, 8, 48, 288, 1280, chunk):
        assert padded(size)
        assert not padded(size + 1)
    assert not padded(chunk + 2)  # nothing above the chunk is captured
    assert step.prefill_launch_s(chunk) < step.prefill_launch_s(chunk + 1)


def test_more_prompt_takes_longer() -> None:
    step = setup(gpu="h200", model="qwen3-8b", tp=1, cuda_graph_backend_prefill="disabled").step
    times = [step.prefill_s(requests=1, tokens=n) for n in range(16, 6000, 50)]
    assert (np.diff(times) > 0).all()
    assert step.prefill_s(requests=1, tokens=500, prefix=3000.0) > step.prefill_s(
        requests=1, tokens=500
    )


def test_the_step_of_a_run_is_the_step_of_its_table() -> None:
    """One request at a time: mean step time is the table's mean over the contexts it passed."""
    s = setup(gpu="h200", model="qwen3-8b", tp=1, isl=64, osl=129, dataset=None, conc=1)
    work = fixed_workload(isl=64, osl=129, requests=1, conc=1)
    draws = draw_commits(FixedAcceptance(2, s.block), work, np.random.default_rng(0))
    values, _ = step_anatomy(run_engine(s, work, draws), step=s.step, host=s.host)
    expected = np.mean([s.step.decode_s(1, 64 + 2 * i) for i in range(64)])
    assert values["step_ms"] - values["host_exposed_ms"] == pytest.approx(expected * 1e3)


@pytest.mark.parametrize("tokens", [(900, 1000), (900, 1100), (0, 50), (9000, 10**6)])
def test_steps_of_one_batch_are_read_off_at_once(tokens: tuple[int, int]) -> None:
    """Between two nodes, over one, before the first and beyond the last: as one by one."""
    nodes, parts = np.array([10.0, 256, 2048]), np.zeros((len(PHASES), len(PARTS), 3))
    parts[0, 0] = 1e-3, 4e-3, 5e-3
    table, several = BatchTable.of(4, nodes, parts), np.linspace(*tokens, 7).astype(int).tolist()
    by_hand = np.interp(np.array(several) / 4, nodes, [1e-3, 4e-3, 5e-3])
    assert table.seconds_each(4, several) == pytest.approx(by_hand.tolist(), rel=1e-12)
