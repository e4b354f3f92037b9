"""Prompts of which a share is found in the prefix cache: what is computed, and what it costs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dflash_sim.cli import app
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.cost.ops import PrefillAttention
from dflash_sim.simulator.cost.parts import seconds_of
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.requests.workload import fixed_workload, with_hits
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.simulator.trial import hit_unit

LONG = {"gpu": "b200", "model": "qwen3-8b", "isl": 20_000, "osl": 60, "conc": 4, "runs": 1}


def ask(**changed: Any) -> Result:
    scenario = Scenario.parse(**LONG | {"method": "none"} | changed)
    return predict(scenario, with_baseline=False, with_interval=False)


@given(
    isl=st.integers(1, 50_000),
    share=st.floats(0, 1),
    unit=st.sampled_from([1, 16, 64, 256]),
)
def test_whole_units_are_found_and_a_token_is_left(isl: int, share: float, unit: int) -> None:
    work = with_hits(fixed_workload(isl=isl, osl=1, requests=3, conc=1), share, unit)
    found = int(work.cached[0])
    assert (work.cached == found).all()
    assert found % unit == 0
    assert 0 <= found < isl
    most = (isl - 1) // unit * unit
    assert abs(found - min(share * isl, most)) <= unit / 2 + 1e-6


def test_what_was_found_is_said() -> None:
    """20,000 tokens in pages of 64: of nine tenths 281 pages, 17,984 tokens."""
    assert ask(cache_hit=0.9).values["cache_hit_rate"] == pytest.approx(17_984 / 20_000)
    assert ask().values["cache_hit_rate"] == 0
    assert ask(cache_hit=1.0).values["cache_hit_rate"] == pytest.approx(19_968 / 20_000)


def test_more_hits_are_never_slower() -> None:
    first = [ask(cache_hit=share).values["mean_ttft_ms"] for share in (0.0, 0.3, 0.6, 0.9)]
    assert first == sorted(first, reverse=True)
    assert first[-1] < first[0] / 4


def test_a_prefill_behind_a_prefix_computes_what_is_new_and_attends_to_all() -> None:
    """No product is larger for a prefix; attention sees it, and costs less than computing it."""
    setup = resolve(Scenario.parse(**LONG | {"method": "none"}))
    step = setup.step
    phases = [step.cycle.prefill(requests=1, seq=2048, prefix=p) for p in (0.0, 18_432.0)]
    alone, behind = ([call for phase in each for call in phase.calls] for each in phases)
    differ = [(x, y) for x, y in zip(alone, behind, strict=True) if x != y]
    assert {type(y.op) for _, y in differ} == {PrefillAttention}
    more_s = sum(
        float(seconds_of(step.cost.calls([y]).as_array() - step.cost.calls([x]).as_array()))
        for x, y in differ
    )
    new_s, behind_s = (step.prefill_s(requests=1, tokens=2048, prefix=p) for p in (0.0, 18_432.0))
    factor = setup.engine["prefill_factor"] * setup.engine["time_factor"]
    assert behind_s - new_s == pytest.approx(factor * more_s)
    assert new_s < behind_s < step.prefill_s(requests=1, tokens=20_480) / 3


def test_both_engines_find_the_same() -> None:
    scenario = Scenario.parse(**LONG | {"method": "none", "cache_hit": 0.5, "range_ratio": 0.5})
    leap, event = (
        predict(scenario, simulator=name, with_baseline=False, with_interval=False).values
        for name in ("leap", "event")
    )
    assert leap == pytest.approx(event)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cache-hit", "1.5"], "--cache-hit 1.5"),
        (["--cache-hit", "-1"], "--cache-hit -1"),
        (["--cache-hit", "0.5", "--no-radix-cache"], "cache_hit 0.5 needs the prefix cache"),
    ],
)
def test_a_share_that_cannot_be_is_one_line(words: list[str], said: str) -> None:
    asked = ["predict", "--model", "qwen3-8b", "--isl", "100", "--osl", "9", "--gpu", "b200"]
    ran = CliRunner().invoke(app, [*asked, "--method", "none", *words])
    text = str(ran.exception) if isinstance(ran.exception, UsageError) else ran.output
    assert said in text
    assert "Traceback" not in text


def test_a_server_that_starts_without_a_cache_has_no_hits() -> None:
    """SGLang 0.5.13 switches the cache of a hybrid off where pages are larger than a token."""
    asked = {"gpu": "b200", "model": "qwen3.5-4b", "isl": 900, "osl": 9, "method": "none"}
    setup = resolve(Scenario.parse(**asked, cache_hit=0.9))
    assert hit_unit(setup) == setup.engine.defaults.mamba_track_interval
    paged = {"engine": "sglang-0.5.13", "attention_backend": "trtllm_mha"}
    bare = resolve(Scenario.parse(**asked, **paged, cache_hit=0.9))
    with pytest.raises(UsageError, match="without a prefix cache as it is launched"):
        hit_unit(bare)
