"""Every state is an address, and every address a state."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.profiles.errors import UsageError
from dflash_sim.ui.answer import SHORT, Answer, Refusal, answered
from dflash_sim.ui.copies import call, command
from dflash_sim.ui.state import START, State, from_fields, from_query, settled

FIELDS = {
    "gpu": st.sampled_from(["b200", "h200", "./my gpu&co.toml"]),
    "model": st.sampled_from(["qwen3-8b", "Qwen/Qwen3-8B", "./a=b?c#d/config.json"]),
    "block": st.integers(2, 32).map(str),
    "conc": st.integers(1, 512).map(str),
    "acceptance": st.sampled_from(["al:5.2", "table:0.9,0.8", "sglang-simulated:3.2"]),
    "thinking": st.sampled_from(["true", "false"]),
    "price": st.sampled_from(["2.2", "h200=2.20", "h200=2.2,b200=4"]),
    "policy": st.sampled_from(["fixed", "table:[[1,8,15],[9,64,7]]"]),
}
STATES = st.fixed_dictionaries({"gpu": FIELDS.pop("gpu")}, optional=FIELDS).map(State)


@given(STATES)
def test_an_address_is_read_back(state: State) -> None:
    again = from_query(state.query)
    assert dict(again.fields) == dict(state.fields)
    assert again.dropped == ()
    assert again.query == state.query


def test_an_empty_address_is_the_launch() -> None:
    assert from_query("").fields == from_query("?").fields == START


@pytest.mark.parametrize("name", ["nonsense", "profiles", "from_launch", "__class__"])
def test_what_is_no_field_is_named_and_left_out(name: str) -> None:
    found = from_query(f"?gpu=h200&{name}=1&conc=4")
    assert dict(found.fields) == {"gpu": "h200", "conc": "4"}
    assert len(found.dropped) == 1
    assert found.dropped[0].startswith(f"{name}:")


def test_an_endless_address_is_not_read() -> None:
    found = from_query("?gpu=" + "x" * 5000)
    assert found.fields == START
    assert "5,005 letters" in found.dropped[0]


@pytest.mark.parametrize(
    ("typed", "paid"),
    [("2.5", "h200=2.5"), ("h200=2.50", "h200=2.5"), ("b200=4", None), ("dear", None), ("", None)],
)
def test_a_price_goes_with_what_is_copied(typed: str, paid: str | None) -> None:
    """That of the GPU that is asked for; one of another GPU would be refused there."""
    state = State({"gpu": "h200", "model": "qwen3-8b", "price": typed})
    words = shlex.split(command(state))
    assert ("--price" in words) == ("price=" in call(state)) == (paid is not None)
    if paid is not None:
        assert words[words.index("--price") + 1] == paid
        assert "price={'h200': 2.5}" in call(state)
    assert state.scenario().gpu == "h200"


def test_a_million_tokens_cost_what_is_paid() -> None:
    """In proportion to the rent, beside plain decoding too; what is no price is refused."""
    fields = {"gpu": "h200", "model": "qwen3-8b", "num_prompts": "4", "max_new_tokens": "32"}
    one, two, other, none = (
        answered({**fields, "conc": "2", "price": price}, SHORT, baseline=True)
        for price in ("1", "h200=2", "b200=9", "-1")
    )
    assert isinstance(one, Answer)
    assert isinstance(two, Answer)
    assert isinstance(other, Answer)
    for a, b in ((one.row, two.row), (one.plain, two.plain)):
        assert a is not None
        assert b is not None
        assert b["usd_per_mtok_out"]["typical"] == pytest.approx(2 * a["usd_per_mtok_out"]["low"])
    assert other.row["usd_per_mtok_out"]["low"] < other.row["usd_per_mtok_out"]["high"]
    assert isinstance(none, Refusal)
    assert "--price" in none.why


def test_a_state_is_the_scenario_of_the_command() -> None:
    state = from_query("?gpu=h200&model=qwen3-8b&block=8&conc=4&thinking=false")
    scenario = state.scenario()
    assert (scenario.block, scenario.conc, scenario.thinking) == (8, 4, False)
    words = shlex.split(command(state))
    assert words[:4] == ["dflash-sim", "predict", "--gpu", "h200"]
    assert "--no-thinking" in words
    assert "block=8" in call(state)
    assert "thinking=False" in call(state)
    with pytest.raises(UsageError, match="--conc 0"):
        state.but(conc=0).scenario()


def test_several_values_are_no_state() -> None:
    with pytest.raises(UsageError, match="one is taken"):
        from_query("?conc=1,2").scenario()


def test_what_a_method_does_not_take_is_left_out() -> None:
    state = from_fields({"method": "none", "block": 16, "acceptance": "al:4", "conc": 8})
    assert dict(settled(state).fields) == {"method": "none", "conc": "8"}
    chain = from_fields({"method": "mtp", "block": 16, "steps": 3})
    assert dict(settled(chain).fields) == {"method": "mtp", "steps": "3"}
    open_loop = from_fields({"rate": 2.0, "conc": 8, "isl": 100, "osl": 9, "dataset": "gsm8k"})
    assert dict(settled(open_loop).fields) == {"rate": "2", "isl": "100", "osl": "9"}


def test_a_field_can_be_taken_back() -> None:
    assert "tp" not in from_fields({"tp": 4}).but(tp=None).fields
