"""Benchmark files of any known tool -> observations; what cannot be used is refused with a reason.

The tool is told by the keys of each record, so a file's name does not matter.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from dflash_sim.calibrate.observations.check import complete, contradicted
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.observation import ALIASES, Observation, ReadReport
from dflash_sim.calibrate.observations.values import short
from dflash_sim.calibrate.readers.files import Reading, TableText
from dflash_sim.calibrate.readers.tools import KNOWN, TOOLS
from dflash_sim.profiles.errors import DflashSimError, UsageError, unknown
from dflash_sim.profiles.one_look import one_look
from dflash_sim.simulator.cost.methods import method_of
from dflash_sim.simulator.scenario import Scenario

__all__ = ["KNOWN", "TOOLS", "Source", "read_observations"]

Source: TypeAlias = Path | TableText


def read_observations(
    sources: Sequence[Source], assume: Mapping[str, Any] | None = None
) -> ReadReport:
    """Read every measurement of some files, or of tables that are no files.

    Parameters
    ----------
    assume
        Scenario fields that stand in where a row does not say, such as a preset's; an
        observation lists those it needed. The model, the method and the load are never guessed
        otherwise: a row without them is refused.

    Raises
    ------
    UsageError
        An assumption names no scenario field, GPU or model. Files never raise.
    """
    with one_look():
        return _read(sources, assume or {})


def _read(sources: Sequence[Source], assume: Mapping[str, Any]) -> ReadReport:
    names = Names()
    standing = _assumptions(assume, names)
    names.assumed_model = standing.get("model")
    reading = Reading(names)
    twins = Counter(source.name for source in sources)
    for source in sources:
        if isinstance(source, TableText):
            reading.table(source)
        else:
            alone = source.name and twins[source.name] == 1
            reading.file(source, source.name if alone else str(source))
    reading.pair_scrapes()
    reading.drop_told_twice()
    return _report(reading, standing, build=standing.pop("build", None))


def _assumptions(assume: Mapping[str, Any], names: Names) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for given, value in assume.items():
        name = ALIASES.get(given, given)
        if name in out:
            msg = f"assumption {given}: {name} is assumed already; give one of them."
            raise UsageError(msg)
        out[name] = value
    for name in out:
        if name not in Scenario.model_fields:
            what = "assumption"
            raise unknown(what, name, Scenario.model_fields)
    if out.get("gpu") is not None:
        out["gpu"] = names.gpu(str(out["gpu"]))[0]
    if out.get("model") is not None:
        out["model"] = names.known_model(str(out["model"]))
    return {name: value for name, value in out.items() if value is not None}


def _report(reading: Reading, standing: Mapping[str, Any], build: str | None) -> ReadReport:
    """Complete every row, refuse repeated ones, and gather what is worth saying."""
    refused, kept = list(reading.refused), []
    seen: dict[str, str] = {}
    methods = {row.fields["method"] for row in reading.found if row.fields.get("method")}
    for row in reading.found:
        try:
            fitting = _of_its_method(standing, row, methods)
            done = complete(_of_build(row, build), reading.names, fitting)
        except DflashSimError as error:
            refused.append((row.row, str(error)))
            continue
        content = _content(done)
        if content in seen:
            refused.append((row.row, f"the same as {seen[content]}: counted once"))
            continue
        seen[content] = done.row
        kept.append(done)
    at_odds = contradicted(kept)
    kept = [row for row in kept if row.row not in at_odds]
    refused += at_odds.items()
    return ReadReport(
        observations=tuple(kept),
        read=len(reading.found) + len(reading.refused),
        refused=tuple(refused),
        notes=(*reading.notes, *_notes(kept), *_stood_in(reading.names)),
    )


def _stood_in(names: Names) -> list[str]:
    """Models of the files that no sheet stands for, where another is assumed."""
    return [
        f"no sheet is called {short(name)}: the assumed {names.assumed_model} stands in"
        for name in dict.fromkeys(names.stood_in)
    ]


def _of_its_method(
    standing: Mapping[str, Any], row: Observation, methods: Collection[str]
) -> dict[str, Any]:
    """The assumptions less those that only methods of other rows take, such as steps of a chain."""
    own = row.fields.get("method")
    if own is None:
        return dict(standing)
    others = frozenset[str]().union(*(method_of(name).takes for name in methods))
    left_out = others - method_of(own).takes
    return {name: value for name, value in standing.items() if name not in left_out}


def _of_build(row: Observation, build: str | None) -> Observation:
    """The row with the build that is assumed, where it names none."""
    if build is None or row.build is not None:
        return row
    return replace(row, build=build, assumed=(*row.assumed, "build"))


def _content(row: Observation) -> str:
    """All that was measured and under what conditions, whoever and wherever says so."""
    parts = ({**row.fields}, {**row.metrics}, {**row.about})
    told = [sorted((name, repr(value)) for name, value in part.items()) for part in parts]
    return repr((told, row.accept_histogram))


def _notes(rows: Sequence[Observation]) -> list[str]:
    """Each remark once with the number of rows; then what had to be assumed."""
    remarks: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for note in row.notes:
            remarks[note].append(row.row)
    out = [
        f"{where[0]}: {note}" if len(where) == 1 else f"{note} ({len(where)} rows, as {where[0]})"
        for note, where in remarks.items()
    ]
    assumed = Counter(name for row in rows for name in row.assumed)
    if assumed:
        words = ", ".join(f"{name} ({count})" for name, count in sorted(assumed.items()))
        out.append(f"not in the files, so assumed (rows): {words}")
    return out
