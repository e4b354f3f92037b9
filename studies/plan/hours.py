"""A load that follows the hours of the day: what a fleet does in each of them.

The fleet is sized for the busiest hour. Each other hour has the same requests, farther apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dflash_sim.jobs.pool import Pool
from dflash_sim.profiles.errors import UsageError
from dflash_sim.studies.plan.close_look import load_of
from dflash_sim.studies.plan.judge import Judge

HOURS = 24


@dataclass(frozen=True)
class Hour:
    """Hours of the day that have one load.

    Parameters
    ----------
    hours
        Which, from 0 to 23.
    share
        Of the rate of the busiest [1].
    replicas
        The fewest that meet the objective then.
    busy
        Share of the time that the GPUs of the whole fleet are at work [1].
    """

    hours: tuple[int, ...]
    share: float
    replicas: int
    busy: float

    @property
    def said(self) -> str:
        """The hours in words, such as ``0-6, 22-23``."""
        runs: list[list[int]] = []
        for hour in self.hours:
            if runs and hour == runs[-1][1] + 1:
                runs[-1][1] = hour
            else:
                runs.append([hour, hour])
        return ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in runs)


def hours(judges: Pool, i: int, replicas: int, shares: Sequence[float]) -> tuple[Hour, ...]:
    """What a fleet does through a day, the busiest hours first."""
    loads: dict[float, list[int]] = {}
    for hour, share in enumerate(shares):
        loads.setdefault(share, []).append(hour)
    order = sorted(loads, reverse=True)
    found = judges.map(of_hour, [(i, replicas, share) for share in order if share])
    seen = dict(zip([share for share in order if share], found, strict=True))
    idle = 0, 0.0
    return tuple(Hour(tuple(loads[s]), s, *seen.get(s, idle)) for s in order)


def of_hour(judge: Judge, i: int, replicas: int, share: float) -> tuple[int, float]:
    """The fewest replicas at a share of the rate, and how busy the whole fleet is then."""
    slow, runs = judge.slow(i), range(len(judge.question.demand.runs))
    needed = replicas
    if share < 1:

        def met(n: int) -> bool:
            return all(judge.verdict(i, n, run=r, slow=slow, times=share).met for r in runs)

        while needed > 1 and met(needed - 1):
            needed -= 1
    busy = load_of(judge.serve(i, replicas, times=share), judge.setup(i)).busy
    return needed, busy


def shares_by_hour(text: str) -> tuple[float, ...]:
    """Shares of the rate by hour, of text such as ``0-7:0.2,8-19:1,20-23:0.5`` or 24 numbers.

    Raises
    ------
    UsageError
        An hour is missing or named twice, or a share is no number from 0 up.

    Examples
    --------
    >>> shares_by_hour("0-11:0.5,12-23:1")[11:13]
    (0.5, 1.0)
    """
    parts = [part.strip() for part in text.split(",")]
    if ":" not in text:
        parts = [f"{hour}:{part}" for hour, part in enumerate(parts)]
    found: dict[int, float] = {}
    for part in parts:
        named, _, share = part.partition(":")
        first, dash, last = named.partition("-")
        try:
            span = range(int(first), int(last if dash else first) + 1)
            value = float(share)
        except ValueError:
            raise _malformed(part) from None
        if not span or span[-1] >= HOURS or span[0] < 0 or not 0 <= value < float("inf"):
            raise _malformed(part)
        for hour in span:
            if hour in found:
                msg = f"--hours {text}: hour {hour} is named twice; name each once."
                raise UsageError(msg)
            found[hour] = value
    missing = [hour for hour in range(HOURS) if hour not in found]
    if missing:
        msg = f"--hours {text}: hour {missing[0]} is missing; name all of 0 to 23."
        raise UsageError(msg)
    if not any(found.values()):
        msg = f"--hours {text}: no hour has any requests; give one a share above 0, such as 1."
        raise UsageError(msg)
    return tuple(found[hour] for hour in range(HOURS))


def _malformed(part: str) -> UsageError:
    return UsageError(
        f"--hours {part}: give hours of the day with a share of --rate, as 0-7:0.2,8-23:1."
    )
