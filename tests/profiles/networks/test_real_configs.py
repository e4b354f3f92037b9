"""Real ``config.json`` files are answered, or refused by name; and families count every tensor."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_model
from dflash_sim.profiles.networks.families import FAMILIES, NOT_MODELLED, SAME_TEXT
from dflash_sim.profiles.networks.fields import Fields
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


# What no reader looks at, and why an answer is the same without. Keys of generation, of training,
# of tokens and of files are none of a pass's.
FREE = {
    "numbers inside kernels that run anyway": """attention_value_scale hidden_act hidden_activation
        index_skip_topk_offset indexer_rope_interleave layer_norm_epsilon layernorm_epsilon
        mamba_hidden_act mlp_hidden_act moe_router_dtype moe_router_scaling_factor norm_eps
        norm_topk_prob partial_rotary_factor residual_in_fp32 rms_norm_eps rope_interleave
        rope_theta rotary_dim routed_scaling_factor scoring_func swa_rope_theta swiglu_limit
        time_step_floor time_step_limit time_step_max time_step_min time_step_rank topk_group
        n_group use_mrope qk_norm_type output_gate_type initial_context_length
        activation_situ_beta activation_situ_linear_beta compress_rope_theta hc_eps
        hc_sinkhorn_iters mla_use_nope moe_renormalize moe_router_activation_func
        num_expert_group swiglu_alpha topk_method use_gemma_norm use_grouped_topk""",
    "said by another key as well": """architectures experts_per_token first_k_dense_replace
        full_attention_interval head_dim index_topk_freq index_topk_pattern intermediate_size
        intermediate_size_mlp layer_types max_window_layers mlp_only_layers
        mtp_hybrid_override_pattern mtp_layers_block_type mtp_transformer_layers n_shared_experts
        num_key_value_heads num_mtp_modules qk_head_dim quantization_config
        shared_expert_intermediate_size shared_intermediate_size sliding_window
        sliding_window_size top_k_experts use_mtp use_qk_norm attn_type_list expand
        expert_intermediate_size mtp_use_dedicated_embeddings text_config vision_config
        audio_config language_model_only vocab_size_per_layer_input attention_output_gate
        expert_dtype torch_dtype""",
    "a vector beside a matrix": """attention_bias mamba_proj_bias mlp_bias qkv_bias use_bias""",
    "of other inputs than text": """audio_token_id boa_token_id boi_token_id eoa_token_id
        eoa_token_index eoi_token_id image_token_id ignore_index media_placeholder_token_id
        use_bidirectional_attention use_unified_vision_chunk video_placeholder video_token_id
        vision_end_token_id vision_soft_tokens_per_image vision_start_token_id
        image_grid_pinpoints image_placeholder image_seq_length image_token_index
        img_token_compression_config multimodal_projector_bias process_image_mode
        projector_hidden_act projector_hidden_size video_token_index vision_feature_layer
        vision_feature_select_strategy""",
    "of the model's own scripts": """_name_or_path add_cross_attention aux_loss_alpha
        auto_map bad_words_ids begin_suppress_tokens chunk_size chunk_size_feed_forward
        cross_attention_hidden_size
        decoder_start_token_id diversity_penalty do_sample early_stopping
        encoder_no_repeat_ngram_size ep_size exponential_decay_length_penalty finetuning_task
        forced_bos_token_id forced_eos_token_id id2label is_decoder is_encoder_decoder label2id
        length_penalty max_length min_length moe_shared_expert_overlap no_repeat_ngram_size
        num_beam_groups num_beams num_logits_to_keep num_return_sequences output_attentions
        output_hidden_states output_router_logits output_scores prefix pretraining_tp
        problem_type pruned_heads remove_invalid_values repetition_penalty
        rescale_prenorm_residual return_dict return_dict_in_generate router_aux_loss_coef
        router_jitter_noise sep_token_id seq_aux suppress_tokens task_specific_params temperature
        tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p torchscript typical_p
        num_reward_heads use_bfloat16 use_cache use_mamba_kernels attention_dropout bos_token_id
        eos_token_id
        hidden_dropout initializer_range pad_token_id transformers_version""",
}


TINY = {
    "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 96,
}  # fmt: skip


class Asked(dict[str, Any]):
    """A config that notes which of its keys are asked for."""

    seen: set[str]

    def get(self, key: str, default: Any = None) -> Any:
        Asked.seen.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        Asked.seen.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        Asked.seen.add(str(key))
        return super().__contains__(key)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in REFUSED])
def test_every_key_is_read_or_known_to_be_free(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FOLDER is not None
    config = json.loads((FOLDER / f"{name}_config.json").read_text())
    begin = Fields.__init__

    def noting(self: Fields, config: object, name: str) -> None:
        begin(self, config, name)
        self.config = Asked(self.config)

    monkeypatch.setattr(Fields, "__init__", noting)
    Asked.seen = set()
    parse_model(config, name=name, source="a test")
    own = {**config, **(config.get("text_config") or {})}
    free = {key for keys in FREE.values() for key in keys.split()}
    assert sorted(own.keys() - Asked.seen - free) == []


def test_a_cap_on_logits_is_a_kernel_over_all_of_them() -> None:
    plain = load_model("gemma-3-12b")
    capped = load_model("gemma-4-31b")
    assert (plain.scaled_logits, capped.scaled_logits) == (False, True)
    size = Rows(requests=8, rows=16, ctx=1000)
    (cap,) = [c for c in target_forward(capped, tp=1, size=size) if c.op.name == "logits_scale"]
    assert cap.op.nbytes == 2 * 4 * 8 * 16 * capped.vocab
    names = [c.op.name for c in target_forward(plain, tp=1, size=size)]
    assert "logits_scale" not in names
    granite = target_forward(load_model("granite-3.3-8b"), tp=1, size=size)
    assert {c.op.name: c.count for c in granite}["residual_scale"] == 2 * 40


@pytest.mark.parametrize("key", ["final_logit_softcapping", "residual_multiplier"])
def test_a_factor_that_is_no_number_is_named(key: str) -> None:
    config = {"model_type": "qwen3", "hidden_size": 64, key: "high"}
    with pytest.raises(UsageError, match=f"field '{key}' is 'high'; expected a number"):
        parse_model(TINY | config, name="odd", source="a test")
