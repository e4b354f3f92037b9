"""Two kinds of server under one load: what one saves over the other, and how sure that is.

Both predictions hang on the same constants, so their errors move together. The logarithms of
their throughputs have a joint normal law; fleets are sized at its two ends along the difference,
each side where it is expected to be there.
"""

import math
from dataclasses import dataclass

from dflash_sim.jobs.pool import Pool
from dflash_sim.studies.plan.candidate import Solved, Survey, fewest_at
from dflash_sim.studies.plan.judge import Judge
from dflash_sim.studies.plan.prices import HOURS_A_MONTH

_ENDS = (-1.645, 1.645)  # of the middle 90 % of a normal law, in standard deviations


@dataclass(frozen=True)
class Difference:
    """The fleet of ``one`` beside that of ``other``, for the same requests.

    Parameters
    ----------
    one, other
        Candidates, by their place in the question.
    gpus
        Of each fleet at the stated confidence of its own; None beyond the largest fleet.
    saved_gpus
        That ``one`` needs fewer than ``other``; at least, where ``other`` has None.
    saved_gpus_ci90
        The middle 90 % of that, with both fleets of one draw.
    usd_month
        Rent of each fleet at typical prices [USD/month].
    saved_usd_month, saved_usd_month_ci90
        As for GPUs; None where a price is not known.
    """

    one: int
    other: int
    gpus: tuple[int, int | None]
    saved_gpus: int
    saved_gpus_ci90: tuple[int, int]
    usd_month: tuple[float | None, float | None]
    saved_usd_month: float | None
    saved_usd_month_ci90: tuple[float, float] | None

    @property
    def at_least(self) -> bool:
        """Return True if the other fleet is larger than any that was tried."""
        return self.gpus[1] is None


def ends(judge: Judge, i: int, j: int) -> tuple[tuple[float, float], ...]:
    """How much longer than predicted the times of both are, where their ratio is at its ends [1].

    Each is the conditional mean of its own logarithm, given that of the ratio.
    """
    return joint_ends(judge.spread(i), judge.spread(j), judge.ratio_spread(i, j))


def joint_ends(one: float, two: float, ratio: float) -> tuple[tuple[float, float], ...]:
    """As :func:`ends`, from standard deviations of the logs of both and of their ratio."""
    most = one * two
    shared = min(most, max(-most, (one**2 + two**2 - ratio**2) / 2))
    spread = one**2 + two**2 - 2 * shared
    if spread <= 0:
        return ((1.0, 1.0),) * len(_ENDS)
    sd = math.sqrt(spread)
    ahead, behind = (one**2 - shared) / sd, (two**2 - shared) / sd
    return tuple((math.exp(-ahead * z), math.exp(behind * z)) for z in _ENDS)


def difference(
    judges: Pool, one: tuple[Survey, Solved], other: tuple[Survey, Solved], max_gpus: int
) -> Difference:
    """What the first saves over the second; the first has a fleet."""
    (s, mine), (t, theirs) = one, other
    assert mine.replicas is not None
    factors = next(iter(judges.map(ends, [(s.index, t.index)])))
    tasks = []
    for pair in factors:
        for (survey, found), slow in zip((one, other), pair, strict=True):
            guess = found.replicas or found.failed + 1
            tasks.append((survey.index, slow, guess, max(1, max_gpus // survey.tp)))
    sizes = list(judges.map(fewest_at, tasks))
    most = [t[3] for t in tasks]
    needed = [m + 1 if n is None else n for n, m in zip(sizes, most, strict=True)]
    gpus = (mine.replicas * s.tp, None if theirs.replicas is None else theirs.replicas * t.tp)
    least = gpus[1] if gpus[1] is not None else (theirs.failed + 1) * t.tp
    saved = [b * t.tp - a * s.tp for a, b in zip(needed[::2], needed[1::2], strict=True)]
    point = least - gpus[0]
    span = min(*saved, point), max(*saved, point)
    usd = _month(s, mine.replicas), _month(t, least // t.tp)
    money, money_ci = None, None
    if usd[0] is not None and usd[1] is not None:
        money = usd[1] - usd[0]
        each = [
            (_month(t, b) or 0.0) - (_month(s, a) or 0.0)
            for a, b in zip(needed[::2], needed[1::2], strict=True)
        ]
        money_ci = min(*each, money), max(*each, money)
    return Difference(s.index, t.index, gpus, point, span, usd, money, money_ci)


def _month(s: Survey, replicas: int) -> float | None:
    usd = s.usd("typical", replicas)
    return None if usd is None else usd * HOURS_A_MONTH
