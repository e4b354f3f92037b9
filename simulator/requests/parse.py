"""Acceptance as users meet it: the text of a flag, and the accept lengths of a run."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.acceptance.histogram_file import read_histogram
from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.priors import AcceptancePriors
from dflash_sim.simulator.requests.laws import (
    METHODS,
    Acceptance,
    Commits,
    FixedAcceptance,
    HistogramAcceptance,
    MinVarianceAcceptance,
    NoSpeculation,
    ParametricAcceptance,
    SglangSimulated,
    TableAcceptance,
)
from dflash_sim.simulator.requests.survival import (
    FrailtyWeibull,
    Survival,
    fit_many,
    fit_one,
    fit_two,
)

__all__ = [
    "AcceptLengths",
    "Acceptance",
    "Commits",
    "FixedAcceptance",
    "HistogramAcceptance",
    "MinVarianceAcceptance",
    "NoSpeculation",
    "ParametricAcceptance",
    "SglangSimulated",
    "TableAcceptance",
    "accept_lengths",
    "parse_acceptance",
]

PRIOR = "prior"  # the spread of a method's published drafters
MIX = "mix"  # requests of several kinds, each with a form of its own
FORMS = {
    "weibull": "weibull:q=0.9,beta=1.17[,theta=0.05]",
    "geometric": "geometric:0.8",
    "al": "al:6.6 or al:8=5.2,16=6.6 (accept length by block)[,beta=1.17][,theta=0.05]",
    "table": "table:0.9,0.8,... (P(accepted >= k), k = 1, 2, ...)",
    "histogram": "histogram:0=161,1=90,... (accepted drafts = steps)",
    "file": "file:counts.json (accepted drafts and steps, of your own log)",
    MIX: "mix:0.3=al:6;0.7=al:3.5, or mix:humaneval=al:6;mt-bench=file:chat.json by data set",
    "sglang-simulated": "sglang-simulated:3.24[,match-expected|multinomial]",
    "vllm-synthetic": "vllm-synthetic:3.24",
    "fixed": "fixed:4",
    PRIOR: "prior (as wide as the published drafters of the method are spread)",
    "none": "none",
}


_OF_LENGTHS = {"al", "sglang-simulated", "vllm-synthetic", "fixed"}
_NUMBER = re.compile(r"\d+(\.\d+)?")
_EXAMPLE = re.compile(r"(?<=:)[\d.]+")


@dataclass(frozen=True)
class AcceptLengths:
    """Four numbers called accept length; they differ by 2-8 % on one run [token].

    Parameters
    ----------
    al_cycle : 1 + accepted drafts over cycles (SGLang server log, vLLM, InferenceX)
    al_request_mean : unweighted mean over requests of tokens / cycles (DFlash model cards)
    al_token_weighted : the same, each request weighted by its tokens
    al_harmonic : harmonic mean over requests, what throughput follows at equal lengths
    """

    al_cycle: float
    al_request_mean: float
    al_token_weighted: float
    al_harmonic: float


def accept_lengths(
    tokens: npt.ArrayLike, cycles: npt.ArrayLike, accepted_total: int
) -> AcceptLengths:
    """The four accept lengths of a run.

    Parameters
    ----------
    tokens : completion tokens of each request, the prefill token included as SGLang counts [token]
    cycles : verify cycles of each request; requests without any are left out, as in SGLang
    accepted_total : drafts accepted in all cycles, past the end of a request included [token]
    """
    n, nu = np.asarray(tokens, dtype=np.float64), np.asarray(cycles, dtype=np.float64)
    n, nu = n[nu > 0], nu[nu > 0]
    if not n.size:
        msg = "no request ran a verify cycle: there is no accept length"
        raise UsageError(msg)
    each = n / nu
    return AcceptLengths(
        al_cycle=1 + accepted_total / float(nu.sum()),
        al_request_mean=float(each.mean()),
        al_token_weighted=float((n * each).sum() / n.sum()),
        al_harmonic=float(n.size / (1 / each).sum()),
    )


def parse_acceptance(
    text: str, *, block: int, priors: AcceptancePriors, law: str = "dflash"
) -> Acceptance:
    """The acceptance a flag describes, at a verify width.

    Parameters
    ----------
    text : one of the forms in ``FORMS``
    block : verify width [token]
    law : drafting method whose prior on beta holds, a key of ``priors.beta``
    priors : what the ``al`` form assumes of beta and theta where the text does not say

    Examples
    --------
    >>> from dflash_sim.profiles.priors import load_acceptance_priors
    >>> text = "al:8=5.2,16=6.6,theta=0"
    >>> parse_acceptance(text, block=16, priors=load_acceptance_priors()).name
    'weibull:q=0.8939,beta=1.141,theta=0'
    """
    kind, _, body = text.strip().partition(":")
    if kind not in FORMS:
        meant = FORMS["al"]
        if _NUMBER.fullmatch(kind):  # a length counts the bonus token, so less is a share of drafts
            meant = f"al:{kind}" if float(kind) >= 1 else f"geometric:{kind}"
        raise unknown(kind="acceptance", value=kind, allowed=FORMS, hint=f"Such as {meant}.")
    try:
        return _build(kind, body, block=block, law=law, priors=priors)
    except UsageError as error:
        msg = f"acceptance '{text}': {str(error).rstrip('.')}. Write it as {_form(kind, block)}."
        raise UsageError(msg) from error


def _form(kind: str, block: int) -> str:
    """Return how a form is written, with a value that the block can give."""
    example = _EXAMPLE.search(FORMS[kind]) if kind in _OF_LENGTHS else None
    if example is None or float(example[0]) <= block:
        return FORMS[kind]
    form = FORMS[kind].split(" or ")[0]  # the other one is of wider blocks
    return f"{form.replace(example[0], f'{(1 + block) // 2}')} (from 1 to {block})"


def mixed_forms(text: str) -> list[tuple[str, str]] | None:
    """Return keys (shares, or names of data sets) and forms of a ``mix:``; None of any other text.

    Raises
    ------
    UsageError
        A part has no key or no form, or comes twice.
    """
    kind, _, body = text.strip().partition(":")
    if kind != MIX:
        return None
    parts = [part.partition("=") for part in body.split(";") if part.strip()]
    found = [(key.strip(), form.strip()) for key, _, form in parts]
    keys = [key for key, _ in found if not _is_share(key)]
    if not found or not all(key and form for key, form in found) or len(set(keys)) < len(keys):
        msg = f"acceptance '{text}': every part is a share or a data set, once. As in {FORMS[MIX]}."
        raise UsageError(msg)
    return found


def mixed_shares(
    forms: list[tuple[str, str]], parts: Mapping[str, float]
) -> list[tuple[str, float, str]]:
    """Return name, share and form of each part of a ``mix:``, in the order of ``parts`` if named.

    Parameters
    ----------
    parts : shares of the data sets or kinds of text that the requests are of

    Raises
    ------
    UsageError
        Shares and names are mixed, a name is none of the parts, or a part has no form.
    """
    if all(_is_share(key) for key, _ in forms):
        if len(parts) > 1:
            msg = (
                f"acceptance 'mix:': name the parts of the mixture, {', '.join(parts)}, not shares"
            )
            raise UsageError(msg)
        return [(form, float(key), form) for key, form in forms]
    given = dict(forms)
    for key in given:
        if key not in parts:
            raise unknown(kind="part of acceptance 'mix:'", value=key, allowed=parts)
    for name in parts:
        if name not in given:
            msg = f"acceptance 'mix:' says nothing of {name}; add ;{name}=al:4.5"
            raise UsageError(msg)
    return [(name, share, given[name]) for name, share in parts.items()]


def _is_share(key: str) -> bool:
    try:
        return math.isfinite(float(key))
    except ValueError:
        return False


def _build(kind: str, body: str, *, block: int, law: str, priors: AcceptancePriors) -> Acceptance:
    match kind:
        case "none" if not body:
            return NoSpeculation()
        case "geometric":
            return ParametricAcceptance(_weibull({"q": _number(body)}), block)
        case "weibull":
            return ParametricAcceptance(_weibull(_options(body)), block)
        case "al":
            options = _options(body if "=" in body.split(",")[0] else f"{block}={body}")
            return ParametricAcceptance(_fit(options, block, law, priors), block)
        case "table":
            return TableAcceptance(Survival.table([_number(x) for x in body.split(",")]), block)
        case "histogram":
            return HistogramAcceptance(_histogram(_options(body)), block)
        case "file":
            return HistogramAcceptance(np.array(read_histogram(Path(body))), block)
        case "vllm-synthetic":
            return MinVarianceAcceptance(_number(body), block)
        case "fixed":
            return FixedAcceptance(_whole(body), block)
        case "sglang-simulated":
            value, _, how = body.partition(",")
            return SglangSimulated(_number(value), block, how or METHODS[0])
        case "prior" | "mix":
            msg = "it is answered for a scenario: predict, compare and sweep take it"
            raise UsageError(msg)
        case _:
            msg = f"it takes no value, got '{body}'"
            raise UsageError(msg)


def _weibull(options: dict[str, float]) -> FrailtyWeibull:
    q, beta, theta = options.pop("q", 0.0), options.pop("beta", 1.0), options.pop("theta", 0.0)
    if options:
        raise unknown(kind="parameter", value=next(iter(options)), allowed=["q", "beta", "theta"])
    if not 0 < q <= 1:
        msg = f"q must lie in (0, 1], got {q:g}"
        raise UsageError(msg)
    return FrailtyWeibull(lam=-math.log(q), beta=beta, theta=theta)


def _fit(
    options: dict[str, float], block: int, law: str, priors: AcceptancePriors
) -> FrailtyWeibull:
    """One accept length leans on a beta, two determine it, more are fitted with its prior."""
    beta, theta = options.pop("beta", None), options.pop("theta", priors.theta)
    lengths = sorted((_whole(b), al) for b, al in options.items())
    if not lengths or (beta is not None and len(lengths) > 1):
        msg = f"beta={beta:g} goes with exactly one accept length" if beta else "no accept length"
        raise UsageError(msg)
    for b, al in lengths:
        if not 1 <= al <= b:
            msg = f"accept length {al:g} is outside [1, {b}] at block {b}"
            raise UsageError(msg)
    if block > lengths[-1][0]:
        msg = f"block {block} is beyond {lengths[-1][0]}, the largest given: no extrapolation"
        raise UsageError(msg)
    prior = priors.beta_of(law)
    if len(lengths) == 1:
        b, al = lengths[0]
        return fit_one(al, b, beta=prior.mean if beta is None else beta, theta=theta)
    if len(lengths) == 2:
        (b1, al1), (b2, al2) = lengths
        return fit_two(al1, b1, al2, b2, theta=theta)
    points = [(b, al, priors.accept_length_error * al) for b, al in lengths]
    return fit_many(points, beta_prior=(prior.mean, prior.sd), theta=theta).params


def _histogram(options: dict[str, float]) -> npt.NDArray[np.float64]:
    counts = {_whole(accepted): steps for accepted, steps in options.items()}
    return np.array([counts.get(j, 0.0) for j in range(max(counts) + 1)])


def _options(body: str) -> dict[str, float]:
    pairs = [item.partition("=") for item in body.split(",")]
    options = {key.strip(): _number(value) for key, _, value in pairs}
    if len(options) < len(pairs):
        msg = "a name is given twice"
        raise UsageError(msg)
    return options


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        msg = f"'{text}' is not a finite number"
        raise UsageError(msg)
    return value


def _whole(text: str) -> int:
    if not re.fullmatch(r"\s*\d{1,18}\s*", text):
        msg = f"'{text}' is not a whole number"
        raise UsageError(msg)
    return int(text)
