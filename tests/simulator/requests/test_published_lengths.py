"""Which published accept lengths speak for a question, and how they are carried over."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.profiles.acceptance.conditions import load_conditions
from dflash_sim.profiles.errors import MissingProfileError, UsageError
from dflash_sim.profiles.units import in_percent
from dflash_sim.simulator.requests.expected import Expectation, expected_acceptance
from dflash_sim.simulator.requests.published_lengths import Found, error_of_90, log_slope
from dflash_sim.simulator.requests.survival import FrailtyWeibull, fit_one

LAWS = load_conditions()
Q8 = {
    "model": "qwen3-8b",
    "method": "dflash",
    "law": "dflash",
    "block": 16,
    "dataset": "gsm8k",
    "thinking": False,
}


def asked(**changed: object) -> Expectation:
    return expected_acceptance(**(Q8 | changed))  # type: ignore[arg-type]


def length(e: Expectation) -> float:
    return e.acceptance.survival().mean_accept_length


# ---- temperature --------------------------------------------------------------------------


def test_greedy_rows_alone_speak_for_greedy() -> None:
    """Table 1 of the paper has both temperatures, 7.87 and 6.40: they are not averaged."""
    assert length(asked(dataset="math500")) == pytest.approx(7.87, abs=0.01)
    assert length(asked(dataset="math500", temperature=1.0)) == pytest.approx(6.40, abs=0.01)


def test_published_at_a_temperature_is_as_certain_as_greedy() -> None:
    found = asked(temperature=1.0)
    assert (found.source, found.evidence, found.inferred) == (
        "published: PAPER_T1",
        "published",
        False,
    )


def test_known_greedy_only_is_inferred_wider_and_said() -> None:
    llama = {"model": "llama-3.1-8b", "block": 10}
    greedy, sampled = asked(**llama), asked(**llama, temperature=1.0)
    assert 0.9 < length(sampled) / length(greedy) < 0.97
    assert sampled.rel_err > 1.5 * greedy.rel_err
    assert sampled.source == f"{greedy.source}, inferred from greedy for temperature 1"
    assert (sampled.evidence, sampled.inferred) == ("assumed", True)


@given(st.floats(0, 2), st.floats(0, 2))
def test_a_higher_temperature_never_accepts_more(one: float, other: float) -> None:
    low, high = sorted((one, other))
    llama = {"model": "llama-3.1-8b", "block": 10}
    assert (
        length(asked(**llama, temperature=high)) <= length(asked(**llama, temperature=low)) + 1e-9
    )


def test_the_nearest_temperature_is_carried_over() -> None:
    assert "from greedy for temperature 0.4" in asked(temperature=0.4).source
    assert "from temperature 1 for temperature 0.7" in asked(temperature=0.7).source
    assert length(asked()) > length(asked(temperature=0.4)) > length(asked(temperature=1.0))


def test_known_at_temperature_alone_is_carried_back_to_greedy() -> None:
    about = {"model": "qwen3.8-27b", "method": "dflash2", "law": "dflash2", "block": 8}
    card = asked(**about, thinking=True, temperature=1.0)
    assert length(card) == pytest.approx(5.46, abs=0.01)
    greedy = asked(**about, thinking=True)
    assert length(greedy) > length(card)
    assert greedy.inferred


# ---- drafts that are drawn ----------------------------------------------------------------

MTP = {"model": "qwen3.5-27b", "method": "mtp", "law": "mtp", "block": 4, "dataset": None}


@pytest.mark.parametrize("dataset", [None, "gsm8k", "aime25"])
def test_drawn_drafts_give_back_what_a_temperature_takes(dataset: str | None) -> None:
    """Wider than either: nobody has measured the pair."""
    of = MTP | {"dataset": dataset}
    greedy, sampled = asked(**of), asked(**of, temperature=1.0)
    drawn = asked(**of, temperature=1.0, drawn=1.0)
    assert length(sampled) < length(drawn) == pytest.approx(length(greedy))
    assert drawn.rel_err > greedy.rel_err
    assert (drawn.evidence, drawn.inferred) == ("assumed", True)
    assert drawn.source == f"{greedy.source}, carried to drafts that are drawn at temperature 1"


def test_less_is_unknown_of_drafts_that_are_drawn_at_a_lower_temperature() -> None:
    errors = [asked(**MTP, temperature=t, drawn=t).rel_err for t in (0.1, 0.5, 1.0)]
    assert errors == sorted(errors)
    assert errors[0] == pytest.approx(asked(**MTP).rel_err, rel=0.02)


def test_a_greedy_target_refuses_what_was_drawn() -> None:
    """16 to 20 % fewer tokens of a chain of three that accepts 2.6 to 3.2; half at 0.5."""
    law = LAWS.drawn["greedy"]
    before = [fit_one(al, 4, beta=1.45, theta=0.05) for al in (2.6, 2.9, 3.2)]
    losses = [
        1 - Found(p, "", "", 0.0).moved(law.mean, 0.0, 4, "").params.accept_length(4) / al
        for p, al in zip(before, (2.6, 2.9, 3.2), strict=True)
    ]
    assert 0.12 < min(losses) <= max(losses) < 0.22
    likeliest, half, whole = (asked(**MTP, drawn=t) for t in (0.0, 0.5, 1.0))
    assert length(likeliest) > length(half) > length(whole)
    assert "drawn at temperature 0.5" in half.source


def test_a_given_length_is_that_of_the_drafts_that_were_drawn() -> None:
    given = asked(**MTP, text="al:3", temperature=1.0, drawn=1.0)
    assert length(given) == pytest.approx(3.0)
    assert given.rel_err == 0


# ---- context ------------------------------------------------------------------------------


def test_inside_the_trained_context_nothing_changes() -> None:
    plain = asked()
    for context in (100.0, 4096.0):
        assert asked(context=context, memory="full") == plain


def test_beyond_it_a_full_memory_falls_and_a_window_hardly() -> None:
    plain = length(asked())
    full, window = (
        [asked(context=c * 1024.0, memory=m) for c in (8, 32, 128)] for m in ("full", "windowed")
    )
    lengths = [length(e) for e in full]
    assert plain > lengths[0] > lengths[1] > lengths[2] > 1
    assert [e.rel_err for e in full] == sorted(e.rel_err for e in full)
    assert all(length(e) > 0.92 * plain for e in window)
    assert "to a context of 8,192 tokens from drafters trained on 4,096" in full[0].source


def test_the_paper_sweep_is_inside_the_interval() -> None:
    """Gov-report of table 4: 3.93 at 4 k, 2.67 at 16 k and 2.09 at 32 k."""
    law = LAWS.context["dflash"]
    start = Found(fit_one(3.93, 16, beta=1.17, theta=0.05), "", "published", 0.02)
    for doublings, seen in ((2, 2.67), (3, 2.09)):
        found = start.moved(law.slope * doublings, law.sd * doublings, 16, "")
        mean = found.params.accept_length(16)
        assert abs(math.log(seen / mean)) < 1.645 * found.rel_err


# ---- content, thinking, any drafter -------------------------------------------------------


def test_content_that_is_not_published_is_carried_over() -> None:
    prose, code = asked(dataset="prose"), asked(dataset="humaneval")
    assert code.evidence == "published"
    assert (prose.evidence, prose.inferred) == ("assumed", True)
    assert 0.35 < length(prose) / length(code) < 0.65  # prose at half of code, as users report
    assert prose.rel_err > 5 * code.rel_err
    assert "to prose" in prose.source


def test_a_family_lends_content_too() -> None:
    found = asked(model="qwen3.5-397b-a17b", thinking=True, dataset="translation")
    assert found.source.startswith("borrowed from ")
    assert "to translation" in found.source


def test_the_surer_of_two_ways_is_taken() -> None:
    """With thinking, other data sets say more of GSM8K than GSM8K without it does."""
    found = asked(thinking=True)
    assert "to gsm8k" in found.source
    assert "thinking off" not in found.source
    other = asked(model="llama-3.1-8b", block=10, thinking=True)
    assert "carried from thinking off to on" in other.source
    assert other.rel_err > 0.15


def test_any_drafter_is_as_wide_as_the_published_ones() -> None:
    """What drafters of other models have lies inside: 90 % of them, roughly."""
    found = asked(text="prior")
    spread = LAWS.drafters["dflash"]
    assert found.source.startswith(f"the spread of {spread.drafters} published dflash drafters")
    assert found.source.endswith("holds 92 % of accept lengths left out")
    assert (found.evidence, found.inferred) == ("assumed", True)
    half = math.exp(1.645 * found.rel_err)
    low, high = length(found) / half, length(found) * half
    for seen in (5.404, 6.4, 5.748, 4.31, 3.98):  # GSM8K, five drafters, blocks 8 to 16
        assert low < seen < high
    assert found.rel_err > 0.15
    alone = asked(text="prior", method="domino", law="domino")
    assert "one published domino drafter, with the spread of all methods'" in alone.source


@pytest.mark.parametrize("block", [2, 4, 8, 16])
@pytest.mark.parametrize("level", [-3.0, -2.0, 1.0])
def test_an_interval_of_any_drafter_reaches_both_ends(block: int, level: float) -> None:
    """Of the rejection rate's own interval; it is closer to it the narrower that is."""
    params = FrailtyWeibull(math.exp(level), 1.2, 0.05)
    for sd in (0.5, 0.01):
        half = math.exp(1.645 * error_of_90(params, sd, block))
        low, high = (
            replace(params, lam=params.lam * math.exp(z * sd)).accept_length(block)
            for z in (1.645, -1.645)
        )
        middle = params.accept_length(block)
        assert middle / half <= low * (1 + 1e-12)
        assert high <= middle * half * (1 + 1e-12)
    assert error_of_90(params, sd, block) == pytest.approx(sd * log_slope(params, block), rel=0.02)


def test_any_drafter_of_an_ablation_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown prior of drafters"):
        asked(method="diffusion-only", law="nothing", text="prior")


def test_nothing_at_all_is_still_said() -> None:
    with pytest.raises(MissingProfileError, match="--acceptance prior"):
        asked(model="qwen3-32b", dataset="gsm8k")


@given(st.floats(1e-3, 2), st.floats(0.5, 2), st.floats(0, 0.5), st.integers(2, 32))
def test_moving_keeps_a_survival(lam: float, beta: float, theta: float, block: int) -> None:
    found = Found(FrailtyWeibull(lam, beta, theta), "x", "published", 0.02)
    for mean in (-1.0, 0.0, 1.0):
        moved = found.moved(mean, 0.3, block, "y")
        s = moved.params.survival(block - 1).s
        assert all(0 <= v <= 1 for v in s)
        assert 1 <= moved.params.accept_length(block) <= block
        assert moved.rel_err >= found.rel_err
    assert found.moved(0.0, 0.0, block, "y").params == found.params


def test_the_error_is_what_the_spread_moves() -> None:
    params = FrailtyWeibull(0.15, 1.2, 0.05)
    slope = log_slope(params, 16)
    up, down = (FrailtyWeibull(0.15 * math.exp(x), 1.2, 0.05) for x in (0.1, -0.1))
    seen = math.log(down.accept_length(16) / up.accept_length(16)) / 0.2
    assert slope == pytest.approx(seen, rel=0.01)


def test_the_page_has_what_the_laws_say() -> None:
    """Every number of the tables in docs/explanation/acceptance.md."""
    page = (Path(__file__).parents[3] / "docs" / "explanation" / "acceptance.md").read_text("utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("| ") and "(" in line
    ]
    drafter = {"model": "any", "thinking": True, "text": "prior"}

    def shown(e: Expectation) -> str:
        mean, half = length(e), math.exp(1.645 * e.rel_err)
        most = float(e.acceptance.block)
        return f"{mean:.1f} ({mean / half:.1f} to {min(mean * half, most):.1f})"

    for name, first, *others in rows:
        if name in LAWS.content:
            of = {**drafter, "dataset": name}
            ways = [{"temperature": 0.6}, {"temperature": 1.0}]
            ways += [{"context": c * 1024.0, "memory": "full"} for c in (8, 32)]
            ways += [{"context": 32 * 1024.0, "memory": "windowed"}]
        elif name in LAWS.drafters:
            of = {**drafter, "method": name, "law": name, "dataset": None, "block": 8}
            ways = [{"temperature": 1.0}]
            spread = LAWS.drafters[name]
            share = spread.coverage
            assert others[1:] == [
                f"{spread.drafters} of {spread.models}",
                "none to leave out" if share is None else in_percent(share),
            ], name
        else:
            continue
        assert first == shown(asked(**of)), name
        seen = others[: len(ways)]
        assert seen == [f"{length(asked(**of, **way)):.1f}" for way in ways], name
    assert len(rows) >= 18
