"""The table of methods: a row is all that a method needs, and rows do not contradict others."""

from typing import Any

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.simulator.cost.cycle import Cycle, Method, Phase
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.methods import METHODS, PLAIN, algorithms, method_of
from dflash_sim.simulator.cost.ops import Call, Elementwise
from dflash_sim.simulator.defaults import verify_rows
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import ONLY_SPECULATION, Scenario

SMALL: dict[str, Any] = {
    "model": "qwen3-8b",
    "conc": 2,
    "num_prompts": 4,
    "runs": 1,
    "max_new_tokens": 64,
    "acceptance": "al:2.5",
}


def lookups(cycle: Cycle, one: Rows, wide: Rows) -> tuple[Phase, Phase]:
    """A draft that looks each continuation up in the text so far: one small kernel per token."""
    seen = Call(Elementwise("ngram_lookup", 4.0 * one.ctx * one.requests), cycle.block - 1)
    return Phase("draft", [seen], 1), Phase("materialise", [], 0)


NGRAM = Method(
    name="ngram",
    title="n-gram lookup, block {block}",
    algorithm="NGRAM",
    drafts="block",
    takes=frozenset({"block", "acceptance"}),
    draft=lookups,
    keep_up=lambda cycle, size: Phase("materialise", [], 0),
)


def test_a_new_method_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, NGRAM.name, NGRAM)
    found = predict(Scenario.parse(method="ngram", block=8, **SMALL), with_interval=False)
    plain = found.baseline
    assert plain is not None
    assert found.values["draft_ms"] < 0.1 * found.values["verify_ms"]
    assert found.values["materialise_ms"] == 0
    assert found.setup.memory.draft_weight_bytes == 0
    assert found.setup.method.title.format(block=8) == "n-gram lookup, block 8"
    # Each step verifies 8 rows in hardly more than a decode step, and commits 2.5 tokens.
    assert 1.5 < (found.speedup or 0) < 2.6
    with pytest.raises(UsageError, match="method ngram takes no window; drop it"):
        Scenario.parse(method="ngram", block=8, window=64, **SMALL)


def test_without_the_row_it_is_unknown() -> None:
    """The control: the name alone means nothing."""
    with pytest.raises(UsageError, match=r"unknown method 'ngram'.*Have: .*dflash"):
        Scenario.parse(method="ngram", block=8, **SMALL)
    with pytest.raises(UsageError, match="unknown method"):
        method_of("ngram")


def test_names_are_not_shared() -> None:
    spellings = [s for m in METHODS.values() for s in (m.name, *m.aliases)]
    served = [m for m in METHODS.values() if m.algorithm]
    assert len(set(spellings)) == len(spellings)
    written = {a for m in served for a in (m.algorithm, *m.algorithm_aliases)}
    assert set(algorithms()) == written
    # One flag starts what its checkpoint makes of it, which is DFlash if it has no more parts.
    assert [m.name for m in served if m.algorithm == "DFLASH"] == ["dflash", "dflash2", "domino"]
    assert algorithms()["DFLASH"].name == method_of("DFLASH").name == "dflash"
    assert all(name == m.name for name, m in METHODS.items())


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_what_it_takes_is_a_field(method: Method) -> None:
    assert method.takes <= set(Scenario.model_fields)
    assert method.speculative == bool(method.takes)
    assert ("steps" in method.takes) == method.sequential
    assert ("draft_model" in method.takes) == (method.network not in ("none", "mtp-layer"))
    assert method.law in load_acceptance_priors().beta


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_a_width_is_asked_for_by_its_field(method: Method) -> None:
    """One of block and steps, or neither, makes a scenario that verifies so many rows."""
    block, steps = method.block(4), method.steps(4)
    assert [block, steps].count(None) == (1 if method.speculative else 2)
    asked = Scenario.parse(method=method.name, block=block, steps=steps)
    assert verify_rows(asked, None) == (4 if method.speculative else 1)


def test_a_question_without_speculation() -> None:
    """It keeps everything but what speculation has, and the engine mode is the usual one."""
    asked = Scenario.parse(method="mtp", steps=3, policy="ema", engine_mode="v1", conc=8, tp=4)
    plain = asked.without_speculation(tp=2)
    assert plain == Scenario.parse(method=PLAIN.name, conc=8, tp=2)
    assert not plain.speculation.speculative


@pytest.mark.parametrize(
    ("method", "field"),
    [
        (m.name, field)
        for m in METHODS.values()
        for field in sorted(ONLY_SPECULATION)
        if field not in m.takes
    ],
)
def test_what_it_does_not_take_is_refused(method: str, field: str) -> None:
    words = {"draft_model": "qwen3-8b-dflash", "acceptance": "al:2", "policy": "ema"}
    words["speculative_draft_model_quantization"] = "fp8"
    words["speculative_use_rejection_sampling"] = "true"
    value = words.get(field, 4)
    with pytest.raises(UsageError, match=f"method {method} takes no {field}"):
        Scenario.parse(method=method, **{field: value})


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("DFlash", "dflash"),
        *((spelling, m.name) for spelling, m in algorithms().items()),
        *((alias, m.name) for m in METHODS.values() for alias in m.aliases),
    ],
)
def test_what_people_call_it_is_taken(spelling: str, name: str) -> None:
    """And the scenario is the same, its hash included."""
    fields: dict[str, Any] = {"steps": 3} if METHODS[name].sequential else {}
    asked = Scenario.parse(method=spelling, **fields)
    assert asked == Scenario.parse(method=name, **fields)
    assert asked.hash == Scenario.parse(method=name, **fields).hash
