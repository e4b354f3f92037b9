"""The busiest of the ranks that hold whole experts: the others wait for it.

Which experts are popular is not known, so every rank has as many of them at random. What a rank
has to do is then a sum over its experts, of one mean and one spread, and the most of ``ep`` such
sums, whose total is given, is the mean plus as many standard deviations as the largest of ``ep``
normal numbers is above zero.
"""

from dataclasses import dataclass
from functools import cache
from math import erf, sqrt

import numpy as np

from dflash_sim.simulator.cost.ops import popularity

_REACH, _POINTS = 8.0, 1601  # of the grid of normal deviates


@dataclass(frozen=True, slots=True)
class Busiest:
    """What the busiest rank has over the mean of all [1].

    Parameters
    ----------
    touched
        Distinct experts, whose weights it reads.
    load
        Rows of tokens that are multiplied with them.
    """

    touched: float = 1.0
    load: float = 1.0


EVEN = Busiest()


def busiest_rank(experts: int, top_k: int, *, tokens: float, skew: float, ep: int) -> Busiest:
    """Expected share of the busiest of ``ep`` ranks over the mean share.

    Parameters
    ----------
    tokens
        As many unrelated tokens as touch the same experts.
    skew
        Standard deviation of the log of an expert's popularity; 0 is uniform [1].
    """
    if ep == 1:
        return EVEN
    liked, weight = popularity(skew)
    chosen = np.minimum(liked * top_k / experts, 1.0)
    mean = float(weight @ chosen)
    touched = float(weight @ (1.0 - (1.0 - chosen) ** tokens))
    # Relative variance of one expert: of being touched at all, and of its rows.
    of_touched = (1.0 - touched) / touched
    by_chance = float(weight @ (chosen * (1.0 - chosen))) / (tokens * mean**2)
    by_popularity = float(weight @ chosen**2) / mean**2 - 1.0
    return Busiest(
        touched=min(_most(of_touched, experts, ep), 1.0 / touched),
        load=_most(by_chance + by_popularity, experts, ep),
    )


def _most(variance: float, experts: int, ep: int) -> float:
    """The most of ``ep`` ranks over their mean, of experts with this relative variance."""
    return min(float(ep), 1.0 + expected_maximum(ep) * sqrt(variance * ep / experts))


@cache
def expected_maximum(n: int) -> float:
    """Mean of the largest of ``n`` independent standard normal numbers.

    Examples
    --------
    >>> round(expected_maximum(2), 4)  # 1 / sqrt(pi)
    0.5642
    """
    z = np.linspace(-_REACH, _REACH, _POINTS)
    density = np.exp(-(z**2) / 2) / sqrt(2 * np.pi)
    below = np.array([(1 + erf(x / sqrt(2))) / 2 for x in z])
    return float(n * np.sum(z * density * below ** (n - 1)) * (z[1] - z[0]))
