"""Precision end to end: weights, caches, drafters and prices in the formats that flags name."""

import re
from dataclasses import replace
from typing import Any

import pytest

from dflash_sim.profiles.errors import InfeasibleError, UsageError
from dflash_sim.profiles.formats import bytes_of, format_of
from dflash_sim.profiles.load import load_model
from dflash_sim.profiles.networks.networks import ModelShape
from dflash_sim.profiles.precision import BF16, Precision
from dflash_sim.profiles.times.op_tables import OpTables
from dflash_sim.simulator.cost.ops import Call, Gemm, Moe, Quantize, with_quantisation
from dflash_sim.simulator.cost.origin import origin
from dflash_sim.simulator.cost.price import CostModel
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


def step_s(s: Setup, ctx: float = 2000.0) -> float:
    """Seconds of the kernels of one decode step."""
    (phase,) = s.step.cycle.decode(requests=32, ctx=ctx)
    return s.step.cost.calls(phase.calls).seconds


def test_a_method_that_reads_quantised_files_is_taken_for_a_listed_checkpoint() -> None:
    """Else every linear layer is taken for it; the answer says which."""
    named, asked = plain(model=f"{BIG}-nvfp4"), plain(quantization="nvfp4")
    assert asked.precision == named.precision
    assert asked.memory == named.memory
    assert any(f"taken to be {BIG}-nvfp4" in w for w in asked.warnings)
    every = plain(quantization="w8a16")
    assert {"attention", "experts"} <= set(dict(every.precision.modules))
    assert any("every linear layer" in w for w in every.warnings)
    assert not any("taken" in w for w in plain(quantization="fp8").warnings)


def test_mxfp4_is_of_experts_alone_whoever_says_so() -> None:
    """As in the checkpoint of gpt-oss, so by flag; models without experts have no part in it."""
    asked, own = plain(quantization="mxfp4"), plain(model="gpt-oss-120b", tp=1)
    assert set(dict(asked.precision.modules)) == set(dict(own.precision.modules)) == {"experts"}
    assert any("so its experts are taken for it" in w for w in asked.warnings)
    with pytest.raises(UsageError, match="format of experts, and qwen3-8b has none; give"):
        plain(model="qwen3-8b", tp=1, quantization="mxfp4")


def test_a_checkpoint_of_another_method_is_not_what_is_asked_for() -> None:
    """Qwen's own is in blocks; ModelOpt's FP8 has one scale for a tensor."""
    asked = plain(model="qwen3-30b-a3b", tp=1, quantization="modelopt_fp8")
    assert asked.precision.form("experts") == "fp8"
    assert any("none is listed" in w for w in asked.warnings)
    assert plain(model="qwen3-30b-a3b-fp8", tp=1).precision.form("experts") == "fp8_block"


@pytest.mark.parametrize(
    ("model", "quantization"),
    [
        ("cpatonn/Qwen3-Coder-30B-A3B-Instruct-AWQ-4bit", "compressed-tensors"),
        ("Intel/Qwen3.6-27B-int4-AutoRound", "auto-round"),
        ("Intel/Qwen3.6-27B-int4-AutoRound", "inc"),
        ("unsloth/Qwen3.6-27B-NVFP4", "compressed-tensors"),
        ("QuantTrio/Qwen3.6-35B-A3B-AWQ", "moe_wna16"),
        ("nvidia/Qwen3.6-35B-A3B-NVFP4", "modelopt_mixed"),
    ],
)
def test_a_name_says_the_format_and_a_launch_may_say_whose_files(
    model: str, quantization: str
) -> None:
    """What is guessed from a name may be in the files of any method; a listed one is not."""
    asked = plain(model=model, quantization=quantization, gpu="b200", tp=1)
    assert asked.precision.modules == plain(model=model, gpu="b200", tp=1).precision.modules
    with pytest.raises(UsageError, match="qwen3-8b-awq is a checkpoint in awq already"):
        plain(model="Qwen/Qwen3-8B-AWQ", quantization="compressed-tensors")


def test_bf16_by_name_is_the_default() -> None:
    assert step_s(plain(quantization="bf16")) == step_s(plain())
    assert plain(kv_cache_dtype="auto").precision == plain().precision


@pytest.mark.parametrize("name", ["half", "float16", "bf16", "auto"])
def test_any_format_of_16_bits_is_priced_as_bfloat16(name: str) -> None:
    """The command line takes what launch commands and configs may say."""
    assert Scenario.parse(dtype=name).dtype == "bfloat16"


def test_a_cache_in_fp8_holds_twice_as_much() -> None:
    bf16, fp8 = plain(), plain(kv_cache_dtype="fp8_e4m3")
    assert 2 * fp8.memory.kv_bytes_per_token == bf16.memory.kv_bytes_per_token
    assert fp8.memory.weight_bytes == bf16.memory.weight_bytes
    assert step_s(fp8, 30_000.0) < step_s(bf16, 30_000.0)  # short ones are slower, as timed


def test_both_fp8_caches_are_timed_as_one() -> None:
    """A backend that reads fp8_e5m2 takes as long, and the answer says which it is."""
    e4m3, e5m2 = (
        plain(kv_cache_dtype=kv, attention_backend="triton") for kv in ("fp8_e4m3", "fp8_e5m2")
    )
    assert e5m2.kv_cache_dtype == "fp8_e5m2"
    assert e5m2.memory == e4m3.memory
    assert step_s(e5m2) == step_s(e4m3)


def test_a_cache_in_nvfp4_is_priced_from_one_in_fp8() -> None:
    """The nearest format that was timed stands in, not bf16: FP8 is no quarter of its time."""
    found = {}
    for kv in ("fp8_e4m3", "fp4_e2m1"):
        s = plain(model="qwen3-8b", tp=1, kv_cache_dtype=kv)
        (phase,) = s.step.cycle.decode(requests=32, ctx=4000.0)
        call = next(c for c in phase.calls if c.op.name == "attention")
        timing = s.step.cost.table_time(call.op)
        assert timing is not None
        found[kv] = (timing.seconds, s.step.cost._roofline_s(call.op, s.device))
        said = origin(s.step.cost, call)
        assert ("in fp8, scaled by rooflines" in said) == (kv == "fp4_e2m1"), said
    (fp8_s, fp8_least), (fp4_s, fp4_least) = found.values()
    assert fp4_s == pytest.approx(fp8_s * fp4_least / fp8_least)


def test_a_drafter_keeps_keys_that_its_kernels_can_read() -> None:
    """On B200 the draft layers that see everything run with fa4, which wants them in bf16."""
    newest = "sglang-0.5.23"
    bf16, fp8 = (setup(engine=newest, kv_cache_dtype=kv) for kv in ("auto", "fp8_e4m3"))
    own = bf16.model.kv_bytes(8, bf16.precision)
    drafts = bf16.memory.kv_bytes_per_token - own
    assert fp8.memory.kv_bytes_per_token == own / 2 + drafts
    other = setup(engine=newest, kv_cache_dtype="fp8_e4m3", attention_backend="flashinfer")
    assert other.memory.kv_bytes_per_token == (own + drafts) / 2


@pytest.mark.parametrize("asked", ["modelopt_fp4", "awq", "gptq", "modelopt_fp8"])
def test_a_drafter_that_no_loading_makes_is_told_of(asked: str) -> None:
    told = [w for w in setup(speculative_draft_model_quantization=asked).warnings if asked in w]
    assert [w for w in told if "reads a drafter that is quantised already" in w]


@pytest.mark.parametrize("asked", ["fp8", "unquant", None])
def test_a_drafter_that_is_quantised_as_it_is_loaded_is_not(asked: str | None) -> None:
    said = {"speculative_draft_model_quantization": asked} if asked else {}
    assert not any("reads a drafter" in w for w in setup(**said).warnings)


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
    bare = CostModel(s.device, s.engine, None)
    assert bare.op(op).by_evidence[2] > 0  # control: without tables it is a roofline


def test_attention_multiplies_in_what_its_backend_does() -> None:
    for backend, products in (("trtllm_mha", "fp8"), ("triton", "bfloat16")):
        s = plain(kv_cache_dtype="fp8_e4m3", attention_backend=backend)
        (phase,) = s.step.cycle.decode(requests=32, ctx=4000.0)
        mixer = next(c.op for c in phase.calls if c.op.name == "attention")
        assert s.step.cost.products(mixer) == products


@pytest.mark.parametrize("gpu", ["mi300x", "mi355x"])
def test_amds_own_kernels_read_a_cache_in_fp8(gpu: str) -> None:
    wide, narrow = (plain(gpu=gpu, tp=8, kv_cache_dtype=name) for name in ("bfloat16", "fp8_e4m3"))
    assert narrow.backend == "aiter"
    assert narrow.memory.kv_tokens > 1.9 * wide.memory.kv_tokens


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dtype": "fp8"}, "are --quantization fp8"),
        ({"dtype": "nvfp4"}, "are --quantization modelopt_fp4"),
        ({"dtype": "float8_e4m3fn"}, "are --quantization fp8,"),
        ({"kv_cache_dtype": "fp8", "attention_backend": "fa4"}, "fa4 reads no KV cache in fp8"),
        ({"gpu": "h200", "attention_backend": "trtllm_mha"}, "h200 .* have: fa4, fa3, flash"),
        ({"attention_backend": "fa3"}, "fa3 has no kernels for b200 .* trtllm_mha, fa4, flash"),
        ({"gpu": "a100", "attention_backend": "fa4"}, "fa4 has no kernels for a100"),
        ({"gpu": "mi300x", "attention_backend": "fa3"}, "default of mi300x, aiter"),
        ({"quantization": "compressed-tensors"}, "reads the format from the files"),
        ({"quantization": "bf17"}, "unknown quantization 'bf17'"),
        ({"kv_cache_dtype": "int8"}, "unknown kv cache dtype 'int8'"),
        (
            {"model": "gpt-oss-20b", "tp": 1, "quantization": "fp8"},
            r"in mxfp4 already, .* drop the flag, or give --quantization mxfp4\.$",
        ),
        (
            {"model": "qwen3-8b-fp8", "tp": 1, "quantization": "awq"},
            "--quantization fp8, or give --model qwen3-8b, which it was made of",
        ),
    ],
)
def test_what_cannot_be_is_one_line(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        plain(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"quantization": "w8a8_int8"}, "no kernels for int8 weights on b200"),
        ({"gpu": "mi300x", "quantization": "nvfp4"}, "no kernels for nvfp4 weights on mi300x"),
        ({"kv_cache_dtype": "fp8_e5m2"}, r"in fp8_e5m2 .* --kv-cache-dtype bfloat16 or fp8_e4m3"),
        ({"gpu": "h200", "kv_cache_dtype": "nvfp4"}, r"nvfp4 .* on h200 \(hopper\)"),
        (
            {"gpu": "mi300x", "kv_cache_dtype": "fp8_e5m2"},
            r"on mi300x attention backend aiter, its default, reads no KV cache in fp8_e5m2",
        ),
    ],
)
def test_what_a_gpu_cannot_run_leaves_the_other_gpus_their_answers(
    fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(InfeasibleError, match=words) as error:
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


@pytest.mark.parametrize("model", ["deepseek-v3", "qwen3-32b-fp8"])
def test_of_a_quantised_model_a_narrower_checkpoint_that_fits_is_named(model: str) -> None:
    tp, gpu = (4, "b200") if model == "deepseek-v3" else (1, "rtx_5090")
    with pytest.raises(InfeasibleError) as error:
        plain(gpu=gpu, model=model, tp=tp)
    named = re.search(r"or --model (\S+) would at tp", str(error.value))
    assert named is not None
    assert plain(gpu=gpu, model=named[1], tp=tp).memory.max_running_requests >= 1


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


def test_each_format_is_a_level_of_its_own() -> None:
    """What is learned of one holds with the others; formats that do not run have no say."""

    def levels(**fields: Any) -> set[str]:
        made = setup(model="deepseek-r1", **fields)
        return {name for level, name in made.server.levels if level == "precision"}

    assert levels(method="none") == {"fp8_block"}
    both = plain(model="deepseek-r1", kv_cache_dtype="fp8_e4m3")
    assert {"precision=fp8_block", "precision=kv-fp8"} <= set(both.server.keys)
    said = next(w for w in both.warnings if w.startswith("unconfirmed"))
    assert "precision fp8_block, precision kv-fp8 " in said
    ahead = Precision(modules=(("experts", "nvfp4"), ("mtp", "fp8"), ("drafter", "int4")))
    assert ahead.quantised(mtp=False) == ("nvfp4",)
    assert ahead.quantised(mtp=True) == ("fp8", "nvfp4")


def test_tables_are_there() -> None:
    """The tests above compare with tables; without them they would compare rooflines."""
    assert OpTables.load("b200") is not None


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"method": "mtp", "steps": 3}, {"mtp_fc", "router"}),
        ({"method": "dflash", "model": "qwen3-8b", "tp": 1}, {"fc"}),
        ({"method": "eagle3", "steps": 3, "model": "qwen3-8b", "tp": 1}, {"eagle_fc"}),
    ],
)
def test_what_drafts_is_stored_as_it_is_priced(fields: dict[str, Any], kept: set[str]) -> None:
    """Routers, fc, norms and heads stay in bf16: what the prices do not halve, memory does not."""
    bf16, fp8 = setup(**fields), setup(quantization="fp8", **fields)
    phases = fp8.step.cycle.decode(requests=4, ctx=100.0)
    drafts = [c.op for p in phases if p.name != "verify" for c in p.calls if isinstance(c.op, Gemm)]
    stayed = {op.name for op in drafts if op.precision.weights == "bfloat16"}
    assert kept <= stayed
    assert {"qkv_proj", "gate_up_proj", "shared_gate_up_proj"} & {op.name for op in drafts} - stayed
    own = fp8.precision.of("drafter" if fp8.drafter else "mtp")
    network = fp8.drafter._weights() if fp8.drafter else fp8.model._mtp_weights()
    weights = list(network)
    saved = sum(w.params for w in weights if w.module not in ("router", "lm_head", "other"))
    assert bf16.memory.draft_weight_bytes > fp8.memory.draft_weight_bytes
    whole = sum(w.bytes_per_rank(1, own) for w in weights)
    assert whole == 2 * sum(w.params for w in weights) - saved


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


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("minimax-m3", "(MSA)"),
        ("deepseek-v3", "(MLA)"),
        ("deepseek-v4-flash", "(CSA)"),
        ("qwen3-8b", None),
        ("qwen3.5-35b-a3b", None),  # rows of gated delta networks were fitted
    ],
)
def test_a_kind_of_attention_that_nobody_measured_is_unconfirmed(
    model: str, kind: str | None
) -> None:
    said = [w for w in plain(model=model).warnings if "no measured server with" in w]
    assert len(said) == (kind is not None)
    assert kind is None or kind in said[0]


def test_ranks_cut_blocks_of_scales_where_the_files_say_that_there_are_some() -> None:
    """What a name alone is taken to say is refused with where to look; channels have no blocks."""
    said = {}
    for owner in ("Qwen", "acme"):
        with pytest.raises(UsageError, match="give --tp 2 or --ep-size 4") as refused:
            resolve(Scenario(model=f"{owner}/Qwen3-30B-A3B-FP8", gpu="h200", tp=8, method="none"))
        said[owner] = "unless its config.json" in str(refused.value)
    assert said == {"Qwen": False, "acme": True}
    glm = Scenario(model="zai-org/GLM-4.7-FP8", gpu="h200", tp=8, method="none")
    assert resolve(glm).tp == 8  # as its makers launch it
