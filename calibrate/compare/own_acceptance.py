"""A prediction at the accept length that a row states: what is left of the gap is time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from dflash_sim.calibrate.compare.common_definitions import AcceptLength, Values
from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.other_laws import accept_length, with_accept_length
from dflash_sim.simulator.setup import Setup
from dflash_sim.simulator.trial import accepting

Tokens: TypeAlias = float  # of a cycle
OWN = "the row's own accept length"
_ROUNDS = 2  # accept lengths of requests and of steps do not grow alike


@dataclass(frozen=True, kw_only=True)
class OwnAcceptance:
    """The accept length of a row, and what would have been expected without it.

    Parameters
    ----------
    of
        The definition by which the row states it.
    measured, expected
        By that definition [token]; the latter None where nothing is known beside the row.
    source
        What would have been expected comes from there.
    values
        The prediction at what would have been expected.
    """

    of: AcceptLength
    measured: Tokens
    expected: Tokens | None
    source: str
    values: Mapping[str, float]


def at_own_length(
    expected: Result,
    found: AcceptLength,
    seen: Values,
    predicted: Callable[[Setup], Result],
) -> tuple[Setup, OwnAcceptance] | None:
    """The server with acceptances of the same law that are as many as the row has.

    Parameters
    ----------
    expected
        The prediction without the row's accept length.
    predicted
        Answers the scenario of a server.

    Returns
    -------
    tuple or None
        Without speculation, or where no law of that kind has the row's accept length, None.
    """
    law, setup = expected.expectation, expected.setup
    if law is None:
        return None
    measured, result = found.of(seen), expected
    try:
        for _ in range(_ROUNDS):
            length = accept_length(law) * measured / found.of(result.values)
            length = min(max(length, 1.0), float(law.acceptance.block))
            law = _certain(with_accept_length(law, length))
            setup = accepting(setup, law, f"al:{length:.4g}")
            result = predicted(setup)
    except DflashSimError:
        return None
    without = OwnAcceptance(
        of=found,
        measured=measured,
        expected=found.of(expected.values),
        source=expected.expectation.source if expected.expectation else "",
        values=expected.values,
    )
    return setup, without


def _certain(law: Expectation) -> Expectation:
    return replace(law, source=OWN, evidence="assumed", rel_err=0.0, inferred=False)
