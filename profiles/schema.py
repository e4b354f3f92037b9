"""The data dictionary of a result row, ``schema.csv``: one entry per field, in order."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


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
