"""Servers of DeepSeek, Kimi and GLM: backends, pages, caches and what does not fit, end to end."""

from typing import Any

import pytest

from dflash_sim.profiles.errors import InfeasibleError, UsageError
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve

ASKED: dict[str, Any] = {
    "model": "deepseek-r1",
    "gpu": "b200",
    "tp": 8,
    "method": "none",
    "isl": 1024,
    "osl": 256,
    "conc": 16,
}


def setup(**changes: Any) -> Setup:
    return resolve(Scenario(**ASKED | changes))


@pytest.mark.parametrize(
    ("model", "gpu", "backend", "page"),
    [
        ("deepseek-r1", "b200", "trtllm_mla", 64),
        ("deepseek-r1", "h200", "fa3", 1),
        ("kimi-k2.5", "b200", "trtllm_mla", 64),
        ("deepseek-v3.2", "b200", "dsa", 64),
        ("deepseek-v3.2", "h200", "dsa", 64),
        ("qwen3-8b", "b200", "trtllm_mha", 64),
    ],
)
def test_backend_and_page(model: str, gpu: str, backend: str, page: int) -> None:
    made = setup(model=model, gpu=gpu)
    assert (made.backend, made.limits.page_size) == (backend, page)


def test_a_backend_of_other_models_is_refused() -> None:
    with pytest.raises(UsageError, match="'trtllm_mha'; did you mean trtllm_mla"):
        setup(attention_backend="trtllm_mha")
    with pytest.raises(UsageError, match="unknown attention backend 'dsa'"):
        setup(model="qwen3-8b", attention_backend="dsa")


def test_another_backend_is_priced_as_the_default_and_says_so() -> None:
    said = "kernels of flashinfer are priced as those of trtllm_mla, the default of b200"
    assert any(said in w for w in setup(attention_backend="flashinfer").warnings)
    for same in (setup(), setup(attention_backend="trtllm_mla")):
        assert not any("are priced as those of" in w for w in same.warnings)
    other = setup(model="qwen3-8b", tp=1, attention_backend="flashinfer")  # it has its own times
    assert not any("are priced as those of" in w for w in other.warnings)


def test_the_cache_of_a_rank_is_the_whole_one() -> None:
    made = setup()
    assert made.memory.kv_bytes_per_token == 61 * 576 * 2
    assert made.memory.kv_tokens == pytest.approx(made.memory.kv_bytes / (61 * 576 * 2), rel=1e-3)
    drafting = setup(method="mtp", steps=3, acceptance="al:2.5")
    assert drafting.memory.kv_bytes_per_token == 62 * 576 * 2
    assert drafting.memory.draft_weight_bytes > 1e9  # a whole layer of experts, over 8 ranks


def test_an_fp8_cache_is_what_sparse_models_have_on_blackwell() -> None:
    assert setup(model="deepseek-v3.2").precision.kv_cache == "fp8"
    assert setup(model="deepseek-v3.2", gpu="h200").precision.kv_cache == "bfloat16"
    assert setup().precision.kv_cache == "bfloat16"


def test_bf16_weights_that_do_not_fit_are_told_what_would() -> None:
    with pytest.raises(InfeasibleError, match="--quantization fp8 would at tp 8"):
        setup(model="glm-5")


def test_a_cache_that_limits_requests_says_what_would_hold_more() -> None:
    long: dict[str, Any] = {"gpu": "h200", "isl": 60_000, "osl": 32, "runs": 1}
    crowded, room = (predict(Scenario(**ASKED | long | {"conc": n})) for n in (16, 4))
    assert crowded.setup.memory.kv_tokens // 60_032 in range(5, 16)
    assert any("the same on each of 8 ranks" in w for w in crowded.warnings)
    assert not any("ranks" in w for w in room.warnings)


@pytest.mark.parametrize(("rate", "short"), [(1.0, True), (0.02, False)])
def test_a_cache_limits_what_arrives_where_more_is_in_flight(rate: float, short: bool) -> None:
    asked = ASKED | {"isl": 60_000, "osl": 32, "runs": 1, "conc": None, "rate": rate}
    found = predict(Scenario(**asked), with_interval=False)
    held = found.setup.memory.kv_tokens // 60_032
    assert held < found.setup.memory.max_running_requests
    assert (found.values["concurrency"] > held) is short
    assert any("the same on each of 8 ranks" in w for w in found.warnings) is short


@pytest.mark.parametrize("model", ["deepseek-r1", "deepseek-v3.2"])
def test_steps_are_priced_at_every_context(model: str) -> None:
    """A decode step grows with the context, and that of sparse attention far less."""
    step = setup(model=model).step
    short, long = (step.decode_s(16, 16 * ctx) for ctx in (1000, 2200))
    assert 0 < short < long
    assert step.prefill_s(requests=1, tokens=2048) > step.prefill_s(requests=1, tokens=1024)


def test_sparse_attention_pays_at_long_contexts() -> None:
    def growth(model: str) -> float:
        step = setup(model=model, isl=64_000, kv_cache_dtype="fp8_e4m3").step
        return step.decode_s(16, 16 * 60_000) - step.decode_s(16, 16 * 4000)

    assert growth("deepseek-v3.2") < 0.75 * growth("deepseek-r1")
