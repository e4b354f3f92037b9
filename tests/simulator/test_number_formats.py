"""Precision end to end: weights, caches, drafters and prices in the formats that flags name."""

from dataclasses import replace
from typing import Any

import pytest

from dflash_sim.profiles.errors import InfeasibleError, UsageError
from dflash_sim.profiles.formats import bytes_of, format_of
from dflash_sim.profiles.load import load_model
from dflash_sim.profiles.networks.networks import ModelShape
from dflash_sim.profiles.precision import BF16
from dflash_sim.profiles.times.op_tables import OpTables
from dflash_sim.simulator.cost.ops import Call, Gemm, Moe, Quantize, with_quantisation
from dflash_sim.simulator.cost.origin import origin
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve

BIG = "qwen3.5-397b-a17b"
QUANTISED = ("fp8", "modelopt_fp4", "awq", "mxfp4")


def setup(**fields: Any) -> Setup:
    asked = {"gpu": "b200", "model": BIG, "tp": 8, "conc": 32, "runs": 1} | fields
    return resolve(Scenario.parse(**asked))


def plain(**fields: Any) -> Setup:
    return setup(method="none", **fields)


def parts(model: ModelShape) -> dict[str, int]:
    """Values of each module."""
    found: dict[str, int] = {}
    for weight, count in model._weights():
        found[weight.module] = found.get(weight.module, 0) + weight.params * count
    return found


@pytest.mark.parametrize("name", QUANTISED)
def test_bytes_are_those_of_the_modules(name: str) -> None:
    """On one rank: each module's values at the bytes of its own format."""
    s = setup(quantization=name)
    modules = dict(s.precision.modules)
    whole = sum(
        n * bytes_of(modules.get(m, modules.get(m.partition(".")[0], "bfloat16")))
        for m, n in parts(load_model(BIG)).items()
    )
    assert s.model.weight_bytes(1, s.precision) == pytest.approx(whole, rel=1e-9)
    assert whole < 0.6 * load_model(BIG).weight_bytes(1)


def test_fp8_halves_what_it_quantises_and_nothing_else() -> None:
    bf16, fp8 = plain(), plain(quantization="fp8")
    values = parts(load_model(BIG))
    modules = dict(fp8.precision.modules)
    quantised = sum(n for m, n in values.items() if m.partition(".")[0] in modules)
    saved = bf16.model.weight_bytes(1, bf16.precision) - fp8.model.weight_bytes(1, fp8.precision)
    assert saved == pytest.approx(quantised, rel=1e-9)
    assert {"router", "lm_head", "embed", "other"}.isdisjoint(dict(fp8.precision.modules))


def test_fewer_bytes_leave_more_cache_and_go_faster() -> None:
    steps = [plain(**({"quantization": q} if q else {})) for q in (None, "fp8", "modelopt_fp4")]
    tokens = [s.memory.kv_tokens for s in steps]
    assert tokens == sorted(tokens)
    seconds = [step_s(s) for s in steps]
    assert seconds[0] > seconds[1] > seconds[2]


def step_s(s: Setup) -> float:
    """Seconds of the kernels of one decode step."""
    (phase,) = s.step.cycle.decode(requests=32, ctx=2000.0)
    return s.step.cost.calls(phase.calls).seconds


def test_a_method_that_reads_quantised_files_is_taken_for_a_listed_checkpoint() -> None:
    """Else every linear layer is taken for it; the answer says which."""
    named, asked = plain(model=f"{BIG}-nvfp4"), plain(quantization="nvfp4")
    assert asked.precision == named.precision
    assert asked.memory == named.memory
    assert any(f"taken to be {BIG}-nvfp4" in w for w in asked.warnings)
    every = plain(quantization="mxfp4")
    assert {"attention", "experts"} <= set(dict(every.precision.modules))
    assert any("every linear layer" in w for w in every.warnings)
    assert not any("taken" in w for w in plain(quantization="fp8").warnings)


def test_bf16_by_name_is_the_default() -> None:
    assert step_s(plain(quantization="bf16")) == step_s(plain())
    assert plain(kv_cache_dtype="auto").precision == plain().precision


def test_a_cache_in_fp8_holds_twice_as_much() -> None:
    bf16, fp8 = plain(), plain(kv_cache_dtype="fp8_e4m3")
    assert 2 * fp8.memory.kv_bytes_per_token == bf16.memory.kv_bytes_per_token
    assert fp8.memory.weight_bytes == bf16.memory.weight_bytes
    assert step_s(fp8) < step_s(bf16)


def test_a_drafter_keeps_keys_that_its_kernels_can_read() -> None:
    """On B200 the draft layers that see everything run with fa4, which wants them in bf16."""
    newest = "sglang-0.5.23"
    bf16, fp8 = (setup(engine=newest, kv_cache_dtype=kv) for kv in ("auto", "fp8_e4m3"))
    own = bf16.model.kv_bytes(8, bf16.precision)
    drafts = bf16.memory.kv_bytes_per_token - own
    assert fp8.memory.kv_bytes_per_token == own / 2 + drafts
    other = setup(engine=newest, kv_cache_dtype="fp8_e4m3", attention_backend="flashinfer")
    assert other.memory.kv_bytes_per_token == (own + drafts) / 2


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"quantization": "fp8"}, "fp8"),
        ({"quantization": "fp8", "speculative_draft_model_quantization": "unquant"}, "bfloat16"),
        ({"quantization": "modelopt_fp4"}, "bfloat16"),  # such a checkpoint says nothing of it
        ({"speculative_draft_model_quantization": "fp8"}, "fp8"),
        ({}, "bfloat16"),
    ],
)
def test_when_the_drafter_is_quantised(fields: dict[str, str], form: str) -> None:
    s = setup(**fields)
    assert s.precision.form("drafter") == form
    *_, inject = s.step.cycle.decode(requests=4, ctx=100.0)
    products = [c for c in inject.calls if isinstance(c.op, Gemm)]
    fc, kv = products[0], products[-1]
    assert fc.op.precision.weights == "bfloat16"  # fc is never quantised
    assert kv.op.precision.weights == form
    layers = len(s.drafter.layers)  # type: ignore[union-attr]
    assert kv.count == (1 if form == "bfloat16" else layers)
    heads = s.drafter.layers[0]  # type: ignore[union-attr]
    assert kv.count * kv.op.n == 2 * layers * max(1, heads.num_kv_heads // 8) * heads.head_dim
    followed = any("quantises the drafter too" in w for w in s.warnings)
    assert followed == (fields == {"quantization": "fp8"})


def test_one_kernel_quantises_the_activations_of_each_product() -> None:
    for name, kernels in (("fp8", True), ("awq", False)):
        (phase,) = plain(quantization=name).step.cycle.decode(requests=8, ctx=100.0)
        launches = dict.fromkeys((Gemm, Quantize), 0)
        for call in phase.calls:
            op = call.op
            if isinstance(op, Quantize) or (
                isinstance(op, Gemm) and op.precision.weights != "bfloat16"
            ):
                launches[type(op)] += call.count
        assert launches[Gemm] > 0
        assert launches[Quantize] == (launches[Gemm] if kernels else 0), name
    plain_gemm: list[Any] = [Call(Gemm("g", 8, 64, 64), 3)]
    assert with_quantisation(plain_gemm) == plain_gemm


def priced(**fields: Any) -> list[tuple[Setup, Any]]:
    s = plain(**fields)
    (phase,) = s.step.cycle.decode(requests=32, ctx=4000.0)
    products = [call for call in phase.calls if isinstance(call.op, Gemm | Moe)]
    found = [(s, call) for call in products if call.op.precision.weights != "bfloat16"]
    assert found
    return found


@pytest.mark.parametrize("gpu", ["b200", "h200", "a100", "mi300x", "rtx_5090"])
@pytest.mark.parametrize("name", ["fp8", "awq"])
def test_nothing_quantised_is_priced_as_bf16(gpu: str, name: str) -> None:
    """Every product says its own table, a twin that stands in, or a roofline in its format."""
    for s, call in priced(gpu=gpu, quantization=name, model="qwen3-32b", tp=4):
        said = origin(s.step.cost, call)
        table = format_of(call.op.precision.weights).table or call.op.precision.weights
        assert table in said or "scaled by rooflines" in said, said
        bf16 = replace(call.op, precision=BF16)
        assert s.step.cost.op(call.op) != s.step.cost.op(bf16)


def test_a_twin_is_scaled_by_rooflines() -> None:
    """INT8 weights alone have no table on B200: bf16's, by the ratio of what both must move."""
    s = plain(quantization="w8a16")
    cost = s.step.cost
    op = Gemm("g", 1, 16384, 16384, replace(BF16, weights="w8a16"))
    own, twin = cost.op(op), cost.op(replace(op, precision=BF16))
    ratio = cost._roofline_s(op, s.device) / cost._roofline_s(replace(op, precision=BF16), s.device)
    gap = s.engine["graph_node_gap"]
    assert own.seconds - gap == pytest.approx(ratio * (twin.seconds - gap))
    assert own.by_evidence[1] == pytest.approx(own.seconds - gap)
    assert 0.5 < ratio < 0.6
    cost.tables = None
    cost._memo.clear()
    assert cost.op(op).by_evidence[2] > 0  # control: without tables it is a roofline


def test_attention_multiplies_in_what_its_backend_does() -> None:
    for backend, products in (("trtllm_mha", "fp8"), ("triton", "bfloat16")):
        s = plain(kv_cache_dtype="fp8_e4m3", attention_backend=backend)
        (phase,) = s.step.cycle.decode(requests=32, ctx=4000.0)
        mixer = next(c.op for c in phase.calls if c.op.name == "attention")
        assert s.step.cost.products(mixer) == products


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dtype": "fp8"}, "are --quantization fp8"),
        ({"dtype": "nvfp4"}, "are --quantization modelopt_fp4"),
        ({"quantization": "w8a8_int8"}, "no kernels for int8 weights on b200"),
        ({"gpu": "mi300x", "quantization": "nvfp4"}, "no kernels for nvfp4 weights on mi300x"),
        ({"kv_cache_dtype": "fp8", "attention_backend": "fa4"}, "fa4 reads no KV cache in fp8"),
        ({"quantization": "compressed-tensors"}, "reads the format from the files"),
        ({"quantization": "bf17"}, "unknown quantization 'bf17'"),
        ({"kv_cache_dtype": "int8"}, "unknown kv cache dtype 'int8'"),
        ({"model": "gpt-oss-20b", "tp": 1, "quantization": "fp8"}, "in mxfp4 already"),
    ],
)
def test_what_cannot_be_is_one_line(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        plain(**fields)
    assert "\n" not in str(error.value)


def test_what_would_fit_in_another_precision_is_named() -> None:
    with pytest.raises(InfeasibleError, match=r"but --quantization fp8 would at tp 8"):
        plain(gpu="h100")
    with pytest.raises(InfeasibleError, match=r"or --model llama-3.3-70b-nvfp4 would at tp 1"):
        plain(gpu="h100", model="llama-3.3-70b", tp=1)
    with pytest.raises(InfeasibleError) as error:
        plain(gpu="l40s", quantization="fp8", tp=1)
    assert "--quantization" not in str(error.value)  # it is in another one already


def test_a_precision_that_nobody_measured_is_unconfirmed() -> None:
    width = []
    for fields in ({}, {"quantization": "fp8"}):
        s = plain(model="qwen3-8b", tp=1, conc=4, num_prompts=8, **fields)
        result = predict(s.scenario, with_baseline=False)
        low, high = result.intervals["output_throughput"]
        width.append(high / low)
        said = any("no measurement of precision fp8 " in w for w in s.warnings)
        assert said == bool(fields)
        assert ("precision=fp8" in s.server.keys) == bool(fields)
    assert width[1] > width[0]


def test_tables_are_there() -> None:
    """The tests above compare with tables; without them they would compare rooflines."""
    assert OpTables.load("b200") is not None


@pytest.mark.parametrize(
    ("model", "gpu", "tp", "give"),
    [
        ("Qwen/Qwen3-235B-A22B-FP8", "h200", 8, "192 .*give --tp 4 or --ep-size 2"),
        ("Qwen/Qwen3-235B-A22B-FP8", "a100", 8, "give --tp 4 or --ep-size 2"),
        ("Qwen/Qwen3-30B-A3B-FP8", "h200", 8, "give --tp 2 or --ep-size 4"),
        ("Qwen/Qwen3-30B-A3B-FP8", "h200", 4, "give --tp 2 or --ep-size 2"),
        # The shared expert is no rank's own: dealing the others does not help.
        ("Qwen/Qwen3.5-35B-A3B-FP8", "h200", 8, "64 .*give --tp 4[.]$"),
    ],
)
def test_ranks_never_cut_blocks_of_scales(model: str, gpu: str, tp: int, give: str) -> None:
    with pytest.raises(UsageError, match=give):
        plain(model=model, gpu=gpu, tp=tp)
    plain(model=model.removesuffix("-FP8"), gpu="b200", tp=tp)


def test_whole_experts_keep_their_blocks() -> None:
    assert plain(model="Qwen/Qwen3-235B-A22B-FP8", gpu="h200", tp=8, ep_size=2).tp == 8
    assert plain(model="Qwen/Qwen3-30B-A3B-FP8", gpu="h200", tp=None).tp == 1
