"""A table with our own columns, or with those of earlier collections; and rows of our results.

One row is one measurement: conditions by the names of :mod:`read_conditions`, measured values by
the names of a result row (``profiles/schema.csv``) or the shorter ones of ``profiles/published``.
"""

import csv
import io
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from math import nan, sqrt
from typing import Any

from dflash_sim.calibrate.observations.conditions import ALIASES, COLUMNS, read_conditions
from dflash_sim.calibrate.observations.headings import (
    LENGTHS,
    amount,
    column_beside,
    column_of,
)
from dflash_sim.calibrate.observations.lengths import AT_MEANS, fixed_lengths
from dflash_sim.calibrate.observations.names import Names, stated
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.values import Metrics, number, short
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.schema import load_schema
from dflash_sim.profiles.units import MS

MEASURED = {
    "output_tok_s": "output_throughput",
    "accept_len": "accept_length",
    "speedup_vs_baseline": "speedup",
    "ttft_ms": "mean_ttft_ms",
    "tpot_ms": "mean_tpot_ms",
    "itl_ms": "mean_itl_ms",
}
_SETTINGS = ("burstiness", "published_output_throughput", "published_error", "request_rate")
_ABOUT = (
    *("url", "dtype", "tag", "id", "measured", "notes", "role", "doubt"),
    *("scheduler_recv_interval", "stream_interval"),
)
_KNOWN = frozenset(
    [
        "source_id",
        "fitted_what",
        "engine",
        "engine_version",
        "build",
        "generation",
        "kind",
        "rel_err",
        "precision",
    ]
)
_RANDOM = ("", "random", "synthetic")  # prompts that are made to a length
_VERSION = re.compile(r"\d+\.\d+[\w.]*|nightly[\w.-]*")
_TOTALS = ("total_input_tokens", "total_output_tokens")
_DIGITS = 0.05  # of a product of rounded numbers
_ONE_ANSWER = 0.3  # from the inverse of its time per token; two answers are 1 away
_DERIVED_REL_ERR = 0.04  # a product with a speed-up of one decimal: profiles/published/README.md


@dataclass
class Table:
    """Rows with their place, and those that do not fit the header."""

    header: tuple[str, ...] = ()
    rows: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)

    @property
    def ignored(self) -> list[str]:
        """Columns that nothing here reads."""
        return [name for name in self.header if name not in _read_columns()]


@cache
def metric_names() -> frozenset[str]:
    """Measured values of a result row."""
    return frozenset(
        field.name
        for field in load_schema()
        if field.type.startswith("float") and field.name not in _SETTINGS
    )


@cache
def _read_columns() -> frozenset[str]:
    return frozenset([*COLUMNS, *ALIASES, *MEASURED, *metric_names(), *_KNOWN, *_ABOUT])


def is_table(text: str) -> bool:
    """Return True if the first line names a model or a load, and a measured value."""
    header = set(_cells(text.lstrip().partition("\n")[0]))
    measured = {*MEASURED, *metric_names()} - {"concurrency"}
    return bool(header & {"model", "method", "conc", "concurrency"} and header & measured)


def _cells(line: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line]), [])]
    except csv.Error:
        return []


def cells_of(text: str) -> list[list[str]]:
    """Every cell of a CSV file, the first row its heading; empty if it has fewer than two."""
    rows: list[list[str]] = []
    with suppress(csv.Error):
        rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    return rows if rows and len(rows[0]) > 1 else []


def read_rows(text: str, name: str) -> Table:
    """Cells by column; a row that is longer or shorter than the header is damaged."""
    table = Table()
    reader = csv.reader(io.StringIO(text))
    line = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            table.damaged.append((f"{name}:{line}", f"not CSV: {error}"))
            line = reader.line_num + 1
            continue
        if cells is None:
            return table
        where, line = f"{name}:{line}", reader.line_num + 1
        if not any(cell.strip() for cell in cells):
            continue
        if not table.header:
            table.header = tuple(cell.strip() for cell in cells)
            if twice := {name for name in table.header if table.header.count(name) > 1}:
                reason = f"column {short(min(twice))} comes twice; its rows are not read"
                table.damaged.append((where, reason))
                return table
        elif len(cells) != len(table.header):
            reason = f"{len(cells)} cells, but the header has {len(table.header)} columns"
            table.damaged.append((where, reason))
        else:
            row = zip(table.header, (cell.strip() for cell in cells), strict=True)
            table.rows.append((where, dict(row)))


def by_our_names(table: Table) -> Table:
    """The table with columns of numbers that are called otherwise under our names, in our units."""
    taken = {MEASURED.get(name, ALIASES.get(name, name)) for name in table.header}
    meant = [column_of(name) for name in table.header]
    closed = "conc" in taken or any(found and found[0] == "conc" for found in meant)
    new: dict[str, tuple[str, list[str]]] = {}
    for name in table.ignored:
        found = column_beside(name) if len(name) > 1 else None  # ``n`` may count repeats
        if found is None or found[0] in taken or found[0] not in _read_columns():
            continue
        if found[0] == "rate" and closed:  # then ``rps`` is what came of it
            continue
        cells = [amount(row[name], *found) for _, row in table.rows]
        if all(_is_amount(cell) for cell in cells):
            taken.add(found[0])
            new[name] = found[0], cells
    if not taken.issuperset(LENGTHS) or _names_data(table):
        new = {name: column for name, column in new.items() if column[0] not in LENGTHS}
    table.header = tuple(new[name][0] if name in new else name for name in table.header)
    for name, (column, cells) in new.items():
        for (_, row), cell in zip(table.rows, cells, strict=True):
            row[column] = cell
            del row[name]
    return table


def _names_data(table: Table) -> bool:
    """Return True if rows name a data set, whose lengths are those of its sheet."""
    of = [name for name in table.header if ALIASES.get(name, name) == "dataset"]
    return any(row[name].lower() not in _RANDOM for _, row in table.rows for name in of)


def _is_amount(cell: str) -> bool:
    return re.fullmatch(r"(?:\d+\.?\d*|\.\d+)?", cell) is not None


def read_table_row(raw: Mapping[str, Any], where: str, names: Names) -> Observation:
    """One measurement."""
    cells = {name: _text(value) for name, value in raw.items()}
    if cells.get("kind") == "predicted":
        msg = "kind predicted: a prediction is no observation"
        raise UsageError(msg)
    source = cells.get("source_id", "")
    published = names.published(source)
    remarks = "; ".join(filter(None, [cells.get("notes"), published.get("harness")]))
    said = read_conditions(_conditions(cells), names, remarks)
    metrics = Metrics()
    for name in sorted(metric_names() & cells.keys()):
        if name != "concurrency" or "max_concurrency" in cells or "conc" in cells:
            metrics.take(name, cells, name)
    for theirs, ours in MEASURED.items():
        if cells.get(theirs):
            metrics.take(ours, cells, theirs)
    fields, how = _with_lengths(said.fields, metrics)
    about: dict[str, Any] = {name: cells[name] for name in _ABOUT if stated(cells.get(name))}
    if stated(cells.get("precision")):  # of weights, whatever products are in
        about["dtype"] = cells["precision"]
    about |= {n: cells[n] for n in ("drafter", "dataset", "engine") if stated(cells.get(n))}
    about |= {"tool": "table", "fitted_what": tuple(cells.get("fitted_what", "").split())}
    about.setdefault("url", published.get("url", ""))
    return Observation(
        row=where,
        source=source,
        fields=fields,
        metrics=metrics.values,
        rel_err=_rel_err(cells, metrics),
        assumed=tuple(said.assumed),
        build=_build(cells, published),
        about={name: value for name, value in about.items() if value not in ("", ())},
        notes=(*said.notes, *how, *metrics.notes),
    )


def _with_lengths(given: Mapping[str, Any], metrics: Metrics) -> tuple[dict[str, Any], list[str]]:
    """The fields with mean lengths where only totals of the run are told, and remarks.

    A column of tokens is a total where so many were made in all: of several clients, no answer is
    as long. A speed that is that of one answer has made one answer.
    """
    fields, notes = dict(given), []
    made = metrics.get("output_throughput") * metrics.get("duration")
    each = metrics.get("output_throughput") * metrics.get("mean_tpot_ms") * MS
    all_of_them = fields.get("conc", 1) > 1 and not abs(each - 1) < _ONE_ANSWER
    if all_of_them and abs(fields.get("osl", nan) / made - 1) < _DIGITS:
        for name, total in zip(LENGTHS, _TOTALS, strict=True):
            if name in fields:
                metrics.values[total] = float(fields.pop(name))
        fields.pop("max_new_tokens", None)
        notes.append("tokens are totals of the run, as throughput and duration say")
    if "completed" in metrics.values:
        fields.setdefault("num_prompts", max(1, round(metrics.get("completed"))))
    requests = fields.get("num_prompts")
    told = metrics.values.keys() >= {*_TOTALS} and not fields.keys() & {"dataset", *LENGTHS}
    if told and requests is not None:
        fields |= fixed_lengths(*(metrics.get(total) / requests for total in _TOTALS))
        notes.append(AT_MEANS)
    return fields, notes


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    return "" if value is None else str(value)


def _conditions(cells: Mapping[str, str]) -> dict[str, str]:
    """Cells by the scenario's names; ``concurrency`` is the load unless that has its own column."""
    found = {}
    for name, cell in cells.items():
        ours = ALIASES.get(name, name)
        if ours == name or ours not in cells:
            found[ours] = cell
    if "max_concurrency" in cells and "conc" not in cells:
        found["conc"] = cells["max_concurrency"]
    return {name: cell for name, cell in found.items() if name in COLUMNS}


def _rel_err(cells: Mapping[str, str], metrics: Metrics) -> dict[str, float]:
    """Return the error that the row states, or that rounding and derivation leave."""
    found: dict[str, float] = {}
    names = [*MEASURED.items(), *((name, name) for name in metric_names())]
    for theirs, ours in names:
        digits = re.fullmatch(r"\d+(?:\.(\d+))?", cells.get(theirs, ""))
        if digits and ours in metrics.values:
            unit = 10.0 ** -len(digits[1] or "")
            found[ours] = unit / sqrt(12) / metrics.values[ours]
    if cells.get("notes", "").startswith("derived:") and "output_throughput" in found:
        found["output_throughput"] = _DERIVED_REL_ERR
    if (given := number(cells, "rel_err")) is not None:
        if not 0 <= given < 1:
            msg = f"rel_err is {short(cells['rel_err'])}; expected a share, such as 0.02"
            raise UsageError(msg)
        found |= dict.fromkeys(metrics.values.keys() & {"output_throughput"}, given)
    return found


def _build(cells: Mapping[str, str], published: Mapping[str, str]) -> str | None:
    own = (cells.get("build"), cells.get("generation"), cells.get("engine_version"))
    for text in (*own, published.get("build")):
        if text and stated(text):
            return text
    for text in (cells.get("engine"), published.get("engine")):
        if text and (version := _VERSION.search(text)):
            return version[0]
    return None
