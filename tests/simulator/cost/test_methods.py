"""The table of methods: a row is all that a method needs, and rows do not contradict others."""

from typing import Any

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.cost.cycle import Cycle, Method, Phase
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.methods import METHODS, method_of
from dflash_sim.simulator.cost.ops import Call, Elementwise
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
    takes=frozenset({"block", "acceptance", "engine_mode"}),
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
    algorithms = [
        a for m in METHODS.values() if m.algorithm for a in (m.algorithm, *m.algorithm_aliases)
    ]
    assert len(set(spellings)) == len(spellings)
    assert len(set(algorithms)) == len(algorithms)
    assert all(name == m.name for name, m in METHODS.items())


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_what_it_takes_is_a_field(method: Method) -> None:
    assert method.takes <= ONLY_SPECULATION
    assert method.speculative == bool(method.takes)
    assert ("steps" in method.takes) == method.sequential


@pytest.mark.parametrize(
    ("method", "field"),
    [
        (m.name, field)
        for m in METHODS.values()
        for field in ("block", "steps", "draft_model", "window", "acceptance")
        if field not in m.takes
    ],
)
def test_what_it_does_not_take_is_refused(method: str, field: str) -> None:
    value = {"draft_model": "qwen3-8b-dflash", "acceptance": "al:2"}.get(field, 4)
    with pytest.raises(UsageError, match=f"method {method} takes no {field}"):
        Scenario.parse(method=method, **{field: value})


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("NEXTN", "mtp"),
        ("EAGLE", "mtp"),
        ("eagle-3", "eagle3"),
        ("DFlash", "dflash"),
        ("baseline", "none"),
    ],
)
def test_what_people_call_it_is_taken(spelling: str, name: str) -> None:
    """And the scenario is the same, its hash included."""
    fields: dict[str, Any] = {"steps": 3} if name in ("mtp", "eagle3") else {}
    asked = Scenario.parse(method=spelling, **fields)
    assert asked == Scenario.parse(method=name, **fields)
    assert asked.hash == Scenario.parse(method=name, **fields).hash
