"""The acceptance to expect: what was published, what its siblings suggest, what laws carry over."""

import math
from dataclasses import dataclass, replace

import numpy as np

from dflash_sim.profiles.acceptance.conditions import FULL
from dflash_sim.profiles.errors import MissingProfileError
from dflash_sim.profiles.load import load_acceptance
from dflash_sim.profiles.one_look import made
from dflash_sim.profiles.priors import AcceptancePriors, load_acceptance_priors
from dflash_sim.profiles.releases.calibration import Calibration, cell
from dflash_sim.simulator.requests.inferred import in_context, inferred, of_any_drafter
from dflash_sim.simulator.requests.mixtures import MixedAcceptance
from dflash_sim.simulator.requests.parse import (
    PRIOR,
    Acceptance,
    ParametricAcceptance,
    parse_acceptance,
)
from dflash_sim.simulator.requests.published_lengths import (
    CARD_DATASETS,
    Asked,
    Found,
    Points,
    published,
    with_drawn_drafts,
)
from dflash_sim.simulator.requests.survival import MAX_BETA, FrailtyWeibull, fit_one

_LARGEST_EXPONENT = 700.0  # of e, in a float


@dataclass(frozen=True)
class Expectation:
    """An acceptance model, where it comes from, and its relative one-sigma error.

    ``inferred`` says that a law carried it here from other conditions than were published.
    """

    acceptance: Acceptance
    source: str
    evidence: str
    rel_err: float
    inferred: bool = False

    def adjusted(
        self, *, rejection: float = 0.0, decay: float = 0.0, correlation: float = 0.0
    ) -> "Expectation":
        """Return the same expectation with other parameters, where the law has them.

        Parameters
        ----------
        rejection : log of the factor on the rejection rate [1]
        decay : what adds to beta, about the position that 1/e of the cycles reach [1]
        correlation : of answer length and acceptance [1]
        """
        law = self.acceptance
        if isinstance(law, MixedAcceptance):
            parts = [replace(self, acceptance=part) for part in law.parts]
            moved = [
                p.adjusted(rejection=rejection, decay=decay, correlation=correlation).acceptance
                for p in parts
            ]
            return replace(self, acceptance=replace(law, parts=tuple(moved)))
        if not isinstance(law, ParametricAcceptance):
            return self
        p = law.params
        beta = min(max(p.beta + decay, 0.0), float(MAX_BETA))
        # The bend turns about the position that 1/e of the cycles reach: accept lengths stay.
        pivot = p.lam ** (-1 / p.beta) if 0 < p.lam < math.inf and _turns(p) else 1.0
        lam = p.lam * math.exp(rejection) * pivot ** (p.beta - beta)
        there = FrailtyWeibull(lam=lam, beta=beta, theta=p.theta)
        return replace(self, acceptance=replace(law, params=there, length_correlation=correlation))


def _turns(p: FrailtyWeibull) -> bool:
    """Return True if that position is a number that may be raised to the power of a bend."""
    return p.beta > 0 and abs(math.log(p.lam)) / p.beta * MAX_BETA < _LARGEST_EXPONENT


def expected_acceptance(
    *,
    model: str,
    method: str,
    law: str,
    block: int,
    dataset: str | None,
    thinking: bool,
    text: str | None = None,
    temperature: float = 0.0,
    context: float | None = None,
    memory: str = FULL,
    drawn: float = 0.0,
) -> Expectation:
    """Acceptance of ``method`` at verify width ``block``.

    In order: the ``text`` of a flag; accept lengths published for this model and data set, at the
    nearest temperature; the geometric mean of its family; other modes of thinking and other data
    sets of the model, carried over. Without a data set, the mean over the cards' data sets.

    Parameters
    ----------
    law, dataset, temperature, context, memory
        As in :class:`~dflash_sim.simulator.requests.published_lengths.Asked`.
    drawn
        Temperature that drafts are drawn at; 0 where they are the most likely tokens [1].

    Raises
    ------
    MissingProfileError
        Nothing is published; says how to give an acceptance.
    """
    # Drawn and verified by both distributions, drafts are as likely to be kept as by greedy ones.
    degrees = 0.0 if drawn else temperature
    asked = Asked(model, method, law, block, dataset, thinking, degrees, context, memory)

    def carried(found: Found) -> Expectation:
        if drawn:
            target = "sampled" if temperature else "greedy"
            found = with_drawn_drafts(found, block, degrees=drawn, target=target)
        return _expectation(found, block)

    priors = load_acceptance_priors().on(dataset)
    if text is not None and text.strip() == PRIOR:
        return carried(of_any_drafter(asked, priors))
    if text is not None:
        acceptance = parse_acceptance(text, block=block, priors=priors, law=law)
        return Expectation(acceptance, f"given: {acceptance.name}", "assumed", 0.0)
    found = made(("acceptance", asked), lambda: _found(asked, priors, load_acceptance()))
    if found is None:
        where = f"on {dataset}" if dataset else "on any card data set"
        msg = (
            f"no accept length is published for {model} with {method} at block {block} {where} "
            f"(thinking {'on' if thinking else 'off'}); published: {_known(model, method)}. "
            f"Give one, such as --acceptance al:{such_as(block):g}, or --acceptance prior for any "
            "drafter's."
        )
        raise MissingProfileError(msg)
    return carried(in_context(found, asked))


def such_as(block: int) -> float:
    """Return an accept length that a message can name: one that this many tokens allow."""
    return (1 + block) / 2


def _found(asked: Asked, priors: AcceptancePriors, points: Points) -> Found | None:
    if asked.dataset:
        return published(asked, priors, points) or inferred(asked, priors, points)
    return _mean_of_cards(asked, priors, points)


def _expectation(found: Found, block: int) -> Expectation:
    law = ParametricAcceptance(found.params, block)
    return Expectation(law, found.source, found.evidence, found.rel_err, found.inferred)


def _mean_of_cards(asked: Asked, priors: AcceptancePriors, points: Points) -> Found | None:
    """The geometric mean over the cards' data sets, those that are published if there are any."""
    each = [replace(asked, dataset=d) for d in CARD_DATASETS]
    known = [f for f in (published(a, priors, points) for a in each) if f is not None]
    if not known:
        return inferred(asked, priors, points)
    lengths = [np.log(f.params.accept_length(asked.block)) for f in known]
    # One data set shows no spread, two hardly any; and each has its own error.
    spread = max(float(np.std(lengths)), priors.data_set_spread)
    err = math.hypot(spread, max(f.rel_err for f in known))
    beta = priors.beta_of(asked.law).mean
    params = fit_one(float(np.exp(np.mean(lengths))), asked.block, beta=beta, theta=priors.theta)
    sets = "1 data set" if len(known) == 1 else f"{len(known)} data sets"
    source = f"mean of {sets}; no data set was named"
    carried = [f.source.rpartition(", inferred ")[2] for f in known if f.inferred]
    if carried:
        source += f"; inferred {carried[0]}"
    return Found(params, source, "assumed", err, bool(carried))


def _known(model: str, method: str) -> str:
    """Data sets with a published accept length, in the words of the flags."""
    rows = {
        (p.dataset, p.thinking)
        for p in load_acceptance()
        if (p.model, p.method) == (model, method) and p.dataset in CARD_DATASETS
    }
    flag = {True: " --thinking", False: " --no-thinking", None: ""}
    return ", ".join(sorted(f"{d}{flag[t]}" for d, t in rows)) or "nothing for this pair"


def calibrated(
    expectation: Expectation,
    calibration: Calibration | None,
    *,
    model: str,
    method: str,
    dataset: str | None,
    thinking: bool,
    given: bool,
) -> Expectation:
    """The acceptance as a fit to throughput refined it; a ``given`` one keeps its accept length."""
    if calibration is None:
        return expectation
    values = calibration.values
    where = cell(model, method, dataset, thinking)
    refined = not given and f"rejection:{where}" in values
    adjusted = expectation.adjusted(
        rejection=values[f"rejection:{where}"] if refined else 0.0,
        decay=values.get(f"decay:{where}", 0.0) if refined else 0.0,
        correlation=values.get(f"correlation:{dataset}", 0.0),
    )
    if not refined:
        return adjusted
    return replace(adjusted, source=f"{adjusted.source}, refined by a fit to throughput")
