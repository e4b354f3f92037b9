"""Two kinds of server under one load: what one saves over the other, and how sure that is.

Both predictions hang on the same constants, so their errors move together. The logarithms of
their throughputs have a joint normal law; pairs of fleets are sized at its centre and at its two
ends along the difference, each side where it is expected to be there. What one fleet saves is told
of the two that are rented, each at the confidence of its own, and the interval spans all pairs.
"""

import math
from dataclasses import dataclass

from dflash_sim.jobs.pool import Pool
from dflash_sim.studies.ask.prices import HOURS_A_MONTH
from dflash_sim.studies.plan.candidate import Solved, Survey, fewest_at
from dflash_sim.studies.plan.judge import Judge

_ENDS = (-1.645, 1.645)  # of the middle 90 % of a normal law, in standard deviations
CENTRE = (1.0, 1.0)  # of a joint law: both as predicted


@dataclass(frozen=True)
class Difference:
    """The fleet of ``one`` beside that of ``other``, for the same requests.

    Parameters
    ----------
    one, other
        Candidates, by their place in the question.
    gpus
        Of each fleet at the stated confidence of its own; the least that was not too few where
        ``at_least``.
    central_gpus
        Of each fleet with both as predicted; one more server than the largest fleet has, where
        that is too few.
    at_least
        True if the other fleet is larger than any that was tried.
    saved_gpus
        That ``one`` has fewer than ``other``, as sized.
    saved_gpus_ci90
        The least and the most of that as sized, and as needed from the 5 % to the 95 % point of
        the joint law: at its two ends and its centre.
    usd_month
        Rent of each fleet as sized, at typical prices [USD/month].
    saved_usd_month, saved_usd_month_ci90
        As for GPUs; None where a price is not known.
    """

    one: int
    other: int
    gpus: tuple[int, int]
    central_gpus: tuple[int, int]
    at_least: bool
    saved_gpus: int
    saved_gpus_ci90: tuple[int, int]
    usd_month: tuple[float | None, float | None]
    saved_usd_month: float | None
    saved_usd_month_ci90: tuple[float, float] | None


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
        return (CENTRE,) * len(_ENDS)
    sd = math.sqrt(spread)
    ahead, behind = (one**2 - shared) / sd, (two**2 - shared) / sd
    return tuple((math.exp(-ahead * z), math.exp(behind * z)) for z in _ENDS)


def difference(
    judges: Pool, one: tuple[Survey, Solved], other: tuple[Survey, Solved], max_gpus: int
) -> Difference:
    """What the first saves over the second; the first has a fleet."""
    (s, mine), (t, theirs) = one, other
    assert mine.replicas is not None
    factors = [CENTRE, *next(iter(judges.map(ends, [(s.index, t.index)])))]
    tasks = []
    for pair in factors:
        for (survey, found), slow in zip((one, other), pair, strict=True):
            tasks.append((survey.index, slow, found, max(1, max_gpus // survey.tp)))
    sizes = list(judges.map(needed_at, tasks))
    needed = [task[3] + 1 if n is None else n for n, task in zip(sizes, tasks, strict=True)]
    pairs = list(zip(needed[::2], needed[1::2], strict=True))
    least = theirs.replicas if theirs.replicas is not None else theirs.failed + 1
    pairs.append((mine.replicas, least))
    saved = [b * t.tp - a * s.tp for a, b in pairs]
    money, money_ci = None, None
    usd = _month(s, mine.replicas), _month(t, least)
    if usd[0] is not None and usd[1] is not None:
        each = [(_month(t, b) or 0.0) - (_month(s, a) or 0.0) for a, b in pairs]
        money, money_ci = each[-1], (min(each), max(each))
    return Difference(
        one=s.index,
        other=t.index,
        gpus=(mine.replicas * s.tp, least * t.tp),
        central_gpus=(pairs[0][0] * s.tp, pairs[0][1] * t.tp),
        at_least=theirs.replicas is None,
        saved_gpus=saved[-1],
        saved_gpus_ci90=(min(saved), max(saved)),
        usd_month=usd,
        saved_usd_month=money,
        saved_usd_month_ci90=money_ci,
    )


def needed_at(judge: Judge, i: int, slow: float, found: Solved, most: int) -> int | None:
    """The fewest replicas where all times are ``slow`` as long; None if more than ``most``.

    A fleet that was found to do with longer times is enough with shorter ones, and is not tried.
    """
    n = found.replicas
    if n is None or slow > judge.slow(i):
        return fewest_at(judge, i, slow, n or found.failed + 1, most)
    return fewest_at(judge, i, slow, n - 1, n - 1) or n


def _month(s: Survey, replicas: int) -> float | None:
    usd = s.usd("typical", replicas)
    return None if usd is None else usd * HOURS_A_MONTH
