"""Patterns in what is left after a fit: they are the sign of a model that is wrong.

For each factor, each of its groups is given an offset of its own; the furthest from zero is
compared with the furthest by chance, for rows that the fitted model would make.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.fit.gaussian import Linear, Spread
from dflash_sim.calibrate.fit.rows import Row

Floats = npt.NDArray[np.float64]

SUSPECT = 0.01  # p-value
_CHANCES = 4000


@dataclass(frozen=True)
class Pattern:
    """The group of a factor that stands out most.

    Parameters
    ----------
    factor
        Such as ``concurrency``; factors that group the rows alike are joined.
    rows
        Rows of the group.
    offset
        Relative error that all its rows share beyond the fitted model; positive is predicted too
        fast [1].
    chance
        Probability of an offset this far out in any group of the factor, were the model right.
    """

    factor: str
    group: str
    rows: int
    offset: float
    chance: float


def patterns(rows: Sequence[Row], line: Linear, spread: Spread) -> list[Pattern]:
    """One per factor with two groups or more, the least likely first."""
    inverse = line.precision(spread)
    names: dict[tuple[int, ...], list[str]] = {}
    for factor in rows[0].factors if rows else ():
        groups = [row.factors[factor] for row in rows]
        if len(set(groups)) > 1:
            order = {group: k for k, group in enumerate(dict.fromkeys(groups))}
            names.setdefault(tuple(order[g] for g in groups), []).append(factor)
    found = [_pattern(rows, factors, inverse, line) for factors in names.values()]
    return sorted(found, key=lambda p: p.chance)


def _pattern(rows: Sequence[Row], factors: list[str], inverse: Floats, line: Linear) -> Pattern:
    groups = [row.factors[factors[0]] for row in rows]
    members = line.problem.members(groups)
    information = members.T @ inverse @ members
    root = np.sqrt(np.diagonal(information))
    away = members.T @ inverse @ line.miss / root
    values, vectors = np.linalg.eigh(information / np.outer(root, root))
    normal = np.random.default_rng(0).standard_normal((_CHANCES, len(values)))
    chances = normal * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    furthest = int(np.argmax(np.abs(away)))
    group = list(dict.fromkeys(groups))[furthest]
    as_far = np.abs(chances).max(axis=1) >= abs(away[furthest])
    return Pattern(
        factor=" or ".join(factors),
        group=group,
        rows=groups.count(group),
        offset=float(np.expm1(-away[furthest] / root[furthest])),
        chance=float((1 + as_far.sum()) / (1 + _CHANCES)),
    )
