"""What stands behind an answer: how many requests run at once, and which accept length it took."""

import re
from typing import Any

import pytest

from dflash_sim.simulator.predict import doubts
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.ask.question import ask
from dflash_sim.studies.ask.slots import capped as over_the_cap
from dflash_sim.studies.crossover.behind import facts
from dflash_sim.studies.crossover.page import CrossoverPage
from dflash_sim.studies.crossover.question import question
from dflash_sim.studies.crossover.rows import crossover_rows, warnings
from dflash_sim.studies.crossover.search import Crossover, crossover
from dflash_sim.studies.show.terminal import as_page

FEW: dict[str, Any] = {
    "gpu": "h200", "model": "qwen3.6-27b", "num_prompts": "8", "max_new_tokens": "128",
}  # fmt: skip


def answered(over: str, values: str, **flags: Any) -> Crossover:
    fields, _ = ask({**FEW, **flags}, preset=None, from_launch=None)
    return crossover(question(fields, over=over, values=values), interval=False)


@pytest.fixture(scope="module")
def capped() -> Crossover:
    return answered("conc", "1,128", method="dflash,mtp", num_prompts="128")


def test_a_page_names_the_caps_and_the_flags_that_lift_them(capped: Crossover) -> None:
    """Both methods pay everywhere, and how many of them run is all that tells one from the other.

    The caps are those of the servers, and the flags give what a server with them has.
    """
    page = " ".join(as_page(CrossoverPage(capped), to_file=True).split())
    for curve in capped.curves:
        cap = curve.setup.memory.max_running_requests
        assert cap < 128
        said = (
            f"{re.escape(curve.title)}: {cap} of 128 run at once \\(GDN state slots; (\\d+) with "
        )
        found = re.search(said + r"([^)]*)\)", page)
        assert found
        typed, _ = ask(_flags(found[2]), preset=None, from_launch=None)
        fields = {name: given.value for name, given in typed.items()}
        more = resolve(curve.server.setup(128).scenario.model_copy(update=fields))
        assert int(found[1]) == min(128, more.memory.max_running_requests) > cap
        row = next(r for r in crossover_rows(capped) if r["method"] == curve.setup.method.name)
        assert (row["max_running_requests"], row["cap_cause"]) == (cap, "GDN state slots")


def _flags(words: str) -> dict[str, Any]:
    """Flags as they are typed, by field."""
    found: dict[str, Any] = {}
    for word in words.split():
        if word.startswith("--"):
            name = word.removeprefix("--").replace("-", "_")
            found[name] = True
        else:
            found[name] = word
    return found


def test_a_page_names_accept_lengths_and_their_source(capped: Crossover) -> None:
    for curve, line in zip(capped.curves, facts(capped)[-2:], strict=True):
        assert curve.setup.expectation is not None
        assert curve.setup.expectation.source in line
        length = curve.server.values(1)["accept_length_cycle"]
        assert f"accept length {length:.2f} tokens a cycle" in line


def test_what_predict_warns_of_is_warned_of(capped: Crossover) -> None:
    """Each warning of each server at the end of its curve, under its name where it is its own."""
    told = warnings(capped)
    for curve in capped.curves:
        for line in doubts(curve.server.setup(curve.values[-1])):
            assert line in told or f"{curve.title}: {line}" in told
    assert any("borrowed from" in line for line in told)
    for curve in capped.curves:
        cap = over_the_cap(curve.server.setup(128))
        assert cap is not None
        assert any(line.endswith(cap) for line in told)
        page = " ".join(as_page(CrossoverPage(capped), to_file=True).split())
        assert cap not in page  # told once, beside what lifts it


def test_acceptance_at_a_temperature_is_doubted() -> None:
    """It was measured greedily, and carried over; both ends are told."""
    found = answered("temperature", "0,1", model="qwen3-8b", method="dflash", conc="2")
    assert any("inferred from greedy for temperature 1" in line for line in warnings(found))
    assert " at 0 and " in facts(found)[0]
    uncapped = answered("conc", "1,2", model="qwen3-8b", method="dflash")
    assert not any("run at once" in line for line in facts(uncapped))
