"""Numbers as people read them: digits, percent, shares."""

from collections.abc import Mapping
from itertools import accumulate


def shares(evidence: Mapping[str, float]) -> str:
    """Say what a result rests on, in whole percent that add up to a hundred."""
    ends = [round(100 * x) for x in accumulate(evidence.values())]
    parts = (b - a for a, b in zip([0, *ends], ends, strict=False))
    return ", ".join(f"{name} {n} %" for name, n in zip(evidence, parts, strict=True))


def number(value: float) -> str:
    """Three or four digits, with thousands separated."""
    digits = 0 if abs(value) >= 999.5 else 1 if abs(value) >= 99.95 else 2
    return f"{value:,.{digits}f}"


def percent(share: float) -> str:
    """A share in percent, to one decimal."""
    return f"{100 * share:.1f} %"


def signed(error: float) -> str:
    """An error in percent, with its sign, to one decimal."""
    return f"{round(100 * error, 1) + 0.0:+.1f} %"  # no minus before a zero
