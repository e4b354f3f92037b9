"""Flags and environment variables of SGLang's server, and how each bears on an answer.

``engines/flags.csv`` has every flag of the releases 0.4.1 to 0.5.23, ``engines/environment.csv``
the variables. Each is of one kind:

=========== ===============================================================================
modelled    it sets a field of the scenario
irrelevant  it has nothing to do with speed; the table says why
refused     it asks for what is not simulated; the table says what can be asked instead
unmodelled  it may change speed, which is not simulated; an answer says so by name
=========== ===============================================================================
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Literal, cast, get_args

Kind = Literal["modelled", "irrelevant", "refused", "unmodelled"]
Takes = Literal["none", "one", "optional", "many", "any"]
Release = tuple[int, ...]

KINDS: tuple[str, ...] = get_args(Kind)
TAKES: tuple[str, ...] = get_args(Takes)


@dataclass(frozen=True, slots=True)
class ServerFlag:
    """A flag, by its own name; other spellings lead to it.

    Parameters
    ----------
    takes
        How many values follow: ``none``, ``one``, ``optional`` (one or none), ``many`` (one or
        more) or ``any`` number.
    harmless
        Values of a refused or unmodelled flag that change nothing.
    why
        The reason for the kind; for a refused one also what can be asked instead.
    """

    name: str
    takes: Takes
    kind: Kind
    harmless: frozenset[str]
    why: str


@dataclass(frozen=True, slots=True)
class Spelling:
    """One way to write a flag, and the releases that know it, the first and the last of them."""

    text: str
    flag: ServerFlag
    since: Release
    until: Release


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable, or several by a pattern such as ``SGLANG_LOG_*``."""

    name: str
    kind: Kind
    harmless: frozenset[str]
    why: str


@cache
def spellings() -> Mapping[str, Spelling]:
    """Every way to write a flag, such as ``--tp`` and ``--tp-size``."""
    rows = {row["flag"]: row for row in _rows("flags.csv")}
    last = max(_release(row["until"] or row["since"]) for row in rows.values())
    flags = {name: _flag(row) for name, row in rows.items() if not row["same_as"]}
    return {
        name: Spelling(
            text=name,
            flag=flags[row["same_as"] or name],
            since=_release(row["since"]),
            until=_release(row["until"]) if row["until"] else last,
        )
        for name, row in rows.items()
    }


@cache
def flag_releases() -> tuple[Release, ...]:
    """Releases whose flags were read, the newest first."""
    return tuple(sorted({s.since for s in spellings().values()}, reverse=True))


@cache
def variables() -> tuple[Variable, ...]:
    """Environment variables that are known, the narrower patterns first."""
    return tuple(
        Variable(
            row["name"], cast("Kind", row["kind"]), frozenset(row["harmless"].split()), row["why"]
        )
        for row in _rows("environment.csv")
    )


def variable_of(name: str) -> Variable | None:
    """The variable of that name; None if it has nothing to do with the server."""
    return next((known for known in variables() if fnmatchcase(name, known.name)), None)


def _flag(row: Mapping[str, str]) -> ServerFlag:
    return ServerFlag(
        name=row["flag"],
        takes=cast("Takes", row["takes"]),
        kind=cast("Kind", row["kind"]),
        harmless=frozenset(row["harmless"].split()),
        why=row["why"],
    )


def _release(text: str) -> Release:
    return tuple(int(part) for part in text.split("."))


def _rows(name: str) -> Iterator[dict[str, str]]:
    text = (files("dflash_sim.profiles") / "engines" / name).read_text(encoding="utf-8")
    yield from csv.DictReader(text.splitlines())
