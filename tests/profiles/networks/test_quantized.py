"""What the files of a checkpoint say of its quantisation, or why they cannot be read."""

import json
import re
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import require_sheet
from dflash_sim.profiles.formats import bytes_of
from dflash_sim.profiles.networks.hf_config import parse_model
from dflash_sim.profiles.networks.quantized import Quantized, online, read

# The parts about quantisation of published configs, cut to six layers and one expert.
REAL = json.loads((Path(__file__).parents[2] / "data/hf/quantization.json").read_text())
B = "bfloat16"

# Of each: a layer, the formats of its modules (those of the model after the bar), and of the cache.
EXPECTED: dict[str, tuple[int, str, str | None]] = {
    "MiniMaxAI/MiniMax-M2.5": (4, "attention=fp8_block experts=fp8_block | lm_head=", None),
    "Qwen/Qwen3-235B-A22B-FP8": (4, "attention=fp8_block experts=fp8_block | lm_head=", None),
    "Qwen/Qwen3-32B-FP8": (4, "attention=fp8_block mlp=fp8_block | lm_head=", None),
    "Qwen/Qwen3-32B-FP8-Static-PerTensor": (4, "attention=fp8 mlp=fp8 | lm_head=", "fp8"),
    "deepseek-ai/DeepSeek-V3": (4, "attention=fp8_block experts=fp8_block | mtp=fp8_block", None),
    "deepseek-ai/DeepSeek-V4-Flash": (4, "attention=fp8_block experts=mxfp4", None),
    "moonshotai/Kimi-K2.5": (4, "experts=int4_g32 attention= shared_expert= mlp=", None),
    "moonshotai/Kimi-K3": (4, "experts=mxfp4 attention= shared_expert= mlp= | lm_head=", None),
    "nvidia/DeepSeek-V3.1-NVFP4": (
        4,
        "attention= attention.o_proj=nvfp4 experts=nvfp4 shared_expert=nvfp4 mlp=nvfp4 | mtp=",
        "fp8",
    ),
    "nvidia/DeepSeek-V4-Flash-NVFP4": (
        4,
        "attention=fp8_block experts=nvfp4 shared_expert=fp8_block",
        None,
    ),
    "nvidia/GLM-5-NVFP4": (4, "attention= attention.o_proj= experts=nvfp4 | mtp=", "fp8"),
    "nvidia/GLM-5.3-NVFP4": (4, "attention= shared_expert= experts=nvfp4 | mtp=", "fp8"),
    "nvidia/Gemma-4-26B-A4B-NVFP4": (4, "attention= mlp= experts=nvfp4", "fp8"),
    "nvidia/Gemma-4-31B-IT-NVFP4": (4, "attention= mlp=nvfp4", "fp8"),
    "nvidia/Kimi-K2.6-NVFP4": (4, "attention= shared_expert= experts=nvfp4 | lm_head=", "fp8"),
    "nvidia/Llama-3.1-70B-Instruct-FP8": (4, "attention=fp8 mlp=fp8 | lm_head=", "fp8"),
    "nvidia/MiniMax-M2.5-NVFP4": (4, "attention= experts=nvfp4 | lm_head=", "fp8"),
    "nvidia/MiniMax-M3-NVFP4": (4, "attention=mxfp8 shared_expert=mxfp8 experts=nvfp4", None),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4": (5, "attention= | lm_head=", "fp8"),
    "nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-NVFP4": (
        1,
        "attention= experts=w4a16_nvfp4 | lm_head=w4a16_nvfp4 mtp=",
        "fp8",
    ),
    "nvidia/Qwen3-235B-A22B-NVFP4": (4, "attention=nvfp4 experts=nvfp4 | lm_head=", "fp8"),
    "nvidia/Qwen3.5-122B-A10B-NVFP4": (3, "attention= shared_expert= experts=nvfp4 | mtp=", "fp8"),
    "nvidia/Qwen3.5-397B-A17B-NVFP4": (
        2,
        "gdn= gdn_gates= shared_expert= experts=nvfp4 | mtp= lm_head=",
        "fp8",
    ),
    "nvidia/Qwen3.6-27B-NVFP4": (
        2,
        "gdn=fp8 gdn_gates= mlp=w4a16_nvfp4 | lm_head=w4a16_nvfp4 mtp=",
        "fp8",
    ),
    "nvidia/Qwen3.6-35B-A3B-NVFP4": (
        3,
        "attention=fp8 experts=w4a16_nvfp4 shared_expert=w4a16_nvfp4 | lm_head=w4a16_nvfp4 mtp=",
        "fp8",
    ),
    "openai/gpt-oss-20b": (4, "experts=mxfp4 attention= | lm_head=", None),
    "zai-org/GLM-5-FP8": (4, "attention=fp8_block experts=fp8_block | mtp=fp8_block", None),
    "zai-org/GLM-5.2-FP8": (4, "attention=fp8_block experts=fp8_block | lm_head=", None),
}


def stored(found: Quantized, module: str, layer: int | None = None) -> str:
    """The format of a module, in one layer where it differs there."""
    formats = dict(found.formats) | dict(dict(found.layers).get(layer, ()))
    return formats.get(module) or formats.get(module.partition(".")[0], B)


def agrees(found: Quantized | None, repo: str) -> None:
    assert found is not None
    layer, words, kv_cache = EXPECTED[repo]
    inside, _, outside = words.partition("|")
    for text, at in ((inside, layer), (outside, None)):
        for word in text.split():
            module, _, form = word.partition("=")
            assert stored(found, module, at) == (form or B), module
    assert found.kv_cache == kv_cache


@pytest.mark.parametrize("repo", EXPECTED)
def test_a_published_config_is_read_module_by_module(repo: str) -> None:
    real = REAL[repo]
    agrees(read(real["config"], real.get("beside"), name=repo), repo)


def test_no_published_config_of_the_fixtures_is_refused() -> None:
    assert set(EXPECTED) <= set(REAL)
    for repo, real in REAL.items():
        assert read(real["config"], real.get("beside"), name=repo) is not None


@pytest.mark.skipif(find_spec("aiconfigurator_core") is None, reason="needs aiconfigurator-core")
def test_the_same_of_the_whole_configs() -> None:
    spec = find_spec("aiconfigurator_core")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0], "model_configs")
    for path in sorted(folder.glob("*_config.json")):
        repo = path.name.removesuffix("_config.json").replace("--", "/")
        if repo.endswith("_hf_quant"):
            continue
        beside = path.with_name(path.name.replace("_config.json", "_hf_quant_config.json"))
        text = path.read_text()
        said = json.loads(beside.read_text()) if beside.is_file() else None
        found = read(json.loads(text), said, name="x")
        assert (found is not None) == ('"quantization_config"' in text or said is not None)
        if repo in EXPECTED:
            agrees(found, repo)


def layers(count: int = 4, **quantization: Any) -> dict[str, Any]:
    return {
        "model_type": "qwen3_moe",
        "num_hidden_layers": count,
        "quantization_config": quantization,
    }


def shape(quantization: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "model_type": "qwen3", "hidden_size": 512, "intermediate_size": 1024, "vocab_size": 1000,
        "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 8,
        "quantization_config": quantization,
    } | fields  # fmt: skip


BLOCKS = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}


class TestMethods:
    @pytest.mark.parametrize(
        ("said", "form"),
        [
            ({"quant_method": "fp8"}, "fp8"),
            ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
            ({"quant_method": "fp8", "weight_block_size": [1, 32]}, "mxfp8"),
            ({"quant_method": "mxfp8"}, "mxfp8"),
            ({"quant_method": "fbgemm_fp8"}, "fp8"),
            ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4"),
            ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "int4_g64"),
            ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "int4_g32"),
            ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "int4"),
            ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "w8a16"),
            ({"quant_method": "auto-round", "bits": 4, "group_size": 128}, "int4"),
            ({"quant_algo": "W4A16_AWQ", "group_size": 128}, "int4"),
            ({"quant_algo": "NVFP4", "group_size": 16}, "nvfp4"),
            ({"quant_algo": "FP8", "quant_method": "modelopt"}, "fp8"),
            ({"quant_method": "w8a8_int8"}, "int8"),
        ],
    )
    def test_of_every_linear_layer(self, said: dict[str, Any], form: str) -> None:
        found = read(layers(**said), name="x")
        assert found is not None
        assert stored(found, "attention") == stored(found, "experts") == form
        assert stored(found, "lm_head") == stored(found, "router") == stored(found, "embed") == B

    @pytest.mark.parametrize(
        ("weights", "inputs", "form"),
        [
            ({"num_bits": 8, "type": "float", "strategy": "tensor"}, {"num_bits": 8}, "fp8"),
            (
                {
                    "num_bits": 8,
                    "type": "float",
                    "strategy": "block",
                    "block_structure": [128, 128],
                },
                {"num_bits": 8},
                "fp8_block",
            ),
            ({"num_bits": 8, "type": "float", "strategy": "channel"}, None, "fp8_w8a16"),
            ({"num_bits": 8, "type": "int", "strategy": "channel"}, None, "w8a16"),
            ({"num_bits": 4, "type": "int", "group_size": 128}, None, "int4"),
            ({"num_bits": 4, "type": "float", "group_size": 16}, {"num_bits": 4}, "nvfp4"),
            ({"num_bits": 4, "type": "float", "group_size": 16}, None, "w4a16_nvfp4"),
            ({"num_bits": 4, "type": "float", "group_size": 32}, None, "mxfp4"),
            ({"num_bits": 8, "type": "int"}, {"num_bits": 8}, "int8"),
        ],
    )
    def test_of_compressed_tensors(self, weights: Any, inputs: Any, form: str) -> None:
        group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
        said = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
        found = read(layers(**said), name="x")
        assert found is not None
        assert stored(found, "attention") == form

    def test_groups_with_targets_and_what_is_ignored(self) -> None:
        wide = {"weights": {"num_bits": 8, "type": "float"}, "input_activations": {"num_bits": 8}}
        four = {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}
        said = {
            "quant_method": "compressed-tensors",
            "config_groups": {
                "a": wide | {"targets": ["re:.*self_attn.*"]},
                "b": four | {"targets": [r"re:.*mlp\.experts.*"]},
            },
            "ignore": ["re:.*layers.0.self_attn.*", "lm_head"],
        }
        found = read(layers(**said), name="x")
        assert found is not None
        assert stored(found, "attention", 1) == "fp8"
        assert stored(found, "attention", 0) == stored(found, "mlp") == B
        assert stored(found, "experts") == "w4a16_nvfp4"

    def test_gptq_may_leave_modules_out_and_take_the_head_in(self) -> None:
        said = {"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": True}
        found = read(layers(**said, dynamic={r"-:.*self_attn.*": {}}), name="x")
        assert found is not None
        assert stored(found, "attention") == B
        assert stored(found, "lm_head") == stored(found, "experts") == "int4"

    def test_a_name_that_begins_like_another(self) -> None:
        """Layer 1 is not layer 10, and a gate is no gate_proj."""
        said = {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.1.*", "gate"]}
        found = read(layers(12, **said), name="x")
        assert found is not None
        assert [i for i, _ in found.layers] == [1]
        assert stored(found, "mlp") == stored(found, "experts") == "fp8"


class TestLayersThatDiffer:
    def model(self) -> Any:
        said = {
            "quant_method": "fp8",
            "modules_to_not_convert": ["model.layers.0", "model.layers.3.self_attn.o_proj"],
        }
        return parse_model(shape(said), name="x", source="x")

    def test_are_layers_of_their_own(self) -> None:
        model = self.model()
        assert [n for _, n in model.layer_groups] == [1, 3, 1]
        assert dict(model.quantized.formats) == {"attention": "fp8", "mlp": "fp8"}

    def test_weigh_what_their_formats_say(self) -> None:
        model = self.model()
        hidden, wide, vocab = model.hidden, 1024, model.vocab
        o_proj, layer = hidden * hidden, 4 * hidden * hidden + 3 * hidden * wide
        norms = 5 * (2 * hidden + 2 * 64) + hidden
        plain = 2 * vocab * hidden + norms + layer + o_proj
        assert model.weight_bytes(1, model.precision) == 2 * plain + 4 * layer - o_proj

    def test_are_seen_by_the_ops(self) -> None:
        from dflash_sim.simulator.cost.layers import Rows
        from dflash_sim.simulator.cost.passes import target_forward

        calls = target_forward(self.model(), tp=1, size=Rows(1, 1))
        weights = [
            (c.op.precision.weights, c.count)
            for c in calls
            if getattr(c.op, "name", "") == "o_proj"
        ]
        assert weights == [(B, 1), ("fp8", 3), (B, 1)]


class TestBadInput:
    @pytest.mark.parametrize(
        ("more", "where"),
        [
            ({"compression_config": {"quant_method": "awq", "bits": 4}}, "compression_config"),
            ({"text_config": {"quantization_config": {"quant_method": "mxfp8"}}}, "text_config"),
        ],
    )
    def test_two_objects_of_one_file_that_disagree(self, more: dict[str, Any], where: str) -> None:
        with pytest.raises(UsageError, match=f"config.json and {where} of config.json of x disa"):
            read(layers(quant_method="fp8") | more, name="x")
        same = {"compression_config": {"quant_method": "fp8"}}
        assert read(layers(quant_method="fp8") | same, name="x") is not None

    @pytest.mark.parametrize(
        ("said", "complaint"),
        [
            ({"bits": 4}, "by halves: the object names no quant_method nor quant_algo"),
            ({"quant_method": "modelopt"}, "by halves: the object names no quant_algo"),
            ({"quant_method": "gptq", "group_size": 128}, "by halves: gptq names no bits"),
            (
                {
                    "quant_method": "compressed-tensors",
                    "quantization_status": "calibration",
                    "config_groups": {"a": {}},
                },
                "by halves: quantization_status is calibration; take the checkpoint that is com",
            ),
            (
                {"quant_method": "squeezed"},
                "unknown quant_method of x 'squeezed'. Have: auto",
            ),
            ({"quant_method": "bitsandbytes"}, "quantised with bitsandbytes, whose kernels are in"),
            ({"quant_method": "gguf"}, "quantised with GGUF"),
            ({"quant_algo": "FP3"}, "quant_algo is 'FP3'; what is priced is FP8"),
            ({"quant_algo": "MIXED_PRECISION"}, "MIXED_PRECISION without quantized_layers"),
            ({"quant_algo": "NVFP4", "group_size": 32}, "groups of 32; the kernels take groups of"),
            (
                {"quant_method": "fp8", "weight_block_size": [64, 64]},
                r"weight_block_size' is \[64",
            ),
            ({"quant_method": "awq", "bits": 3}, "'bits' is 3; what is priced has 4, 8"),
            ({"quant_method": "awq", "bits": 4, "group_size": 48}, "int4 has groups of 48"),
            ({"quant_method": "compressed-tensors"}, "without config_groups"),
            ({"quant_method": "fp8", "ignored_layers": "lm_head"}, "expected a list of module"),
            ({"quant_algo": "FP8", "kv_cache_quant_algo": "INT8"}, "KV cache is quantised to INT8"),
            (
                {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.40.mlp"]},
                "names 'model.layers.40.mlp', which is no module of a model with 4 layers",
            ),
            (
                {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.foo"]},
                "names 'model.layers.0.foo', which is no module",
            ),
            (
                {"quant_method": "fp8", "modules_to_not_convert": ["re:("]},
                "is no pattern of mod",
            ),
        ],
    )
    def test_is_one_line(self, said: dict[str, Any], complaint: str) -> None:
        with pytest.raises(UsageError, match=complaint) as caught:
            read(layers(**said), name="x")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("beside", "complaint"),
        [
            ({"quant_algo": "FP8"}, "disagree about the format of linear layers: nvfp4 and fp8"),
            (
                {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]},
                "as they were: none and",
            ),
            (
                {"quant_algo": "NVFP4", "kv_cache_quant_algo": "NVFP4"},
                "and values: fp8 and nv",
            ),
            (
                {"quant_algo": "NVFP4", "kv_cache_quant_algo": "NONE"},
                "and values: fp8 and no format",
            ),
        ],
    )
    def test_two_files_that_disagree(self, beside: dict[str, Any], complaint: str) -> None:
        said = {"quant_algo": "NVFP4", "ignore": [], "kv_cache_quant_algo": "FP8"}
        with pytest.raises(UsageError, match=f"config.json and hf_quant_config.json .*{complaint}"):
            read(layers(**said), {"quantization": beside}, name="x")

    def test_one_file_may_say_what_the_other_leaves_out(self) -> None:
        said = {"quant_algo": "NVFP4", "ignore": ["lm_head"]}
        beside = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}
        found = read(layers(**said), beside, name="x")
        assert found is not None
        assert found.kv_cache == "fp8"

    def test_a_file_of_another_tool(self) -> None:
        with pytest.raises(UsageError, match=r"hf_quant_config.json of x has no object"):
            read({"num_hidden_layers": 2}, {"quant_algo": "FP8"}, name="x")

    def test_a_checkpoint_in_bf16_is_not_quantised(self) -> None:
        assert read({"num_hidden_layers": 2}, name="x") is None
        assert read(layers() | {"quantization_config": None}, name="x") is None


class TestOnline:
    @pytest.mark.parametrize(("name", "form"), [("fp8", "fp8"), ("mxfp8", "mxfp8")])
    def test_every_layer_that_takes_a_quantisation(self, name: str, form: str) -> None:
        found = online(name, model="qwen3-8b")
        for module in ("attention", "gdn", "gdn_gates", "mlp", "experts", "shared_expert", "mtp"):
            assert stored(found, module) == form
        for module in ("lm_head", "embed", "router", "vision", "other", "drafter"):
            assert stored(found, module) == B

    @pytest.mark.parametrize(
        ("name", "such"),
        [
            ("awq", "--model, such as qwen3-8b-awq;"),
            ("gptq_marlin", "--model, such as qwen3-8b-gptq-int4;"),
            ("modelopt_fp4", "--model, such as qwen3-8b-nvfp4;"),
            ("compressed-tensors", "--model by its folder;"),
        ],
    )
    def test_others_read_weights_that_are_quantised(self, name: str, such: str) -> None:
        with pytest.raises(
            UsageError, match=f"{name} reads a checkpoint .* qwen3-8b is in bf16"
        ) as e:
            online(name, model="qwen3-8b")
        assert such in str(e.value)
        assert "or give --quantization fp8" in str(e.value)


class TestServed:
    def served(self, gpu: str, **fields: Any) -> Any:
        from dflash_sim.profiles.load import load_device
        from dflash_sim.simulator.number_formats import served
        from dflash_sim.simulator.scenario import Scenario

        said = {"quant_algo": "NVFP4", "exclude_modules": ["model.layers.0.self_attn"]}
        model = parse_model(shape(said), name="x", source="x")
        return served(Scenario.parse(gpu=gpu, **fields), model, load_device(gpu))

    def test_layers_that_differ_run_the_kernels_of_the_gpu_too(self) -> None:
        model = self.served("h100")
        assert dict(model.quantized.formats)["mlp"] == "w4a16_nvfp4"
        assert [dict(x.formats).get("attention") for x in model.layers] == [B] + 4 * [None]
        assert self.served("b200").precision.form("mlp") == "nvfp4"

    def test_weights_that_are_quantised_are_never_run_in_bf16(self) -> None:
        with pytest.raises(UsageError, match="x is a checkpoint in modelopt_fp4 already"):
            self.served("b200", quantization="bf16")


def test_an_mtp_layer_has_no_odd_formats_of_the_last_layer() -> None:
    kept = {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.4"]}
    model = replace(parse_model(shape(kept), name="x", source="test"), mtp_layers=1)
    assert model.layers[-1].formats
    assert model.mtp_layer is not None
    assert model.mtp_layer.formats == ()


FOUR = {"weights": {"num_bits": 4, "type": "int", "group_size": 128}, "targets": ["Linear"]}
EIGHT = {"weights": {"num_bits": 8, "type": "int"}}
ROUTED = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 512,
    "decoder_sparse_step": 1,
}


class TestProjections:
    """What is one product, or timed as one, is priced in one format; other products have theirs."""

    @pytest.mark.parametrize(
        ("said", "fields", "named"),
        [
            (
                {"config_groups": {"a": FOUR}, "ignore": ["re:.*down_proj"]},
                ROUTED,
                "mlp.experts.0.down_proj is bf16 beside int4 gate_proj",
            ),
            (
                {"config_groups": {"a": FOUR}, "ignore": ["model.layers.3.mlp.up_proj"]},
                {},
                "layers.3.mlp.up_proj is bf16 beside int4 gate_proj",
            ),
            (
                {"config_groups": {"a": FOUR}, "ignore": ["re:.*v_proj"]},
                {},
                "self_attn.v_proj is bf16 beside int4 q_proj",
            ),
            (
                {"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["up_proj"]},
                {},
                "mlp.up_proj is bf16 beside int4 gate_proj",
            ),
            (
                {
                    "quant_method": "gptq",
                    "bits": 4,
                    "modules_in_block_to_quantize": [["mlp.gate_proj", "mlp.down_proj"]],
                },
                {},
                "mlp.up_proj is bf16 beside int4 gate_proj",
            ),
        ],
    )
    def test_of_several_formats_are_refused(
        self, said: dict[str, Any], fields: dict[str, Any], named: str
    ) -> None:
        config = shape({"quant_method": "compressed-tensors"} | said, **fields)
        with pytest.raises(UsageError, match=f"{re.escape(named)}, which SGLang loads as one"):
            parse_model(config, name="x", source="a test")

    @pytest.mark.parametrize(
        ("said", "down"),
        [
            ({"config_groups": {"a": FOUR}, "ignore": ["lm_head", "re:.*down_proj"]}, B),
            (
                {"config_groups": {"a": FOUR, "b": EIGHT | {"targets": ["re:.*down_proj"]}}},
                "w8a16",
            ),
            ({"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["down_proj"]}, B),
            (
                {"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*down_proj": {"bits": 8}}},
                "w8a16",
            ),
        ],
    )
    def test_behind_an_activation_have_a_format_of_their_own(
        self, said: dict[str, Any], down: str
    ) -> None:
        config = shape({"quant_method": "compressed-tensors"} | said)
        model = parse_model(config, name="x", source="a test")
        assert model.precision.form("mlp") == "int4"
        assert model.precision.form("mlp.down_proj") == down
        whole = parse_model(shape({"quant_method": "awq", "bits": 4}), name="x", source="a test")
        more = model.weight_bytes(1, model.precision) - whole.weight_bytes(1, whole.precision)
        params = len(model.layers) * model.hidden * 1024
        assert more == pytest.approx(params * (bytes_of(down) - bytes_of("int4")))

    @pytest.mark.parametrize(
        ("ignore", "refused"),
        [
            (["re:.*q_a_proj"], True),
            (["re:.*kv_a_proj_with_mqa"], True),
            (["re:.*q_a_proj", "re:.*kv_a_proj_with_mqa"], False),
            (["re:.*kv_b_proj"], False),  # by itself, in SGLang too
        ],
    )
    def test_of_latents_are_one_product(self, ignore: list[str], refused: bool) -> None:
        config = json.loads(require_sheet("models", "deepseek-v3").read_text(encoding="utf-8"))
        config["quantization_config"] |= {"modules_to_not_convert": ignore}
        with pytest.raises(UsageError, match="loads as one") if refused else nullcontext():
            parse_model(config, name="x", source="a test")

    def test_of_no_module_are_refused(self) -> None:
        """gpt-oss keeps all but its experts in bf16: without them it would be so in silence."""
        with pytest.raises(UsageError, match="quantised with mxfp4, and the model has no experts"):
            parse_model(shape({"quant_method": "mxfp4"}), name="x", source="a test")
        dense = parse_model(shape({"quant_method": "awq", "bits": 4}), name="x", source="a test")
        assert dense.precision.form("mlp") == "int4"  # control

    def test_of_one_layer_may_differ(self) -> None:
        from dflash_sim.simulator.cost.layers import Rows
        from dflash_sim.simulator.cost.passes import target_forward

        said = {"quant_method": "awq", "bits": 4}
        said["modules_to_not_convert"] = ["model.layers.2.mlp.down_proj"]  # type: ignore[assignment]
        model = parse_model(shape(said), name="x", source="a test")
        calls = target_forward(model, tp=1, size=Rows(1, 1), precision=model.precision)
        found: Counter[tuple[str, str]] = Counter()
        for call in calls:
            if call.op.name in ("down_proj", "gate_up_proj"):
                found[call.op.name, call.op.precision.weights] += call.count  # type: ignore[union-attr]
        n = len(model.layers)
        assert found == {
            ("gate_up_proj", "int4"): n,
            ("down_proj", "int4"): n - 1,
            ("down_proj", B): 1,
        }

    @pytest.mark.parametrize(
        "ignore",
        [
            ["re:.*mlp.*"],
            ["re:.*mlp.(gate|up|down)_proj"],
            ["model.layers.1.mlp.gate_up_proj", "model.layers.1.mlp.down_proj"],
            ["re:.*mlp.experts.*down_proj", "re:.*linear_attn.out_proj"],  # of which it has none
        ],
    )
    def test_of_one_are_read(self, ignore: list[str]) -> None:
        said = {"quant_method": "compressed-tensors", "config_groups": {"a": FOUR}}
        assert parse_model(shape(said | {"ignore": ignore}), name="x", source="a test").quantized

    def test_gptq_quantises_what_it_lists_alone(self) -> None:
        names = [["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"]]
        said = {"quant_method": "gptq", "bits": 4, "modules_in_block_to_quantize": names}
        found = parse_model(shape(said), name="x", source="a test").quantized
        assert found is not None
        assert stored(found, "attention") == stored(found, "attention.o_proj") == "int4"
        assert stored(found, "mlp") == B


@pytest.mark.parametrize("every", ["re:.*", "*"])
def test_a_checkpoint_that_leaves_out_every_module_is_called_by_no_format(every: str) -> None:
    said = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    with pytest.raises(UsageError, match=r"config.json of x: fp8 leaves out .* are in bf16; ask"):
        read(shape(said | {"modules_to_not_convert": ["lm_head", every]}), name="x")
    found = read(shape(said | {"modules_to_not_convert": ["lm_head"]}), name="x")
    assert found is not None
    assert stored(found, "mlp") == "fp8"
