"""The folder of a sweep: what was asked, and every point that is answered.

::

    runs/study.json             the study, and what its rows depend on
    runs/points-1-of-1.jsonl    answered points of one shard, in the order they came; only appended
    runs/rows.{jsonl,csv,parquet}   every row in the order of the study, when all are there

A point counts when the newline of its line is there, so a process that is killed at any moment
leaves whole points and at most one torn line, which the next one cuts off.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dflash_sim.jobs.scratch import scratch_file
from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.profiles.schema import is_row
from dflash_sim.profiles.ways_in import UnreadableError, parse_json, read_text
from dflash_sim.simulator.row import Row
from dflash_sim.studies.ask.study import Study
from dflash_sim.studies.show.files import umask, writing
from dflash_sim.studies.sweep.lock import Lock, refuse_held

STUDY = "study.json"
_OF_STUDY = ("points", "points_hash", "scenario", "grid")


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``of``, from 1."""

    number: int = 1
    of: int = 1

    def __str__(self) -> str:
        return f"{self.number}-of-{self.of}"


class SweepFolder:
    """A folder of results.

    Parameters
    ----------
    about
        What the rows depend on besides the study, such as options and versions.
    """

    def __init__(self, path: Path, study: Study, *, about: Mapping[str, Any]) -> None:
        self.path, self.study, self.about = path, study, about
        self.points = study.points()
        self.names = [study.scenario(point).hash for point in self.points]

    @classmethod
    def found(cls, path: Path) -> Self:
        """The folder of a sweep that was begun, with the study it names."""
        content = read_study(path)
        study = Study(content["scenario"], content["grid"])
        about = {k: v for k, v in content.items() if k not in _OF_STUDY}
        folder = cls(path, study, about=about)
        if digest(folder.names) != content.get("points_hash"):
            msg = (
                f"{path} was begun by dflash-sim {about.get('program', 'of another kind')}, which "
                "has other points for its study; go on with that program."
            )
            raise UsageError(msg)
        return folder

    def claim(self, *, resume: bool) -> None:
        """Begin here, or find this very study here; refuse a folder that holds something else."""
        if not (self.path / STUDY).is_file():
            if resume:
                msg = f"--resume: no sweep was begun in {self.path}; begin one without it."
                raise UsageError(msg)
            self._begin()
        different = list(_differences(read_study(self.path), self._content()))
        if different:
            msg = (
                f"{self.path} holds another study: {'; '.join(different)}. "
                "Choose another folder with -o."
            )
            raise UsageError(msg)

    def refuse_begun(self, shard: Shard) -> None:
        """Refuse to go on with points that are there: that takes a --resume."""
        begun = self._journals() if shard.of == 1 else [self._journal(shard)]
        if any(path.exists() and path.stat().st_size for path in begun):
            msg = (
                f"{self.path} holds {len(self.done()):,} of the {len(self.points):,} points of "
                "this study; go on with --resume, or choose another folder with -o."
            )
            raise UsageError(msg)

    def _begin(self) -> None:
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        held = [path for path in self.path.iterdir() if not path.name.startswith(".")]
        if held and not (self.path / STUDY).is_file():
            msg = (
                f"{self.path} holds files, but no sweep ({STUDY}); nothing was written. "
                "Choose another folder with -o."
            )
            raise UsageError(msg)
        with writing(self.path / STUDY):
            self._put_study()

    def _put_study(self) -> None:
        """Put the study's file; of shards that begin at once one does, and the others read it."""
        with scratch_file(self.path) as scratch:
            scratch.write_text(json.dumps(self._content(), indent=2) + "\n", encoding="utf-8")
            scratch.chmod(0o666 & ~umask())
            try:
                os.link(scratch, self.path / STUDY)
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                scratch.replace(self.path / STUDY)

    def _content(self) -> dict[str, Any]:
        identity = {"points": len(self.names), "points_hash": digest(self.names), **self.about}
        study = {"scenario": dict(self.study.fields), "grid": dict(self.study.axes)}
        found: dict[str, Any] = json.loads(json.dumps(identity | study))
        return found

    def _journal(self, shard: Shard) -> Path:
        return self.path / f"points-{shard}.jsonl"

    def _journals(self) -> list[Path]:
        return sorted(self.path.glob("points-*-of-*.jsonl"))

    def lock(self, shard: Shard, note: Callable[[str], None]) -> Lock:
        """The lock of a shard, to be entered; refused while shards of another count are written."""
        for path in self.path.glob("points-*-of-*.lock"):
            if not path.name.endswith(f"-of-{shard.of}.lock"):
                refuse_held(path)
        return Lock(self.path / f"points-{shard}.lock", note)

    def journal(self, shard: Shard) -> "Journal":
        """Return the file that the points of a shard go to."""
        return Journal(self._journal(shard))

    def done(self) -> dict[int, tuple[Path, int]]:
        """Return where each answered point is: file and offset [byte]."""
        found: dict[int, tuple[Path, int]] = {}
        for path in self._journals():
            offset = 0
            with path.open("rb") as lines:
                for line in lines:
                    if line.endswith(b"\n"):
                        found.setdefault(self._number(path, line), (path, offset))
                    offset += len(line)
        return found

    def _number(self, path: Path, line: bytes) -> int:
        with suppress(ValueError, KeyError, TypeError, IndexError, RecursionError, OverflowError):
            entry = json.loads(line, parse_constant=_no_constant)
            number, row = entry["point"], entry["row"]
            same = type(number) is int and row["scenario_hash"] == self.names[number]
            if same and number >= 0 and is_row(row):
                return int(number)
        msg = f"{path} holds a line that is no point of this study; move that file away."
        raise UsageError(msg)

    def rows(
        self, done: Mapping[int, tuple[Path, int]], on_error: Callable[[str], None]
    ) -> Iterator[Row]:
        """Yield the rows that are there in the order of the study; errors in them are told."""
        for number in sorted(done):
            path, offset = done[number]
            with path.open("rb") as lines:
                lines.seek(offset)
                row: Row = json.loads(lines.readline())["row"]
            if row["error"]:
                on_error(str(row["error"]))
            yield row


class Journal:
    """Answered points, appended whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        with writing(self.path):
            self.file = self.path.open("ab", buffering=0)
            with self.path.open("rb") as lines:
                self.size = sum(len(line) for line in lines if line.endswith(b"\n"))
            os.ftruncate(self.file.fileno(), self.size)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            os.fsync(self.file.fileno())
        self.file.close()

    def add(self, number: int, row: Row) -> None:
        """Append a point; a full disk leaves the points before it."""
        line = json.dumps({"point": number, "row": row}, allow_nan=False).encode() + b"\n"
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            os.ftruncate(self.file.fileno(), self.size)
            msg = (
                f"cannot write {self.path}: {error.strerror}; the points before it are kept. "
                "Make room, then go on with --resume."
            )
            raise DflashSimError(msg) from error
        self.size += len(line)


def read_study(folder: Path) -> dict[str, Any]:
    """Read the study that the folder was begun for."""
    path = folder / STUDY
    try:
        if not path.exists():
            msg = f"{folder}: no sweep was begun there (no {STUDY}); name the folder given to -o."
            raise UsageError(msg)
        found = parse_json(read_text(path))
    except (OSError, UnreadableError) as error:
        msg = f"cannot read {path}: {error}; choose another folder with -o."
        raise UsageError(msg) from error
    whole = found if isinstance(found, dict) else {}
    scenario, grid = whole.get("scenario"), whole.get("grid")
    listed = isinstance(grid, dict) and all(isinstance(values, list) for values in grid.values())
    if not (isinstance(scenario, dict) and listed):
        msg = f"{path} describes no study; choose another folder with -o."
        raise UsageError(msg)
    return dict(whole)


def _no_constant(word: str) -> Any:
    """Refuse NaN and infinities, which no row of ours has."""
    raise ValueError(word)


def digest(names: Sequence[str]) -> str:
    """Twelve hex digits of all scenario hashes, in order."""
    return hashlib.sha256(" ".join(names).encode()).hexdigest()[:12]


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """Say what two studies do not share; nothing if they ask for the same points."""
    asked = ("scenario", "grid")
    if all(there.get(name) == value for name, value in here.items() if name not in asked):
        return
    old, new = _flat(there), _flat(here)
    different = [n for n in dict.fromkeys([*new, *old]) if old.get(n) != new.get(n)]
    shown = [name for name in different if name not in ("points", "points_hash")]
    for name in shown or different:
        yield f"{name} is {_said(old, name)} there and {_said(new, name)} here"


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        inner = value if isinstance(value, dict) else {"": value}
        found |= {f"{key}.{name}".rstrip("."): v for name, v in inner.items()}
    return found


def _said(content: Mapping[str, Any], name: str) -> str:
    return json.dumps(content[name]) if name in content else "missing"
