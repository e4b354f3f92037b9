"""Parameters that the rows of a fit determine, and those that they leave open."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.releases.calibration import Calibration

Floats = npt.NDArray[np.float64]

_LITTLE = 0.1  # share of the prior variance: less is as good as nothing
_ALIKE = 0.9  # correlation
_PART = 0.25  # of a direction, in prior sds; less goes unsaid


@dataclass(frozen=True)
class Direction:
    """A combination of parameters about which the rows say next to nothing.

    Parameters
    ----------
    parts
        Parameter names and how far each moves, in its prior standard deviations, the furthest
        first.
    learned
        Share of the prior variance along it that the rows removed [1].
    """

    parts: tuple[tuple[str, float], ...]
    learned: float


def learned(c: Calibration) -> dict[str, float]:
    """By parameter, the share of its prior variance that the rows removed."""
    left = np.diagonal(_relative(c))
    return {p.name: float(1 - v) for p, v in zip(c.parameters, left, strict=True)}


def alike(c: Calibration) -> list[tuple[str, str, float]]:
    """Pairs of parameters that the rows cannot tell apart, and their correlation."""
    unit = c.covariance / np.outer(c.sd, c.sd)
    pairs = []
    for i, j in zip(*np.triu_indices(len(unit), 1), strict=True):
        if abs(unit[i, j]) > _ALIKE:
            names = c.parameters[i].name, c.parameters[j].name
            pairs.append((*names, float(unit[i, j])))
    return sorted(pairs, key=lambda p: -abs(p[2]))


def open_directions(c: Calibration) -> list[Direction]:
    """Combinations left open of parameters that are not left open alone, the most open first."""
    left = _relative(c)
    some = np.flatnonzero(np.diagonal(left) < 1 - _LITTLE)
    values, vectors = np.linalg.eigh(left[np.ix_(some, some)])
    found = []
    for k in np.flatnonzero(values > 1 - _LITTLE)[::-1]:
        order = np.argsort(-np.abs(vectors[:, k]))
        along = vectors[:, k] * np.sign(vectors[order[0], k])
        parts = tuple(
            (c.parameters[some[i]].name, float(along[i])) for i in order if abs(along[i]) > _PART
        )
        found.append(Direction(parts, float(1 - values[k])))
    return found


def _relative(c: Calibration) -> Floats:
    """The posterior covariance in prior standard deviations."""
    prior = np.array([p.sd for p in c.parameters])
    return np.asarray(c.covariance / np.outer(prior, prior))
