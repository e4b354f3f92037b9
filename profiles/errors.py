"""Errors that a user can cause; anything else is a bug.

::

    DflashSimError            exit code 1, one line, no traceback
    ├── InfeasibleError       the question is understood; the answer is "does not fit"
    ├── UsageError            exit code 2: an unknown name, a malformed file, a conflict
    └── MissingProfileError   exit code 3: there is no number for this, and what would make one

Every message names the thing, the value, what is allowed and what to type next.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class DflashSimError(Exception):
    """An expected failure, printed as one line."""

    exit_code = 1


class InfeasibleError(DflashSimError):
    """The scenario is well formed but cannot run, such as a model that does not fit."""


class UsageError(DflashSimError):
    """The input cannot be understood: unknown name, bad value, malformed file, conflict."""

    exit_code = 2


class MissingProfileError(DflashSimError):
    """No sheet or table holds the number that was asked for."""

    exit_code = 3


def unknown(kind: str, value: str, allowed: Iterable[str], hint: str = "") -> UsageError:
    """A :class:`UsageError` for an unknown name, with the nearest known ones.

    Examples
    --------
    >>> str(unknown("GPU", "b20", ["b200", "h100"]))
    "unknown GPU 'b20'; did you mean b200? Have: b200, h100."
    """
    names = sorted(allowed)
    wanted = value.lower()
    near = get_close_matches(wanted, [n.lower() for n in names], n=2, cutoff=0.6)
    begun = [n for n in names if wanted and n.lower().startswith(wanted)]
    close = begun[:2] or [n for n in names if n.lower() in near]
    guess = f"; did you mean {' or '.join(close)}?" if close else "."
    msg = f"unknown {kind} '{value}'{guess} Have: {', '.join(names)}.{' ' + hint if hint else ''}"
    return UsageError(msg)
