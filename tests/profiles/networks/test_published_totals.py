"""Totals of parameters as they are published: of checkpoints, and of what model cards say."""

import pytest

from dflash_sim.profiles.load import load_model
from dflash_sim.profiles.networks.hf_config import ModelShape
from dflash_sim.profiles.units import BF16_BYTES

# Totals of the safetensors index on Hugging Face, and what they hold besides the text layers:
# nothing, an MTP layer ("mtp"), or one that has copies of embedding and head ("mtp, copies").
EXACT = {
    "glm-4.5": (358_337_791_296, "mtp, copies"),
    "glm-4.5-air": (110_468_824_832, "mtp, copies"),
    "glm-4.6": (358_337_791_296, "mtp, copies"),
    "glm-4.7": (358_337_791_296, "mtp, copies"),
    "glm-4.7-flash": (31_221_488_576, "mtp, copies"),
    "granite-3.3-8b": (8_170_864_640, ""),
    "llama-2-7b": (6_738_415_616, ""),
    "llama-3-70b": (70_553_706_496, ""),
    "llama-3-8b": (8_030_261_248, ""),
    "llama-3.1-405b": (405_853_388_800, ""),
    "llama-3.2-1b": (1_235_814_400, ""),
    "llama-3.2-3b": (3_212_749_824, ""),
    "llama-3.3-nemotron-super-49b": (49_867_145_216, ""),
    "mimo-7b": (7_833_409_536, "mtp"),
    "mistral-7b": (7_248_023_552, ""),
    "mistral-small-24b": (23_572_403_200, ""),
    "mistral-small-3.2-24b": (23_572_403_200, ""),
    "mixtral-8x22b": (140_620_634_112, ""),
    "mixtral-8x7b": (46_702_792_704, ""),
    "nemotron-3-nano-30b-a3b": (31_577_940_288, ""),
    "phi-4": (14_659_507_200, ""),
    "qwen2.5-0.5b": (494_032_768, ""),
    "qwen2.5-1.5b": (1_543_714_304, ""),
    "qwen2.5-3b": (3_085_938_688, ""),
    "qwen2.5-14b": (14_770_033_664, ""),
    "qwen2.5-32b": (32_763_876_352, ""),
    "qwen2.5-72b": (72_706_203_648, ""),
    "qwen2.5-7b": (7_615_616_512, ""),
    "qwen3-0.6b": (596_049_920, ""),
    "qwen3-1.7b": (1_720_574_976, ""),
    "qwen3-14b": (14_768_307_200, ""),
    "qwen3-coder-480b-a35b": (480_154_875_392, ""),
}
# Multimodal checkpoints: the index, and the vision tower with its projection within it.
WITH_TOWER = {
    "gemma-3-12b": (12_187_325_040, 421_290_864),
    "gemma-3-27b": (27_432_406_640, 423_060_336),
    "llama-4-maverick": (401_583_781_376, 871_932_416),
    "llama-4-scout": (108_641_793_536, 871_932_416),
}
# What cards and names say [1e9]: total, and active per token where they say it.
NAMED = {
    "gemma-4-26b-a4b": (25.2, 3.8),
    "gemma-4-31b": (30.7, 30.7),
    "glm-4.5": (355, 32),
    "glm-4.5-air": (106, 12),
    "laguna-s-2.1": (118, 8),
    "laguna-xs-2.1": (33, 3),
    "llama-4-maverick": (400, 17),
    "llama-4-scout": (109, 17),
    "mimo-v2-flash": (309, 15),
    "minimax-m2.5": (229, 10),
    "minimax-m2.7": (229, 10),
    "nemotron-3-nano-30b-a3b": (31.6, 3.2),
    "nemotron-3-super-120b-a12b": (120.7, 12.1),
    "nemotron-3-ultra-550b-a55b": (550, 55),
    "nemotron-3.5-lightning-30b-a3b": (31.6, 3.2),
    "nemotron-h-56b": (56, 56),
    "qwen3-vl-235b-a22b": (235, 22),
    "qwen3-vl-30b-a3b": (30.5, 3.3),
    "qwen3-vl-32b": (32.8, 32.8),
    "qwen3-vl-4b": (4.0, 4.0),
    "qwen3-vl-8b": (8.2, 8.2),
    "step-3.7-flash": (196, 11),
}


def mtp_params(model: ModelShape) -> int:
    """Values of the MTP layer, from its bytes in bfloat16."""
    return model.mtp_weight_bytes(1) // BF16_BYTES


@pytest.mark.parametrize(("name", "total", "holds"), [(n, *row) for n, row in EXACT.items()])
def test_a_checkpoint_is_counted_to_the_value(name: str, total: int, holds: str) -> None:
    model = load_model(name)
    copies = 2 * model.vocab * model.hidden if "copies" in holds else 0
    mtp = mtp_params(model) if "mtp" in holds else 0
    assert model.params + mtp + copies == total


@pytest.mark.parametrize(("name", "total", "tower"), [(n, *r) for n, r in WITH_TOWER.items()])
def test_text_layers_are_what_the_tower_leaves(name: str, total: int, tower: int) -> None:
    """Both Llama 4 have one tower, so the same number must be left of two unlike text models."""
    assert load_model(name).params + tower == total


@pytest.mark.parametrize(("name", "total", "active"), [(n, *r) for n, r in NAMED.items()])
def test_a_card_says_about_as_much(name: str, total: float, active: float) -> None:
    model = load_model(name)
    assert model.params / 1e9 == pytest.approx(total, rel=0.015)
    assert model.active_params / 1e9 == pytest.approx(active, rel=0.1)
