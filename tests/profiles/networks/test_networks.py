"""Shapes must reproduce published parameter counts, KV bytes and weight sizes."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.profiles.find import find_sheet
from dflash_sim.profiles.load import load_drafter, load_eagle3, load_model, names
from dflash_sim.profiles.networks.hf_config import (
    AttentionShape,
    DrafterShape,
    GdnShape,
    LayerShape,
    ModelShape,
    MoeMlp,
    check_tp,
    parse_drafter,
    parse_eagle3,
    parse_model,
)
from dflash_sim.profiles.networks.weight import HOST
from dflash_sim.profiles.units import BF16_BYTES, GiB

HF = Path(__file__).parents[2] / "data" / "hf"


def hf_config(name: str) -> dict:
    return json.loads((HF / f"{name}.json").read_text())


def hf_model(name: str, **changes: object) -> ModelShape:
    return parse_model({**hf_config(name), **changes}, name=name, source="test")


# Totals of the safetensors index on Hugging Face: every tensor must be accounted for.
EXACT = {
    "gpt-oss-120b": 116_829_156_672,
    "gpt-oss-20b": 20_914_757_184,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.3-70b": 70_553_706_496,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-32b": 32_762_123_264,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-coder-30b-a3b": 30_532_122_624,
}
EXACT_HF = {
    "qwen3-coder-480b-a35b": 480_154_875_392,
}


@pytest.mark.parametrize(("name", "total"), EXACT.items())
def test_parameters_match_the_checkpoint_exactly(name: str, total: int) -> None:
    assert load_model(name).params == total


@pytest.mark.parametrize(("name", "total"), EXACT_HF.items())
def test_parameters_of_other_configs_match_exactly(name: str, total: int) -> None:
    assert hf_model(name).params == total


def test_hybrid_with_its_mtp_layer_matches_the_checkpoint_exactly() -> None:
    """Qwen3-Next-80B-A3B ships GDN, gated attention, shared experts and one MTP layer."""
    model = load_model("qwen3-next-80b-a3b")
    assert model.layers == hf_model("qwen3-next-80b-a3b").layers
    assert model.params + model.mtp_weight_bytes(1) // BF16_BYTES == 81_324_862_720


@pytest.mark.parametrize(
    ("name", "total", "active", "kv", "state", "full", "gdn"),
    [
        ("qwen3.5-397b-a17b", 396.346e9, 16.332e9, 30_720, 192_061_440, 15, 45),
        ("qwen3.5-122b-a10b", 122.112e9, 9.008e9, 24_576, 153_649_152, 12, 36),
        ("qwen3.5-35b-a3b", 34.661e9, 2.946e9, 20_480, 64_389_120, 10, 30),
        ("qwen3.5-27b", 26.896e9, 25.625e9, 65_536, 153_944_064, 16, 48),
        ("qwen3.6-27b", 26.896e9, 25.625e9, 65_536, 153_944_064, 16, 48),
        ("qwen3.6-35b-a3b", 34.661e9, 2.946e9, 20_480, 64_389_120, 10, 30),
        ("qwen3.5-9b", 8.95e9, 7.94e9, 32_768, 51_511_296, 8, 24),
        ("qwen3.5-4b", 4.206e9, 4.206e9, 32_768, 51_511_296, 8, 24),
        ("gpt-oss-120b", 116.8e9, 5.131e9, 73_728, 0, 18, 0),
        ("gpt-oss-20b", 20.9e9, 3.607e9, 49_152, 0, 12, 0),
        ("qwen3-8b", 8.19e9, 7.568e9, 147_456, 0, 36, 0),
        ("qwen3-4b", 4.02e9, 4.022e9, 147_456, 0, 36, 0),
        ("llama-3.1-8b", 8.03e9, 7.505e9, 131_072, 0, 32, 0),
        ("qwen3-coder-30b-a3b", 30.5e9, 3.042e9, 98_304, 0, 48, 0),
        ("qwen3-30b-a3b", 30.5e9, 3.042e9, 98_304, 0, 48, 0),
        ("qwen3-32b", 32.76e9, 31.98e9, 262_144, 0, 64, 0),
        ("qwen3-235b-a22b", 235.1e9, 21.57e9, 192_512, 0, 94, 0),
        ("qwen3-next-80b-a3b", 79.67e9, 3.564e9, 24_576, 77_266_944, 12, 36),
        ("qwen3-coder-next", 79.67e9, 3.564e9, 24_576, 77_266_944, 12, 36),
        ("qwen3.8-27b", 26.896e9, 25.625e9, 65_536, 153_944_064, 16, 48),
        ("llama-3.3-70b", 70.55e9, 69.50e9, 327_680, 0, 80, 0),
    ],
)
def test_published_sizes(
    name: str, total: float, active: float, kv: int, state: int, full: int, gdn: int
) -> None:
    model = load_model(name)
    assert model.params == pytest.approx(total, rel=1.1e-3)
    assert model.active_params == pytest.approx(active, rel=1e-3)
    assert model.kv_bytes() == kv
    assert model.gdn_state_bytes() == state
    assert (full_attention_layers(model), model.gdn_layers) == (full, gdn)


def full_attention_layers(model: ModelShape) -> int:
    """Softmax attention layers without a sliding window."""
    return sum(a.window is None for a in model.attention_layers)


def test_every_model_is_checked_above() -> None:
    """Here, in one of two modules of further families, or beside latent attention."""
    tested = {row[0] for row in test_published_sizes.pytestmark[0].args[1]}
    missing = {n for n in names("models") if not load_model(n).latent_layers} - tested
    assert tested <= set(names("models"))
    beside = runpy.run_path(str(Path(__file__).with_name("test_published_totals.py")))
    further = runpy.run_path(str(Path(__file__).with_name("test_sparse_families.py")))
    known = {*beside["EXACT"], *beside["NAMED"], *beside["WITH_TOWER"], *further["CLASSES"]}
    assert missing <= known


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("qwen3.5-397b-a17b", 6_595_543_040),
        ("qwen3.5-122b-a10b", 2_523_660_288),
        ("qwen3.5-35b-a3b", 844_627_968),
        ("qwen3.5-27b", 424_673_280),
    ],
)
def test_mtp_layer_is_an_attention_layer_and_a_projection(name: str, params: int) -> None:
    """The counts are fc, attention, router and experts; norms are the difference."""
    model = load_model(name)
    assert 0 < model.mtp_weight_bytes(1) // BF16_BYTES - params < 10 * model.hidden
    layer = model.mtp_layer
    assert layer is not None
    assert isinstance(layer.mixer, AttentionShape)
    assert layer.mixer.kv_bytes() * full_attention_layers(model) == model.kv_bytes()


@pytest.mark.parametrize("name", ["qwen3.5-397b-a17b", "qwen3.6-35b-a3b", "qwen3.5-9b"])
def test_vision_tower_is_a_so400m_with_its_merger(name: str) -> None:
    """27 blocks of 1,152; the merger is as wide as four patches and ends in the model's width."""
    model = load_model(name)
    assert model.vision is not None
    params = model.vision_weight_bytes(1) / BF16_BYTES
    merger = 4608 * 4608 + 4608 * model.hidden
    assert params - merger == pytest.approx(416e6, rel=5e-3)
    assert params / 8 < model.vision_weight_bytes(8) / BF16_BYTES < params / 4
    assert load_model("qwen3-8b").vision_weight_bytes(1) == 0


def test_of_a_foreign_vision_config_only_what_sglang_reads() -> None:
    config = {"model_type": "qwen3_5", "text_config": text_of("qwen3.5-27b")}
    foreign = {"vision_config": {"num_hidden_layers": 12, "vt_hidden_size": 768}}
    model = parse_model(config | foreign, name="x", source="test")
    assert model.vision is not None
    assert (model.vision.num_hidden_layers, model.vision.hidden) == (12, 768)
    assert model.vision_weight_bytes(1) == 0
    assert parse_model(config, name="x", source="test").vision is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_checkpoint_says_what_its_states_are_kept_in(dtype: str) -> None:
    text = text_of("qwen3.5-27b") | {"mamba_ssm_dtype": dtype}
    config = {"model_type": "qwen3_5", "text_config": text}
    assert parse_model(config, name="x", source="test").state_dtype == dtype
    text["mamba_ssm_dtype"] = "int8"
    with pytest.raises(UsageError, match="mamba_ssm_dtype' is 'int8'; expected one of float32"):
        parse_model(config, name="x", source="test")


def text_of(name: str) -> dict[str, Any]:
    """The text config of a shipped model."""
    path = find_sheet("models", name, ".json")
    assert path is not None
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["text_config"]
    return config


def test_397b_drafter_matches_its_card_exactly() -> None:
    assert load_drafter("qwen3.5-397b-a17b-dflash").params == 1_291_904_512


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("qwen3.6-27b-dflash", 3.22),
        ("qwen3.6-35b-a3b-dflash", 0.72),
        ("qwen3.5-4b-dflash", 1.18),
        ("qwen3.5-9b-dflash", 2.41),
        ("qwen3.5-27b-dflash", 3.96),
        ("qwen3.5-35b-a3b-dflash", 0.72),
        ("qwen3.5-122b-a10b-dflash", 1.44),
        ("gpt-oss-20b-dflash", 1.46),
        ("gpt-oss-120b-dflash", 1.46),
        ("qwen3-4b-dflash", 1.00),
        ("qwen3-8b-dflash", 1.95),
        ("qwen3-coder-30b-a3b-dflash", 0.88),
        ("qwen3-coder-next-dflash", 0.88),
        ("llama-3.1-8b-dflash", 1.95),
    ],
)
def test_drafter_weights_match_the_published_size(name: str, gib: float) -> None:
    drafter = load_drafter(name)
    assert drafter.weight_bytes(1) / GiB == pytest.approx(gib, rel=5e-3)
    assert drafter.weight_bytes(1) == 2 * drafter.params


# What a public contract test adds up from the names and shapes of their tensors.
LAGUNA = {"laguna-xs-2.1-dflash": 462_064_896, "laguna-s-2.1-dflash": 1_114_977_792}


@pytest.mark.parametrize(("name", "params"), LAGUNA.items())
def test_a_drafter_with_gates_and_norms_of_its_taps_is_whole(name: str, params: int) -> None:
    drafter = load_drafter(name)
    assert drafter.params == params
    assert not drafter.stacked_kv


def test_drafters_fit_their_targets() -> None:
    for name in names("drafters"):
        drafter = load_drafter(name)
        target = load_model(drafter.target)
        assert drafter.hidden == target.hidden, name
        # NVIDIA's drafter for MiniMax leaves out the last ids, which no text has.
        assert drafter.vocab == (200_055 if "minimax" in name else target.vocab), name
        # Cards list other taps than the rule has: two layers earlier, or the very last one.
        others = {"qwen3-coder-next-dflash": 5}
        others |= dict.fromkeys(("mimo-v2-flash-dflash", "qwen3.5-4b-domino", *LAGUNA), 1)
        others |= {"glm-5.2-dspark": 2, "qwen3.6-27b-dspark": 2}
        others |= {"kimi-k3-dspark": 10, "qwen3.8-flash-next-dflash2": 2}
        before_last = others.get(name, 3)
        assert max(drafter.target_layer_ids) == len(target.layers) - before_last, name
        assert list(drafter.target_layer_ids) == sorted(set(drafter.target_layer_ids)), name


@pytest.mark.parametrize("name", [name.removesuffix("-eagle3") for name in names("eagle3")])
def test_eagle3_head(name: str) -> None:
    head, target = load_eagle3(name), load_model(name)
    hidden = target.hidden
    attention = 2 * hidden * (head.attention.q_dim + 2 * head.attention.kv_dim)
    attention += head.attention.q_dim * hidden
    linear = 3 * hidden**2 + attention + (3 * head.intermediate + head.draft_vocab) * hidden
    assert head.params - linear == 4 * hidden
    assert head.draft_vocab in (32_000, target.vocab)
    alike = len(set(target.layers)) == 1 and target.attention_layers
    if alike:  # heads of hybrids and of latent attention have an attention of their own
        assert head.attention.kv_bytes() * len(target.layers) == target.kv_bytes()


# -- tensor parallelism


def test_weight_bytes_on_one_rank_is_two_bytes_per_parameter() -> None:
    for name in names("models"):
        model = load_model(name)
        if model.quantized is None:
            elsewhere = sum(w.params * n for w, n in model._weights() if w.module == HOST)
            assert model.weight_bytes(1) == 2 * (model.params - elsewhere)


def test_mxfp4_experts_take_four_and_a_quarter_bits() -> None:
    """gpt-oss-120b downloads as 65.2 GB."""
    assert load_model("gpt-oss-120b").weight_bytes(1) == pytest.approx(65.25e9, rel=1e-3)


def test_tensor_parallel_copies_are_what_ranks_hold_twice() -> None:
    """Over tp ranks: everything once, norms and router tp times, KV heads tp / kv_heads times."""
    model = load_model("qwen3.5-397b-a17b")
    tp, kv_heads = 8, 2
    norms = model.hidden * (1 + 2 * 60) + 15 * 2 * 256 + 45 * 128
    routers = 60 * (512 + 1) * model.hidden
    kv_proj = 15 * 2 * model.hidden * kv_heads * 256
    extra = (tp - 1) * (norms + routers) + (tp // kv_heads - 1) * kv_proj
    assert tp * model.weight_bytes(tp) == 2 * (model.params + extra)


def test_drafter_replicates_its_projection() -> None:
    drafter = load_drafter("qwen3.5-397b-a17b-dflash")
    copies = 8 * 4096**2 + 2 * 4096 + 6 * (2 * 4096 + 2 * 128)
    assert drafter.weight_bytes(8) == 2 * ((drafter.params - copies) // 8 + copies)


@given(tp=st.sampled_from([1, 2, 4, 8]), name=st.sampled_from(names("models")))
def test_more_ranks_hold_less_each_and_no_less_together(tp: int, name: str) -> None:
    model = load_model(name)
    assert model.weight_bytes(2 * tp) < model.weight_bytes(tp)
    assert 2 * model.weight_bytes(2 * tp) >= model.weight_bytes(tp) - 1


def test_check_tp_lists_what_works() -> None:
    model = load_model("qwen3.5-27b")
    check_tp(model, 8)
    with pytest.raises(UsageError, match=r"tp=3; tp values that work: 1, 2, 4, 8$"):
        check_tp(model, 3)
    with pytest.raises(UsageError, match="tp=0"):
        check_tp(model, 0)


def test_check_tp_copies_kv_heads() -> None:
    check_tp(load_model("qwen3.5-397b-a17b"), 8)  # two key-value heads, each on four ranks
    check_tp(load_drafter("qwen3.5-397b-a17b-dflash"), 8)
    with pytest.raises(UsageError, match="llama"):
        check_tp(load_eagle3("llama-3.1-8b"), 5)


# -- parsing


def test_both_spellings_of_expert_counts() -> None:
    raw = hf_config("qwen3-235b-a22b")
    raw["num_local_experts"] = raw.pop("num_experts")
    raw["experts_per_token"] = raw.pop("num_experts_per_tok")
    assert parse_model(raw, name="x", source="x").layers == hf_model("qwen3-235b-a22b").layers


def test_layer_types_and_interval_agree() -> None:
    interval = hf_model("qwen3-next-80b-a3b")
    kinds = (["linear_attention"] * 3 + ["full_attention"]) * 12
    assert hf_model("qwen3-next-80b-a3b", layer_types=kinds) == interval
    every_other = hf_model("qwen3-next-80b-a3b", full_attention_interval=2)
    assert every_other.gdn_layers == 24


def test_sparse_step_and_dense_layers() -> None:
    model = hf_model("qwen3-next-80b-a3b", decoder_sparse_step=2, mlp_only_layers=[3])
    sparse = [i for i, x in enumerate(model.layers) if isinstance(x.mlp, MoeMlp)]
    assert sparse == [i for i in range(48) if i % 2 and i != 3]


def test_sliding_layers_by_max_window_layers() -> None:
    model = hf_model(
        "qwen3-32b", use_sliding_window=True, sliding_window=4096, max_window_layers=60
    )
    assert [a.window for a in model.attention_layers] == [None] * 60 + [4096] * 4
    assert model.kv_bytes() == hf_model("qwen3-32b").kv_bytes()


def test_head_dim_defaults_to_an_even_split() -> None:
    raw = hf_config("qwen3-32b")
    del raw["head_dim"]
    model = parse_model(raw, name="x", source="x")
    assert {a.head_dim for a in model.attention_layers} == {5120 // 64}


def test_gpt_oss_alternates_windows() -> None:
    windows = [a.window for a in load_model("gpt-oss-20b").attention_layers]
    assert windows == [128, None] * 12
    layer = load_model("gpt-oss-20b").layers[0]
    assert layer.mixer == AttentionShape(64, 8, 64, window=128, bias=True, sinks=True)


def test_layer_groups_are_in_order() -> None:
    model = load_model("qwen3.5-397b-a17b")
    (gdn, n_gdn), (full, n_full) = model.layer_groups
    assert (n_gdn, n_full) == (45, 15)
    assert gdn == model.layers[0]
    assert full == model.layers[3]
    assert gdn.mixer == GdnShape(16, 64, 128, 128, 4)


def test_default_taps_are_evenly_spaced() -> None:
    raw = {
        "num_hidden_layers": 5,
        "num_target_layers": 36,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "dflash_config": {"block_size": 16},
    }
    drafter = parse_drafter(raw, name="x", source="x")
    assert drafter.target_layer_ids == (1, 9, 17, 25, 33)  # as published for Qwen3-8B
    assert drafter.block_size == 16
    one = parse_drafter({**raw, "num_hidden_layers": 1}, name="x", source="x")
    assert one.target_layer_ids == (18,)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_attention_heads": "32"}, r"'num_attention_heads' is '32'; expected an integer"),
        ({"num_hidden_layers": True}, "'num_hidden_layers' is True"),
        ({"hidden_size": None}, "'hidden_size' is None"),
        ({"num_key_value_heads": 7}, "'num_key_value_heads' is 7; expected a divisor of"),
        ({"model_type": "bert"}, "unknown model_type of qwen3-32b 'bert'"),
        ({"torch_dtype": "float32"}, "'torch_dtype' is 'float32'; expected one of bfloat16"),
        ({"layer_types": ["full_attention"]}, "'layer_types' is .*; expected a list of 64 words"),
        ({"quantization_config": {"quant_method": "hqq"}}, "HQQ, whose kernels are in no table"),
        ({"quantization_config": "fp8"}, "'quantization_config' is 'fp8'; expected an object"),
        ({"text_config": 3}, "'text_config' is 3"),
    ],
)
def test_odd_fields_are_named(changes: dict, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        hf_model("qwen3-32b", **changes)


@pytest.mark.parametrize("name", names("drafters"))
def test_a_drafter_is_no_target(name: str) -> None:
    path = find_sheet("drafters", name, ".json")
    assert path is not None
    with pytest.raises(UsageError, match=r"is a drafter's, not a target's[.] Give it with --draft"):
        parse_model(json.loads(path.read_text("utf-8")), name=name, source="test")


def test_missing_field_is_named() -> None:
    raw = hf_config("qwen3-32b")
    del raw["hidden_size"]
    with pytest.raises(UsageError, match="'hidden_size' is missing; expected an integer"):
        parse_model(raw, name="mine", source="x")


def test_a_real_quantised_config() -> None:
    own = hf_model("qwen3-30b-a3b-fp8").precision
    assert own.form("experts") == own.form("attention") == "fp8"
    assert own.form("router") == own.form("lm_head") == "bfloat16"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 10**30)
    | st.floats()
    | st.sampled_from(["full_attention", "bfloat16", "mxfp4", "", "qwen3_5_moe", "gpt_oss"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
BASES = {
    **{name: hf_config(name) for name in ("qwen3-32b", "qwen3-235b-a22b", "qwen3-next-80b-a3b")},
    "gpt": {
        **hf_config("qwen3-235b-a22b"),
        "model_type": "gpt_oss",
        "quantization_config": {"quant_method": "mxfp4"},
    },
}
FIELDS = sorted(set().union(*BASES.values()) | {"layer_types", "dtype", "num_local_experts"})


@settings(max_examples=300, deadline=None)
@given(
    base=st.sampled_from(sorted(BASES)),
    changes=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    dropped=st.sets(st.sampled_from(FIELDS), max_size=3),
    nest=st.booleans(),
)
def test_parse_model_answers_or_complains(
    base: str, changes: dict, dropped: set, nest: bool
) -> None:
    raw = {k: v for k, v in {**BASES[base], **changes}.items() if k not in dropped}
    config = {"text_config": raw, "model_type": "x"} if nest else raw
    try:
        model = parse_model(config, name="fuzz", source="x")
    except DflashSimError:
        return
    assert 0 < model.active_params <= model.params
    assert model.weight_bytes(1) > 0
    assert sum(count for _, count in model.layer_groups) == len(model.layers)


DRAFTER = {
    "num_hidden_layers": 6,
    "num_target_layers": 60,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 248320,
    "draft_vocab_size": 32000,
    "block_size": 16,
    "sliding_window": 4096,
    "use_sliding_window": True,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    "dflash_config": {"target_layer_ids": [1, 9, 17]},
    "dtype": "bfloat16",
}


@settings(max_examples=300, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from(sorted(DRAFTER)), JSON, max_size=3),
    dropped=st.sets(st.sampled_from(sorted(DRAFTER)), max_size=3),
    parse=st.sampled_from([parse_drafter, parse_eagle3]),
)
def test_parse_drafter_answers_or_complains(changes: dict, dropped: set, parse) -> None:
    raw = {k: v for k, v in {**DRAFTER, **changes}.items() if k not in dropped}
    try:
        drafter = parse(raw, name="fuzz", source="x")
    except DflashSimError:
        return
    assert drafter.weight_bytes(1) == 2 * drafter.params
    if isinstance(drafter, DrafterShape):
        assert drafter.block_size >= 2


@given(st.none() | st.integers() | st.lists(st.integers()))
def test_a_config_must_be_an_object(raw) -> None:
    with pytest.raises(UsageError, match="expected a JSON object"):
        parse_model(raw, name="x", source="x")


def test_a_changed_layer_changes_the_count() -> None:
    """Negative control for the exact totals: one more head must show."""
    model = load_model("qwen3-8b")
    layer = model.layers[0]
    assert isinstance(layer.mixer, AttentionShape)
    wider = LayerShape(replace(layer.mixer, num_heads=33), layer.mlp)
    assert replace(model, layers=(wider, *model.layers[1:])).params != EXACT["qwen3-8b"]
