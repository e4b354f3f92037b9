"""One thing that reads, and what it may do with an input: use it, or refuse it in a line."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dflash_sim.profiles.errors import DflashSimError

LONGEST = 1500  # letters of a message


class WrongError(AssertionError):
    """An answer, or a message, that should not have been."""


@dataclass(frozen=True)
class Target:
    """One thing that reads.

    Parameters
    ----------
    take
        Given an input and a scratch folder; raises what is not a user's mistake.
    make
        Draws an input.
    weight
        Of its share of a campaign.
    heavy
        True where an input takes a tenth of a second: no share of the suite's.
    """

    name: str
    take: Callable[[bytes, Path], object]
    make: Callable[[random.Random], bytes]
    weight: int
    heavy: bool = False


def tried(target: Target, data: bytes, folder: Path) -> bool:
    """Return True if the input was used; raises what is a fault."""
    try:
        target.take(data, folder)
    except DflashSimError as error:
        if len(str(error)) > LONGEST:
            msg = f"a message of {len(str(error))} letters"
            raise WrongError(msg) from error
        return False
    return True


def check(what: str, value: float, least: float, most: float) -> None:
    """Refuse an answer with a number that means nothing."""
    if not (math.isfinite(value) and least <= value <= most):
        msg = f"{what} is {value}"
        raise WrongError(msg)
