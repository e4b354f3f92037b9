"""How far the levels of servers lie apart, by evidence of their rows.

The sheet has a prior for each level of each factor. Rows of a dozen servers cannot tell these
forty numbers, but they can tell whether those of a factor are too wide or too narrow together: the
scale on them under which the rows are likeliest, the levels themselves integrated out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.fit.gaussian import Linear, Problem, Spread
from dflash_sim.calibrate.fit.prior import Prior
from dflash_sim.calibrate.fit.rows import Row
from dflash_sim.profiles.releases.server_levels import FACTORS

Floats = npt.NDArray[np.float64]

_WITHIN = (
    0.7  # one sd of the log of a scale before any row is seen: sheets are off by a factor of 2
)
_REACH = np.linspace(-2.0, 2.0, 41)  # logs of the scales that are looked at
_ROUNDS = 4


@dataclass(frozen=True)
class Scale:
    """The likeliest scale on the level sds of a factor, and its one-sd range."""

    value: float
    low: float
    high: float


def spread_of_levels(
    rows: Sequence[Row], prior: Prior, at: Floats, f: Floats, s: Floats
) -> dict[str, Scale]:
    """Return the likeliest scale on the level sds of each factor.

    Parameters
    ----------
    at, f, s
        Answers are straight lines: ``f`` [rows, metrics] at ``at``, with slopes ``s``.
    """
    problem = Problem(rows, prior, f)
    straight = Linear(problem, at, problem.take(f), problem.take(s))
    spread = straight.likely()
    logs = dict.fromkeys(FACTORS, 0.0)
    curves: dict[str, Floats] = {}
    for _ in range(_ROUNDS):
        for factor in FACTORS:
            curves[factor] = np.array(
                [_evidence(straight, spread, logs | {factor: x}) for x in _REACH.tolist()]
            )
            logs[factor] = float(_REACH[np.argmax(curves[factor])])
    return {factor: _scale(curve) for factor, curve in curves.items()}


def _evidence(line: Linear, spread: Spread, logs: Mapping[str, float]) -> float:
    """Log density of the rows and of the scales [1]."""
    known = line.problem
    scale = np.exp([logs[p.kind] for p in known.prior.parameters])
    prior = replace(known.prior, covariance=np.diag((scale * known.prior.sd) ** 2))
    problem = Problem(known.rows, prior, known.answers)
    there = Linear(problem, line.x, line.f, line.slopes)
    return there.evidence(spread) - sum((x / _WITHIN) ** 2 for x in logs.values()) / 2


def _scale(curve: Floats) -> Scale:
    weight = np.exp(curve - curve.max())
    weight /= weight.sum()
    middle = float(weight @ _REACH)
    sd = float(np.sqrt(weight @ (_REACH - middle) ** 2))
    best = float(_REACH[np.argmax(curve)])
    return Scale(*np.exp([best, middle - sd, middle + sd]).tolist())
