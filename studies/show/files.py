"""Rows as strict JSON, JSON lines or CSV, and files that are written whole or not at all."""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dflash_sim.jobs.scratch import scratch_file
from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.studies.show.visible import visible

FORMATS = ("table", "json", "jsonl", "csv")
_INTERVAL = "_ci90"
_PRICES = ("low", "typical", "high")
# Objects of a row that are columns even where a row has none of them.
PARTS: Mapping[str, tuple[str, ...]] = {
    "source_share": ("measured", "fitted", "roofline", "assumed"),
    "usd_per_hour": _PRICES,
    "usd_per_mtok_out": _PRICES,
}
# A spreadsheet would run a cell that begins so; some take the wide forms of these for them.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def chosen_format(form: str | None, output: Path | None) -> str:
    """The format asked for, else that of the file's suffix, else what a person reads."""
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
    return "table"


def as_text(rows: Sequence[Mapping[str, Any]], form: str) -> str:
    """Rows in one of ``json`` (an object, or a list of several), ``jsonl`` or ``csv``.

    A CSV cell holds one value: intervals, prices and other objects are columns each, words of a
    list are joined by ``"; "`` and its numbers by a space; null is an empty cell.
    """
    if form == "json":
        return json.dumps(rows[0] if len(rows) == 1 else rows, indent=2, allow_nan=False) + "\n"
    if form == "jsonl":
        return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    parts = {name: of for name, of in PARTS.items() if not _is_number(name, rows)}
    flat = [_flat(row, parts) for row in rows]
    header = list(dict.fromkeys(name for row in flat for name in row))
    writer.writerow(header)
    writer.writerows([row.get(name) for name in header] for row in flat)
    return lines.getvalue()


def _is_number(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return True if ``name`` is one number in these rows, as in a list of GPUs."""
    return any(isinstance(row.get(name), (int, float)) for row in rows)


def _flat(row: Mapping[str, Any], parts: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """A row with one value in a cell; the same columns whether or not there is a value."""
    out: dict[str, Any] = {}
    for name, value in row.items():
        if name.endswith(_INTERVAL):
            low, high = value if value is not None else (None, None)
            short = name.removesuffix(_INTERVAL)
            out |= {f"{short}_low": _cell(low), f"{short}_high": _cell(high)}
        elif name in parts:
            held = value or {}
            out |= {f"{name}_{part}": _cell(held.get(part)) for part in parts[name]}
        elif isinstance(value, Mapping):
            out |= {f"{name}_{key}": cell for key, cell in _flat(value, parts).items()}
        else:
            out[name] = _cell(value)
    return out


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (list, tuple)):
        joint = "; " if any(isinstance(x, str) for x in value) else " "
        nested = any(isinstance(x, (list, tuple, dict)) for x in value)
        texts = [json.dumps(x, allow_nan=False) if nested else str(x) for x in value]
        return _cell(("; " if nested else joint).join(texts))
    if isinstance(value, str):
        runs = value.startswith(_FORMULAS) or value.lstrip().startswith(_FORMULAS)  # some trim
        return f"'{visible(value)}" if runs else visible(value)
    return value


def check_writable(path: Path) -> None:
    """Refuse a target that cannot be written before any work is done for it."""
    with writing(path), suppress(FileNotFoundError):
        path.stat()  # a loop of links, or a name that no file can have
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
    data = text.encode("utf-8", "backslashreplace")
    with writing(path):
        stream = path.exists() and not path.is_file() and not path.is_dir()
        if stream:  # a pipe or device is written, never replaced
            path.write_bytes(data)
            return
        path = path.resolve()
    check_writable(path)
    with replacement(path) as scratch:
        scratch.write_bytes(data)


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """A scratch file beside ``path`` that takes its place in the end, unless something fails."""
    with writing(path), scratch_file(path.parent) as scratch:
        yield scratch
        scratch.chmod(path.stat().st_mode if path.exists() else 0o666 & ~umask())
        scratch.replace(path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes ``path``: an error of the operating system becomes one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, in Python 3.11 and 12
        why = getattr(error, "strerror", None) or error
        msg = f"cannot write {path}: {why}; choose another place with -o."
        raise UsageError(msg) from error


def umask() -> int:
    """Return the permissions that this process gives no new file."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
