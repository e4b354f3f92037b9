"""The data dictionary of a result row, ``schema.csv``: one entry per field, in order."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

_PLAIN: dict[str, set[type]] = {"str": {str}, "int": {int}, "bool": {bool}, "float": {int, float}}
_MOST = 1e18
_SIGNED = {"published_error"}  # all other numbers are counts, times, sizes, shares or speeds


@dataclass(frozen=True)
class Field:
    """One field of a result row, and what other tools call it (empty where they have none).

    ``type`` is a Python type; a question mark says it may be null.
    """

    name: str
    type: str
    unit: str
    description: str
    sglang: str
    vllm: str
    aiperf: str
    inferencex: str


@cache
def load_schema() -> tuple[Field, ...]:
    """Every field, in the order of rows and of CSV columns."""
    text = (files("dflash_sim.profiles") / "schema.csv").read_text(encoding="utf-8")
    return tuple(Field(**row) for row in csv.DictReader(text.splitlines()))


def is_row(found: Any) -> bool:
    """Return True if this is a result row: every field, of its type, and no number below 0."""
    if not isinstance(found, dict):
        return False
    return all(
        name in found and type(value := found[name]) in outer and _fits(value, inner, name)
        for name, outer, inner in _types()
    )


def _fits(value: Any, inner: set[type], name: str) -> bool:
    if isinstance(value, list | dict):
        parts: Iterable[Any] = value.values() if isinstance(value, dict) else value
        return all(type(part) in inner and not _is_below(part) for part in parts)
    return name in _SIGNED or not _is_below(value)


def _is_below(value: Any) -> bool:
    return type(value) in _PLAIN["float"] and not 0 <= value <= _MOST


@cache
def _types() -> tuple[tuple[str, set[type], set[type]], ...]:
    """Of each field its name, the types of its value, and of what is in a list or an object."""
    found = []
    for field in load_schema():
        outer, _, rest = field.type.removesuffix("?").partition("[")
        inner = _PLAIN.get(rest.rstrip("]").rpartition(",")[2], set())
        whole: set[type] = _PLAIN.get(outer) or {list if outer == "list" else dict}
        found.append((field.name, whole | ({type(None)} if "?" in field.type else set()), inner))
    return tuple(found)
