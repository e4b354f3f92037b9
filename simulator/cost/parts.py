"""What a price is: seconds by the evidence behind them, and the parts that link and gaps take.

Sums keep the shares, so a result can report how much of its step time was measured. What was
priced is kept with the engine constants that each price rests on: a slope asks for the prices of a
sheet in which one constant differs, and only those that rest on it are made anew.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np

from dflash_sim.profiles.releases.engine_sheet import EngineSheet

Price = TypeVar("Price")
Known: TypeAlias = dict[Hashable, tuple[Any, frozenset[str]]]  # with the constants it rests on

EVIDENCE = ("measured", "fitted", "roofline", "assumed")
# Components of a price as an array: seconds by evidence, then the parts of them that are
# communication, and that lie between kernels.
PARTS = (*EVIDENCE, "comm", "idle")
ASSUMED, COMM, IDLE, ROOFLINE = (
    PARTS.index(name) for name in ("assumed", "comm", "idle", "roofline")
)


def by_evidence(parts: np.ndarray) -> np.ndarray:
    """The seconds by evidence of an array whose first axis is :data:`PARTS`."""
    return parts[: len(EVIDENCE)]


def seconds_of(parts: np.ndarray) -> np.ndarray:
    """Seconds in all, summed over the evidences of an array whose first axis is :data:`PARTS`."""
    total: np.ndarray = by_evidence(parts).sum(axis=0)
    return total


def add_idle(parts: np.ndarray, seconds: float | np.ndarray) -> None:
    """Add assumed time in which no kernel runs, in place."""
    parts[ASSUMED] += seconds
    parts[IDLE] += seconds


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds by evidence, and the parts of them in collectives and between kernels."""

    by_evidence: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    comm_s: float = 0.0
    idle_s: float = 0.0

    @property
    def seconds(self) -> float:
        return sum(self.by_evidence)

    def __add__(self, other: "Cost") -> "Cost":
        (a, b, c, d), (e, f, g, h) = self.by_evidence, other.by_evidence
        added = (a + e, b + f, c + g, d + h)
        return Cost(added, self.comm_s + other.comm_s, self.idle_s + other.idle_s)

    def as_array(self) -> np.ndarray:
        """Seconds along :data:`PARTS`, for interpolation."""
        return np.array([*self.by_evidence, self.comm_s, self.idle_s])

    @staticmethod
    def of(seconds: float, evidence: str, *, comm: bool = False, idle: bool = False) -> "Cost":
        slots = [0.0, 0.0, 0.0, 0.0]
        slots[EVIDENCE.index(evidence)] = seconds
        a, b, c, d = slots
        return Cost((a, b, c, d), seconds if comm else 0.0, seconds if idle else 0.0)


@dataclass
class Priced:
    """Prices by what they are of.

    Parameters
    ----------
    before
        What was priced with another sheet of the same engine.
    changed
        The constants in which the two sheets differ.
    """

    before: Known = field(default_factory=dict, repr=False)
    changed: frozenset[str] = frozenset()
    known: Known = field(default_factory=dict, repr=False)

    def with_changed(self, changed: frozenset[str]) -> "Priced":
        """Return what is priced with a sheet in which these constants differ, if any do."""
        return Priced(self.known, changed) if changed else self

    def get(self, key: Hashable, engine: EngineSheet, make: Callable[[], Price]) -> Price:
        """The price of ``key``, which ``make`` makes with the constants of ``engine``."""
        found = self.known.get(key)
        if found is None:
            found = self.before.get(key)
            if found is None or not found[1].isdisjoint(self.changed):
                found = _made(engine, make)
            self.known[key] = found
        engine.read.update(found[1])
        price: Price = found[0]
        return price


def _made(engine: EngineSheet, make: Callable[[], Any]) -> tuple[Any, frozenset[str]]:
    """A price, and the constants that were read for it."""
    others = set(engine.read)
    engine.read.clear()
    try:
        return make(), frozenset(engine.read)
    finally:
        engine.read.update(others)
