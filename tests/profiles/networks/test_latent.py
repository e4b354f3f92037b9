"""DeepSeek, Kimi and GLM-5: totals as published, caches that no rank divides, sparse layers."""

import json
from pathlib import Path
from typing import Any

import pytest

import dflash_sim.profiles
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_model, names
from dflash_sim.profiles.networks.hf_config import MlaShape, ModelShape, check_tp, parse_model
from dflash_sim.profiles.precision import Precision

SHEETS = Path(dflash_sim.profiles.__path__[0]) / "models"
PARAMS = {  # of the language model, its MTP layer left out
    "deepseek-v3": 671_026_419_200,  # README: 671B
    "deepseek-v3.2": 671_877_944_064,
    "kimi-k2-instruct": 1_026_408_232_448,  # Hugging Face counts 1,026 B
    "kimi-k2.5": 1_026_408_232_448,
    "glm-4.7-flash": 29_943_393_920,  # 31,221,488,576 with its MTP layer and what that copies
    "glm-5": 743_911_218_432,  # 744B-A40B; 753.9 B with its MTP layer
    "glm-5.2": 743_377_019_904,  # 57 indexers fewer
    "deepseek-v4-flash": 284_332_240_471,  # 284B-A13B
    "deepseek-v4-pro": 1_572_997_201_763,  # 1.6T-A49B
    "glm-5.3-flash": 313_326_811_966,  # 320B-A18B with its MTP layer
    "kimi-k3": 2_779_484_476_000,  # 2.8T; 2,722.74 B of it routed experts
}


def raw(name: str) -> dict[str, Any]:
    """A sheet without its quantisation, which other tests read."""
    config = json.loads((SHEETS / f"{name}.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    config.get("text_config", {}).pop("quantization_config", None)
    return config


def model(name: str, **changes: Any) -> ModelShape:
    return parse_model({**raw(name), **changes}, name=name, source="test")


def test_every_model_is_checked_here() -> None:
    latent = {name for name in names("models") if load_model(name).latent_layers}
    assert latent == set(PARAMS)


@pytest.mark.parametrize("name", PARAMS)
def test_parameters_are_as_published(name: str) -> None:
    assert model(name).params == PARAMS[name]


def test_parameters_that_are_active_and_that_draft() -> None:
    """DeepSeek-V3's README_WEIGHTS: 36.7 B active, and 11.5 B of the MTP layer's own."""
    deepseek, kimi, glm = (model(n) for n in ("deepseek-v3", "kimi-k2-instruct", "glm-5"))
    assert deepseek.active_params / 1e9 == pytest.approx(36.7, rel=0.005)
    assert glm.active_params / 1e9 == pytest.approx(40, rel=0.03)
    assert kimi.active_params / 1e9 == pytest.approx(32, rel=0.02)
    assert deepseek.mtp_weight_bytes(1) / 2e9 == pytest.approx(11.5, rel=0.01)
    assert (deepseek.mtp_layers, kimi.mtp_layers, glm.mtp_layers) == (1, 0, 1)


@pytest.mark.parametrize(
    ("name", "config", "network"),
    [
        ("deepseek-v3", "DeepseekV3Config", "DeepseekV3ForCausalLM"),
        ("deepseek-v3.2", "DeepseekV32Config", "DeepseekV32ForCausalLM"),
        ("glm-5", "GlmMoeDsaConfig", "GlmMoeDsaForCausalLM"),
        ("glm-5.2", "GlmMoeDsaConfig", "GlmMoeDsaForCausalLM"),
    ],
)
def test_transformers_builds_as_many(name: str, config: str, network: str) -> None:
    """Built without memory, and thinner: eight layers of everything that the whole has."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5.17")
    if not hasattr(transformers, network):
        pytest.skip(f"this transformers has no {network}")
    fields = {k: v for k, v in raw(name).items() if not k.startswith("_")}
    fields |= {"num_hidden_layers": 8, "n_routed_experts": 16}
    for lists in ("indexer_types", "mlp_layer_types"):
        if lists in fields:
            fields[lists] = fields[lists][:8]
    with torch.device("meta"):
        built = getattr(transformers, network)(getattr(transformers, config)(**fields))
    buffers = [b for n, b in built.named_buffers() if n.endswith("e_score_correction_bias")]
    count = sum(p.numel() for p in (*built.parameters(), *buffers))
    assert parse_model(fields, name=name, source="test").params == count


def test_whole_repositories_are_as_published() -> None:
    """DeepSeek-V3's README: 685B on Hugging Face, embedding and head of the MTP module with."""
    deepseek = load_model("deepseek-v3")
    copies = 2 * deepseek.vocab * deepseek.hidden
    mtp = sum(w.params for w in deepseek._mtp_weights())
    assert (deepseek.params + mtp + copies) / 1e9 == pytest.approx(685, rel=0.001)


def test_checkpoints_are_in_formats_of_their_own() -> None:
    """FP8 in blocks, with embedding and head in bf16; INT4 experts alone."""
    deepseek, kimi = load_model("deepseek-v3"), load_model("kimi-k2.5")
    forms = {m: deepseek.precision.form(m) for m in ("attention", "experts", "mlp", "lm_head")}
    assert forms == dict.fromkeys(("attention", "experts", "mlp"), "fp8_block") | {
        "lm_head": "bfloat16"
    }
    held = deepseek.weight_bytes(1, deepseek.precision)
    assert held == pytest.approx(deepseek.params + 2 * deepseek.vocab * deepseek.hidden, rel=0.001)
    assert kimi.precision.form("attention") == "bfloat16"
    assert kimi.precision.form("experts").startswith("int4")


def test_a_cache_is_the_same_on_every_rank() -> None:
    deepseek, sparse = model("deepseek-v3"), model("deepseek-v3.2")
    assert deepseek.kv_bytes(1) == 61 * (512 + 64) * 2
    assert sparse.kv_bytes(1) == 61 * ((512 + 64) * 2 + 128 + 4)  # keys of the indexer in FP8
    for shape in (deepseek, sparse):
        assert shape.kv_bytes(8) == shape.kv_bytes(1)
    halved = deepseek.kv_bytes(8, Precision(kv_cache="fp8"))
    assert halved == deepseek.kv_bytes(8) / 2


def test_heads_are_split_and_down_projections_are_not() -> None:
    shape = model("deepseek-v3").layers[0].mixer
    assert isinstance(shape, MlaShape)
    whole, eighth = (
        {w.name: w.bytes_per_rank(tp) for w in shape.weights(hidden=7168)} for tp in (1, 8)
    )
    for name in ("q_b_proj", "kv_b_proj", "o_proj"):
        assert eighth[name] == whole[name] / 8
    for name in ("q_a_proj", "kv_a_proj_with_mqa"):
        assert eighth[name] == whole[name]


def test_layers_share_an_indexer_as_their_config_says() -> None:
    glm = model("glm-5.2")
    shared = [m.indexer.shared for m in glm.latent_layers if m.indexer]
    assert shared == [kind == "shared" for kind in raw("glm-5.2")["indexer_types"]]
    every = model("glm-5.2", indexer_types=None)  # index_topk_freq 4, offset 3, says the same
    assert every.layers == glm.layers
    assert glm.mtp_layer is not None
    drafts = glm.mtp_layer.mixer
    assert isinstance(drafts, MlaShape)
    assert drafts.indexer is not None
    assert not drafts.indexer.shared


def test_ranks_divide_the_heads() -> None:
    check_tp(model("deepseek-v3"), 8)
    with pytest.raises(UsageError, match="cannot be split over tp=3"):
        check_tp(model("deepseek-v3"), 3)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kv_lora_rank": None}, "'kv_lora_rank' is None; expected an integer"),
        ({"first_k_dense_replace": 62}, "'first_k_dense_replace' is 62"),
        ({"num_experts_per_tok": 300}, "'num_experts_per_tok' is 300"),
        ({"model_type": "deepseek_v32"}, "'index_n_heads' is missing"),
        ({"index_topk": 2048}, "'index_topk' is 2048, which no deepseek_v3 model has"),
    ],
)
def test_odd_fields_are_named(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        model("deepseek-v3", **changes)


def test_a_pattern_of_indexers_is_a_letter_for_each_layer() -> None:
    short = {"indexer_types": None, "index_topk_pattern": "FS"}
    with pytest.raises(UsageError, match=r"'index_topk_pattern' is 'FS'; expected 78 letters"):
        model("glm-5.2", **short)
    with pytest.raises(UsageError, match="a first layer with an indexer"):
        model("glm-5.2", indexer_types=["shared"] * 78)
