"""A call of another form than the page makes is the caller's mistake, and told so in a line."""

import json

import pytest

from dflash_sim.ui.desk import Desk

pytest.importorskip("dash", reason="no dash: pip install .[ui]")
from dflash_sim.ui.server import application


def answer(body: bytes) -> tuple[int, str]:
    client = application(Desk(0), "sesame").server.test_client()
    client.set_cookie("dflash-sim-localhost", "sesame", domain="localhost")
    told = client.post("/_dash-update-component", data=body, content_type="application/json")
    return told.status_code, told.text


WISH = {"page": "p", "values": {"load": "closed"}, "why": False, "turn": 1, "beside": []}
PAGE = {"id": "p", "kept": {}, "stops": {}, "drop": "", "dropped": []}


def wished(wish: object, page: object, **other: object) -> bytes:
    call = {
        "output": "short.data",
        "outputs": {"id": "short", "property": "data"},
        "inputs": [{"id": "wish", "property": "data", "value": wish}],
        "state": [{"id": "page", "property": "data", "value": page}],
        "changedPropIds": ["wish.data"],
    }
    return json.dumps(call | other).encode()


MALFORMED = {
    "no JSON": b"{",
    "deep JSON": b"[" * 100_000,
    "no object": b"[1]",
    "of no callback": wished(WISH, PAGE, output="x.y"),
    "of other outputs": wished(WISH, PAGE, outputs=[]),
    "of no inputs": wished(WISH, PAGE, inputs=[]),
    "of states that are no list": wished(WISH, PAGE, state={}),
    "a wish that is none": wished([1], PAGE),
    "a page that is none": wished(WISH, {}),
    "no values": wished({**WISH, "values": 3}, PAGE),
    "a load that there is not": wished({**WISH, "values": {"load": "x"}}, PAGE),
    "a stop of no scale": wished({**WISH, "values": {"isl": 1}}, {**PAGE, "stops": {"isl": []}}),
    "a stop without end": wished({**WISH, "values": {"isl": 1e999}}, PAGE | {"stops": {"isl": ""}}),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_one_of_another_form_is_the_callers_mistake(what: str) -> None:
    assert answer(MALFORMED[what]) == (400, "Bad Request.")


def test_a_look_without_news_is_answered_in_few_bytes() -> None:
    """The page looks again and again: what it has drawn already is not sent once more."""
    look = {"query": "?model=qwen3-8b&gpu=h200&conc=4", "why": False, "turn": 7, "beside": []}
    first = looked(look)
    assert "figures" in first
    assert looked({**look, "mark": first["mark"]}) == {
        "turn": 7, "mark": first["mark"], "unfinished": first["unfinished"]
    }  # fmt: skip
    assert "figures" in looked({**look, "mark": ["another state"]})


def looked(look: object) -> dict[str, object]:
    named = {"output": "whole.data", "outputs": {"id": "whole", "property": "data"}}
    inputs = [{"id": "look", "property": "data", "value": look}]
    status, told = answer(wished(WISH, PAGE, **named, inputs=inputs, changedPropIds=["look.data"]))
    assert status == 200
    found: dict[str, object] = json.loads(told)["response"]["whole"]["data"]
    return found


def test_control() -> None:
    """One as the page makes it is answered."""
    status, told = answer(wished(WISH, PAGE))
    assert status == 200
    assert json.loads(told)["response"]["short"]["data"]["turn"] == 1
