"""The law of acceptance that another drafter would have: another accept length, another width."""

from dataclasses import replace

import numpy as np

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.mixtures import MixedAcceptance
from dflash_sim.simulator.requests.numerics import root
from dflash_sim.simulator.requests.parse import (
    Acceptance,
    MinVarianceAcceptance,
    ParametricAcceptance,
    SglangSimulated,
    TableAcceptance,
)
from dflash_sim.simulator.requests.survival import Survival, fit_one

_FLATTEST, _STEEPEST = -20.0, 20.0  # log of the power that a survival is raised to


def accept_length(expectation: Expectation) -> float:
    """Mean accept length of the law, each request counted once [token]."""
    return expectation.acceptance.survival().mean_accept_length


def with_accept_length(expectation: Expectation, length: float) -> Expectation:
    """Return a law of the same kind with another mean accept length.

    A parametric law keeps its decay and its spread between requests, a table or histogram has its
    survival raised to a power.

    Raises
    ------
    UsageError
        The length is not between 1 and the block, or the law cannot have it.
    """
    law = expectation.acceptance
    if not 1 <= length <= law.block:
        msg = f"accept length {length:g} is outside [1, {law.block}], the block"
        raise UsageError(msg)
    return replace(expectation, acceptance=_moved(law, length))


def _moved(law: Acceptance, length: float) -> Acceptance:
    if isinstance(law, ParametricAcceptance):
        p = law.params
        return replace(law, params=fit_one(length, law.block, beta=p.beta, theta=p.theta))
    if isinstance(law, SglangSimulated):
        return replace(law, value=length)
    s = law.survival().s
    if isinstance(law, MinVarianceAcceptance) or np.all((s == 0) | (s == 1)):
        return MinVarianceAcceptance(length, law.block)

    def excess(log_power: float) -> float:
        return 1 + float((s ** np.exp(log_power)).sum()) - length

    if not excess(_FLATTEST) > 0 > excess(_STEEPEST):
        msg = f"{law.name} cannot have accept length {length:g}; give it as --acceptance al:..."
        raise UsageError(msg)
    power = float(np.exp(root(excess, _FLATTEST, _STEEPEST)))
    return TableAcceptance(Survival(s**power), law.block)


def truncated(expectation: Expectation, block: int) -> Expectation:
    """Return the law of the same drafter verified at a smaller width."""
    return replace(expectation, acceptance=_cut(expectation.acceptance, block))


def _cut(law: Acceptance, block: int) -> Acceptance:
    if isinstance(law, MixedAcceptance):
        return replace(law, parts=tuple(_cut(part, block) for part in law.parts))
    if isinstance(law, ParametricAcceptance):
        return replace(law, block=block)
    return TableAcceptance(law.survival(), block)
