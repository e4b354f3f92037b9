"""A quantisation that nobody would write is read or refused in words, and never a traceback."""

from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.networks.quantized import Quantized, read
from dflash_sim.profiles.quantization.module_names import LAYERED, Patterns

_SCALARS = st.sampled_from((None, True, -1, 4, 8.0, 16, 128, "4", "int", "Linear", "NVFP4", "re:("))
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(("bits", "a")), inner)
    ),
    max_leaves=4,
)
_WRITTEN: tuple[dict[str, Any], ...] = (
    {
        "quant_method": "gptq", "bits": 4, "group_size": 128, "data_type": "int", "lm_head": False,
        "dynamic": {"+:.*mlp.*": {"bits": 8}, "-:.*attn.*": {}},
        "extra_config": {"lm_head": {"bits": 16}},
    },
    {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "modules_to_not_convert": ["lm_head"]},
    {"quant_method": "fp8", "weight_block_size": [128, 128], "expert_dtype": "fp4"},
    {"quant_algo": "NVFP4", "group_size": 16, "kv_cache_quant_algo": "FP8", "ignore": ["lm_head"]},
    {
        "quant_algo": "MIXED_PRECISION", "quant_method": "modelopt",
        "quantized_layers": {"mlp": {"quant_algo": "W4A16_AWQ", "group_size": 128}},
    },
    {
        "quant_method": "compressed-tensors",
        "config_groups": {
            "a": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 8, "type": "float", "strategy": "block", "group_size": None,
                    "block_structure": [128, 128],
                },
                "input_activations": {"num_bits": 8},
            },
            "b": {"targets": ["re:.*mlp.*"], "weights": {"num_bits": 4, "type": "float",
                                                        "group_size": 16}},
        },
        "kv_cache_scheme": {"num_bits": 8, "type": "float"},
    },
)  # fmt: skip


@st.composite
def _miswritten(draw: st.DrawFn) -> dict[str, Any]:
    """A quantisation that somebody might write, but for one value somewhere in it."""
    said = deepcopy(draw(st.sampled_from(_WRITTEN)))
    inside: Any = said
    while True:
        key = draw(st.sampled_from(sorted(inside)))
        if not isinstance(inside[key], dict) or not inside[key] or draw(st.integers(0, 3)) == 0:
            inside[key] = draw(_VALUES)
            return said
        inside = inside[key]


def _config(**said: Any) -> dict[str, Any]:
    return {"model_type": "qwen3_moe", "num_hidden_layers": 2, "quantization_config": said}


def _group(**said: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": said}}


def _weights(**said: Any) -> dict[str, Any]:
    return _group(weights=said)


_FOUR = {"num_bits": 4, "type": "int", "group_size": 128}
_ODD = [
    ({"quant_method": "awq", "bits": 4, "group_size": [128]}, r"groups of \[128\]"),
    ({"quant_method": "gptq", "bits": 4, "group_size": [128]}, r"groups of \[128\]"),
    ({"quant_algo": "NVFP4", "group_size": [16]}, r"groups of \[16\]"),
    (_weights(num_bits=4, type="float", group_size=[16]), r"groups of \[16\]"),
    (_weights(num_bits=4, type="float", group_size={}), "groups of {}"),
    ({"quant_method": "fp8", "weight_block_size": [[128], 128]}, "'weight_block_size' is"),
    ({"quant_method": "gptq", "bits": [[4]]}, "'bits' is"),
    ({"quant_method": "gptq", "bits": "4"}, "'bits' is '4'; what is priced has 4, 8"),
    ({"quant_method": "auto-round", "data_type": ["int"]}, "'data_type' is"),
    (_weights(**_FOUR) | {"kv_cache_scheme": {"type": "float", "num_bits": [8]}}, "KV cache"),
    (_weights(**_FOUR) | {"kv_cache_scheme": {"type": "float", "num_bits": {}}}, "KV cache"),
    (_group(weights=_FOUR, targets=7), "'targets' is 7; expected a list of module names"),
    (_group(weights=_FOUR, targets="Linear"), "'targets' is 'Linear'; expected a list of module"),
]


@pytest.mark.parametrize(("said", "complaint"), _ODD)
def test_a_value_of_another_type_is_named(said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        read(_config(**said), name="x")


@settings(max_examples=300)
@given(_miswritten())
def test_any_value_is_read_or_refused(said: dict[str, Any]) -> None:
    with suppress(UsageError):
        found = read(_config(**said), name="x")
        assert found is None or isinstance(found, Quantized)


_LISTED = (
    "lm_head", "model.layers.3.mlp", "layers.3.mlp", "7.mlp.down_proj", "mlp.experts.0",
    "*mlp.gate*", "model.layers.5.*", "layers.1*.mlp.*", "*.1*", "re:.*mlp.gate_proj$",
    r"re:^model\.layers\.9\.mlp", r"re:.*layers\.[0-4]\.self_attn.*", "re:.*layers.{3}mlp.*",
    "re:.*layers...mlp.*", "re:(.*o_proj|.*attn.q_proj)", "re:model.layers.11.mlp.*",
)  # fmt: skip
_PATHS = list(LAYERED.values())


@settings(max_examples=60)
@given(st.lists(st.sampled_from(_LISTED), max_size=4))
def test_layers_that_no_list_tells_apart_have_the_same_modules(listed: list[str]) -> None:
    names = Patterns(listed)
    alike: dict[object, set[tuple[bool, ...]]] = {}
    for layer in range(16):
        found = tuple(names.match(path) for paths in _PATHS for path in paths("qwen3", layer))
        alike.setdefault((not layer, names.said_of(layer)), set()).add(found)
    assert {len(each) for each in alike.values()} == {1}


def test_layers_of_which_lists_say_the_same_are_looked_at_once() -> None:
    every = [f"model.layers.{i}.mlp.gate" for i in range(60)]
    assert len({Patterns(every).said_of(i) for i in range(1, 60)}) == 1
    assert len({Patterns([*every, "layers.7.mlp"]).said_of(i) for i in range(1, 60)}) == 2
    assert len({Patterns(["re:.*[3-5].*"]).said_of(i) for i in range(1, 60)}) == 59
