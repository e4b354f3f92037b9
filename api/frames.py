"""Rows as data frames: every cell a number or a word, of the same type in every answer."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from dflash_sim.profiles.schema import Field, load_schema
from dflash_sim.studies.show.files import PARTS

_DTYPES = {"int": "int64", "float": "float64", "bool": "bool", "str": "string"}
_NULLABLE = {"int": "Int64", "float": "float64", "bool": "boolean", "str": "string"}
_INTERVAL = "_ci90"
_ENDS = ("low", "high")
_INTERVALS = re.compile(r"(?<![a-z]_)interval(_68)?$|ci90$")  # but not of inside_interval

Row = Mapping[str, Any]
Column = tuple[str, str, Callable[[Row], Any]]  # name, type, cell of a row


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return rows of the result schema as a data frame.

    An interval is two columns, ``<name>_low`` and ``<name>_high``; shares and prices are a column
    each. Words of a list are joined by ``"; "``, and the accept histogram is JSON.
    """
    made = {
        name: pd.array([cell(row) for row in rows], dtype=dtype)  # type: ignore[call-overload]
        for name, dtype, cell in columns()
    }
    return pd.DataFrame(made)


def columns() -> list[Column]:
    """Return the columns of :func:`frame`, in the order of the schema."""
    return [column for field in load_schema() for column in _columns(field)]


def _columns(field: Field) -> list[Column]:
    name, kind = field.name, field.type.removesuffix("?")
    if name.endswith(_INTERVAL):
        short = name.removesuffix(_INTERVAL)
        return [(f"{short}_{end}", "float64", _item(name, i)) for i, end in enumerate(_ENDS)]
    if name in PARTS:
        return [(f"{name}_{part}", "float64", _item(name, part)) for part in PARTS[name]]
    if kind == "list[str]":
        return [(name, "string", lambda row: None if row[name] is None else "; ".join(row[name]))]
    if kind == "list[int]":
        return [(name, "string", lambda row: None if row[name] is None else json.dumps(row[name]))]
    types = _NULLABLE if field.type.endswith("?") else _DTYPES
    return [(name, types[kind], lambda row: row[name])]


def _item(name: str, key: int | str) -> Callable[[Row], Any]:
    """Return what takes one entry out of a list or dict in a row; not-a-number without it."""

    def cell(row: Row) -> Any:
        held = row[name]
        if held is None or (isinstance(held, Mapping) and key not in held):
            return float("nan")
        return held[key]

    return cell


def table(records: Sequence[Row]) -> pd.DataFrame:
    """Return records of any other kind as a data frame: entries of an entry are columns."""
    return pd.DataFrame([flat(record) for record in records])


def flat(record: Row) -> dict[str, Any]:
    """Return a record without dicts and lists inside it."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= flat({f"{name}_{key}": inner for key, inner in value.items()})
        elif (short := _INTERVALS.sub("", name)) != name:
            ends = value if value is not None else (float("nan"), float("nan"))
            found |= {f"{short}{end}": x for end, x in zip(_ENDS, ends, strict=True)}
        elif isinstance(value, list | tuple):
            words = all(isinstance(each, str) for each in value)
            found[name] = "; ".join(value) if words else json.dumps(value)
        else:
            found[name] = value
    return found
