"""Quantised checkpoints are known by name, and weigh what is published."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from dflash_sim.profiles.checkpoints import find_checkpoint, published, published_sizes
from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.profiles.find import stands_for
from dflash_sim.profiles.load import (
    base_model,
    default_drafter,
    find_network,
    load_eagle3,
    load_model,
)
from dflash_sim.profiles.networks.hf_config import ModelShape, parse_model


def weight_bytes(model: ModelShape) -> float:
    """All tensors of a repository: those of the model, its MTP layer and its vision tower."""
    own = model.precision
    mtp = model.mtp_weight_bytes(1, own.of("mtp"))
    return model.weight_bytes(1, own) + mtp + model.vision_weight_bytes(1)


@pytest.mark.parametrize("repo", published_sizes())
def test_weights_agree_with_what_is_published(repo: str) -> None:
    assert weight_bytes(load_model(repo)) == pytest.approx(published_sizes()[repo], rel=0.01)


def test_the_published_sizes_are_of_many_formats() -> None:
    found = [load_model(repo).quantized for repo in published_sizes()]
    forms = {form for q in found if q for module, form in q.formats if module != "mtp"}
    assert {"fp8", "fp8_block", "nvfp4", "int4", "mxfp4"} <= forms
    assert None in found


@pytest.mark.parametrize("repo", published())
def test_every_listed_checkpoint_is_answered_by_both_its_names(repo: str) -> None:
    listed = published()[repo]
    model = load_model(repo)
    assert model == load_model(listed.name)
    assert model.name == listed.name
    assert model.quantized is not None
    said = (stands_for(listed.name, listed.base), load_model(listed.base).caution)
    assert model.caution == "; ".join(filter(None, said))
    plain = load_model(listed.base)
    assert (plain.params, plain.base) == (model.params, None)
    assert model.behaves_as == listed.base == base_model(repo)
    if plain.quantized is None:
        share = model.weight_bytes(1, model.precision) / plain.weight_bytes(1, plain.precision)
        assert 0.2 < share < 0.7


@pytest.mark.skipif(find_spec("aiconfigurator_core") is None, reason="needs aiconfigurator-core")
def test_rows_say_what_the_files_of_the_repositories_say() -> None:
    spec = find_spec("aiconfigurator_core")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0], "model_configs")
    compared = 0
    for path in sorted(folder.glob("*_config.json")):
        repo = path.name.removesuffix("_config.json").replace("--", "/")
        beside = path.with_name(path.name.replace("_config.json", "_hf_quant_config.json"))
        if repo.lower() not in published():
            continue
        config = json.loads(path.read_text())
        said = {"hf_quant_config": json.loads(beside.read_text())} if beside.is_file() else {}
        whole = parse_model({**config, **said}, name=repo, source="x")
        row = load_model(repo)
        assert whole.quantized is not None
        assert row.quantized is not None
        assert (row.precision, row.quantized.layers) == (whole.precision, whole.quantized.layers)
        compared += 1
    assert compared > 15


class TestByConvention:
    @pytest.mark.parametrize(
        ("name", "form", "kv_cache"),
        [
            ("Mine/Qwen3-8B-FP8", "fp8_block", None),
            ("nvidia/Qwen3-8B-FP8", "fp8", "fp8"),
            ("RedHatAI/Llama-3.1-8B-FP8-dynamic", "fp8", None),
            ("cpatonn/Qwen3-8B-AWQ", "int4", None),
            ("Mine/Qwen3-8B-GPTQ-Int8", "w8a16", None),
            ("Mine/Qwen3-8B.w4a16", "int4", None),
            ("Mine/Llama-3.1-8B-Instruct-quantized.w8a8", "int8", None),
            ("Mine/Qwen3-8B-NVFP4", "nvfp4", "fp8"),
            ("Mine/Qwen3-8B-AWQ-8bit", "w8a16", None),
            ("Mine/Qwen3-8B-AWQ-4bit", "int4", None),
            ("Mine/Qwen3-8B-GPTQ-8bit", "w8a16", None),
            ("Mine/Qwen3-8B-AWQ-INT8", "w8a16", None),
            ("Mine/Qwen3-8B-AutoRound-W8A16", "w8a16", None),
            ("RedHatAI/Qwen3-8B-quantized.w8a16", "w8a16", None),
            ("RedHatAI/Qwen3-8B-INT8", "int8", None),
            ("RedHatAI/Qwen3-8B-FP8-block", "fp8_block", None),
            ("Mine/Qwen3-8B-W8A8-FP8", "fp8_block", None),
        ],
    )
    def test_a_known_model_is_answered_with_a_caution(
        self, name: str, form: str, kv_cache: str | None
    ) -> None:
        model = load_model(name)
        assert model.quantized is not None
        assert model.precision.form("attention") == model.precision.form("mlp") == form
        assert model.precision.form("lm_head") == "bfloat16"
        assert model.quantized.kv_cache == kv_cache
        assert "is in no list of checkpoints: its name is taken to say" in model.caution
        assert load_model(model.name).precision == model.precision

    @pytest.mark.parametrize(
        ("name", "form", "listed"),
        [
            ("zai-org/GLM-4.5-Air-FP8", "fp8", True),
            ("zai-org/GLM-4.6-FP8", "fp8", True),
            ("neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8", "fp8", True),
            ("neuralmagic/Qwen3-8B-FP8-dynamic", "fp8", True),
            ("RedHatAI/Llama-4-Maverick-17B-128E-Instruct-FP8", "fp8", False),
            ("meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8", "fp8", False),
            ("Qwen/Qwen3-14B-FP8", "fp8_block", False),
        ],
    )
    def test_fp8_has_the_scales_of_who_publishes_it(
        self, name: str, form: str, listed: bool
    ) -> None:
        model = load_model(name)
        assert model.quantized is not None
        assert {f for _, f in model.quantized.formats} == {form}
        assert ("is in no list" in model.caution) != listed

    def test_nvfp4_is_of_the_experts_where_there_are_some(self) -> None:
        model = load_model("unsloth/Qwen3.5-35B-A3B-NVFP4")
        assert dict(model.precision.modules) == {"experts": "nvfp4"}

    @pytest.mark.parametrize("name", ["Qwen/Qwen3-8B-GGUF", "qwen3-8b-bnb-4bit", "Qwen3-8B-Q4_K_M"])
    def test_a_format_that_is_not_priced_is_refused(self, name: str) -> None:
        with pytest.raises(UsageError, match=r"in no table\. Of qwen3-8b there is qwen3-8b-fp8, "):
            load_model(name)

    @pytest.mark.parametrize(
        ("name", "complaint"),
        [
            ("Mine/Qwen3-8B-Int4-Int8Mix", "mixes formats, by its name, .*folder of its config"),
            ("Mine/Qwen3-8B-GPTQ-Int4-Int8Mix", "mixes formats"),
            ("Mine/Qwen3-8B-AWQ-FP8", "mixes formats"),
            ("Mine/Qwen3-8B-NVFP4-FP8", "mixes formats"),
            ("Mine/Qwen3-8B-INT4-FP8", "is INT4 weights with FP8 activations, whose kernels"),
            ("amd/Qwen3-8B-FP8-KV", "is AMD Quark, whose kernels are in no table"),
            ("Mine/Qwen3-8B-GPTQ-3bit", "integers of 3 bits"),
            ("Mine/Qwen3-8B-quantized.w4a8", "quantised to W4A8"),
        ],
    )
    def test_a_name_of_several_formats_or_odd_bits_is_refused(
        self, name: str, complaint: str
    ) -> None:
        with pytest.raises(UsageError, match=complaint):
            load_model(name)

    def test_the_model_may_be_a_listed_checkpoint_itself(self) -> None:
        model, listed = load_model("nvidia/Kimi-K2-Thinking-NVFP4"), "moonshotai/Kimi-K2-Thinking"
        assert model.precision.form("experts") == "nvfp4"
        assert (model.params, model.context) == (load_model(listed).params, 262144)

    def test_a_model_without_a_sheet_is_refused(self) -> None:
        said = r"to FP8, by its name; no sheet has its model: unknown model 'Bar-7B'\. Nearest of"
        with pytest.raises(UsageError, match=said):
            load_model("Foo/Bar-7B-FP8")
        with pytest.raises(UsageError, match="is quantised to W8A8, by its name"):
            load_model("RedHatAI/Bar-7B-quantized.w8a8")

    @pytest.mark.parametrize("name", ["lmsys/gpt-oss-20b-bf16", "unsloth/Kimi-K2.5-BF16"])
    def test_a_name_may_say_that_nothing_is_quantised(self, name: str) -> None:
        model = load_model(name)
        assert model.quantized is None
        assert model.weight_bytes(1, model.precision) == pytest.approx(2 * model.params, rel=1e-3)
        with pytest.raises(UsageError, match="unknown model 'gpt-oss-99b-bf16'"):
            load_model("gpt-oss-99b-bf16")

    def test_a_name_that_says_nothing(self) -> None:
        assert find_checkpoint("Qwen/Qwen3-8B") is None
        with pytest.raises(UsageError, match="unknown model"):
            load_model("Qwen/Qwen9-8B")


class TestItsDrafters:
    def test_are_those_of_the_model_it_was_made_of(self) -> None:
        assert default_drafter("Qwen/Qwen3-8B-FP8") == default_drafter("qwen3-8b")
        assert load_eagle3("Qwen/Qwen3-8B-AWQ") == load_eagle3("qwen3-8b")

    def test_answers_are_accepted_as_often(self) -> None:
        from dflash_sim.simulator.scenario import Scenario
        from dflash_sim.simulator.setup import resolve

        told = [
            resolve(Scenario.parse(gpu="b200", model=name, method="dflash", conc=4))
            for name in ("qwen3-8b", "qwen3-8b-fp8")
        ]
        assert told[0].uncalibrated == told[1].uncalibrated is not None


def test_a_measurement_of_real_weights_takes_none() -> None:
    with pytest.raises(UsageError, match=r"asked for here is in bf16\. Give qwen3-8b"):
        find_network("models", "Qwen/Qwen3-8B-FP8")


def test_a_users_own_sheet_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    text = Path(find_network("models", "qwen3-8b")[0]).read_text()
    (folder / "qwen3-8b-fp8.json").write_text(
        text.replace('"_status"', '"quantization_config": {"quant_method": "fp8"}, "_status"')
    )
    model = load_model("qwen3-8b-fp8", (tmp_path,))
    assert model.precision.form("mlp") == "fp8"


def test_a_base_that_is_quantised_itself_is_made_anew() -> None:
    model = load_model("Mine/gpt-oss-20b-FP8")
    assert model.precision.form("experts") == model.precision.form("attention") == "fp8_block"


@pytest.mark.parametrize("name", ["", "/", "-FP8", "Qwen/-FP8"])
def test_odd_names_are_one_line(name: str) -> None:
    with pytest.raises(DflashSimError):
        load_model(name)


@pytest.mark.parametrize(
    ("model", "quantization", "served"),
    [
        ("qwen3-32b", "awq", "qwen3-32b-awq"),
        ("qwen3.5-397b-a17b", "nvfp4", "qwen3.5-397b-a17b-nvfp4"),
        ("qwen3-8b", "fp8", "qwen3-8b"),  # SGLang makes that of the bf16 checkpoint
        ("gpt-oss-20b", "mxfp4", "gpt-oss-20b"),
        ("qwen3-32b-awq", "awq", "qwen3-32b-awq"),
    ],
)
def test_a_row_of_measurements_means_the_checkpoint_that_was_served(
    model: str, quantization: str, served: str
) -> None:
    from dflash_sim.calibrate.observations.names import of_checkpoint

    assert of_checkpoint({"model": model, "quantization": quantization})["model"] == served


def test_kimi_k2_thinking_has_the_formats_and_the_context_of_its_successor() -> None:
    model, later = load_model("moonshotai/Kimi-K2-Thinking"), load_model("kimi-k2.5")
    assert model.precision == later.precision
    assert model.context == later.context == 262144
    assert model.weight_bytes(8, model.precision) == later.weight_bytes(8, later.precision)
