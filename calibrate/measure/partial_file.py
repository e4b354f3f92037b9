"""Results as they come, on disk at once: what an interrupted measurement goes on from.

``NAME.partial`` beside the profile: a line that says what is measured on what, then one line per
result. It is removed when the profile is written whole.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.ways_in import TABLE, UnreadableError, parse_json, read_text


class Journal:
    """Results by key, appended to a file.

    Parameters
    ----------
    path
        Of the profile to come.
    about
        What must agree with a journal that is there already.

    Raises
    ------
    UsageError
        A journal of something else is there, or it cannot be written.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path.with_name(path.name + ".partial")
        self.results: dict[str, dict[str, Any]] = {}
        self.about = json.loads(json.dumps(about))
        if self.path.is_file():
            self._read()
        self.resumed = len(self.results)
        try:
            if self.path.is_file():
                self._cut()
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            msg = f"cannot write {self.path}: {error.strerror}; choose another place with -o."
            raise UsageError(msg) from error
        if self.path.stat().st_size == 0:
            self._write(self.about)

    def _read(self) -> None:
        try:
            lines = read_text(self.path, TABLE).splitlines(keepends=True)
        except UnreadableError as error:
            msg = f"{self.path} is damaged: {error}. Remove it to measure anew."
            raise UsageError(msg) from error
        whole = [line for line in lines if line.endswith("\n")]  # the last may be cut short
        try:
            rows = [parse_json(line) for line in whole]
            found, results = (rows[0], rows[1:]) if rows else (self.about, [])
            # What had no time is tried again: memory may be free now.
            self.results = {str(row["key"]): row for row in results if "why" not in row}
            found = dict(found)
        except (ValueError, KeyError, TypeError) as error:
            msg = f"{self.path} is damaged: {error!r}. Remove it to measure anew."
            raise UsageError(msg) from error
        if found != self.about:
            names = sorted(set(found) | set(self.about))
            differ = next(n for n in names if found.get(n) != self.about.get(n))
            msg = (
                f"{self.path} was begun with {differ} = {found.get(differ)!r}, this is "
                f"{self.about.get(differ)!r}; remove it, or write to another file with -o."
            )
            raise UsageError(msg)

    def _cut(self) -> None:
        """Take a torn line off the end; no other is written again."""
        with self.path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)

    def add(self, key: str, result: Mapping[str, Any]) -> None:
        """One more result; it is on disk when this returns.

        Raises
        ------
        UsageError
            The disk is full; what was written before stays.
        """
        row = {"key": key, **result}
        self._write(row)
        self.results[key] = json.loads(json.dumps(row))

    def _write(self, row: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            msg = (
                f"cannot write {self.path}: {error.strerror}; {len(self.results)} results are "
                "kept there. Make room and run the same command again."
            )
            raise UsageError(msg) from error

    def close(self) -> None:
        """Keep the file."""
        self._file.close()

    def remove(self) -> None:
        """The profile is written: the journal is not needed any more."""
        self._file.close()
        self.path.unlink(missing_ok=True)
