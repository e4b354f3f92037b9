"""Rows of a live calibration in a file that grows by whole rows, and is gone on with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dflash_sim.calibrate.live.experiment import Cell
from dflash_sim.calibrate.observations.values import short, whole
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.ways_in import TABLE, UnreadableError, parse_json, read_text
from dflash_sim.studies.show.files import write_whole

_MOST_TOKENS = 1 << 22  # at once; a cell of ours has a sixteenth


class Kept:
    """Measured rows, in the words of ``sglang.bench_serving``: ``calibrate fit`` reads them too.

    Parameters
    ----------
    same
        What every row says of its server; a file of another one is not gone on with.

    Raises
    ------
    UsageError
        The file is something else, or of another server.
    """

    def __init__(self, path: Path, same: Mapping[str, Any]) -> None:
        self.path, self.same = path, dict(same)
        self.rows: list[dict[str, Any]] = []
        if not path.exists():
            return
        try:
            lines = read_text(path, TABLE).splitlines()
        except UnreadableError as error:
            msg = f"{path}: {error}; give another --rows."
            raise UsageError(msg) from None
        for number, line in enumerate(lines, start=1):
            try:
                row = parse_json(line)
                self.cell(row)
            except (UnreadableError, UsageError, AttributeError):
                msg = f"{path}:{number} is no row of a live calibration; give another --rows."
                raise UsageError(msg) from None
            for name, value in self.same.items():
                if row.get(name) != value:
                    what = _first_change(row.get(name), value)
                    msg = f"{path} has rows of another server ({what}); give another --rows."
                    raise UsageError(msg)
            self.rows.append(row)

    @staticmethod
    def cell(row: Mapping[str, Any]) -> Cell:
        """Which cell a row is of."""
        names = ("max_concurrency", "random_input_len", "random_output_len")
        found = Cell(*(whole(row, name) or 0 for name in names))
        if min(found.conc, found.isl, found.osl) < 1 or found.tokens > _MOST_TOKENS:
            msg = f"{found} is no cell of a live calibration"
            raise UsageError(msg)
        return found

    @property
    def cells(self) -> set[Cell]:
        """Cells that are measured."""
        return {self.cell(row) for row in self.rows}

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row: the file has it whole, or as it was."""
        self.rows.append({**row, **self.same})
        write_whole(self.path, "".join(json.dumps(r) + "\n" for r in self.rows))


def _first_change(there: Any, here: Any) -> str:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in dict.fromkeys((*there, *here)):
            if there.get(name) != here.get(name):
                return f"{name} is {short(there.get(name))} there and {short(here.get(name))} here"
    said = [x if isinstance(x, str) else short(x) for x in (there, here)]
    return f"{said[0]} there, {said[1]} here"
