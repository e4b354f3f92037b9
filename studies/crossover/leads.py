"""Where one method that drafts overtakes another, and how sure that is."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from math import inf

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.profiles.one_look import one_look
from dflash_sim.studies.crossover.advice import choices
from dflash_sim.studies.crossover.question import Question
from dflash_sim.studies.crossover.search import Crossover, Curve, crossover, curve_of


def answer(
    question: Question,
    *,
    interval: bool = True,
    on_run: Callable[[int], None] | None = None,
) -> Crossover:
    """Find where each server stops beating plain decoding, and where the best ones change places.

    Parameters
    ----------
    interval
        Also 90 % intervals, of both kinds of crossing.
    on_run
        Called after each run, with its number.

    Raises
    ------
    DflashSimError
        No server runs anywhere along the axis.
    """
    with one_look():
        found = crossover(question, interval=interval, on_run=on_run)
        return replace(found, leads=tuple(leads_of(found)) if interval else ())


def leads_of(found: Crossover) -> Iterator[Curve]:
    """The gain of each method that the answer leaves for another, over that one."""
    parts = choices(found) if found.axis.chooses else []
    for n, (part, after) in enumerate(pairwise(parts)):
        one, other = part.curve, after.curve
        if one is None or other is None:
            continue
        low = part.first if any(p.curve is other for p in parts[:n]) else -inf
        high = after.last if any(p.curve is one for p in parts[n + 2 :]) else inf
        places = {v for v in found.question.values if low <= v <= high}
        places |= {v for v in (low, high) if abs(v) < inf}  # of several crossings, of this one
        try:
            lead = curve_of(one.server, other.server, sorted(places), interval=True)
        except DflashSimError:
            continue
        if lead.pays in ("until", "between"):
            yield lead
