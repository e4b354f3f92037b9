"""Acceptance where nothing is published of it: carried over from what is, with a wider interval."""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from dflash_sim.profiles.acceptance.conditions import FULL, DrafterSpread, load_conditions
from dflash_sim.profiles.errors import unknown
from dflash_sim.profiles.priors import AcceptancePriors
from dflash_sim.profiles.units import in_percent
from dflash_sim.simulator.requests.published_lengths import (
    CARD_DATASETS,
    Asked,
    Found,
    Points,
    at_temperature,
    error_of_90,
    published,
)
from dflash_sim.simulator.requests.survival import FrailtyWeibull, fit_one


def inferred(asked: Asked, priors: AcceptancePriors, points: Points) -> Found | None:
    """Return what other data sets or the other mode of thinking say, the surer of them."""
    other = replace(asked, thinking=not asked.thinking)
    found = [
        _from_other_content(asked, priors, points),
        _with_thinking(published(other, priors, points), asked),
    ]
    if found == [None, None]:
        found = [_with_thinking(_from_other_content(other, priors, points), asked)]
    return min((f for f in found if f is not None), key=lambda f: f.rel_err, default=None)


def of_any_drafter(asked: Asked, priors: AcceptancePriors) -> Found:
    """Return what a drafter of a new model would have, by the published ones of the method.

    Raises
    ------
    UsageError
        Nothing is known of the method's drafters.
    """
    conditions = load_conditions()
    if asked.law not in conditions.drafters:
        raise unknown(kind="prior of drafters", value=asked.law, allowed=conditions.drafters)
    spread, law = conditions.drafters[asked.law], conditions.of_content(asked.dataset)
    beta = priors.beta_of(asked.law).mean
    params = FrailtyWeibull(math.exp(spread.mean + law.effect), beta, priors.theta)
    err = error_of_90(params, math.hypot(spread.sd, law.sd), asked.block)
    found = Found(params, _origin(asked.law, spread), "assumed", err, inferred=True)
    return in_context(at_temperature(found, 0.0, asked), asked)


def _origin(method: str, spread: DrafterSpread) -> str:
    if spread.models == 1:
        return f"that of one published {method} drafter, with the spread of all methods' drafters"
    words = f"the spread of {spread.drafters} published {method} drafters of {spread.models} models"
    if spread.coverage is None:
        return words
    share = in_percent(spread.coverage)
    return f"{words}, whose 90 % interval holds {share} of accept lengths left out"


def in_context(found: Found, asked: Asked) -> Found:
    """Carry it to a context longer than the drafter was trained on; shorter ones change nothing."""
    law = load_conditions().of_context(asked.law, asked.memory)
    if asked.context is None or asked.context <= law.trained:
        return found
    doublings = math.log2(asked.context / law.trained)
    what = "drafters trained on" if asked.memory == FULL else "drafters known to"
    words = f"carried to a context of {asked.context:,.0f} tokens from {what} {law.trained:,}"
    return found.moved(law.slope * doublings, law.sd * doublings, asked.block, words)


def _with_thinking(found: Found | None, asked: Asked) -> Found | None:
    if found is None:
        return None
    conditions = load_conditions()
    if asked.thinking:
        law = conditions.thinking.get(asked.law, conditions.thinking["other"])
    else:
        law = conditions.without_thinking
    was, now = ("off", "on") if asked.thinking else ("on", "off")
    words = f"carried from thinking {was} to {now}"
    return found.moved(law.mean, law.sd, asked.block, words)


def _from_other_content(asked: Asked, priors: AcceptancePriors, points: Points) -> Found | None:
    """The mean of what other data sets say of this one, each less its own effect."""
    conditions = load_conditions()
    named = {p.dataset for p in points if p.model == asked.model}
    known = sorted((named | set(CARD_DATASETS)) & conditions.content.keys() - {asked.dataset})
    found = {d: published(replace(asked, dataset=d), priors, points) for d in known}
    # A survival of all or of nothing has no rate that could be moved.
    there = {d: f for d, f in found.items() if f is not None and 0 < f.params.lam < math.inf}
    if not there:
        return None
    beta = priors.beta_of(asked.law).mean
    laws = {d: conditions.of_content(d) for d in there}
    levels = [math.log(_refitted(f, asked, beta).lam) - laws[d].effect for d, f in there.items()]
    target = conditions.of_content(asked.dataset)
    own = float(np.sqrt(np.mean([law.sd**2 for law in laws.values()]) / len(laws)))
    err = max(f.rel_err for f in there.values())
    first = next(iter(there.values()))
    start = Found(FrailtyWeibull(1.0, beta, priors.theta), "", first.evidence, err)
    mean = float(np.mean(levels)) + target.effect
    origin = first.source if len({f.source for f in there.values()}) == 1 else "published"
    words = f"carried from {_listed(there)} to {asked.dataset or 'the mean of the cards'}"
    moved = start.moved(mean, math.hypot(target.sd, own), asked.block, "")
    return replace(moved, source=f"{origin}, {words}")


def _refitted(found: Found, asked: Asked, beta: float) -> FrailtyWeibull:
    length = found.params.accept_length(asked.block)
    return fit_one(length, asked.block, beta=beta, theta=found.params.theta)


def _listed(names: Iterable[str]) -> str:
    words = list(names)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
