"""The lengths of a run's requests, as a workload that is simulated.

Equal requests would end together, and the next wave would wait for its own prefill: a run of
spread lengths has neither, so where a file tells the spread, or its benchmark is known to draw
one, it is not simulated at its means.
"""

from collections.abc import Mapping
from math import inf, isfinite, sqrt
from typing import TypeAlias

from dflash_sim.calibrate.observations.values import Metrics
from dflash_sim.profiles.errors import UsageError

Tokens: TypeAlias = float

AT_MEANS = "simulated at the run's mean input and output length"
SPREAD = "lengths are not in the file: taken as uniform up to twice the run's means"
AS_SPREAD = "lengths are simulated as uniform with the run's means; inputs spread as outputs do"
_UNIFORM = sqrt(3)  # of a uniform distribution that begins at 0: its mean over its deviation


def mean_lengths(metrics: Metrics) -> dict[str, int]:
    """Mean input and output length of the answered requests as a fixed-length workload."""
    completed = metrics.get("completed")
    isl = metrics.get("total_input_tokens") / completed
    osl = metrics.get("total_output_tokens") / completed
    return fixed_lengths(isl, osl) if isl > 0 and osl > 0 else {}


def fixed_lengths(isl: float, osl: float) -> dict[str, int]:
    """A workload of equal requests [token], not capped below its own length."""
    if not (0 < isl < inf and 0 < osl < inf):
        msg = f"mean lengths of {isl:g} in and {osl:g} out; expected tokens"
        raise UsageError(msg)
    out = max(1, round(osl))
    return {"isl": max(1, round(isl)), "osl": out, "max_new_tokens": out}


def uniform_lengths(means: Mapping[str, float], ratio: float) -> dict[str, float]:
    """A workload of lengths from ``ratio`` of the longest up, with these means [token]."""
    widest = {key: round(2 * means[key] / (1 + ratio)) for key in ("isl", "osl")}
    return {**widest, "max_new_tokens": widest["osl"], "range_ratio": ratio}


def lengths_of(isl: float, osl: float, deviation: Tokens | None) -> tuple[dict[str, float], str]:
    """A workload with the mean lengths of a run and the spread of its outputs, and a remark.

    Parameters
    ----------
    deviation
        Standard deviation of the output lengths; None where the file does not tell it [token].

    Examples
    --------
    >>> lengths_of(100, 50, 0.0)[0]
    {'isl': 100, 'osl': 50, 'max_new_tokens': 50}
    >>> lengths_of(100, 50, 40.0)[0]["range_ratio"]
    0.0
    """
    means = fixed_lengths(isl, osl)
    share = _UNIFORM * deviation / osl if deviation is not None and isfinite(deviation) else 0.0
    ratio = max(0.0, (1 - share) / (1 + share))
    wide = uniform_lengths(means, ratio)
    if ratio == 1 or wide["osl"] == means["osl"]:
        return dict(means), AT_MEANS
    return wide, AS_SPREAD
