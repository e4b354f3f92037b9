"""Real ``config.json`` files are answered, or refused by name; and families count every tensor."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_model
from dflash_sim.profiles.networks.families import FAMILIES, NOT_MODELLED, SAME_TEXT
from dflash_sim.profiles.networks.hf_config import ModelShape, parse_model
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.passes import target_forward

# The wheel that operator tables are imported from holds copies of configs as they are published.
WHEEL = find_spec("aiconfigurator_core")
FOLDER = (
    Path(next(iter(WHEEL.submodule_search_locations or []))) / "model_configs" if WHEEL else None
)
CONFIGS = sorted(FOLDER.glob("*_config.json")) if FOLDER else []
NAMES = [p.name.removesuffix("_config.json") for p in CONFIGS if "hf_quant" not in p.name]
# Those that are refused, and why; all others are answered.
REFUSED: dict[str, str] = {}


def as_downloaded(name: str, folder: Path) -> str:
    """The folder of a checkpoint, with the one or two configs that it was published with."""
    assert FOLDER is not None
    (folder / name).mkdir()
    for kind in ("config", "hf_quant_config"):
        path = FOLDER / f"{name}_{kind}.json"
        if path.is_file():
            (folder / name / f"{kind}.json").write_bytes(path.read_bytes())
    return str(folder / name)


@pytest.mark.skipif(not WHEEL, reason="the wheel with the configs is not installed")
def test_there_are_as_many_as_there_were() -> None:
    assert set(REFUSED) <= set(NAMES)
    assert len(NAMES) >= 89
    assert not REFUSED


@pytest.mark.parametrize("name", NAMES)
def test_a_real_config_is_answered_or_refused_by_name(name: str, tmp_path: Path) -> None:
    path = as_downloaded(name, tmp_path)
    if name in REFUSED:
        with pytest.raises(UsageError, match=f"not modelled yet: it has .*{REFUSED[name]}") as said:
            load_model(path)
        assert "\n" not in str(said.value)
        return
    model = load_model(path)
    assert 0 < model.active_params <= model.params
    assert 0 < model.weight_bytes(1) <= 2 * model.params
    assert forward_flops(model) == pytest.approx(2 * model.active_params, rel=0.25)


def forward_flops(model: ModelShape) -> float:
    """FLOP of one token with nothing cached: two for each value that it multiplies."""
    return sum(c.count * c.op.flops for c in target_forward(model, tp=1, size=Rows(1, 1)))


_WIDE = {
    "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "vocab_size": 1000,
    "num_key_value_heads": 4, "head_dim": 32, "intermediate_size": 512, "sliding_window": 64,
    "max_position_embeddings": 2048,
}  # fmt: skip
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
_MAMBA = {
    "layers_block_type": ["mamba", "moe", "attention", "moe", "mamba", "moe"],
    "mamba_num_heads": 8, "mamba_head_dim": 32, "n_groups": 2, "ssm_state_size": 16,
    "conv_kernel": 4, "n_routed_experts": 8, "n_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 128,
}  # fmt: skip
_GRANITE4 = {
    "layer_types": ["mamba", "attention"] * 3, "mamba_n_heads": 16, "mamba_d_head": 32,
    "mamba_n_groups": 1, "mamba_d_state": 16, "shared_intermediate_size": 128,
}  # fmt: skip
_GEMMA4 = {"global_head_dim": 64, "tie_word_embeddings": True}
# Small configs and the values that the classes of transformers 5.24 allocate for them, buffers of
# the router included.
TINY: list[tuple[str, dict[str, Any], int]] = [
    ("llama", {}, 4_054_272),
    ("mistral", {}, 4_054_272),
    ("ministral3", {}, 4_054_272),
    ("phi3", {}, 4_054_272),
    ("granite", {}, 4_054_272),
    ("qwen2", {}, 4_057_344),
    (
        "qwen2_moe",
        {**_EXPERTS, "num_experts": 8, "shared_expert_intermediate_size": 128},
        4_660_992,
    ),
    ("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}, 20_581_632),
    ("granitemoe", {"num_local_experts": 8, "num_experts_per_tok": 2}, 20_581_632),
    ("gemma3", {}, 3_801_728),
    (
        "gemma4",
        {
            **_GEMMA4, **_EXPERTS, "attention_k_eq_v": True, "num_global_key_value_heads": 2,
            "enable_moe_block": True, "num_experts": 8, "top_k_experts": 2,
        },
        6_277_878,
    ),
    ("gemma4", _GEMMA4, 3_998_406),
    (
        "llama4",
        {
            "num_local_experts": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 1024, "attention_chunk_size": 128,
        },
        9_955_584,
    ),
    (
        "minimax_m2",
        {"num_local_experts": 8, "num_experts_per_tok": 2, "use_routing_bias": True},
        20_583_984,
    ),
    ("glm4", {}, 4_060_416),
    (
        "glm4_moe",
        {
            **_EXPERTS, "n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1,
            "attention_bias": True, "use_qk_norm": True,
        },
        4_313_768,
    ),
    (
        "glm4_moe",
        {**_EXPERTS, "n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1},
        4_310_312,
    ),
    ("nemotron_h", {**_MAMBA, **_EXPERTS, "moe_latent_size": 64}, 1_641_928),
    ("nemotron_h", {**_MAMBA, **_EXPERTS}, 2_133_448),
    (
        "granitemoehybrid",
        {**_GRANITE4, "num_local_experts": 4, "num_experts_per_tok": 2},
        12_364_656,
    ),
    ("granitemoehybrid", {**_GRANITE4, "num_local_experts": 0}, 2_921_328),
    (
        "laguna",
        {
            **_EXPERTS, "num_experts": 8, "shared_expert_intermediate_size": 64,
            "layer_types": ["full_attention", "sliding_attention"] * 3,
            "num_attention_heads_per_layer": [8, 16] * 3,
        },
        4_722_344,
    ),
    (
        "mimo_v2_flash",
        {
            **_EXPERTS, "v_head_dim": 16, "swa_num_key_value_heads": 8, "swa_v_head_dim": 16,
            "n_routed_experts": 8, "hybrid_layer_pattern": [0, 1, 1, 1, 1, 0],
            "moe_layer_freq": [0, 1, 1, 1, 1, 1], "add_swa_attention_sink_bias": True,
        },
        3_966_280,
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "config", "total"), TINY, ids=[f"{n}-{row[0]}" for n, row in enumerate(TINY)]
)
def test_a_family_counts_what_its_own_class_allocates(
    family: str, config: dict[str, Any], total: int
) -> None:
    model = parse_model({**_WIDE, "model_type": family, **config}, name=family, source="test")
    assert model.params == total
    assert forward_flops(model) == pytest.approx(2 * model.active_params, rel=0.25)


def test_tables_of_families_agree() -> None:
    assert set(SAME_TEXT.values()) <= set(FAMILIES)
    assert not set(NOT_MODELLED) & ({*FAMILIES} | {*SAME_TEXT})


def test_a_search_leaves_parts_of_layers_out() -> None:
    """Nemotron Super: widths are rounded up to 256, and a layer may have no attention at all."""
    blocks = [
        {"attention": {"n_heads_in_group": 4}, "ffn": {"ffn_mult": 1.3125}},
        {"attention": {"no_op": True}, "ffn": {"ffn_mult": 0.5}},
        {"attention": {"n_heads_in_group": 8}, "ffn": {"no_op": True}},
    ]
    config = {
        **_WIDE, "model_type": "nemotron-nas", "num_hidden_layers": 3, "block_configs": blocks,
        "num_key_value_heads": None, "hidden_size": 1024,
    }  # fmt: skip
    model = parse_model(config, name="x", source="test")
    first, second, third = model.layers
    assert (first.mixer.num_kv_heads, third.mixer.num_kv_heads) == (2, 1)  # type: ignore[union-attr]
    assert (first.mlp.intermediate, second.mlp.intermediate) == (1024, 512)  # type: ignore[union-attr]
    assert second.mixer is None
    assert third.mlp is None
    assert len(model.cached_layers) == 2
    blocks[1] = {"attention": {"replace_with_linear": True}, "ffn": {"ffn_mult": 0.5}}
    with pytest.raises(UsageError, match="'replace_with_linear' is True; expected false"):
        parse_model(config, name="x", source="test")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_size_per_layer_input": 256}, "'hidden_size_per_layer_input' is 256; expected 0"),
        ({"num_kv_shared_layers": 2}, "'num_kv_shared_layers' is 2; expected 0"),
        ({"layer_types": ["full_attention"]}, "'layer_types' is .*; expected a list of 6 words"),
    ],
)
def test_a_gemma_that_is_not_modelled_says_what_it_has(change: Any, says: str) -> None:
    config = {**_WIDE, "model_type": "gemma4_text", **change}
    with pytest.raises(UsageError, match=says):
        parse_model(config, name="x", source="test")


def test_an_mtp_layer_of_another_kind_than_the_target() -> None:
    """MiMo-V2's is a window with a dense MLP; Nemotron's has both parts, as no layer has."""
    mimo = load_model("mimo-v2-flash").mtp_layer
    assert mimo is not None
    assert mimo.mixer.window == 128  # type: ignore[union-attr]
    assert mimo.mlp.intermediate == 16384  # type: ignore[union-attr]
    nemotron = load_model("nemotron-3-super-120b-a12b").mtp_layer
    assert nemotron is not None
    assert nemotron.parts == 2


def test_images_are_not_priced_and_an_answer_says_so() -> None:
    assert "images are not priced" in load_model("qwen3-vl-8b").caution
    assert load_model("qwen3.5-27b").caution == ""
    assert json.dumps(load_model("llama-3.1-405b").caution) == '""'
