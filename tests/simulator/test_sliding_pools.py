"""Sliding layers have a pool of their own, of fewer tokens, where a release of SGLang gives one."""

import pytest

from dflash_sim.profiles.load import default_drafter, load_model
from dflash_sim.simulator.memory import MemoryPlan
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

LAYER = 8 * 2 * 64 * 2  # keys and values of one token in one layer of gpt-oss, in bfloat16 [byte]


def plan(model: str, engine: str, method: str = "none", tp: int = 1) -> MemoryPlan:
    asked = {"model": model, "engine": engine, "method": method, "gpu": "b200", "tp": tp}
    steps = {"steps": 3} if method == "eagle3" else {}
    return resolve(Scenario.parse(**asked, **steps)).memory


@pytest.mark.parametrize(
    ("engine", "layers"),
    [
        ("sglang-0.5.6", 24),  # switched off for gpt-oss
        ("sglang-0.5.10", 12 + 0.8 * 12),
        ("sglang-0.5.14", 12 + 0.8 * 12),
        ("sglang-0.5.23", 12 + 0.8 * 12),
    ],
)
def test_a_token_of_gpt_oss(engine: str, layers: float) -> None:
    """Half of its 24 layers slide: a tenth more tokens fit than where all layers hold all."""
    memory = plan("gpt-oss-20b", engine)
    assert memory.kv_bytes_per_token == pytest.approx(layers * LAYER)
    page = 64
    assert memory.kv_tokens == pytest.approx(memory.kv_bytes / (layers * LAYER), abs=page)


@pytest.mark.parametrize(("engine", "counted"), [("sglang-0.5.14", 0), ("sglang-0.5.20", 1)])
def test_keys_of_the_drafter_beside_such_pools(engine: str, counted: int) -> None:
    """SGLang's configurator of these pools leaves a DFlash drafter out until 0.5.20."""
    draft = sum(a.kv_bytes() for a in default_drafter("gpt-oss-20b").layers)
    target = (12 + 0.8 * 12) * LAYER
    memory = plan("gpt-oss-20b", engine, "dflash")
    assert memory.kv_bytes_per_token == pytest.approx(target + counted * draft)


def test_a_chain_is_counted_as_layers_that_do_not_slide() -> None:
    target = (12 + 0.8 * 12) * LAYER
    assert plan("gpt-oss-20b", "sglang-0.5.14", "eagle3").kv_bytes_per_token == target
    assert plan("gpt-oss-20b", "sglang-0.5.15", "eagle3").kv_bytes_per_token == target + LAYER


def test_gemma_3_holds_everything_in_every_layer_and_gemma_4_does_not() -> None:
    assert plan("gemma-3-27b", "sglang-0.5.14").kv_bytes_per_token == (
        load_model("gemma-3-27b").kv_bytes()
    )
    model = load_model("gemma-4-31b")
    full = sum(a.kv_bytes() for a in model.attention_layers if a.window is None)
    held = plan("gemma-4-31b", "sglang-0.5.14").kv_bytes_per_token
    assert held == pytest.approx(full + 0.8 * (model.kv_bytes() - full))


def test_heads_of_their_own_are_counted_where_they_slide() -> None:
    """MiMo-V2: 9 full layers of 4 heads, 39 sliding ones of 8, keys of 192 and values of 128."""
    held = plan("mimo-v2-flash", "sglang-0.5.14", tp=4).kv_bytes_per_token
    assert held == pytest.approx((9 * 1 + 0.8 * 39 * 2) * (192 + 128) * 2)
