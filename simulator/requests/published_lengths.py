"""The accept lengths that are published for a model, method and data set, or for its siblings."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from dflash_sim.profiles.acceptance.conditions import FULL, load_conditions
from dflash_sim.profiles.priors import AcceptancePriors, Family, load_preference
from dflash_sim.profiles.sheets import AcceptancePoint
from dflash_sim.simulator.requests.survival import FrailtyWeibull, fit_many, fit_one, fit_two

CARD_DATASETS = ("gsm8k", "math500", "humaneval", "mbpp", "mt-bench")
_Z90 = 1.645  # two-sided 90 % point of the normal law
_ABLATION = "ablation"  # how the published rows name drafters that were trained for one


@dataclass(frozen=True)
class Asked:
    """The conditions that an acceptance is asked for.

    Parameters
    ----------
    law
        The drafting method whose laws hold for it.
    dataset
        A data set, a kind of text, or None for the mean of the cards' data sets.
    temperature
        Of the target's sampling; 0 is greedy [1].
    context
        Mean context while the answer is written; None where the data set's own lengths say [token].
    memory
        What the drafter sees of a long context: ``full``, ``windowed`` or ``native``.
    """

    model: str
    method: str
    law: str
    block: int
    dataset: str | None
    thinking: bool
    temperature: float = 0.0
    context: float | None = None
    memory: str = FULL


@dataclass(frozen=True)
class Found:
    """A survival, where it is from, and its relative one-sigma error.

    ``inferred`` says that a law carried it here from other conditions.
    """

    params: FrailtyWeibull
    source: str
    evidence: str
    rel_err: float
    inferred: bool = False

    def moved(self, mean: float, sd: float, block: int, words: str) -> "Found":
        """Return it with ``mean`` +- ``sd`` added to the log of the rejection rate.

        The relative error of the accept length at ``block`` grows by as much as ``sd`` moves it.
        """
        there = replace(self.params, lam=self.params.lam * math.exp(mean))
        return Found(
            there,
            f"{self.source}, {words}",
            "assumed",
            math.hypot(self.rel_err, sd * log_slope(there, block)),
            inferred=True,
        )


def log_slope(params: FrailtyWeibull, block: int) -> float:
    """``|d ln accept length / d ln lam|`` at a block [1]."""
    h = np.finfo(float).eps ** (1 / 3)
    ends = (replace(params, lam=params.lam * math.exp(x)) for x in (h, -h))
    low, high = (math.log(p.accept_length(block)) for p in ends)
    return abs(low - high) / (2 * h)


def error_of_90(params: FrailtyWeibull, sd: float, block: int) -> float:
    """Return the relative error whose 90 % interval holds what 1.645 ``sd`` do to either side.

    A block bounds accept lengths above, so they may fall further than they rise.

    Parameters
    ----------
    sd : of the log of the rejection rate [1]
    """
    ends = (replace(params, lam=params.lam * math.exp(z * sd)) for z in (-_Z90, _Z90))
    high, low = (p.accept_length(block) for p in ends)
    middle = params.accept_length(block)
    return math.log(max(high / middle, middle / low)) / _Z90


Points: TypeAlias = Sequence[AcceptancePoint]


def published(asked: Asked, priors: AcceptancePriors, points: Points) -> Found | None:
    """Return what is published of a data set and mode of thinking, else what siblings suggest.

    The nearest temperature counts; where it is another, the temperature's law carries it over.

    Parameters
    ----------
    points : the published accept lengths
    """
    about = [
        p for p in points if p.dataset == asked.dataset and p.thinking in (asked.thinking, None)
    ]
    rows = [p for p in about if p.method == asked.method and not p.drafter.startswith(_ABLATION)]
    for degrees, there in _by_nearness([p for p in rows if p.model == asked.model], asked):
        if own := _one_source(there, asked.block):
            source, err = f"published: {own[0].source_id}", priors.accept_length_error
            found = Found(_fit(own, asked.law, priors), source, "published", err)
            return at_temperature(found, degrees, asked)
    ablation = load_preference().ablations.get(asked.method)
    trained_for = [p for p in about if p.model == asked.model and p.drafter == ablation]
    for degrees, there in _by_nearness(trained_for, asked):
        if own := _one_source(there, asked.block):
            source = f"published: {own[0].source_id} ({ablation})"
            found = Found(
                _fit(own, asked.law, priors), source, "assumed", priors.accept_length_error
            )
            return at_temperature(found, degrees, asked)
    for family in load_preference().families:
        if asked.model in family.members:
            for degrees, there in _by_nearness(rows, asked):
                if borrowed := _borrow(there, family, asked, priors):
                    return at_temperature(borrowed, degrees, asked)
            return None
    return None


def at_temperature(found: Found, degrees: float, asked: Asked) -> Found:
    """Carry what was measured at temperature ``degrees`` to the one that is asked.

    Log rejection grows in proportion to the temperature; the interval spans growth with its square.
    """
    there = asked.temperature
    if there == degrees:
        return found
    law = load_conditions().of_content(asked.dataset)
    rise = law.temperature * (there - degrees)
    bend = law.temperature * abs(there**2 - degrees**2 - (there - degrees)) / 2
    sd = math.hypot(law.temperature_sd * (there - degrees), bend)
    was = f"temperature {degrees:g}" if degrees else "greedy"
    words = f"inferred from {was} for " + (f"temperature {there:g}" if there else "greedy")
    return found.moved(rise, sd, asked.block, words)


def with_drawn_drafts(found: Found, block: int, *, degrees: float, target: str) -> Found:
    """Carry what a greedy server accepts to drafts that are drawn at temperature ``degrees``.

    Parameters
    ----------
    target
        How the target chooses: ``sampled``, and both distributions verify, or ``greedy``.
    """
    law = load_conditions().drawn[target]
    words = f"carried to drafts that are drawn at temperature {degrees:g}"
    return found.moved(law.mean * degrees, law.sd * degrees, block, words)


def _by_nearness(
    points: Iterable[AcceptancePoint], asked: Asked
) -> list[tuple[float, list[AcceptancePoint]]]:
    """Points by temperature, the nearest first; a source that names none is taken for greedy."""
    found: dict[float, list[AcceptancePoint]] = defaultdict(list)
    for p in points:
        found[p.temperature or 0.0].append(p)
    return sorted(found.items(), key=lambda item: (abs(item[0] - asked.temperature), item[0]))


def _one_source(points: Sequence[AcceptancePoint], block: int) -> list[AcceptancePoint]:
    """All blocks of the preferred source that reaches ``block``: no extrapolation."""
    rank = load_preference().rank
    by_source: dict[str, list[AcceptancePoint]] = defaultdict(list)
    for p in points:
        by_source[p.source_id].append(p)
    able = [s for s, ps in by_source.items() if max(p.block for p in ps) >= block]
    return by_source[min(able, key=lambda s: (rank(s), s))] if able else []


def _borrow(
    rows: Iterable[AcceptancePoint], family: Family, asked: Asked, priors: AcceptancePriors
) -> Found | None:
    """Geometric mean of the siblings' fitted accept lengths at every published block."""
    siblings: dict[str, list[AcceptancePoint]] = defaultdict(list)
    for p in rows:
        if p.model in family.members and p.source_id in family.sources:
            siblings[p.model].append(p)
    able = {m: ps for m, ps in siblings.items() if max(p.block for p in ps) >= asked.block}
    if not able:
        return None
    fits = {m: _fit(ps, asked.law, priors) for m, ps in able.items()}
    blocks = sorted({p.block for ps in able.values() for p in ps})
    means = [
        (b, float(np.exp(np.mean([np.log(f.accept_length(b)) for f in fits.values()]))))
        for b in blocks
    ]
    params = _fit_lengths(means, asked.law, priors)
    names = " and ".join(sorted(fits))
    return Found(params, f"borrowed from {names} ({family.name})", "assumed", family.rel_err)


def _fit(points: Sequence[AcceptancePoint], law: str, priors: AcceptancePriors) -> FrailtyWeibull:
    by_block: dict[int, list[float]] = defaultdict(list)
    for p in points:
        by_block[p.block].append(p.accept_len)
    lengths = [(b, float(np.mean(v))) for b, v in sorted(by_block.items())]
    return _fit_lengths(lengths, law, priors)


def _fit_lengths(
    lengths: list[tuple[int, float]], law: str, priors: AcceptancePriors
) -> FrailtyWeibull:
    prior = priors.beta_of(law)
    if len(lengths) == 1:
        return fit_one(lengths[0][1], lengths[0][0], beta=prior.mean, theta=priors.theta)
    if len(lengths) == 2:
        (b1, a1), (b2, a2) = lengths
        return fit_two(a1, b1, a2, b2, theta=priors.theta)
    points = [(b, al, priors.accept_length_error * al) for b, al in lengths]
    return fit_many(points, beta_prior=(prior.mean, prior.sd), theta=priors.theta).params
