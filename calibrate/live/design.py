"""Which few cells tell most about the unknowns of a server, before any of them is measured.

Where answers are straight lines in the unknowns, how much a measurement will narrow every
prediction does not depend on its outcome. Cells are taken one at a time, each the one that takes
most variance off the predictions of all cells for its time (Bayesian I-optimal design).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.fit.gaussian import Problem, Spread
from dflash_sim.calibrate.fit.prior import Prior
from dflash_sim.calibrate.fit.rows import Row

Floats = npt.NDArray[np.float64]

# A cell is not worth its time that takes off less of the variance that is left; and none is where
# what is left is so small a part of what the model itself is off by.
_LITTLE, _SETTLED = 0.05, 0.25


@dataclass(frozen=True)
class Choice:
    """Rows to measure, in this order, and what they are worth.

    Parameters
    ----------
    order
        Indices of the candidates.
    prior_sd, after
        Standard deviation of a prediction, the mean over all candidates, before any more is
        measured and, by row of ``order``, after it [1].
    """

    order: tuple[int, ...]
    prior_sd: float
    after: tuple[float, ...]


class Design:
    """Candidates, and what measuring some of them leaves of the doubt about all.

    Parameters
    ----------
    slopes
        Of the logs of the rows' metrics, shape [rows, metrics, parameters].
    """

    def __init__(self, rows: Sequence[Row], prior: Prior, slopes: Floats) -> None:
        self.problem = Problem(rows, prior)
        taken = self.problem.take(slopes)
        self.explained = np.asarray(taken @ prior.covariance @ taken.T)
        quiet = Spread(prior.discrepancy[:2], np.zeros(len(self.problem.index)))
        self.noise = self.problem.residual(quiet)
        self.aims: npt.NDArray[np.intp] = np.flatnonzero(
            [m == rows[i].speed for i, m in self.problem.index]
        )

    @property
    def floor(self) -> float:
        """Variance of the log of a speed that no constant explains, by mean over rows [1]."""
        return float(np.diagonal(self.noise)[self.aims].mean())

    def doubt(self, measured: Iterable[int]) -> float:
        """Variance of the log of a speed, the mean over all rows, once some are measured [1]."""
        here = set(measured)
        of = enumerate(self.problem.index)
        seen = np.array([k for k, (i, _) in of if i in here], dtype=np.intp)
        prior = np.diagonal(self.explained)[self.aims]
        if not seen.size:
            return float(prior.mean())
        reach = self.explained[np.ix_(self.aims, seen)]
        inner = (self.explained + self.noise)[np.ix_(seen, seen)]
        told = np.einsum("ij,ji->i", reach, np.linalg.solve(inner, reach.T))
        return float(np.mean(prior - told))


def choose_cells(
    design: Design,
    cost_s: Sequence[float],
    requests: Sequence[int],
    *,
    seconds: float,
    most_requests: int,
    fewest: int,
    done: Iterable[int] = (),
) -> Choice:
    """Take rows greedily until time, requests or what there is to learn are used up.

    Parameters
    ----------
    cost_s, requests
        What measuring each row takes.
    fewest
        Rows that are wanted even where little is to learn.
    done
        Rows that are measured already.
    """
    known, order, after = list(done), list[int](), list[float]()
    before = left = design.doubt(known)
    while True:
        within = [
            i
            for i in range(len(cost_s))
            if i not in known and cost_s[i] <= seconds and requests[i] <= most_requests
        ]
        if not within:
            break
        gains = {i: left - design.doubt([*known, i]) for i in within}
        best = max(within, key=lambda i: gains[i] / cost_s[i])
        if len(known) >= fewest:
            if left < _SETTLED * design.floor:
                break
            if gains[best] < _LITTLE * left:
                best = max(within, key=lambda i: gains[i])
            if gains[best] < _LITTLE * left:
                break
        known.append(best)
        order.append(best)
        left -= gains[best]
        after.append(left**0.5)
        seconds -= cost_s[best]
        most_requests -= requests[best]
    return Choice(tuple(order), before**0.5, tuple(after))
