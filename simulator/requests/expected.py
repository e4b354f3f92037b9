"""The acceptance to expect: what was published for a model, or what its siblings suggest."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from dflash_sim.profiles.errors import MissingProfileError
from dflash_sim.profiles.load import load_acceptance
from dflash_sim.profiles.priors import (
    AcceptancePriors,
    Family,
    load_acceptance_priors,
    load_preference,
)
from dflash_sim.profiles.releases.calibration import Calibration, cell
from dflash_sim.profiles.sheets import AcceptancePoint
from dflash_sim.simulator.requests.parse import Acceptance, ParametricAcceptance, parse_acceptance
from dflash_sim.simulator.requests.survival import (
    MAX_BETA,
    FrailtyWeibull,
    fit_many,
    fit_one,
    fit_two,
)

CARD_DATASETS = ("gsm8k", "math500", "humaneval", "mbpp", "mt-bench")
_ABLATION = "ablation"  # how the published rows name drafters that were trained for one


@dataclass(frozen=True)
class Expectation:
    """An acceptance model, where it comes from, and its relative one-sigma error."""

    acceptance: Acceptance
    source: str
    evidence: str
    rel_err: float

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
        if not isinstance(law, ParametricAcceptance):
            return self
        p = law.params
        beta = min(max(p.beta + decay, 0.0), float(MAX_BETA))
        # The bend turns about the position that 1/e of the cycles reach: accept lengths stay.
        pivot = p.lam ** (-1 / p.beta) if 0 < p.lam < math.inf and p.beta > 0 else 1.0
        lam = p.lam * math.exp(rejection) * pivot ** (p.beta - beta)
        moved = FrailtyWeibull(lam=lam, beta=beta, theta=p.theta)
        return replace(self, acceptance=replace(law, params=moved, length_correlation=correlation))


def expected_acceptance(
    *,
    model: str,
    method: str,
    law: str,
    block: int,
    dataset: str | None,
    thinking: bool,
    text: str | None = None,
) -> Expectation:
    """Acceptance of ``method`` at verify width ``block``.

    In order: the ``text`` of a flag; accept lengths published for this model and data set; the
    geometric mean of its family. Without a data set, the mean over the cards' data sets.

    Parameters
    ----------
    law
        The drafting method whose prior on the decay along the block holds for it.

    Raises
    ------
    MissingProfileError
        Nothing is published; says how to give an acceptance.
    """
    priors = load_acceptance_priors().on(dataset)
    if text is not None:
        acceptance = parse_acceptance(text, block=block, priors=priors, law=law)
        return Expectation(acceptance, f"given: {acceptance.name}", "assumed", 0.0)
    datasets = (dataset,) if dataset else CARD_DATASETS
    found = [_for_dataset(model, method, law, d, thinking, block, priors) for d in datasets]
    known = [f for f in found if f is not None]
    if not known:
        where = f"on {dataset}" if dataset else "on any card data set"
        msg = (
            f"no accept length is published for {model} with {method} at block {block} {where} "
            f"(thinking {'on' if thinking else 'off'}); published: {_known(model, method)}. "
            "Give one, such as --acceptance al:4.5."
        )
        raise MissingProfileError(msg)
    if len(known) == 1 and dataset:
        params, source, evidence, err = known[0]
        return Expectation(ParametricAcceptance(params, block), source, evidence, err)
    mean = float(np.exp(np.mean([np.log(p.accept_length(block)) for p, *_ in known])))
    spread = float(np.std([np.log(p.accept_length(block)) for p, *_ in known]))
    # One data set shows no spread, two hardly any; and each has its own error.
    err = math.hypot(max(spread, priors.data_set_spread), max(err for *_, err in known))
    params = fit_one(mean, block, beta=priors.beta_of(law).mean, theta=priors.theta)
    sets = "1 data set" if len(known) == 1 else f"{len(known)} data sets"
    source = f"mean of {sets}; no data set was named"
    return Expectation(ParametricAcceptance(params, block), source, "assumed", err)


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


_Found = tuple[FrailtyWeibull, str, str, float]


def _for_dataset(
    model: str,
    method: str,
    law: str,
    dataset: str,
    thinking: bool,
    block: int,
    priors: AcceptancePriors,
) -> _Found | None:
    about = [
        p for p in load_acceptance() if p.dataset == dataset and p.thinking in (thinking, None)
    ]
    rows = [p for p in about if p.method == method and not p.drafter.startswith(_ABLATION)]
    own = _one_source([p for p in rows if p.model == model], block)
    if own:
        params = _fit(own, law, priors)
        return params, f"published: {own[0].source_id}", "published", priors.accept_length_error
    ablation = load_preference().ablations.get(method)
    own = _one_source([p for p in about if p.model == model and p.drafter == ablation], block)
    if own:
        params = _fit(own, law, priors)
        source = f"published: {own[0].source_id} ({ablation})"
        return params, source, "assumed", priors.accept_length_error
    for family in load_preference().families:
        if model in family.members:
            return _borrow(rows, family, law, block, priors)
    return None


def _one_source(points: list[AcceptancePoint], block: int) -> list[AcceptancePoint]:
    """All blocks of the preferred source that reaches ``block``: no extrapolation."""
    rank = load_preference().rank
    by_source: dict[str, list[AcceptancePoint]] = defaultdict(list)
    for p in points:
        by_source[p.source_id].append(p)
    able = [s for s, ps in by_source.items() if max(p.block for p in ps) >= block]
    return by_source[min(able, key=lambda s: (rank(s), s))] if able else []


def _borrow(
    rows: Iterable[AcceptancePoint],
    family: Family,
    law: str,
    block: int,
    priors: AcceptancePriors,
) -> _Found | None:
    """Geometric mean of the siblings' fitted accept lengths at every published block."""
    siblings: dict[str, list[AcceptancePoint]] = defaultdict(list)
    for p in rows:
        if p.model in family.members and p.source_id in family.sources:
            siblings[p.model].append(p)
    able = {m: ps for m, ps in siblings.items() if max(p.block for p in ps) >= block}
    if not able:
        return None
    fits = {m: _fit(ps, law, priors) for m, ps in able.items()}
    blocks = sorted({p.block for ps in able.values() for p in ps})
    means = [
        (b, float(np.exp(np.mean([np.log(f.accept_length(b)) for f in fits.values()]))))
        for b in blocks
    ]
    params = _fit_lengths(means, law, priors)
    names = " and ".join(sorted(fits))
    return params, f"borrowed from {names} ({family.name})", "assumed", family.rel_err


def _fit(points: list[AcceptancePoint], law: str, priors: AcceptancePriors) -> FrailtyWeibull:
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
