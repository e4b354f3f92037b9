"""Messages between the scheduler and the workers."""

from typing import NamedTuple

GOES_ON = -1


class Prefill(NamedTuple):
    """Read prompts, or parts of them.

    ``rows`` are ``(slot, tokens, token that follows or GOES_ON...)``: the last is negative where
    the prompt ends and the target is to say what follows. ``joins`` are ``(slot, request id)`` of
    requests that were not on the device before, ``pages`` as in :class:`Decode`.
    """

    rows: tuple[tuple[int, tuple[int, ...], int], ...]
    joins: tuple[tuple[int, int], ...]
    pages: tuple[tuple[int, int, int], ...]


class Decode(NamedTuple):
    """One cycle of the requests in ``slots``; ``pages`` are new ``(slot, place, page)``."""

    slots: tuple[int, ...]
    pages: tuple[tuple[int, int, int], ...]


class Draft(NamedTuple):
    """V1: the first part of a cycle."""

    slots: tuple[int, ...]
    pages: tuple[tuple[int, int, int], ...]


class Verify(NamedTuple):
    """V1: the target's pass over what was drafted; answered with both."""


class Commit(NamedTuple):
    """V1: what the host accepted, by request."""

    commit_len: tuple[int, ...]
    bonus: tuple[int, ...]


class Stop(NamedTuple):
    """No more work."""


class Result(NamedTuple):
    """The result of a worker's work: rank 0 answers every command with one.

    ``tokens`` [R][B] and ``commit_len`` [R]; of a V1 verify, ``draft`` too, and ``commit_len`` is
    empty where the host shall find it. ``spans`` are phases by the monotonic clock [s], or one
    that is all of a captured step. ``comm_s``, of them in collectives [s], is nan where unknown.
    """

    tokens: list[list[int]]
    commit_len: list[int]
    draft: list[list[int]]
    spans: list[tuple[str, float, float]]
    comm_s: float


class Ready(NamedTuple):
    """The worker has its weights and its pools."""

    rank: int


class Failure(NamedTuple):
    """The worker raised an error at ``at_s``, by the monotonic clock."""

    rank: int
    at_s: float
    message: str
    trace: str


Command = Prefill | Decode | Draft | Verify | Commit | Stop
