"""What the controls say is what is asked."""

import pytest

from dflash_sim.ui.controls import AUTO, Choice, Slide, is_shown, load, server, speculation
from dflash_sim.ui.room import Room, asked_for, hidden, unseen, values_of
from dflash_sim.ui.state import State, from_query, settled

ADDRESSES = [
    "?gpu=b200&model=qwen3.5-397b-a17b&method=dflash&block=16&dataset=humaneval&conc=32",
    "?gpu=h200&tp=2&model=qwen3-8b&method=dflash&block=9&acceptance=al:5.23&isl=1000&osl=77&rate=2.7",
    "?gpu=h200&model=mimo-7b&method=mtp&steps=3&dataset=gsm8k&thinking=false&conc=7",
    "?gpu=h100&model=qwen3-8b&quantization=fp8&method=none&calibration=none&build=0.5.16"
    "&dataset=mt-bench&conc=300&mem_fraction_static=0.7",
]


def controls(state: State) -> dict[str, Choice | Slide]:
    return {c.name: c for c in (*server(state), *speculation(state), *load(state))}


def set_to(state: State) -> dict[str, object]:
    """What the browser says when the panel of a state is opened and nothing is moved."""
    from dflash_sim.ui.controls import default_of

    said: dict[str, object] = {
        "load": "open" if state.open_loop else "closed",
        "lengths": "fixed" if "isl" in state.fields else "dataset",
        "thinking": ["on"] if state.fields.get("thinking", "true") == "true" else [],
        "calibration": state.fields.get("calibration", ""),
    }
    for name, control in controls(state).items():
        own = state.fields.get(name, default_of(name))
        if isinstance(control, Slide):
            said[name] = str(control.stops.index(own)) if own in control.stops else "0"
        else:
            said[name] = own
    return said


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_panel_that_is_not_touched_asks_for_its_address(address: str) -> None:
    state = from_query(address)
    scales = {n: list(c.stops) for n, c in controls(state).items() if isinstance(c, Slide)}
    values = values_of(set_to(state), scales)
    asked = asked_for(values, unseen(state))
    assert asked.scenario().hash == settled(state).scenario().hash
    assert asked.fields.items() >= settled(state).fields.items()


def test_stops_are_in_order_and_hold_what_is_asked() -> None:
    state = from_query("?conc=37&acceptance=al:5.23&gpu=b200")
    found = controls(state)
    conc, accept = found["conc"], found["acceptance"]
    assert isinstance(conc, Slide)
    assert isinstance(accept, Slide)
    sizes = [int(s) for s in conc.stops]
    assert sizes == sorted(set(sizes))
    assert 37 in sizes
    assert accept.stops[0] == AUTO
    assert "al:5.23" in accept.stops


def test_a_control_that_does_not_apply_is_hidden_and_does_not_count() -> None:
    values = {"method": "none", "load": "open", "lengths": "fixed", "block": "16", "rate": "2",
        "conc": "9", "isl": "64", "osl": "64", "dataset": "gsm8k", "gpu": "b200",
        "model": "qwen3-8b"}  # fmt: skip
    assert {"block", "steps", "acceptance", "conc", "dataset", "thinking"} <= set(hidden(values))
    assert (
        asked_for(values, {}).query == "?gpu=b200&model=qwen3-8b&method=none&isl=64&osl=64&rate=2"
    )
    assert is_shown("steps", values | {"method": "mtp"})
    assert not is_shown("block", values | {"method": "mtp"})


def test_a_slider_beyond_its_end_stays_at_it() -> None:
    assert values_of({"conc": "99"}, {"conc": ["1", "2"]}) == {"conc": "2"}
    assert values_of({"conc": None}, {"conc": ["1", "2"]}) == {"conc": "1"}


def test_a_file_that_is_gone_is_said() -> None:
    from dflash_sim.ui.desk import Desk

    state, drop, words = Room(Desk()).opened("?gpu=h200&drop=abc")
    assert (dict(state.fields), drop) == ({"gpu": "h200"}, "")
    assert "drop it again" in words
