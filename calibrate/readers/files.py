"""Files -> rows as they stand, one observation or one refusal each."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dflash_sim.calibrate.observations.decode_log import (
    before_batches,
    is_log,
    servers,
    steady_batches,
)
from dflash_sim.calibrate.observations.headings import as_csv, columns_of, with_whole_batches
from dflash_sim.calibrate.observations.json_records import json_records
from dflash_sim.calibrate.observations.method_columns import by_method
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.text_tables import pairs, text_tables, with_commas
from dflash_sim.calibrate.observations.values import Raw, short
from dflash_sim.calibrate.readers.aiperf import is_statistics, read_aiperf_summary, statistics_of
from dflash_sim.calibrate.readers.console_text import (
    called,
    console_records,
    is_console,
    launch_above,
    read_console,
)
from dflash_sim.calibrate.readers.csv_table import (
    by_our_names,
    cells_of,
    is_table,
    read_rows,
    read_table_row,
)
from dflash_sim.calibrate.readers.guidellm import read_guidellm
from dflash_sim.calibrate.readers.other_clients import is_evalscope, read_evalscope
from dflash_sim.calibrate.readers.sglang_metrics import (
    Snapshot,
    is_prometheus,
    read_prometheus,
    snapshots,
)
from dflash_sim.calibrate.readers.sglang_server_info import read_decode_log
from dflash_sim.calibrate.readers.tools import (
    GUIDELLM,
    TOOLS,
    Tool,
    kept_as_table,
    of_no_tool,
    tool_of,
)
from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.profiles.ways_in import TABLE, UnreadableError, read_text

_AIPERF = re.compile(r"\b(?:aiperf|genai-perf) profile[^\n]*(?:\\\n[^\n]*)*")
_OF_VLLM = re.compile(
    r"Avg generation throughput: [\d.]+ tokens/s|SpecDecoding metrics: |^vllm:\w+[{ ]", re.MULTILINE
)
_NO_SGLANG = (
    "a log or metrics of vLLM's server, which is not simulated; of what it accepted, predict takes "
    "the mean length: --acceptance al:3.2"
)


@dataclass(frozen=True)
class TableText:
    """A table that is no file, such as a data frame as CSV, and what to call it."""

    name: str
    text: str


@dataclass
class Reading:
    """The state of a reading: rows found so far, in order, and places refused with the reason."""

    names: Names
    found: list[Observation] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _scrapes: list[Snapshot] = field(default_factory=list)
    _folders: dict[str, Path] = field(default_factory=dict)

    def file(self, path: Path, name: str) -> None:
        """Read one file, called ``name`` in what is said about it."""
        before = len(self.found)
        met = self._met()
        self._folders[name] = path.parent
        try:
            self._text(_text(path), name)
        except UsageError as error:
            self.refused.append((name, str(error)))
        if self._met() == met:
            self.refused.append((name, "holds no record"))
        self.found[before:] = [
            replace(row, source=row.source or path.name) for row in self.found[before:]
        ]

    def table(self, table: TableText) -> None:
        """Read the rows of a table that is no file."""
        before, met = len(self.found), self._met()
        self._table(table.text, table.name)
        if self._met() == met:
            self.refused.append((table.name, "holds no record"))
        self.found[before:] = [
            replace(row, source=row.source or table.name) for row in self.found[before:]
        ]

    def _met(self) -> int:
        return len(self.found) + len(self.refused) + len(self._scrapes)

    def _text(self, text: str, name: str) -> None:
        if is_prometheus(text):
            scrapes, damaged = snapshots(text, name)
            self._scrapes += scrapes
            self.refused += damaged
        elif is_console(text):
            for where, raw in console_records(text, name):
                self._take(where, read_console, raw, where, self.names)
        elif is_table(table := with_commas(text)) or kept_as_table(_heading(table)):
            self._table(table, name)
        elif is_log(text) and not _holds_records(text, name):
            if not self._printed(text, name):
                self._log(text, name)
        elif _OF_VLLM.search(text):
            self.refused.append((name, _NO_SGLANG))
        elif re.search(r"^\s*[\[{]", text, re.MULTILINE):
            self._json(text, name)
        elif not self._printed(text, name):
            self.refused.append((name, of_no_tool(text.lstrip()[:60])))

    def _printed(self, text: str, name: str) -> bool:
        """Read tables that were made for people; False if there is none with a load in it."""
        met = self._met()
        for every in (*text_tables(text), cells_of(with_commas(text))):
            wide = len(every[0]) if every else 0
            rows = by_method(with_whole_batches([row for row in every if len(row) == wide]))
            if is_statistics(rows):
                raw = statistics_of(rows) | {"input_config": _as_called(text)}
                self._take(name, read_aiperf_summary, raw, name, self.names)
            elif is_evalscope(said := pairs(rows)):
                self._take(name, read_evalscope, said, name, self.names)
            elif rows and (table := as_csv(rows)) is not None:
                columns = zip(rows[0], columns_of(rows[0]), strict=True)
                left = [heading for heading, column in columns if column is None]
                if left:
                    self.notes.append(f"{name}: columns not read: {', '.join(left)}")
                self._table(table, name)
                self.refused += [
                    (name, f"row '{', '.join(row)}' has {len(row)} cells, the header {wide}")
                    for row in every
                    if len(row) != wide
                ]
        return self._met() > met

    def pair_scrapes(self) -> None:
        """Every two scrapes in a row are one before and one after."""
        for before, after in zip(self._scrapes[::2], self._scrapes[1::2], strict=False):
            row = f"{before.where} to {after.where}"
            self._take(row, read_prometheus, before, after, self.names)
        if len(self._scrapes) % 2:
            reason = "one scrape alone: counters run since the start; give one before and one after"
            self.refused.append((self._scrapes[-1].where, reason))

    def drop_told_twice(self) -> None:
        """AIPerf writes the requests of a run beside its summary: one run, not two."""
        summed = {
            self._folders[row.row.rpartition(":")[0]]: row.row
            for row in self.found
            if row.about.get("tool") == "aiperf" and row.row not in self._folders
        }
        for row in list(self.found):
            if row.row not in self._folders or row.about.get("tool") != "aiperf":
                continue
            if (summary := summed.get(self._folders[row.row])) is not None:
                self.found.remove(row)
                self.refused.append((row.row, f"the same run as {summary}: counted once"))

    def _json(self, text: str, name: str) -> None:
        records = json_records(text, name)
        self.refused += records.damaged
        tools = [(where, raw, tool_of(raw)) for where, raw in records.found]
        if tools and all(tool is None for _, _, tool in tools):
            self.refused.append((name, of_no_tool(tools[0][1])))
            return
        together: dict[str, list[tuple[str, Raw]]] = defaultdict(list)
        for where, raw, tool in tools:
            if tool is None:
                self.refused.append((where, of_no_tool(raw)))
            elif tool is GUIDELLM:
                self._guidellm(raw, name)
            elif (read := tool.read) is not None:
                self._take(where, read, raw, where, self.names)
            else:
                together[tool.name].append((where, raw))
        for tool in TOOLS:
            if tool.name in together:
                self._together(tool, together[tool.name], name)

    def _together(self, tool: Tool, rows: list[tuple[str, Raw]], name: str) -> None:
        """Sum up the records of a log, less those that cannot be used."""
        good: list[Raw] = []
        for where, raw in rows:
            try:
                if tool.check is not None:
                    tool.check(raw)
                good.append(raw)
            except DflashSimError as error:
                self.refused.append((where, str(error)))
        combine = tool.combine
        if good and combine is not None:
            self._take(name, combine, good, name)
            self.notes.append(f"{name}: {len(good)} records are summed up in one row")

    def _log(self, text: str, name: str) -> None:
        """Read what a server wrote of its batches, and of its launch before them."""
        logs = servers(text)
        for i, log in enumerate(logs):
            of = f"{name}[{i}]" if len(logs) > 1 else name
            try:
                batches = steady_batches(log)
            except UsageError as error:
                self.refused.append((of, str(error)))
                continue
            launch = launch_above(before_batches(log))
            for batch in batches:
                where = f"{of}: {batch.requests} running"
                self._take(where, read_decode_log, batch, launch, where, self.names)

    def _guidellm(self, raw: Raw, name: str) -> None:
        for i, member in enumerate(raw["benchmarks"]):
            where = f"{name}[{i}]"
            if isinstance(member, Mapping):
                self._take(where, read_guidellm, member, where, self.names, raw)
            else:
                self.refused.append((where, f"a benchmark is {short(member)}"))

    def _table(self, text: str, name: str) -> None:
        table = read_rows(text, name)
        read = kept_as_table(table.header)
        if read is None:
            table, read = by_our_names(table), read_table_row
            if table.ignored:
                self.notes.append(f"{name}: columns not read: {', '.join(table.ignored)}")
        self.refused += table.damaged
        for where, cells in table.rows:
            self._take(where, read, cells, where, self.names)

    def _take(self, where: str, read: Callable[..., Observation], *what: object) -> None:
        stood_in = len(self.names.stood_in)
        try:
            row = read(*what)
        except DflashSimError as error:
            self.refused.append((where, str(error)))
            return
        if len(self.names.stood_in) > stood_in:
            row = replace(row, assumed=(*row.assumed, "model"))
        self.found.append(row)


def _as_called(text: str) -> dict[str, Any]:
    """The load of AIPerf's command, which it prints below its table."""
    found = _AIPERF.search(text)
    return {} if found is None else called(found[0])


def _heading(table: str) -> list[str]:
    return next(iter(cells_of(table.lstrip("\ufeff \n").partition("\n")[0])), [])


def _holds_records(text: str, name: str) -> bool:
    """Return True for JSON of a known tool, whose texts may quote a line of a log."""
    begun = re.match(r"\s*(?:\[\s*)?\{", text) is not None
    return begun and any(tool_of(raw) for _, raw in json_records(text, name).found)


def _text(path: Path) -> str:
    """The file as text, or why it is none."""
    try:
        text = read_text(path, TABLE)
    except UnreadableError as error:
        raise UsageError(str(error).removeprefix("it ")) from None
    if not text.strip():
        msg = "is empty"
        raise UsageError(msg)
    return text
