"""Drafters that descend from DFlash: totals of parameters, parts, and what is refused."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import FOLDERS, sheets
from dflash_sim.profiles.load import load_drafter, load_eagle3, load_model, names
from dflash_sim.profiles.networks.drafter_shapes import KIND_TITLES, Convolutions
from dflash_sim.profiles.networks.hf_config import (
    DrafterShape,
    MlaShape,
    parse_drafter,
    parse_eagle3,
)

# Parameters of published files, or of the shapes of their tensors.
TOTALS = {
    "qwen3.8-27b-dflash2": 1_924_404_480,
    "qwen3.6-27b-dflash2": 1_924_404_480,
    "qwen3.8-27b-dspark": 1_857_358_337,
    "qwen3.6-27b-dspark": 1_857_358_337,
    "qwen3-8b-dspark": 1_126_422_017,
    "qwen3-4b-dspark": 615_221_249,
    "glm-5.2-dspark": 1_715_157_889,
    "qwen3.6-27b-domino": 1_814_230_272,
    "qwen3-8b-domino": 1_104_561_408,
    "qwen3.5-4b-domino": 593_263_872,
    "qwen3.8-flash-next-dflash2": 695_497_216,  # of a tensor manifest
    "glm-5.3-flash-dflash2": 1_171_080_448,
    "kimi-k3-dspark": 2_249_289_601,  # a file of 4,498,585,858 bytes with headers
}
FLASH_NEXT: dict[str, Any] = {
    "architectures": ["DFlash2DraftModel"],
    "num_hidden_layers": 6,
    "hidden_size": 2560,
    "intermediate_size": 8704,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 248320,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    "sliding_window": 4096,
    "is_causal": False,
    "block_size": 16,
    "num_target_layers": 48,
    "dflash_config": {
        "target_layer_ids": [1, 7, 13, 20, 26, 33, 39, 46],
        "conv_kernel_size": 2,
        "conv_group_size": 16,
        "selector_rank": 256,
        "selector_top_k": 16,
        "selector_vocab_size": 248077,
    },
}
KIMI_K3: dict[str, Any] = {
    "architectures": ["DSparkDraftModel"],
    "num_hidden_layers": 5,
    "hidden_size": 7168,
    "intermediate_size": 14336,
    "num_attention_heads": 64,
    "num_key_value_heads": 16,
    "head_dim": 64,
    "vocab_size": 163840,
    "block_size": 7,
    "dflash_config": {
        "target_layer_ids": [7, 23, 51, 67, 83],
        "markov_rank": 256,
        "markov_head_type": "vanilla",
        "enable_confidence_head": True,
        "confidence_head_with_markov": True,
    },
}


def drafter(config: Mapping[str, Any], **nested: Any) -> DrafterShape:
    inside = {**config["dflash_config"], **nested}
    return parse_drafter({**config, "dflash_config": inside}, name="mine", source="a test")


@pytest.mark.parametrize(("name", "params"), TOTALS.items())
def test_shipped_ones_have_the_parameters_that_are_published(name: str, params: int) -> None:
    found = load_drafter(name)
    assert found.params == params
    assert found.weight_bytes(1) == 2 * params


def test_every_one_that_descends_from_dflash_has_its_total_here() -> None:
    kinds = {name: load_drafter(name).kind for name in names("drafters")}
    assert {name for name, kind in kinds.items() if kind != "dflash"} == set(TOTALS)
    assert set(kinds.values()) == set(KIND_TITLES)


def test_published_files_are_as_long_as_the_shapes_say() -> None:
    assert drafter(FLASH_NEXT).params == TOTALS["qwen3.8-flash-next-dflash2"]
    assert 0 < 4_498_585_858 - drafter(KIMI_K3).weight_bytes(1) < 10_000


def test_parts_are_on_every_rank_but_what_the_vocabulary_is_cut_by() -> None:
    """Over 8 ranks: convolutions, selector and first table whole, the second table in parts."""
    for name in ("qwen3.8-27b-dflash2", "qwen3.8-27b-dspark", "qwen3.6-27b-domino"):
        found = load_drafter(name)
        plain = load_drafter("qwen3.6-27b-dflash")
        more = found.params - plain.params
        shared = 248320 * 256 if found.markov else 0
        extra = found.weight_bytes(8) - plain.weight_bytes(8)
        assert extra == pytest.approx(2 * (more - shared + shared / 8), abs=2)


def test_a_block_of_dspark_has_one_draft_more_than_dflash() -> None:
    assert load_drafter("qwen3.8-27b-dspark").block_size == 7
    assert load_drafter("qwen3.8-27b-dspark").width == 8
    assert load_drafter("qwen3.8-27b-dflash2").width == 8 == drafter(FLASH_NEXT).width / 2


def test_layers_see_their_whole_block_unless_the_config_says_otherwise() -> None:
    """Full layers do; sliding ones are causal, as SGLang has it, but with ``is_causal`` false."""
    assert [x.causal for x in drafter(FLASH_NEXT).layers] == [False] * 6
    silent = {k: v for k, v in FLASH_NEXT.items() if k != "is_causal"}
    assert [x.causal for x in drafter(silent).layers] == [True] * 5 + [False]
    assert all(x.causal for x in drafter({**FLASH_NEXT, "is_causal": True}).layers)
    assert not any(x.causal for x in load_drafter("qwen3.8-27b-dflash2").layers)
    assert all(x.causal for x in load_drafter("laguna-xs-2.1-dflash").layers)
    assert all(x.causal for x in load_model("qwen3.8-27b").attention_layers)


def test_convolution_weights_follow_from_taps_and_groups() -> None:
    """A projection [2 sides x 2 taps x 320 groups, 5120] and a kernel [2, 2, 5120]."""
    weights = list(Convolutions(2, 16).weights(5120))
    assert [w.params for w in weights] == [1280 * 5120, 2 * 2 * 5120]


@pytest.mark.parametrize(
    ("config", "nested", "says"),
    [
        (FLASH_NEXT, {"selector_rank": None}, "'selector_rank' is None; expected an integer"),
        (FLASH_NEXT, {"conv_kernel_size": "2"}, "'conv_kernel_size' is '2'"),
        (FLASH_NEXT, {"conv_group_size": 48}, "'conv_group_size' is 48; expected a divisor"),
        (FLASH_NEXT, {"selector_top_k": 10**7}, "'selector_top_k' is 10000000"),
        (KIMI_K3, {"markov_rank": 0}, "'markov_rank' is 0"),
        (KIMI_K3, {"markov_head_type": "gated"}, "'markov_head_type' is 'gated'; expected 'van"),
        (KIMI_K3, {"attention_mode": "mla"}, "'attention_mode' is 'mla'; a drafter of that kind"),
        (KIMI_K3, {"projector_type": "domino"}, "'gru_hidden_dim' is missing"),
    ],
)
def test_a_config_that_does_not_add_up_is_one_line(
    config: dict[str, Any], nested: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        drafter(config, **nested)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parts_of_a_plain_checkpoint_are_read_too() -> None:
    """SGLang goes by the sizes, not by the name of the class."""
    renamed = {**FLASH_NEXT, "architectures": ["DFlashDraftModel"]}
    assert drafter(renamed) == drafter(FLASH_NEXT)
    bare = {"target_layer_ids": [1, 7], "projector_type": "dflash"}
    assert parse_drafter({**renamed, "dflash_config": bare}, name="x", source="y").kind == "dflash"


def test_configs_say_what_the_release_would_not_guess() -> None:
    for path in sheets(*FOLDERS["drafters"]):
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        if not path.stem.endswith("-dflash"):
            assert raw["block_size"]
            assert raw["dflash_config"]["mask_token_id"] < raw["vocab_size"]


# ---- EAGLE-3 heads and MTP layers -----------------------------------------------------------

HEAD = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "num_hidden_layers": 1,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "draft_vocab_size": 32000,
}


def test_a_head_of_any_config_is_read_with_all_its_layers() -> None:
    """A second layer reads one hidden state, where the first reads two."""
    one = parse_eagle3(HEAD, name="one", source="a test")
    assert replace(one, name="x", source="y") == replace(
        load_eagle3("qwen3-8b"), name="x", source="y", target=""
    )
    two = parse_eagle3({**HEAD, "num_hidden_layers": 2}, name="two", source="a test")
    layer = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 12288 + 2 * 4096
    assert two.params - one.params == layer
    whole = {k: v for k, v in HEAD.items() if k != "draft_vocab_size"}
    assert parse_eagle3(whole, name="whole", source="a test").draft_vocab == 151936


@pytest.mark.parametrize("name", ["PEagleDraftModel", "LlamaForCausalLMEagle"])
def test_a_head_that_drafts_otherwise_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"'architectures' is '{name}'; a head of that kind"):
        parse_eagle3({**HEAD, "architectures": [name]}, name="mine", source="a test")


def test_draft_steps_of_glm_take_the_tokens_that_the_extend_chose() -> None:
    """Its config says ``index_share_for_mtp_iteration``; that of GLM-5 does not."""
    shared, own = load_model("glm-5.2"), load_model("glm-5")
    for model, chooses in ((shared, False), (own, True)):
        extend, step = model.mtp_layer, model.mtp_draft_layer
        assert extend is not None
        assert step is not None
        assert isinstance(extend.mixer, MlaShape)
        assert isinstance(step.mixer, MlaShape)
        assert extend.mixer.indexer is not None
        assert step.mixer.indexer is not None
        assert not extend.mixer.indexer.shared
        assert step.mixer.indexer.shared == (not chooses)
    for name in ("deepseek-v3", "qwen3.8-27b"):
        assert load_model(name).mtp_draft_layer == load_model(name).mtp_layer
