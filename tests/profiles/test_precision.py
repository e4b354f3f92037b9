"""Number formats: bytes of a value, and their way into ops, memory and prices."""

from dataclasses import replace

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import default_drafter, load_device, load_model
from dflash_sim.profiles.precision import BF16, PRECISIONS, Precision, bytes_of
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.times.op_tables import OpTables
from dflash_sim.simulator.cost.cycle import Cycle
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.cost.ops import Attention, Collective, GdnRecurrent, Gemm
from dflash_sim.simulator.cost.price import CostModel
from dflash_sim.simulator.memory import Launch, MemoryPlan, plan_memory
from dflash_sim.simulator.static_share import StaticShare

MODEL = "qwen3.5-27b"
FP8 = Precision(weights="fp8", activations="fp8", kv_cache="fp8", state="bfloat16")
ENGINE = load_engine("sglang-0.5.14")


def test_bytes_of_a_value() -> None:
    """MXFP4 (OCP Microscaling 1.0): 32 four-bit values and one eight-bit scale."""
    assert bytes_of("mxfp4") == (32 * 4 + 8) / 32 / 8
    assert [bytes_of(d) for d in ("float32", "bfloat16", "fp8")] == [4, 2, 1]
    with pytest.raises(UsageError, match="unknown number format 'int3'"):
        bytes_of("int3")


def test_products_are_in_the_format_of_the_sheet() -> None:
    assert FP8.matmul == "fp8"
    assert Precision(weights="mxfp4").matmul == "bfloat16"
    assert PRECISIONS["bfloat16"] == BF16


def verify(precision: Precision) -> dict[str, float]:
    """Bytes of one verify pass by kind of op."""
    cycle = Cycle(
        METHODS["dflash"], load_model(MODEL), 2, 8, default_drafter(MODEL), precision=precision
    )
    found: dict[str, float] = {}
    for phase in cycle.decode(requests=4, ctx=1000):
        for call in phase.calls:
            kind = type(call.op).__name__
            found[kind] = found.get(kind, 0.0) + call.count * call.op.nbytes
    return found


@pytest.mark.parametrize(
    ("field", "dtype", "kinds"),
    [
        ("weights", "fp8", {"Gemm"}),
        ("activations", "fp8", {"Gemm", "Attention", "Collective", "Elementwise", "GdnConv"}),
        ("kv_cache", "fp8", {"Attention", "Elementwise"}),
        ("state", "bfloat16", {"GdnRecurrent", "Elementwise"}),
    ],
)
def test_each_format_moves_what_is_stored_in_it(field: str, dtype: str, kinds: set[str]) -> None:
    """And nothing else: a KV cache in FP8 leaves every product as it was, and is written so."""
    bf16, other = verify(BF16), verify(replace(BF16, **{field: dtype}))
    assert {kind for kind in bf16 if other[kind] < bf16[kind]} == kinds
    assert {kind for kind in bf16 if other[kind] > bf16[kind]} == set()


def test_halves_where_all_is_halved() -> None:
    a = Attention("a", 3, 2, 100.0, 8, 2, 64)
    g = Gemm("g", 8, 512, 256)
    r = GdnRecurrent("r", 2, 4, 8, 4, 64, 64)
    for op in (a, g, r):
        assert replace(op, precision=FP8).nbytes == op.nbytes / 2


def plan(precision: Precision) -> MemoryPlan:
    model, drafter = load_model(MODEL), default_drafter(MODEL)
    return plan_memory(
        device=load_device("b200"),
        engine=ENGINE,
        model=model,
        launch=Launch(
            tp=1,
            speculative=True,
            block=8,
            overlap=True,
            radix_cache=True,
            strategy="extra_buffer",
        ),
        draft=METHODS["dflash"].caches(model, drafter, 1, precision),
        precision=precision,
        share=StaticShare(0.8),
    )


def test_memory_follows() -> None:
    bf16, weights = plan(BF16), plan(replace(BF16, weights="fp8"))
    assert weights.weight_bytes == pytest.approx(bf16.weight_bytes / 2)
    drafts = default_drafter(MODEL)._weights()
    halved = sum(w.params for w in drafts if w.module != "other")  # fc and norms stay in bf16
    assert weights.draft_weight_bytes == bf16.draft_weight_bytes - halved
    cache = plan(replace(BF16, kv_cache="fp8"))
    assert cache.kv_bytes_per_token == bf16.kv_bytes_per_token / 2
    assert cache.kv_tokens == pytest.approx(2 * bf16.kv_tokens, rel=1e-6)
    assert plan(replace(BF16, state="bfloat16")).max_running_requests >= bf16.max_running_requests


def test_activations_in_another_format_are_a_roofline() -> None:
    """No table has them: the op is a roofline at its own peak."""
    device = load_device("b200")
    cost = CostModel(device, ENGINE, OpTables.load("b200"))
    gemm = Gemm("g", 4096, 8192, 8192)
    eight = replace(gemm, precision=FP8)
    assert cost.op(gemm).by_evidence[2] == 0
    peak = device.peak("fp8") * ENGINE["matmul_flop_eff"]
    assert cost.op(eight).by_evidence[2] == pytest.approx(
        eight.flops / peak + ENGINE["roofline_launch"]
    )


def test_states_of_half_the_bytes_are_half_as_many_requests() -> None:
    """The table was timed with float32 states; other kernels are the same whatever the states."""
    cost = CostModel(load_device("b200"), ENGINE, OpTables.load("b200"))
    half = replace(BF16, state="bfloat16")
    wide = GdnRecurrent("r", 16, 1, 48, 16, 128, 128)
    narrow = cost.op(replace(wide, precision=half))
    assert narrow.seconds == pytest.approx(cost.op(replace(wide, requests=8)).seconds)
    assert narrow.by_evidence[1] > 0  # no measurement of that kernel
    gemm = Gemm("g", 32, 8192, 8192)
    assert cost.op(replace(gemm, precision=half)) == cost.op(gemm)
    one = replace(wide, requests=1)
    assert cost.op(replace(one, precision=half)).seconds == cost.op(one).seconds


def test_peak_by_format() -> None:
    b200, a100 = load_device("b200"), load_device("a100")
    assert b200.peak("bfloat16") == b200.bf16_flop_s
    assert b200.peak("fp4") > b200.peak("fp8") > b200.peak("bfloat16")
    assert a100.peak("int8") == 2 * a100.peak("bfloat16")
    with pytest.raises(UsageError, match="a100 multiplies no fp8; it has bfloat16, float16, int8"):
        a100.peak("fp8")


def test_collectives_carry_activations() -> None:
    half = replace(BF16, activations="fp8")
    sizes = []
    for precision in (BF16, half):
        cycle = Cycle(METHODS["none"], load_model(MODEL), 2, 1, precision=precision)
        (phase,) = cycle.decode(requests=4, ctx=10)
        sizes.append(sum(c.op.nbytes for c in phase.calls if isinstance(c.op, Collective)))
    assert sizes[1] == sizes[0] / 2
