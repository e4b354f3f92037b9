"""Read a table of a sheet into a dataclass: a missing, misspelt or mistyped key is one line."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from dflash_sim.profiles.errors import UsageError, unknown

T = TypeVar("T")
MOST = 1e12  # of a number without a unit: rows, tokens, launches and factors are below
_MOST_BY_ENDING = {"rel_err": 10.0, "share": 1.0, "decay": 20.0}  # of keys that end so
_YES_NO = {"yes": True, "no": False}
_TEXTS = tuple[str, ...]
_kinds = cache(get_type_hints)  # by record
_CELLS: Mapping[str, tuple[float, float]] = {  # of published rows, by column
    "block": (1, 1024),
    "position": (1, 1024),
    "accept_len": (1, 1024),
    "temperature": (0, 100),
    "survival": (0, 1),
    "num_gpus": (1, 1e6),
    "tp": (1, 1024),
    "conc": (1, 1e7),
    "max_new_tokens": (1, 1e9),
    "ctx": (0, 1e9),
    "rows": (0, 1e9),
    "seconds": (0, 1e4),
    "output_tok_s": (1e-6, 1e9),
}


def read_table(record: type[T], table: object, where: str, *, least: float = -MOST) -> T:
    """Build ``record`` from a table of the same keys, tables within it included.

    Parameters
    ----------
    record
        A dataclass; its annotations say what each key holds. Fields with a default may be left out.
    where
        File and table, for messages.
    least
        The least that a number may be; the most is :data:`MOST`.

    Raises
    ------
    UsageError
        A key is missing, unknown, or of another type; names file, key, value, what is allowed.
    """
    assert is_dataclass(record)
    if not isinstance(table, Mapping):
        raise _wrong(where, table, "a table")
    kinds = _kinds(record)
    known = {f.name: f for f in fields(record)}
    for key in table:
        if key not in known:
            raise unknown(kind=f"key of {where}", value=str(key), allowed=known)
    values = {}
    for name, field in known.items():
        if name in table:
            most = next((x for end, x in _MOST_BY_ENDING.items() if name.endswith(end)), MOST)
            values[name] = _value(kinds[name], table[name], f"{where}, {name}", (least, most))
        elif field.default is MISSING and field.default_factory is MISSING:
            msg = f"{where} lacks '{name}'; add it, {_words(kinds[name])}."
            raise UsageError(msg)
    return record(**values)


def read_row(record: type[T], row: Mapping[str, str | None], where: str) -> T:
    """Build ``record`` from the cells of a row of a CSV table; raises as :func:`read_table`."""
    assert is_dataclass(record)
    kinds = _kinds(record)
    try:
        return record(**{name: _cell(name, kind, row.get(name)) for name, kind in kinds.items()})
    except (KeyError, ValueError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else error
        msg = f"{where}: {why}; expected columns {', '.join(kinds)}"
        raise UsageError(msg) from error


def _cell(name: str, kind: Any, cell: str | None) -> Any:
    if cell is None or (not cell and kind in (int, float)):
        raise KeyError(name)
    if kind == _TEXTS:
        return tuple(cell.split())
    if isinstance(kind, UnionType):
        kind = next(k for k in get_args(kind) if k is not NoneType)
        if not cell:
            return None
    if kind is bool:
        if cell not in _YES_NO:
            msg = f"{name} is '{cell}'; it must be yes or no"
            raise ValueError(msg)
        return _YES_NO[cell]
    value = kind(cell)
    least, most = _CELLS.get(name, (-MOST, MOST))
    if kind is not str and not least <= value <= most:
        msg = f"{name} is {cell}; it must be from {least:g} to {most:g}"
        raise ValueError(msg)
    return value


def _value(kind: Any, value: object, where: str, ends: tuple[float, float]) -> Any:
    """``value`` as the annotation asks; of numbers between ``ends``."""
    if isinstance(kind, UnionType):
        kind = next(k for k in get_args(kind) if k is not NoneType)  # a key that may be left out
    if is_dataclass(kind):
        return read_table(kind, value, where, least=ends[0])  # type: ignore[arg-type]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, value, "a list")
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) != len(value):
            raise _wrong(where, value, f"a list of {len(kinds)}")
        return tuple(_value(k, v, where, ends) for k, v in zip(kinds, value, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "a table")
        return {str(k): _value(inner[1], v, f"{where}.{k}", ends) for k, v in value.items()}
    if kind in (float, int):
        whole = type(value) is int
        if isinstance(value, int | float) and (whole or (kind is float and type(value) is float)):
            if ends[0] <= value <= ends[1]:
                return kind(value)
            raise _wrong(where, value, f"{_words(kind)} from {ends[0]:g} to {ends[1]:g}")
    elif type(value) is kind:
        return value
    raise _wrong(where, value, _words(kind))


def _wrong(where: str, value: object, wanted: str) -> UsageError:
    shown = repr(value)
    shown = shown if len(shown) < 60 else f"{shown[:57]}..."
    return UsageError(f"{where} is {shown}; it must be {wanted}.")


def _words(kind: Any) -> str:
    if is_dataclass(kind):
        return "a table"
    names = {float: "a finite number", int: "a whole number", str: "a text", bool: "true or false"}
    return names.get(kind, "a list" if get_origin(kind) is tuple else "a table")
