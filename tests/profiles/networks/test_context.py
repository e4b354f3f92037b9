"""Context lengths, as servers take them from a config."""

from typing import Any

import pytest

from dflash_sim.profiles.errors import InfeasibleError
from dflash_sim.profiles.load import load_model, names
from dflash_sim.profiles.networks.fields import context_of
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": None}, 4096),
        ({"max_position_embeddings": 8192, "rope_scaling": {"type": "linear", "factor": 4}}, 32768),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"factor": 32.0, "original_max_position_embeddings": 4096},
            },
            131072,
        ),
        ({"max_position_embeddings": True}, None),
        ({}, None),
    ],
)
def test_scaling_counts_once(config: dict[str, Any], tokens: int | None) -> None:
    assert context_of(config) == tokens


def test_every_shipped_model_has_one() -> None:
    lengths = {name: load_model(name).context for name in names("models")}
    assert all(length and length >= 4096 for length in lengths.values()), lengths
    assert lengths["qwen3-8b"] == 40960


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    asked = {"model": "qwen3-8b", "method": "none", "gpu": "b200", "osl": 2000}
    with pytest.raises(InfeasibleError, match="40,960 tokens, answer included"):
        resolve(Scenario.parse(**asked, isl=40960))
    assert any(
        "after 960 tokens" in w for w in resolve(Scenario.parse(**asked, isl=40000)).warnings
    )
    assert not any("context" in w for w in resolve(Scenario.parse(**asked, isl=8000)).warnings)


def test_a_longer_context_takes_longer_prompts_and_no_more_time() -> None:
    asked = {"model": "qwen3-8b", "method": "none", "gpu": "b200", "osl": 2000}
    longer = resolve(Scenario.parse(**asked, isl=60000, context_length=131072))
    assert any("YaRN) changes no time" in w for w in longer.warnings)
    with pytest.raises(InfeasibleError, match="4,096 tokens, answer included"):
        resolve(Scenario.parse(**asked, isl=5000, context_length=4096))
    short, usual = (
        resolve(Scenario.parse(**asked, isl=3000, context_length=n)) for n in (4096, None)
    )
    assert any("after 1,096 tokens" in w for w in short.warnings)
    assert not any("YaRN" in w or "context" in w for w in usual.warnings)
    assert short.step.table(1).total.tolist() == usual.step.table(1).total.tolist()
