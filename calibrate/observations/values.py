"""Values out of parsed records: checked, and named in every complaint."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Any

from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.profiles.units import MS

Raw = Mapping[str, Any]

LATENCIES = ("ttft", "tpot", "itl", "e2e_latency")
STATISTICS = ("mean", "median", "std", "p90", "p95", "p99")
THROUGHPUTS = ("request_throughput", "input_throughput", "output_throughput", "total_throughput")
TOTALS = ("duration", "completed", "total_input_tokens", "total_output_tokens")
ACCEPTANCE = (
    "accept_length",
    "accept_length_cycle",
    "accept_length_token_weighted",
    "accept_length_harmonic",
)


OF_CHUNKS = "accept_length is tokens a chunk, as the client saw them"

EVENLY = 1e6  # the gamma shape of arrivals that come one gap after the other
MOST = 1e12  # of a measured value: milliseconds, tokens and requests are below


def number(raw: Raw, key: str) -> float | None:
    """A number, or None if it is absent; infinities pass, other things do not."""
    value = raw.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    msg = f"{key} is {short(value)}; expected a number"
    raise UsageError(msg)


def whole(raw: Raw, key: str) -> int | None:
    """A whole number above 0, or None if it is absent."""
    value = number(raw, key)
    if value is None:
        return None
    if not isfinite(value) or value != int(value) or value < 1:
        msg = f"{key} is {short(raw[key])}; expected a whole number above 0"
        raise UsageError(msg)
    return int(value)


def word(raw: Raw, key: str) -> str | None:
    """Text without blanks around it, or None if it is absent or empty."""
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        msg = f"{key} is {short(value)}; expected text"
        raise UsageError(msg)
    return value.strip() or None


def inner(raw: Raw, *keys: str) -> Raw:
    """The object at the end of a path of keys; empty if any of it is absent."""
    value: Any = raw
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def anywhere(raw: Any, key: str, depth: int = 6) -> Any:
    """The first value called ``key`` at any level, nearest first; None if there is none."""
    level = [raw]
    for _ in range(depth):
        objects = [value for value in level if isinstance(value, Mapping)]
        for value in objects:
            if value.get(key) is not None:
                return value[key]
        lists = [item for value in level if isinstance(value, list) for item in value]
        level = [item for value in objects for item in value.values()] + lists
    return None


def short(value: object) -> str:
    """A value as a message shows it."""
    with suppress(ValueError, RecursionError):  # numbers of thousands of digits, deep nesting
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    return f"a very long {type(value).__name__}"


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Complaints inside begin with the key or column they are about."""
    try:
        yield
    except DflashSimError as error:
        msg = f"{what}: {error}"
        raise UsageError(msg) from None


def known(**facts: Any) -> dict[str, Any]:
    """The facts that are not None."""
    return {name: value for name, value in facts.items() if value is not None}


@dataclass
class Metrics:
    """Measured values as they are collected; what is no usable number is left out with a note."""

    values: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, name: str, raw: Raw, key: str, scale: float = 1.0) -> None:
        """Store ``raw[key]`` times ``scale`` as metric ``name`` if it is there."""
        value = number(raw, key)
        if value is None:
            return
        value *= scale
        fine = abs(value) <= MOST and (value > 0 or (value == 0 and name.startswith("std_")))
        if fine:
            self.values[name] = value
        else:
            self.notes.append(f"{key} is {short(raw[key])}: left out")

    def take_same(self, raw: Raw, *names: str) -> None:
        """Store values that are called as we call them."""
        for name in names:
            self.take(name, raw, name)

    def take_latencies(self, raw: Raw, theirs: Mapping[str, str], suffix: str = "_ms") -> None:
        """Store statistics of ``raw`` named ``mean_ttft_ms``; seconds if the suffix is empty.

        Parameters
        ----------
        theirs
            Our name of a latency -> the tool's.
        """
        scale = 1.0 if suffix else 1 / MS
        for ours, name in theirs.items():
            for statistic in STATISTICS:
                self.take(f"{statistic}_{ours}_ms", raw, f"{statistic}_{name}{suffix}", scale)

    def get(self, name: str) -> float:
        """The value, or not-a-number."""
        return self.values.get(name, nan)
