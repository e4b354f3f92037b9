"""Which of the measurements that people publish can be asked here, and why not the others.

``profiles/published/field.csv`` has the conditions of 604 of them, of whatever engine. A row is
answered if its question is understood, fits and can be priced; nothing is simulated, so that all
of them take seconds.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from dflash_sim.calibrate.observations.conditions import read_conditions
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.profiles.times.op_tables import OpTables
from dflash_sim.simulator.cost.methods import method_of
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.published.findings import Findings
from dflash_sim.studies.show.figures import percent
from dflash_sim.studies.show.plain_table import Table

Cells = Mapping[str, str]
SGLANG, OTHER, APPLE, UNSAID = "SGLang", "other engines", "Apple", "GPU not stated"
_NOT_ASKED = ("source_id", "engine", "build", "assumed", "output_tok_s")
_QUOTED = re.compile(r"'[^']*'|\b\d[\d.,]*\b")
_MOST_REASONS = 20


@dataclass(frozen=True)
class FieldRow:
    """A published measurement, and why it is not answered; None where it is.

    Parameters
    ----------
    cells
        Its conditions as in the file.
    """

    cells: Cells
    refusal: str | None

    @property
    def engine(self) -> str:
        """What served it: rows of other engines are asked as if SGLang had."""
        return engine_of(self.cells)

    @property
    def precision(self) -> str:
        """The format of its weights as the launch would name it."""
        return self.cells["quantization"] or "as the checkpoint"


def engine_of(cells: Cells) -> str:
    """Return the kind of engine that served a row, or why nobody could ask for it."""
    if not cells["gpu"]:
        return UNSAID
    if cells["gpu"].startswith("Apple"):
        return APPLE
    return SGLANG if cells["engine"].startswith("sglang") else OTHER


@cache
def field_cells() -> tuple[Cells, ...]:
    """Return the rows of the file, in their order."""
    text = files("dflash_sim.profiles").joinpath("published/field.csv").read_text("utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def field_rows() -> tuple[FieldRow, ...]:
    """Ask for every row, each question once."""
    asked: dict[tuple[tuple[str, str], ...], str | None] = {}
    names, read = Names(), dict[str, OpTables]()
    rows = []
    for cells in field_cells():
        question = tuple((k, v) for k, v in cells.items() if k not in _NOT_ASKED or k == "build")
        if question not in asked:
            asked[question] = refusal(cells, names, read)
        rows.append(FieldRow(cells, asked[question]))
    return tuple(rows)


def refusal(cells: Cells, names: Names, read: dict[str, OpTables]) -> str | None:
    """Return why the question of a row is not answered, in one line; None if it is.

    Parameters
    ----------
    read
        Tables by GPU, which grow: reading them takes longer than the rest.
    """
    if not cells["gpu"]:
        return "the source names no GPU"
    try:
        said = read_conditions({k: v for k, v in cells.items() if k not in _NOT_ASKED}, names)
        scenario = Scenario.parse(**said.fields, build=cells["build"] or None)
        setup = resolve(scenario, tables=read.get(scenario.gpu))
    except DflashSimError as error:
        return str(error).splitlines()[0]
    if setup.tables is not None:
        read[scenario.gpu] = setup.tables
    return None


def findings(rows: Iterable[FieldRow]) -> Findings:
    """Return the share that is answered by kind, the reasons, and the figures of the pages."""
    rows = tuple(rows)
    own = [row for row in rows if row.engine == SGLANG]
    asked = [row for row in rows if row.engine in (SGLANG, OTHER)]
    words = {
        "field rows": str(len(rows)),
        "field rows of SGLang": str(len(own)),
        "field rows of SGLang answered": _share(own),
        "field rows asked of SGLang answered": _share(asked),
    }
    return Findings((by_kind(rows), by_model(asked), reasons(asked)), words)


def by_kind(rows: tuple[FieldRow, ...]) -> Table:
    """Return how many are answered by engine, and by of SGLang and other engines by the rest."""
    asked = tuple(row for row in rows if row.engine in (SGLANG, OTHER))
    kinds: tuple[tuple[str, tuple[FieldRow, ...], Callable[[FieldRow], str]], ...] = (
        ("engine", rows, lambda row: row.engine),
        ("quantization", asked, lambda row: row.precision),
        ("GPU", asked, lambda row: row.cells["gpu"]),
        ("method", asked, _method),
    )
    lines = [
        (kind, level, str(len(own)), _share(own))
        for kind, of, key in kinds
        for level, own in _sized(of, key)
    ]
    return Table("field rows by kind", ("by", "kind", "rows", "answered"), tuple(lines))


def by_model(rows: Iterable[FieldRow]) -> Table:
    """Return how many are answered by model."""
    lines = [
        (level, str(len(own)), _share(own))
        for level, own in _sized(rows, lambda row: row.cells["model"])
    ]
    return Table("field rows by model", ("model", "rows", "answered"), tuple(lines))


def reasons(rows: Iterable[FieldRow]) -> Table:
    """Return why rows are refused, the most frequent first; names and numbers are one example's."""
    found: Counter[str] = Counter()
    example: dict[str, str] = {}
    for row in rows:
        if row.refusal is not None:
            kind = _QUOTED.sub("*", row.refusal)[:60]
            found[kind] += 1
            example.setdefault(kind, row.refusal)
    lines = [(str(n), _short(example[kind])) for kind, n in found.most_common(_MOST_REASONS)]
    return Table(
        "field rows refused", ("rows", "reason, of the first"), tuple(lines or [("0", "-")])
    )


def _method(row: FieldRow) -> str:
    try:
        return method_of(row.cells["method"]).name
    except DflashSimError:
        return row.cells["method"]


def _short(reason: str) -> str:
    first = reason.replace("|", "/").split(" Have: ")[0]
    return first if len(first) <= 110 else first[:107] + "..."


def _sized(
    rows: Iterable[FieldRow], key: Callable[[FieldRow], str]
) -> list[tuple[str, list[FieldRow]]]:
    """Return rows by kind, the largest kind first."""
    found: dict[str, list[FieldRow]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))


def _share(rows: Iterable[FieldRow]) -> str:
    rows = list(rows)
    return percent(sum(row.refusal is None for row in rows) / len(rows)) if rows else "-"
