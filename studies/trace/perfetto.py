"""Timelines as trace event JSON, which the Perfetto UI and chrome://tracing open.

A :class:`Timeline` does not know where its intervals are from. The event engine fills one, and so
can a real loop that calls its stages by the same names. The format is Chromium's "Trace Event
Format", JSON object form: complete events (X), flows (s, f), counters (C) and metadata (M).
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dflash_sim.profiles.errors import UsageError

LANES = ("host", "gpu", "copy", "comm")
# The host stage that launches work on the GPU, and what the GPU calls that work.
LAUNCHES = {
    "run_batch": ("prefill", "decode"),
    "prepare_draft": ("draft",),
    "prepare_verify": ("verify",),
    "accept": ("materialise",),
}
MOST_EVENTS = 500_000  # about 60 MB; viewers in a browser become slow beyond
_NS_PER_S = 10**9
_NS_PER_US = 1000
_compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Interval:
    """A stage on a lane, of the engine iteration that it serves."""

    lane: str
    name: str
    start_s: float
    end_s: float
    iteration: int
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def start_ns(self) -> int:
        return round(self.start_s * _NS_PER_S)

    @property
    def end_ns(self) -> int:
        return round(self.end_s * _NS_PER_S)


@dataclass(frozen=True, slots=True)
class Sample:
    """A count from a moment on."""

    name: str
    at_s: float
    value: int

    @property
    def at_ns(self) -> int:
        return round(self.at_s * _NS_PER_S)


@dataclass
class Timeline:
    """The timeline of one process: intervals that nest within each lane, and counts."""

    title: str
    intervals: list[Interval] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def interval(self, lane: str, name: str, start_s: float, end_s: float, iteration: int) -> None:
        """A stage has ended."""
        self.intervals.append(Interval(lane, name, start_s, end_s, iteration))

    def count(self, name: str, at_s: float, value: int) -> None:
        """A count has changed."""
        self.samples.append(Sample(name, at_s, value))

    def lane(self, name: str) -> list[Interval]:
        """Its intervals of any length, in the order of their starts, the enclosing ones first."""
        found = [i for i in self.intervals if i.lane == name and i.end_ns > i.start_ns]
        return sorted(found, key=lambda i: (i.start_ns, -i.end_ns))

    def launches(self) -> list[tuple[Interval, Interval]]:
        """Every GPU interval with the host interval of its iteration that launched it."""
        by = {name: stage for stage, names in LAUNCHES.items() for name in names}
        host: dict[tuple[str, int], Interval] = {}
        for i in self.lane("host"):
            host.setdefault((i.name, i.iteration), i)
        gpu = [i for i in self.lane("gpu") if (by.get(i.name, ""), i.iteration) in host]
        return [(host[by[i.name], i.iteration], i) for i in gpu]


def trace_json(timelines: Sequence[Timeline], about: Mapping[str, Any]) -> str:
    """The trace of one process for each timeline, an event to a line.

    Parameters
    ----------
    about
        What the viewers show as information on the trace.

    Raises
    ------
    UsageError
        More than ``MOST_EVENTS`` events.
    ValueError
        Two intervals of a lane overlap, and neither encloses the other.
    """
    events = [e for pid, t in enumerate(timelines, start=1) for e in _events(t, pid)]
    if len(events) > MOST_EVENTS:
        msg = f"a trace of {len(events):,} events; at most {MOST_EVENTS:,} open well in a browser."
        raise UsageError(msg)
    head = {"displayTimeUnit": "ms", "otherData": dict(about)}
    lines = ",\n".join(_compact(event) for event in events)
    return f'{_compact(head)[:-1]},"traceEvents":[\n{lines}\n]}}\n'


def _events(timeline: Timeline, pid: int) -> Iterator[dict[str, Any]]:
    yield _named("process_name", pid, 0, name=timeline.title)
    arrows = defaultdict(list)
    for n, (host, gpu) in enumerate(timeline.launches(), start=pid << 32):
        for end, arrow in _arrow(n, host, gpu):
            arrows[id(end)].append(arrow)
    lanes = [*LANES, *sorted({i.lane for i in timeline.intervals} - set(LANES))]
    for tid, lane in enumerate(lanes, start=1):
        found = timeline.lane(lane)
        if not found:
            continue
        _check_nested(found)
        yield _named("thread_name", pid, tid, name=lane)
        yield _named("thread_sort_index", pid, tid, sort_index=tid)
        for interval in found:
            where = {"pid": pid, "tid": tid}
            yield _slice(interval) | where
            yield from (arrow | where for arrow in arrows[id(interval)])
    for s in sorted(timeline.samples, key=lambda s: (s.name, s.at_ns)):
        name, _, unit = s.name.rpartition("_")  # Perfetto shows both: running requests
        yield {"ph": "C", "name": name, "ts": _us(s.at_ns), "pid": pid, "args": {unit: s.value}}


def _named(what: str, pid: int, tid: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args}


def _slice(i: Interval) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": i.name,
        "cat": i.lane,
        "ts": _us(i.start_ns),
        "dur": _us(i.end_ns - i.start_ns),
        "args": {"iteration": i.iteration, **i.args},
    }


def _arrow(number: int, host: Interval, gpu: Interval) -> Iterator[tuple[Interval, dict[str, Any]]]:
    """Both ends of a flow, just inside the intervals: that is where viewers look for them."""
    event = {"name": "launch", "cat": "launch", "id": number}
    leaves_ns = min(host.end_ns - 1, gpu.start_ns)
    yield host, {"ph": "s", **event, "ts": _us(leaves_ns)}
    arrives_ns = min(gpu.start_ns + 1, gpu.end_ns - 1)
    yield gpu, {"ph": "f", "bp": "e", **event, "ts": _us(arrives_ns)}


def _us(ns: int) -> float:
    return ns / _NS_PER_US


def _check_nested(intervals: Sequence[Interval]) -> None:
    open_: list[Interval] = []
    for i in intervals:
        while open_ and open_[-1].end_ns <= i.start_ns:
            open_.pop()
        if open_ and i.end_ns > open_[-1].end_ns:
            a, b = open_[-1], i
            msg = (
                f"lane {i.lane}: {a.name} of iteration {a.iteration} and {b.name} of "
                f"{b.iteration} overlap, and neither encloses the other"
            )
            raise ValueError(msg)
        open_.append(i)
