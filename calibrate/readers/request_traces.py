"""Request traces of other tools -> arrival times and lengths.

The format is told by its fields, or named. A trace must be in order of time, and its timestamps in
the unit of its format: what looks like another unit, or like dates, is refused with the remedy.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.observations.json_records import json_records
from dflash_sim.calibrate.observations.text_tables import with_commas
from dflash_sim.calibrate.observations.values import short
from dflash_sim.calibrate.readers.agent_sessions import LEFT_OUT, is_session, opened
from dflash_sim.calibrate.readers.request_trace_formats import (
    CONTENT,
    FORMATS,
    TraceFormat,
    usual_names,
)
from dflash_sim.calibrate.readers.trace_sessions import Turns, in_turns
from dflash_sim.calibrate.readers.trace_texts import prompts_of
from dflash_sim.profiles import units
from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.ways_in import TABLE, UnreadableError, is_there, read_text, reading_csv
from dflash_sim.simulator.requests.prompts import Prompts

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TIME_UNITS = {"s": 1.0, "ms": units.MS, "us": units.US, "ns": units.US * units.MS}
# Mean gaps between requests [s] outside of which a unit is doubted, and from how many requests on.
_LONGEST_S = 1e9  # thirty years
_SHORTEST_GAP_S, _LONGEST_GAP_S, _ENOUGH = 0.5e-3, 100.0, 20
_SHORTEST_OF_MS_S = 2e-3  # below it, times in ms are likelier seconds
_EPOCH = {"s": (3e8, 3e10), "ms": (3e11, 3e13), "us": (3e14, 3e16), "ns": (3e17, 3e19)}
_DATE = re.compile(r"\s*\d{4}[-/]\d\d?[-/]\d\d?|\s*\d\d?:\d\d")
_MOST_TOKENS = 10**7


@dataclass(frozen=True)
class Trace:
    """Requests of a trace, the first at time 0.

    Parameters
    ----------
    form
        Name of its format.
    arrival_s
        None where the file has lengths only [s].
    notes
        What was left out or assumed.
    content
        Of a column of that name: the data set or kind of text of each request; empty without it.
    prompts
        What prompts are made of; None where nothing tells what they share.
    follow
        The next turn of each request that waits for its answer; -1 of the others; None of none.
    delay_s
        How long it waits then [s].
    sharing
        What prompts are taken to share, in words.
    """

    name: str
    form: str
    arrival_s: Floats | None
    isl: Ints
    osl: Ints
    notes: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    prompts: Prompts | None = None
    follow: Ints | None = None
    delay_s: Floats | None = None
    sharing: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.isl)

    def rows(self, rows: Ints) -> "Trace":
        """Some of the requests, times from the first; turns that are left out are passed over."""
        place = np.full(len(self) + 1, -1)
        place[rows] = np.arange(len(rows))
        follow = self.follow
        if follow is not None:
            then = follow[rows]
            while (passed := (then >= 0) & (place[then] < 0)).any():
                then = np.where(passed, follow[then], then)
            follow = place[then]
        at, delay_s = self.arrival_s, self.delay_s
        return replace(
            self,
            arrival_s=None if at is None else at[rows] - at[rows[0]],
            isl=self.isl[rows],
            osl=self.osl[rows],
            content=tuple(self.content[i] for i in rows) if self.content else (),
            prompts=None if self.prompts is None else self.prompts.rows(rows.tolist()),
            follow=follow,
            delay_s=None if delay_s is None else delay_s[rows],
        )


_DETAILS = ("input_lens", "output_lens")  # of bench_serving --output-details


def named(spec: str) -> tuple[Path, str | None]:
    """``FILE[:format]`` -> the file and the format, if one is named.

    Raises
    ------
    UsageError
        The format is unknown.
    """
    path, colon, form = spec.rpartition(":")
    if not colon or is_there(spec):
        return Path(spec), None
    if form not in FORMATS:
        raise unknown(kind="trace format", value=form, allowed=FORMATS)
    return Path(path), form


def read_trace(path: Path, *, form: str | None = None, time_unit: str | None = None) -> Trace:
    """Read a trace, gzipped or not.

    Parameters
    ----------
    form
        One of ``FORMATS``; None tells it by the fields.
    time_unit
        Of the timestamps, where it is not the one of the format: s, ms, us or ns.

    Raises
    ------
    UsageError
        The file is empty, damaged, in no known format, not in order of time, in another unit of
        time than it should be, or a length is none.
    """
    if time_unit is not None and time_unit not in TIME_UNITS:
        raise unknown(kind="--time-unit", value=time_unit, allowed=TIME_UNITS)
    if form is not None and form not in FORMATS:
        raise unknown(kind="trace format", value=form, allowed=FORMATS)
    text, name = _text(path), path.name
    is_json = re.match(r"\s*[\[{]", text) is not None
    notes: list[str] = []
    rows = _from_json(text, name, notes) if is_json else _from_csv(text, name, form)
    kind = _format(rows, form, name, table=not is_json)
    if kind.name not in FORMATS:
        read = f"arrivals of {kind.time} [{time_unit or kind.unit}], prompts of {kind.isl}"
        notes.append(f"{read}, answers of {kind.osl}")
    rows = _without_failures(rows, kind, notes)
    turns = in_turns(rows, kind, notes)
    rows = turns.rows
    isl = np.array([_length(row, kind.isl, where) for where, row in rows], dtype=np.int64)
    osl = np.array([_length(row, kind.osl, where) for where, row in rows], dtype=np.int64)
    sharing: list[str] = []
    prompts = prompts_of(turns, kind, isl.tolist(), osl.tolist(), sharing)
    time = kind.time or ("timestamp" if all("timestamp" in row for _, row in rows) else "")
    arrival_s = None
    if time:
        arrival_s = _times(rows, time, kind, time_unit, name)
    follow, delay_s = _followed(turns, TIME_UNITS[time_unit or kind.unit])
    said = tuple(notes), _contents(rows), prompts, follow, delay_s, tuple(sharing)
    return Trace(name, kind.name, arrival_s, isl, osl, *said)


def _followed(turns: Turns, unit_s: float) -> tuple[Ints | None, Floats | None]:
    """The turn behind each that waits for its answer, and how long turns wait [s]."""
    if all(delay is None for delay in turns.delays):
        return None, None
    follow = np.full(len(turns.rows), -1)
    for i, (before, delay) in enumerate(zip(turns.before, turns.delays, strict=True)):
        if delay is not None:
            follow[before] = i
    return follow, np.array([(delay or 0.0) * unit_s for delay in turns.delays])


def _text(path: Path) -> str:
    try:
        text = read_text(path, TABLE)
    except UnreadableError as error:
        msg = f"trace {path}: {error}."
        raise UsageError(msg) from None
    if not text.strip():
        msg = f"trace {path}: it is empty; give one with requests."
        raise UsageError(msg)
    return text


Rows = Sequence[tuple[str, Mapping[str, Any]]]


def _from_json(text: str, name: str, notes: list[str]) -> Rows:
    records = json_records(text, name)
    if records.damaged:
        where, why = records.damaged[0]
        msg = f"trace {where}: {why}."
        raise UsageError(msg)
    rows: list[tuple[str, Mapping[str, Any]]] = []
    left_out: dict[str, int] = {}
    for where, value in records.found:
        if not isinstance(value, Mapping):
            msg = f"trace {where}: {short(value)} is no request; each is an object."
            raise UsageError(msg)
        if all(isinstance(value.get(k), list) for k in _DETAILS):
            lengths = zip(*(value[k] for k in _DETAILS), strict=False)
            rows += [(where, {"prompt_len": i, "output_len": o}) for i, o in lengths]
        elif is_session(value):
            rows += opened(value, where, left_out)
        else:
            rows.append((where, value))
    if left_out:
        many = left_out[LEFT_OUT]
        are = "request of a sub-agent is" if many == 1 else "requests of sub-agents are"
        notes.append(f"{many:,} {are} left out")
    if not rows:
        msg = f"trace {name}: it has no requests; give one with some."
        raise UsageError(msg)
    return rows


def _from_csv(text: str, name: str, form: str | None) -> Rows:
    try:
        with reading_csv():
            return _table(text, name, form)
    except UnreadableError as error:
        msg = f"trace {name}: {error}."
        raise UsageError(msg) from None


def _table(text: str, name: str, form: str | None) -> Rows:
    reader = csv.DictReader(io.StringIO(with_commas(text)), restkey="", skipinitialspace=True)
    head = [h.strip() for h in reader.fieldnames or ()]
    reader.fieldnames = head
    top = [(f"{name}:1", dict.fromkeys(head))]
    found = _format(top, form, name, table=True)
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for row in reader:
        where = f"{name}:{reader.line_num}"
        if "" in row or None in row.values():
            msg = f"trace {where}: it has not as many cells as the header ({len(head)})."
            raise UsageError(msg)
        rows.append((where, row))
    if not rows:
        msg = f"trace {name}: a header of {found.name} and no requests."
        raise UsageError(msg)
    return rows


def _format(rows: Rows, form: str | None, name: str, *, table: bool) -> TraceFormat:
    where, first = rows[0]
    fields = {str(k) for k in first}
    seen = short(", ".join(sorted(fields)))
    if form is not None:
        kind = FORMATS[form]
        missing = sorted(kind.needs - fields)
        if missing or kind.table != table:
            what = f"no {missing[0]}" if missing else "not a table" if kind.table else "a table"
            msg = f"trace {where}: {form} was named, but it has {what}; it has {seen}."
            raise UsageError(msg)
    else:
        fits = [f for f in FORMATS.values() if f.needs <= fields and f.table == table]
        own = usual_names(first, table=table)
        if not fits and own is None:
            known = "; ".join(f"{f.name}: {', '.join(sorted(f.needs))}" for f in FORMATS.values())
            text = "" if not fields & {"conversations", "conversation", "messages"} else (
                " It has texts; give lengths in tokens, as prompt_len and output_len."
            )  # fmt: skip
            msg = f"trace {name}: no known format has the fields {seen}.{text} Known: {known}."
            raise UsageError(msg)
        kind = fits[0] if fits or own is None else own
    if kind.strict:
        known_fields = kind.needs | kind.may
        for field in sorted(fields - known_fields):
            raise unknown(kind=f"trace field in {name}", value=field, allowed=known_fields)
    return kind


def _without_failures(rows: Rows, kind: TraceFormat, notes: list[str]) -> Rows:
    if not kind.failed:
        return rows
    kept = [(w, row) for w, row in rows if str(row.get(kind.osl)).strip() not in ("0", "0.0")]
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept):,} failed requests (no answer) are left out")
    if not kept:
        msg = "trace: every request in it failed (no response tokens); give one with answers."
        raise UsageError(msg)
    return kept


def _contents(rows: Rows) -> tuple[str, ...]:
    """The text that each request is of, where a column says it."""
    if not any(CONTENT in row for _, row in rows):
        return ()
    for where, row in rows:
        if not str(row.get(CONTENT) or "").strip():
            msg = f"trace {where}: {CONTENT} is missing; name a data set or a kind of text."
            raise UsageError(msg)
    return tuple(str(row[CONTENT]).strip() for _, row in rows)


def _length(row: Mapping[str, Any], field: str, where: str) -> int:
    value = _number(row.get(field), field, where)
    if value != int(value) or not 1 <= value <= _MOST_TOKENS:
        msg = f"trace {where}: {field} is {value:g}; a length is a whole number of tokens above 0."
        raise UsageError(msg)
    return int(value)


def _number(value: Any, field: str, where: str) -> float:
    if value is None or isinstance(value, bool):
        msg = f"trace {where}: {field} is missing."
        raise UsageError(msg)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        if isinstance(value, str) and _DATE.match(value):
            msg = (
                f"trace {where}: {field} is a date ({value.strip()}); give seconds from the "
                "start, or seconds since 1970."
            )
        else:
            msg = f"trace {where}: {field} is {short(value)}, which is no number."
        raise UsageError(msg)
    return number


def _date(value: Any, field: str, where: str) -> float:
    """Seconds since 1970 of a date, whose zone is UTC where it names none."""
    text = str(value or "").strip()
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)?", text)
    if found is None:
        return _number(value, field, where)
    zone = "+00:00" if found[4] in (None, "Z") else found[4]
    try:
        whole = datetime.fromisoformat(f"{found[1]}T{found[2]}{zone}").timestamp()
    except ValueError:
        msg = f"trace {where}: {field} is {short(text)}, which is no date."
        raise UsageError(msg) from None
    return whole + float(found[3] or 0)


def _times(rows: Rows, field: str, kind: TraceFormat, time_unit: str | None, name: str) -> Floats:
    """Seconds from the first request."""
    number = _date if kind.dates else _number
    raw = np.array([number(row.get(field), field, where) for where, row in rows])
    back = np.flatnonzero(np.diff(raw) < 0)
    if len(back):
        where, i = rows[back[0] + 1][0], back[0]
        msg = (
            f"trace {where}: {field} goes back from {raw[i]:.15g} to {raw[i + 1]:.15g}; "
            "sort the requests by time."
        )
        raise UsageError(msg)
    if raw[0] < 0:
        msg = f"trace {rows[0][0]}: {field} is {raw[0]:g}; times are not below 0."
        raise UsageError(msg)
    unit = time_unit or kind.unit
    if time_unit is None:
        _doubt(raw, unit, field, name)
    seconds: Floats = (raw - raw[0]) * TIME_UNITS[unit]
    if seconds[-1] > _LONGEST_S:
        msg = (
            f"trace {name}: {field} spans {seconds[-1]:g} s; a trace is at most {_LONGEST_S:g} s "
            "long. See whether --time-unit says its unit."
        )
        raise UsageError(msg)
    return seconds


def _doubt(raw: Floats, unit: str, field: str, name: str) -> None:
    """Refuse timestamps that are likely in another unit than they should be."""
    for other, (low, high) in _EPOCH.items():
        if low <= raw[0] < high and other != unit:
            _refuse_unit(name, field, unit, other, f"{raw[0]:.15g} is a date in {other}")
    span = float(raw[-1] - raw[0])
    if len(raw) < _ENOUGH or not span:
        return
    gap = span / (len(raw) - 1)
    shortest_s = _SHORTEST_OF_MS_S if unit == "ms" else _SHORTEST_GAP_S
    if shortest_s <= gap * TIME_UNITS[unit] <= _LONGEST_GAP_S:
        return
    rate = 1 / (gap * TIME_UNITS[unit])
    likely: Callable[[str], float] = lambda u: abs(math.log(gap * TIME_UNITS[u]))  # noqa: E731
    other = min(TIME_UNITS, key=likely)
    if other != unit:
        _refuse_unit(name, field, unit, other, f"there would be {rate:.3g} requests a second")


def _refuse_unit(name: str, field: str, unit: str, other: str, why: str) -> None:
    msg = (
        f"trace {name}: {field} should be in {unit}, but {why}; it looks like {other}. "
        f"Say which it is with --time-unit {other}, or --time-unit {unit} to insist."
    )
    raise UsageError(msg)
