"""A config is of a family that is priced, or it is refused by what tells it apart."""

import json
from pathlib import Path
from typing import Any

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_drafter, load_model

LLAMA = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "vocab_size": 1000,
    "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 8,
}  # fmt: skip
DRAFTER = LLAMA | {
    "model_type": "qwen3",
    "architectures": ["DFlashDraftModel"],
    "block_size": 8,
    "dflash_config": {"target_layer_ids": [1]},
}


def saved(folder: Path, config: dict[str, Any], name: str = "config.json") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(config))
    return str(folder / name)


@pytest.mark.parametrize(
    "foreign",
    [{"num_local_experts": 16}, {"kv_lora_rank": 512}, {"attention_chunk_size": 8192}],
)
def test_layers_of_another_family_under_a_known_name(tmp_path: Path, foreign: Any) -> None:
    key, value = next(iter(foreign.items()))
    with pytest.raises(UsageError, match=f"'{key}' is {value}, which no llama model has"):
        load_model(saved(tmp_path, LLAMA | foreign))
    assert load_model(saved(tmp_path, LLAMA)).hidden == 512


def test_an_unknown_family_gets_no_guess(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown model_type of \w+ 'llama9'\. Have") as caught:
        load_model(saved(tmp_path / "m", LLAMA | {"model_type": "llama9_text"}))
    assert "did you mean" not in str(caught.value)


def test_the_text_layers_of_a_vision_model(tmp_path: Path) -> None:
    inner = LLAMA | {"model_type": "qwen3_vl_text"}
    model = load_model(saved(tmp_path, {"model_type": "qwen3_vl", "text_config": inner}))
    assert model.attention_layers[0].qk_norm


class TestQuantised:
    def test_by_the_name_alone(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is named FP8, and neither it nor"):
            load_model(saved(tmp_path, LLAMA, "Mine-8B-FP8.json"))

    @pytest.mark.parametrize("name", ["config.json", "mine.json"])
    def test_by_the_file_beside_it(self, tmp_path: Path, name: str) -> None:
        saved(tmp_path, {"quantization": {"quant_algo": "FP8"}}, "hf_quant_config.json")
        model = load_model(saved(tmp_path, LLAMA, name))
        assert dict(model.precision.modules)["attention"] == "fp8"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architectures": ["JetDraftModel"]}, "'architectures' is 'JetDraftModel'"),
        ({"dflash_config": {"projector_type": "dart", "target_layer_ids": [1]}}, "'dart'"),
        ({"dflash_config": {"attention_mode": "mla"}}, "'attention_mode' is 'mla'"),
        ({"n_routed_experts": 512}, "'n_routed_experts' is 512"),
    ],
)
def test_a_drafter_of_another_kind_is_not_plain_dflash(
    tmp_path: Path, change: Any, says: str
) -> None:
    assert load_drafter(saved(tmp_path, DRAFTER)).block_size == 8
    with pytest.raises(UsageError, match="only these, dense") as caught:
        load_drafter(saved(tmp_path, DRAFTER | change))
    assert says in str(caught.value)
