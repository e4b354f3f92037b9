"""A TOML sheet of quantities: every one with unit, evidence and source, read in SI by its name."""

from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import read_sheet
from dflash_sim.profiles.sheets import EVIDENCE, UNITS, LengthModel, Quantity, check_quantity


def quantities(raw: Mapping[str, Any], path: Path) -> dict[str, Quantity]:
    """Every quantity in a parsed sheet, by dotted name; one without unit or source is refused.

    A table with ``value`` is one quantity. ``[price]`` is three that share a source.
    """
    found: dict[str, Quantity] = {}
    for key, table in raw.items():
        if not isinstance(table, Mapping):
            continue
        if "value" in table:
            found[key] = _quantity(table, table["value"], f"{path}: [{key}]")
        elif key == "price":
            for end in ("low", "typical", "high"):
                if end in table:
                    found[f"price.{end}"] = _quantity(table, table[end], f"{path}: [price] {end}")
        else:
            found |= {f"{key}.{k}": q for k, q in quantities(table, path).items()}
    return found


def _quantity(table: Mapping[str, Any], value: object, where: str) -> Quantity:
    for what, allowed in (("unit", UNITS), ("evidence", EVIDENCE)):
        word = table.get(what)
        if not isinstance(word, str) or word not in allowed:
            msg = f"{where}: {what} is {word!r}; expected one of {', '.join(allowed)}"
            raise UsageError(msg)
    source = table.get("source")
    if not isinstance(source, str) or not source.strip():
        msg = f"{where}: no source; say where the number is from"
        raise UsageError(msg)
    number = _finite(value, f"{where}: value")
    rel_err = _finite(table.get("rel_err", 0.0), f"{where}: rel_err")
    check_quantity(number, table["unit"], rel_err, where)
    return Quantity(number, table["unit"], source, table["evidence"], rel_err)


def _finite(value: object, where: str) -> float:
    if isinstance(value, float) or type(value) is int:
        with suppress(OverflowError):
            if isfinite(value):
                return float(value)
    msg = f"{where} is {value!r}; expected a finite number"
    raise UsageError(msg)


class QuantitySheet:
    """A TOML sheet whose quantities are read in SI by name.

    Raises
    ------
    UsageError
        A quantity is missing, not positive, too small for its unit, or without unit, evidence or
        source.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.raw = read_sheet(path)
        self.quantities = quantities(self.raw, path)

    def __getitem__(self, key: str) -> float:
        q = self.quantity(key)
        check_quantity(q.value, q.unit, q.rel_err, f"{self.path}: [{key}]", least="above 0")
        return q.si

    def count(self, key: str) -> int:
        """Return a whole number."""
        found = self[key]
        if found != int(found):
            msg = f"{self.path}: [{key}] is {found:g}; expected a whole number"
            raise UsageError(msg)
        return int(found)

    def get(self, key: str) -> float | None:
        return self[key] if key in self.quantities else None

    def quantity(self, key: str) -> Quantity:
        if key not in self.quantities:
            msg = f"{self.path}: no [{key}]"
            raise UsageError(msg)
        return self.quantities[key]

    def lengths(self, key: str) -> LengthModel:
        self[f"{key}.mean"]  # which must be above 0
        return LengthModel(self.quantity(f"{key}.mean"), self.quantity(f"{key}.sd"))

    def words(self, key: str) -> tuple[str, ...]:
        value = self.raw.get(key, [])
        if not isinstance(value, list):
            msg = f"{self.path}: {key} is {value!r}; expected a list"
            raise UsageError(msg)
        return tuple(map(str, value))

    def text(self, key: str) -> str:
        value = self.raw.get(key)
        if not isinstance(value, str):
            msg = f"{self.path}: {key} is {value!r}; expected a string"
            raise UsageError(msg)
        return value
