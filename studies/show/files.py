"""Rows as strict JSON, JSON lines or CSV, and files that are written whole or not at all."""

import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.studies.show.visible import visible

FORMATS = ("table", "json", "jsonl", "csv")
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins so


def chosen_format(form: str | None, output: Path | None) -> str:
    """The format asked for, else that of the file's suffix, else by terminal or pipe."""
    if form is not None and form not in FORMATS:
        raise unknown(kind="--format", value=form, allowed=FORMATS)
    if form is not None:
        return form
    if output is not None:
        suffix = output.suffix.removeprefix(".").replace("txt", "table")
        if suffix and suffix not in FORMATS:
            msg = (
                f"output {output}: no format is called '{suffix}'; allowed endings: .json, .jsonl, "
                ".csv, .txt. Rename it, or give --format."
            )
            raise UsageError(msg)
        return suffix or "jsonl"
    return "table" if sys.stdout.isatty() else "jsonl"


def as_text(rows: Sequence[Mapping[str, Any]], form: str) -> str:
    """Rows in one of ``json`` (an object, or a list of several), ``jsonl`` or ``csv``.

    Lists and objects inside a CSV cell are JSON; null is an empty cell.
    """
    if form == "json":
        return json.dumps(rows[0] if len(rows) == 1 else rows, indent=2, allow_nan=False) + "\n"
    if form == "jsonl":
        return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(rows[0] if rows else [])
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    return lines.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, (list, dict, bool)):
        return json.dumps(value, allow_nan=False)
    if isinstance(value, str):
        return f"'{visible(value)}" if value.startswith(_FORMULAS) else visible(value)
    return value


def check_writable(path: Path) -> None:
    """Refuse a target that cannot be written before any work is done for it."""
    if path.is_dir():
        msg = f"cannot write {path}: it is a directory; name a file, such as {path}/out.jsonl."
        raise UsageError(msg)
    folder = path.parent
    if not folder.is_dir():
        msg = f"cannot write {path}: {folder} is no directory; make it first: mkdir -p {folder}."
        raise UsageError(msg)
    if not os.access(path if path.exists() else folder, os.W_OK):
        msg = f"cannot write {path}: permission denied; choose another place with -o."
        raise UsageError(msg)


def write_whole(path: Path, text: str) -> None:
    """Put ``text`` at ``path`` in one step; a failure leaves what was there."""
    with writing(path):
        path = path.resolve()
    check_writable(path)
    if path.exists() and not path.is_file():  # a pipe or device is written, never replaced
        with writing(path):
            path.write_text(text, encoding="utf-8")
        return
    with replacement(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """A scratch file beside ``path`` that takes its place in the end, unless something fails."""
    with writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        os.close(handle)
        scratch = Path(name)
        try:
            yield scratch
            scratch.chmod(path.stat().st_mode if path.exists() else 0o666 & ~_umask())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes ``path``: an error of the operating system becomes one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, in Python 3.11 and 12
        why = getattr(error, "strerror", None) or error
        msg = f"cannot write {path}: {why}; choose another place with -o."
        raise UsageError(msg) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
