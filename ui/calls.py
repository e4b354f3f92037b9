"""Calls of the page, taken apart: one of another form is the caller's mistake, and no bug of ours.

Whoever has the token can send anything to the address that the page calls.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from werkzeug.exceptions import BadRequest

from dflash_sim.profiles.ways_in import UnreadableError, parse_json

PATH = "/_dash-update-component"
OF_THE_PAGE: Mapping[str, type] = {
    "id": str, "kept": dict, "stops": dict, "drop": str, "dropped": list,
}  # fmt: skip
OF_A_WISH: Mapping[str, type] = {"page": str, "values": dict, "why": bool, "beside": list}
OF_A_LOOK: Mapping[str, type] = {"query": str, "why": bool, "turn": int, "beside": list}
OF_AN_ANSWER: Mapping[str, type] = {"query": str, "unfinished": bool, "beside": list}
_WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


@contextmanager
def reading() -> Iterator[None]:
    """Around what takes apart what was sent; what it cannot be is refused."""
    try:
        yield
    except _WRONG as error:
        raise BadRequest from error


def checked(value: Any, form: Mapping[str, type]) -> dict[str, Any] | None:
    """Return an object that the page keeps, or None as long as it has none.

    Raises
    ------
    BadRequest
        It is something else, or a part of it is.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or any(
        not isinstance(value.get(name), kind) for name, kind in form.items()
    ):
        raise BadRequest
    return value


def is_text(value: Any) -> str:
    """Return a text that was sent; none is an empty one."""
    if not isinstance(value, str | None):
        raise BadRequest
    return value or ""


def check_call(raw: bytes, callbacks: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a call that is not of a callback of ours, with its outputs, inputs and states.

    Raises
    ------
    BadRequest
        It is something else.
    """
    try:
        call = parse_json(raw.decode())
    except (UnreadableError, UnicodeDecodeError) as error:
        raise BadRequest from error
    with reading():
        wanted = callbacks[call["output"]]
        for name, parts in (("inputs", wanted["inputs"]), ("state", wanted["state"])):
            said = call.get(name, [])
            given = [(part["id"], part["property"]) for part in said]
            if not isinstance(said, list) or given != [(p["id"], p["property"]) for p in parts]:
                raise BadRequest
        outputs = call["outputs"]
        listed = outputs if isinstance(outputs, list) else [outputs]
        named = "...".join(f"{part['id']}.{part['property']}" for part in listed)
        if call["output"] != (f"..{named}.." if listed is outputs else named):
            raise BadRequest
        if not isinstance(call["changedPropIds"], list):
            raise BadRequest
        for name in call["changedPropIds"]:
            is_text(name)
