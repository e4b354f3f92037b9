"""What each engine constant does: exact differences, and nothing anywhere else."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from dflash_sim.profiles.load import default_drafter, load_device, load_eagle3, load_model
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.times.op_tables import OpTables
from dflash_sim.profiles.units import MS, US
from dflash_sim.simulator.cost import passes as graph
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.cost.ops import (
    AnyCall,
    Attention,
    Collective,
    Elementwise,
    GdnRecurrent,
    Gemm,
    Op,
)
from dflash_sim.simulator.cost.price import CostModel
from dflash_sim.simulator.cost.step_table import StepModel
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.predict import predict, simulate
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve

ENGINE = load_engine("sglang-0.5.14")
BIG = "qwen3.5-397b-a17b"
ROWS = 5  # of a verify pass
SEQUENTIAL = [name for name, m in METHODS.items() if m.sequential]


def setup(scenario: Scenario, **constants: float) -> Setup:
    return resolve(scenario, engine=ENGINE.with_constants(**constants))


def step(method: str, **constants: float) -> StepModel:
    """Qwen3-8B on one B200, or a model that has what the method drafts with."""
    others = {"mtp": "qwen3.5-35b-a3b", "dflash2": "qwen3.6-27b"}
    model = others.get(method, "qwen3-8b")
    row = METHODS[method]
    asked: dict[str, Any] = {"method": method, "block": row.block(ROWS), "steps": row.steps(ROWS)}
    asked |= {"acceptance": "fixed:2"} if row.speculative else {}
    return setup(Scenario.parse(model=model, tp=1, **asked), **constants).step


def more_s(method: str, name: str, batch: int, by: float) -> float:
    """What a cycle takes longer when a constant grows by ``by`` [s]."""
    long = step(method, **{name: ENGINE[name] + by}).decode_s(batch, 1000.0 * batch)
    return long - step(method).decode_s(batch, 1000.0 * batch)


# ---- constants with a time ---------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [1, 7])
def test_a_residue_is_paid_once_per_cycle(method: str, batch: int) -> None:
    assert more_s(method, "cycle_residue", batch, MS) == pytest.approx(MS)
    per_request = more_s(method, "cycle_residue_per_request", batch, US)
    assert per_request == pytest.approx(batch * US)


@pytest.mark.parametrize("k", [1, 2, 4, 7])
@pytest.mark.parametrize("method", SEQUENTIAL)
def test_every_sequential_draft_waits_a_gap(method: str, k: int) -> None:
    """k drafts take k gaps: the extend after verification makes the first of them."""
    model = "qwen3.5-35b-a3b" if method == "mtp" else "qwen3-8b"
    asked = {"model": model, "tp": 1, "method": method, "steps": k, "acceptance": "fixed:2"}
    scenario = Scenario.parse(**asked)
    gap_s = ENGINE["chain_step_gap"]
    with_gap, without = (setup(scenario, chain_step_gap=g).step for g in (gap_s, 0.0))
    for batch in (1, 8):
        kv = 500.0 * batch
        whole_s = with_gap.decode_s(batch, kv) - without.decode_s(batch, kv)
        draft_s = with_gap.draft_s(batch, kv) - without.draft_s(batch, kv)
        tail_s = with_gap.tail_s(batch, kv) - without.tail_s(batch, kv)
        assert whole_s == pytest.approx(k * gap_s)
        assert draft_s == pytest.approx((k - 1) * gap_s, abs=1e-15)
        assert tail_s == pytest.approx(gap_s)


def test_a_gap_is_idle_and_only_sequential_drafts_have_it() -> None:
    """Injection without diffusion drafts one token at a time too: four steps at block 5."""
    steps = {method: more_s(method, "chain_step_gap", 4, MS) / MS for method in METHODS}
    waiting = {*SEQUENTIAL, "injection-only"}
    expected = {m: ROWS - 1 if m in waiting else 0 for m in METHODS}
    assert steps == pytest.approx(expected, abs=1e-9)
    idle = [step("mtp", chain_step_gap=g).table(1).parts[:, 5].sum(axis=0) for g in (0.0, MS)]
    np.testing.assert_allclose(idle[1] - idle[0], 4 * MS)


def test_a_draft_extend_grows_with_the_batch() -> None:
    grown = {m: more_s(m, "chain_extend_per_request", 7, US) / US for m in METHODS}
    expected = {m: 7.0 if m in SEQUENTIAL else 0.0 for m in METHODS}
    assert grown == pytest.approx(expected, abs=1e-6)


# ---- norms inside all-reduces ------------------------------------------------------------


def fused(calls: list[AnyCall]) -> dict[str, int]:
    """Norms that run inside an all-reduce, and how many."""
    found: dict[str, int] = {}
    for c in calls:
        if c.exposed == "fused_norm_exposed":
            found[c.op.name] = found.get(c.op.name, 0) + c.count
    return found


@pytest.mark.parametrize("name", [BIG, "qwen3-8b", "gpt-oss-120b"])
def test_norms_run_inside_all_reduces_of_decode_rows_only(name: str) -> None:
    """One before every mixer and every MLP, with two ranks or more; never in a prefill."""
    model = load_model(name)
    for tp in (1, 2, 4):
        for size in (Rows(4, 1, 100.0), Rows(4, 8, 100.0), Rows(2, 300, prefill=True)):
            inside = fused(graph.target_forward(model, tp=tp, size=size))
            layers = len(model.layers) if tp > 1 and not size.prefill else 0
            assert inside.get("input_norm", 0) == inside.get("post_attention_norm", 0) == layers
            assert set(inside) <= {"input_norm", "post_attention_norm"}


def test_drafting_layers_fuse_their_norms_too() -> None:
    drafter, model = default_drafter(BIG), load_model(BIG)
    layers = len(drafter.layers)
    for tp in (1, 8):
        block = graph.draft_block(drafter, model, tp=tp, size=Rows(4, 16, 100.0))
        mtp = graph.mtp_step(model, tp=tp, size=Rows(4, 1, 100.0))
        eagle = graph.eagle3_step(
            load_eagle3("qwen3-8b"), tp=tp, size=Rows(4, 1, 100.0), fuse_features=False
        )
        found = [sum(fused(calls).values()) for calls in (block, mtp, eagle)]
        assert found == ([2 * layers, 2, 2] if tp > 1 else [0, 0, 0])


@pytest.mark.parametrize("tp", [1, 8])
def test_what_a_fused_norm_saves(tp: int) -> None:
    """All that is not exposed of 2 norms per layer, launch and gap included."""
    calls = graph.target_forward(load_model(BIG), tp=tp, size=Rows(8, 16, 900.0))
    apart, inside = (
        CostModel(load_device("b200"), ENGINE.with_constants(fused_norm_exposed=x), tables("b200"))
        for x in (1.0, 0.3)
    )
    norms_s = sum(
        c.count * apart.op(c.op).seconds for c in calls if c.exposed == "fused_norm_exposed"
    )
    assert (norms_s > 0) == (tp > 1)
    saved_s = apart.calls(calls).seconds - inside.calls(calls).seconds
    assert saved_s == pytest.approx(0.7 * norms_s, abs=1e-12)


# ---- factors -----------------------------------------------------------------------------


@cache
def tables(gpu: str) -> OpTables | None:
    return OpTables.load(gpu)


SCAN = {"v_heads": 8, "k_heads": 2, "head_k_dim": 128, "head_v_dim": 128}
OPS: dict[str, Op] = {
    "product": Gemm("g", 64, 4096, 4096),
    "attention": Attention("a", 8, 4, 1000.0, 16, 4, 128),
    "scan of one row": GdnRecurrent("r", 8, 1, **SCAN),
    "scan of many rows": GdnRecurrent("r", 8, 16, **SCAN),
    "all-reduce": Collective("c", "all_reduce", 1e6, 8),
    "norm": Elementwise("n", 1e6, "norm"),
}


@pytest.mark.parametrize(
    ("factor", "on"),
    [
        ("table_factor", {"product", "attention", "scan of one row", "scan of many rows"}),
        ("collective_factor", {"all-reduce"}),
        ("gdn_verify_factor", {"scan of many rows"}),
        ("prefill_factor", set()),
    ],
)
def test_a_factor_scales_its_own_kernels(factor: str, on: set[str]) -> None:
    """The gap to the next kernel is not theirs; what is priced without a table is not either."""
    gap_s = ENGINE["graph_node_gap"]
    one, three = (
        CostModel(load_device("b200"), ENGINE.with_constants(**{factor: x}), tables("b200"))
        for x in (1.0, 3.0)
    )
    bare = [
        CostModel(load_device("b200"), ENGINE.with_constants(**{factor: x}), None) for x in (1, 3)
    ]
    for name, op in OPS.items():
        ratio = (three.op(op).seconds - gap_s) / (one.op(op).seconds - gap_s)
        assert ratio == pytest.approx(3.0 if name in on else 1.0), name
        assert bare[0].op(op) == bare[1].op(op)


def test_the_prefill_factor_is_about_prefills() -> None:
    slow, as_is = step("dflash", prefill_factor=1.7), step("dflash")
    for tokens in (5, 300, 5000):
        asked = {"requests": 1, "tokens": tokens, "prefix": 0.0}
        assert slow.prefill_s(**asked) == pytest.approx(1.7 * as_is.prefill_s(**asked))
    assert slow.decode_s(4, 1000.0) == as_is.decode_s(4, 1000.0)


# ---- another build: everything takes longer ----------------------------------------------

SLOWER = 1.75
SERVED: dict[str, dict[str, Any]] = {
    "overlap": {"block": 8, "acceptance": "al:4"},
    "v1": {"block": 8, "acceptance": "al:4", "engine_mode": "v1"},
    "v2-sync": {"block": 8, "acceptance": "al:4", "engine_mode": "v2-sync"},
    "plain": {"method": "none"},
    "sequential": {"method": "eagle3", "steps": 3, "acceptance": "al:2.5"},
}


def test_host_stages_take_longer() -> None:
    fast, slow = (HostTime.from_sheet(ENGINE.with_constants(time_factor=x)) for x in (1, SLOWER))
    for stage in HostTime.__dataclass_fields__:
        assert getattr(slow, stage) == pytest.approx(SLOWER * getattr(fast, stage)), stage
        assert getattr(slow, stage) > 0 or stage == "plan_s"  # of backends that plan on the host


@pytest.mark.parametrize("simulator", ["leap", "event"])
@pytest.mark.parametrize("served", SERVED)
def test_a_slower_build_serves_so_much_less(served: str, simulator: str) -> None:
    """Times x k, throughput / k: GPU and host alike. Clients are not of the build."""
    asked = {"model": "qwen3-8b", "tp": 1, "conc": 5, "isl": 300, "osl": 60, "num_prompts": 23}
    scenario = Scenario.parse(**asked, **SERVED[served], runs=1)

    def measured(factor: float, turnaround_s: float) -> dict[str, float]:
        changed = {"time_factor": factor, "client_turnaround": turnaround_s}
        found = setup(scenario, **changed)
        expected = predict(scenario, setup=found, with_baseline=False, with_interval=False)
        return simulate(found, expected.expectation, run=0, simulator=simulator)[0].values

    fast, slow = measured(1.0, 0.0), measured(SLOWER, 0.0)
    assert fast["output_throughput"] / slow["output_throughput"] == pytest.approx(SLOWER, rel=1e-9)
    for name in ("mean_ttft_ms", "mean_tpot_ms", "p99_e2e_latency_ms", "step_ms", "host_ms"):
        assert slow[name] == pytest.approx(SLOWER * fast[name], rel=1e-9), name
    waiting_s = 20 * MS
    waits = measured(1.0, waiting_s), measured(SLOWER, waiting_s)
    ratio = waits[0]["output_throughput"] / waits[1]["output_throughput"]
    assert 1.05 < ratio < SLOWER * (1 - 1e-3)
