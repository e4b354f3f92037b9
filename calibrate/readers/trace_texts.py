"""The texts of a trace's prompts: by names of blocks, or by the sessions they belong to."""

from collections.abc import Mapping, Sequence
from typing import Any

from dflash_sim.calibrate.observations.values import short
from dflash_sim.calibrate.readers.request_trace_formats import TraceFormat
from dflash_sim.calibrate.readers.trace_sessions import Turns
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.requests.prompts import Prompts, Text, beginning, begins_with, joined

HASHES, BLOCK = "hash_ids", "block_size"


def prompts_of(
    turns: Turns, kind: TraceFormat, isl: Sequence[int], osl: Sequence[int], sharing: list[str]
) -> Prompts | None:
    """Return the texts of a trace's prompts; None where nothing tells what they share.

    Where a later turn repeats prompt and answer of the turn before, the answer is kept as its part.

    Parameters
    ----------
    sharing
        Gets what prompts are taken to share, in words.

    Raises
    ------
    UsageError
        Names of blocks do not go with the length of a prompt.
    """
    named = [HASHES in row for _, row in turns.rows]
    linked = any(before >= 0 for before in turns.before)
    if any(named):
        asked = _of_blocks(turns, kind, isl)
        sharing.append("prompts share what their hash_ids share")
    elif linked:
        asked = _of_sessions(turns, isl, osl, sharing)
    else:
        return None
    following = dict(_first_behind(turns.before))
    answered = []
    for i, text in enumerate(asked):
        whole: Text = (*text, (_own(i), osl[i]))
        later = following.get(i)
        if later is not None and isl[later] >= isl[i] + osl[i] and begins_with(asked[later], text):
            whole = beginning(asked[later], isl[i] + osl[i])
        answered.append(whole)
    return Prompts(tuple(asked), tuple(answered))


def _first_behind(before: Sequence[int]) -> list[tuple[int, int]]:
    """Turn and next turn; of several the first."""
    return [(b, i) for i, b in reversed(list(enumerate(before))) if b >= 0]


def _own(i: int) -> int:
    """A name that no block has."""
    return -1 - i


def _of_blocks(turns: Turns, kind: TraceFormat, isl: Sequence[int]) -> list[Text]:
    numbers: dict[Any, int] = {}
    blocks: list[list[int]] = []
    sizes: list[int] = []
    for (where, row), tokens in zip(turns.rows, isl, strict=True):
        size, ids = _size(row, kind, where), row.get(HASHES, [])
        if not isinstance(ids, list) or any(isinstance(x, list | dict) for x in ids):
            msg = f"trace {where}: {HASHES} is {short(ids)}; give a list, one name for each block."
            raise UsageError(msg)
        if HASHES in row and len(ids) not in (tokens // size, -(-tokens // size)):
            msg = (
                f"trace {where}: {len(ids):,} {HASHES} of {size} tokens do not make a prompt of "
                f"{tokens:,} tokens, which has {-(-tokens // size):,}; correct them, or say the "
                f"tokens of a block as {BLOCK}."
            )
            raise UsageError(msg)
        own = str(row.get(kind.scope)) if kind.scope else ""
        blocks.append([numbers.setdefault((own, x), len(numbers)) for x in ids])
        sizes.append(size)
    texts: list[Text] = []
    for i, (pieces, size) in enumerate(zip(joined(blocks), sizes, strict=True)):
        text = beginning(tuple((name, n * size) for name, n in pieces), isl[i])
        left = isl[i] - sum(tokens for _, tokens in text)
        texts.append((*text, (_own(i + len(isl)), left)) if left else text)
    return texts


def _size(row: Mapping[str, Any], kind: TraceFormat, where: str) -> int:
    size = row.get(BLOCK, kind.block)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        msg = (
            f"trace {where}: {HASHES} without the tokens of a block; say them as {BLOCK}, a whole "
            "number above 0."
        )
        raise UsageError(msg)
    return size


def _of_sessions(
    turns: Turns, isl: Sequence[int], osl: Sequence[int], sharing: list[str]
) -> list[Text]:
    """A turn goes on from the turn before, if it is long enough for its prompt and answer."""
    texts: list[Text] = []
    apart = 0
    for i, before in enumerate(turns.before):
        goes_on = before >= 0 and isl[i] >= isl[before] + osl[before]
        apart += before >= 0 and not goes_on
        texts.append((((texts[before][0][0] if goes_on else i), isl[i]),))
    sharing.append("a turn's prompt begins with the turn before and its answer")
    if apart:
        sharing.append(f"{apart:,} turns are too short for that and share nothing")
    return texts
