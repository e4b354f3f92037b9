"""Families that choose or compress what they attend to: totals, caches, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

import dflash_sim.profiles
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_model
from dflash_sim.profiles.networks.hf_config import (
    CompressedShape,
    KdaShape,
    ModelShape,
    parse_model,
)
from dflash_sim.profiles.networks.layers import AttentionShape, MlaShape, MoeMlp
from dflash_sim.profiles.networks.sparse_families import primes_from
from dflash_sim.profiles.precision import Precision

SHEETS = Path(dflash_sim.profiles.__path__[0]) / "models"
# What transformers' class builds of the sheet, with the buffers of its routers.
CLASSES = {
    "deepseek-v4-flash": ("DeepseekV4Config", "DeepseekV4ForCausalLM", {}),
    "deepseek-v4-pro": ("DeepseekV4Config", "DeepseekV4ForCausalLM", {}),
    "minimax-m3": ("MiniMaxM3VLTextConfig", "MiniMaxM3VLForCausalLM", {}),
    "qwen3.8-flash-next": (
        "Qwen4ExpTextConfig",
        "Qwen4ExpForCausalLM",
        {
            "indexer_kv_heads": 1,
            "eos_token_id": 1,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e7,
                "partial_rotary_factor": 0.25,
            },
        },
    ),
}
NOT_FIELDS = ("model_type", "quantization_config", "architectures", "torch_dtype", "expert_dtype")


def raw(name: str) -> dict[str, Any]:
    config = json.loads((SHEETS / f"{name}.json").read_text(encoding="utf-8"))
    return {k: v for k, v in config.items() if not k.startswith("_")}


def counted(built: Any) -> int:
    """Values of a network of transformers, the biases that choose experts included."""
    biases = (b for n, b in built.named_buffers() if n.endswith("e_score_correction_bias"))
    return sum(p.numel() for p in (*built.parameters(), *biases))


def theirs(config: str, network: str, fields: dict[str, Any]) -> int:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5.24")
    with torch.device("meta"):
        return counted(getattr(transformers, network)(getattr(transformers, config)(**fields)))


@pytest.mark.parametrize("name", CLASSES)
def test_transformers_builds_as_many(name: str) -> None:
    config, network, more = CLASSES[name]
    fields = {k: v for k, v in raw(name).items() if k not in NOT_FIELDS and k != "dtype"}
    assert load_model(name).params == theirs(config, network, fields | more)


def test_transformers_builds_kimi_linear_and_glm_as_many() -> None:
    """Kimi-Linear is not shipped: its class alone states it, 48B-A3B; GLM's class has no head."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5.24")
    config = transformers.KimiLinearConfig()
    fields = {**config.to_dict(), "model_type": "kimi_linear"}
    ours = parse_model(fields, name="kimi-linear", source="test")
    assert ours.params == theirs("KimiLinearConfig", "KimiLinearForCausalLM", {})
    assert ours.active_params / 1e9 == pytest.approx(3.1, rel=0.02)
    glm = transformers.Glm5NextTextConfig(index_kpool=4)
    from transformers.models.glm5_next.modeling_glm5_next import Glm5NextTextModel

    with torch.device("meta"):
        body = counted(Glm5NextTextModel(glm))
    assert load_model("glm-5.3-flash").params == body + glm.vocab_size * glm.hidden_size


@pytest.mark.parametrize(
    ("name", "active", "mtp"),
    [
        ("deepseek-v4-flash", 13.3, 6.6),
        ("deepseek-v4-pro", 48.9, 25.8),
        ("glm-5.3-flash", 16.7, 7.4),  # 320 B with the MTP layer
        ("kimi-k3", 104.2, 0.0),
        ("minimax-m3", 24.7, 7.5),  # drafts with a layer as its last: none is described
        ("qwen3.8-flash-next", 6.7, 2.6),  # 6 B active, 2.61 B of the MTP layer
    ],
)
def test_what_a_token_visits_and_what_drafts(name: str, active: float, mtp: float) -> None:
    model = load_model(name)
    assert model.active_params / 1e9 == pytest.approx(active, abs=0.06)
    values = sum(w.params for w in model._mtp_weights())
    assert values / 1e9 == pytest.approx(mtp, abs=0.06)


def test_routed_experts_of_kimi_k3_are_what_its_four_bit_tensors_hold() -> None:
    model = load_model("kimi-k3")
    experts = sum(w.params * n for w, n in model._weights() if w.module == "experts")
    assert experts / 1e9 == pytest.approx(2722.74, abs=0.005)
    attention = sum(w.params * n for w, n in model._weights() if w.module[:9] == "attention")
    assert attention / 1e9 == pytest.approx(36.18, abs=0.005)  # of the NVFP4 checkpoint, in FP8


def test_a_cache_of_chosen_blocks_has_a_key_more_for_each_token() -> None:
    model = load_model("minimax-m3")
    assert model.kv_bytes() == 60 * 2 * 4 * 128 * 2 + 57 * 128 * 2
    assert model.kv_bytes(8) == 60 * 2 * 1 * 128 * 2 + 57 * 128 * 2  # which no rank divides
    assert model.kv_bytes(1, Precision(kv_cache="fp8")) == model.kv_bytes() / 2


def test_states_and_caches_of_delta_attention() -> None:
    kimi = load_model("kimi-k3")
    assert kimi.kv_bytes(8) == 24 * 576 * 2
    assert kimi.gdn_ssm_bytes() == 69 * 96 * 128 * 128 * 4
    window = 69 * 3 * 96 * 128 * 3 * 2
    assert kimi.gdn_state_bytes() == kimi.gdn_ssm_bytes() + window
    assert [layer.depth for layer in kimi.layers[:14]] == [0, *[1] * 12, 2]
    halved = kimi.gdn_ssm_bytes(Precision(state="bfloat16"))
    assert halved == kimi.gdn_ssm_bytes() / 2


def test_a_compressed_cache_is_counted_as_sglang_counts_it() -> None:
    """``DSV4PoolConfigurator._get_bytes_per_full_token``: pools of tokens, windows and states."""
    for name, few, many in (("deepseek-v4-flash", 21, 20), ("deepseek-v4-pro", 30, 31)):
        model = load_model(name)
        kv, index, share = 448 + 64 * 2 + 8, 128 + 4, 0.1
        layers = len(model.layers)
        expected = (
            share * kv * layers
            + kv / 4 * few
            + kv / 128 * many
            + index / 4 * few
            + share * (8 / 128) * (2 * 2 * 512 * 4) * few
            + share * (128 / 128) * (2 * 512 * 4) * many
            + share * (8 / 128) * (2 * 2 * 128 * 4) * few
        )
        assert model.kv_bytes(8) == pytest.approx(expected, rel=1e-12)
        ratios = [x.mixer.ratio for x in model.layers if isinstance(x.mixer, CompressedShape)]
        assert (ratios.count(4), ratios.count(128), len(ratios)) == (few, many, layers)
        assert model.latent_kind == "compressed"
        assert model.mtp_layer is not None
        assert model.mtp_layer.mixer.ratio == 0  # type: ignore[union-attr]


def test_the_first_experts_of_deepseek_v4_are_chosen_by_token() -> None:
    biased = [x.mlp.correction_bias for x in load_model("deepseek-v4-flash").layers if x.mlp]  # type: ignore[union-attr]
    assert biased == [False] * 3 + [True] * 40


def test_four_bit_experts_are_read_beside_fp8() -> None:
    flash = load_model("deepseek-v4-flash")
    forms = {m: flash.precision.form(m) for m in ("experts", "attention", "shared_expert", "other")}
    assert forms == {
        "experts": "mxfp4", "attention": "fp8_block", "shared_expert": "fp8_block",
        "other": "bfloat16",
    }  # fmt: skip
    assert load_model("nvidia/DeepSeek-V4-Flash-NVFP4").precision.form("experts") == "nvfp4"


def test_a_table_of_n_grams_is_counted_and_not_on_the_gpu() -> None:
    model = load_model("qwen3.8-flash-next")
    (layer,) = (x for x in model.layers if x.ngrams)
    assert model.layers.index(layer) == 1
    assert layer.ngrams is not None
    assert layer.ngrams.rows % 128 == 0
    values = layer.ngrams.rows * 160
    assert values / 1e9 == pytest.approx(51.2, abs=0.01)
    assert model.weight_bytes(1) == pytest.approx(2 * (model.params - values), rel=1e-9)
    assert "--ple-offload-embedding" in model.caution
    # A published checkpoint has 78.23 GiB without the table, with vision and MTP.
    core = load_model("RadixArk/Qwen3.8-Flash-Next-NVFP4")
    held = core.weight_bytes(1, core.precision) + core.mtp_weight_bytes(1)
    assert held / 2**30 == pytest.approx(78.23, rel=0.015)


def test_tables_are_as_large_as_primes() -> None:
    assert primes_from(10, 4) == (11, 13, 17, 19)
    assert primes_from(2, 1) == (2,)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("kimi-k3", {KdaShape: 69, MlaShape: 24}),
        ("glm-5.3-flash", {KdaShape: 34, MlaShape: 11}),
        ("qwen3.8-flash-next", {AttentionShape: 12}),
        ("minimax-m3", {AttentionShape: 60}),
    ],
)
def test_layers_are_of_the_kinds_that_a_config_states(name: str, kinds: dict[type, int]) -> None:
    model = load_model(name)
    for kind, count in kinds.items():
        assert sum(isinstance(x.mixer, kind) for x in model.layers) == count


def changed(name: str, **fields: Any) -> ModelShape:
    return parse_model({**raw(name), **fields}, name="x", source="test")


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("deepseek-v4-flash", {"compress_ratios": [4] * 5}, "'compress_ratios' is .*list of 43"),
        ("deepseek-v4-flash", {"compress_ratios": [8] * 44}, r"one of \[0, 4, 128\]"),
        ("deepseek-v4-flash", {"o_groups": 0}, "'o_groups' is 0"),
        ("minimax-m3", {"dense_intermediate_size": None}, "'dense_intermediate_size' is None"),
        ("glm-5.3-flash", {"index_kpool": 0}, "'index_kpool' is 0"),
        ("glm-5.3-flash", {"layer_types": ["mamba"] * 45}, "a list of 45 words"),
        ("qwen3.8-flash-next", {"indexer_budget": "much"}, "'indexer_budget' is 'much'"),
        ("qwen3.8-flash-next", {"ple_layer_ids": [49, 50]}, "'ple_layer_ids'"),
    ],
)
def test_a_config_that_is_not_so_is_refused_in_one_line(
    name: str, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says) as said:
        changed(name, **fields)
    assert "\n" not in str(said.value)


def test_an_indexer_that_writes_values_is_refused() -> None:
    said = raw("minimax-m3")["sparse_attention_config"] | {"sparse_disable_index_value": [0] * 60}
    with pytest.raises(UsageError, match="sparse_disable_index_value"):
        changed("minimax-m3", sparse_attention_config=said)


def test_experts_behind_a_narrow_space_have_its_norm() -> None:
    experts = load_model("kimi-k3").layers[1].mlp
    assert isinstance(experts, MoeMlp)
    assert (experts.latent, experts.latent_norm, experts.shared_intermediate) == (3584, True, 6144)
