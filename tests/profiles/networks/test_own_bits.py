"""Modules that GPTQ and AutoRound give other bits than the rest of a checkpoint."""

from typing import Any

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.networks.quantized import Quantized, read


def _found(**said: Any) -> Quantized:
    config = {"model_type": "qwen3_moe", "num_hidden_layers": 4, "quantization_config": said}
    found = read(config, name="x")
    assert found is not None
    return found


def _stored(found: Quantized, module: str) -> str:
    return dict(found.formats).get(module, "bfloat16")


@pytest.mark.parametrize(
    ("method", "rules"),
    [
        ("gptq", {"dynamic": {r"+:.*self_attn.*": {"bits": 8}, r"-:.*shared_exp.*": {}}}),
        (
            "auto-round",
            {
                "extra_config": {
                    **{f"model.layers.{i}.self_attn.q_proj": {"bits": 8} for i in range(4)},
                    "mlp.shared_expert": {"bits": 16, "data_type": "float"},
                }
            },
        ),
    ],
)
def test_some_modules_have_bits_of_their_own(method: str, rules: dict[str, Any]) -> None:
    found = _found(quant_method=method, bits=4, group_size=128, **rules)
    assert _stored(found, "attention") == "w8a16"
    assert _stored(found, "experts") == "int4"
    assert _stored(found, "shared_expert") == "bfloat16"


def test_some_modules_have_groups_of_their_own() -> None:
    said = {"quant_method": "gptq", "bits": 8, "group_size": 128}
    rule = {r".*experts.*": {"bits": 4, "group_size": 32}}
    found = _found(**said, dynamic=rule)
    assert _stored(found, "attention") == "w8a16"
    assert _stored(found, "experts") == "int4_g32"


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (
            {"quant_method": "gptq", "dynamic": {"+:.*down_proj": {"bits": 3}}},
            r"x \(re:\.\*down_proj\): field 'bits' is 3; what is priced has 4, 8",
        ),
        (
            {"quant_method": "auto-round", "extra_config": {"mlp.down_proj": {"bits": 2}}},
            r"x \(mlp.down_proj\): field 'bits' is 2",
        ),
        ({"quant_method": "gptq", "dynamic": {"+:.*": 8}}, "expected an object"),
    ],
)
def test_other_widths_are_refused(said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        _found(bits=4, **said)
