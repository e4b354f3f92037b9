"""What a price is: seconds by the evidence behind them, and the parts that link and gaps take.

Sums keep the shares, so a result can report how much of its step time was measured.
"""

from dataclasses import dataclass

import numpy as np

EVIDENCE = ("measured", "fitted", "roofline", "assumed")
# Components of a price as an array: seconds by evidence, then the parts of them that are
# communication, and that lie between kernels.
PARTS = (*EVIDENCE, "comm", "idle")
ASSUMED, COMM, IDLE = (PARTS.index(name) for name in ("assumed", "comm", "idle"))


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
        both = zip(self.by_evidence, other.by_evidence, strict=True)
        a, b, c, d = (x + y for x, y in both)
        return Cost((a, b, c, d), self.comm_s + other.comm_s, self.idle_s + other.idle_s)

    def as_array(self) -> np.ndarray:
        """Seconds along :data:`PARTS`, for interpolation."""
        return np.array([*self.by_evidence, self.comm_s, self.idle_s])

    @staticmethod
    def of(seconds: float, evidence: str, *, comm: bool = False, idle: bool = False) -> "Cost":
        slots = [0.0, 0.0, 0.0, 0.0]
        slots[EVIDENCE.index(evidence)] = seconds
        a, b, c, d = slots
        return Cost((a, b, c, d), seconds if comm else 0.0, seconds if idle else 0.0)
