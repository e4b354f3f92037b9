"""Rows that their own fit does not follow, and what may be misread about them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.fit.gaussian import Linear
from dflash_sim.calibrate.fit.rows import Row
from dflash_sim.simulator.slopes import METRICS

Floats = npt.NDArray[np.float64]

_Z90, _OUT = 1.645, 0.1  # two-sided 90 % point of the normal law, and the share beyond it
_FAR = 2.0  # bands
_CONDITIONS = ("conc", "rate", "isl", "osl", "dataset", "method", "tp", "gpu", "model")


@dataclass(frozen=True)
class Stray:
    """What a fit does not follow about one of its own rows.

    Parameters
    ----------
    metric
        As in the result schema.
    error
        Relative error of the metric itself at the end of the fit: positive is predicted too high.
    noise
        Half of the band that measuring and rows of their own explain, at 90 % [1].
    """

    row: Row
    metric: str
    error: float
    noise: float


def strays(line: Linear) -> tuple[Stray, ...]:
    """Entries that lie further from the fit than noise explains, the furthest first.

    One in ten lies outside its band of 90 % by chance: those count where there are more of them
    than chance leaves, or where they lie twice as far out.
    """
    problem = line.problem
    own = np.hypot(*problem.prior.discrepancy[:2])
    band = _Z90 * np.sqrt(
        problem.noise**2
        + (own * np.abs(problem.sign)) ** 2
        + np.diagonal(line.prefills + problem.exchanged)
    )
    away = line.f - problem.y
    out = np.abs(away) / band
    by_chance = _OUT * len(out) + _Z90 * np.sqrt(_OUT * (1 - _OUT) * len(out))
    least = 1.0 if (out > 1).sum() > by_chance else _FAR
    far = [i for i in np.argsort(-out) if out[i] > least]
    return tuple(
        Stray(
            row=problem.rows[problem.index[i][0]],
            metric=METRICS[problem.index[i][1]],
            error=float(np.expm1(away[i])),
            noise=float(np.expm1(band[i])),
        )
        for i in far
    )


def misread(found: Sequence[Stray], rows: Sequence[Row]) -> list[str]:
    """What may be misread about the rows that a fit does not follow, a sentence each."""
    return [*_told_apart(found, rows), *_hints(found)]


def _told_apart(found: Sequence[Stray], rows: Sequence[Row]) -> list[str]:
    """Conditions that all stray rows have and no other row has."""
    stray = {s.row.observation.row for s in found}
    groups = [[r for r in rows if (r.observation.row in stray) is far] for far in (True, False)]
    if not all(groups) or len(groups[0]) > len(groups[1]):
        return []  # where most rows are off, it is nothing that a few have in common
    out = []
    for name in _CONDITIONS:
        theirs, others = ({getattr(r.scenario, name) for r in group} for group in groups)
        if len(theirs) == 1 and None not in theirs and not theirs & others:
            out.append(f"all of them, and no row that is followed, have {name} {theirs.pop()}")
    return out


def _hints(found: Sequence[Stray]) -> list[str]:
    """What the signs of the misses point to."""
    signs = {(s.metric.partition("_")[2], s.error > 0) for s in found}
    out = []
    if ("ttft_ms", True) in signs:
        out.append(
            "first tokens came sooner than prefills allow: prompts may have been found in the "
            "prefix cache, or been shorter than the file says"
        )
    if ("ttft_ms", False) in signs:
        out.append(
            "first tokens came later than foreseen: --scheduler-recv-interval, a queue before the "
            "server or prefills without graphs (--cuda-graph-backend-prefill disabled)"
        )
    many = [s for s in found if s.metric == "output_throughput" and (s.row.scenario.conc or 0) > 1]
    if any(s.error > 0 for s in many):
        out.append(
            "rows of many clients are slower than foreseen: fewer requests may have run at once "
            "(--max-running-requests, --mem-fraction-static), or answers were shorter than told"
        )
    if any(s.error < 0 and s.row.scenario.speculation.speculative for s in found):
        out.append("rows with drafts are faster than foreseen: more drafts may be accepted")
    return out
