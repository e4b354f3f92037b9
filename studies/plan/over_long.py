"""Requests of a trace that are longer than the model's context: refused, left out, or cut."""

from dataclasses import replace

import numpy as np

from dflash_sim.calibrate.readers.request_traces import Trace
from dflash_sim.profiles.errors import UsageError, unknown

CHOICES = ("refuse", "drop", "truncate")
_MOST_OF_ANSWER = 2  # a cut prompt leaves the answer its length, or this part of the context


def within(trace: Trace, context: int | None, model: str, choice: str) -> Trace:
    """The trace as a server of that context takes it, with notes of what was done.

    A prompt must be shorter than the context; an answer ends where the context does.

    Parameters
    ----------
    context
        Longest request, prompt and answer [token]; None if it is not known.
    choice
        What becomes of longer prompts, one of :data:`CHOICES`.

    Raises
    ------
    UsageError
        Some prompts are too long and ``choice`` is ``refuse``, or no other request is left.
    """
    if choice not in CHOICES:
        raise unknown(kind="--over-long", value=choice, allowed=CHOICES)
    if context is None:
        note = f"the config of {model} states no context length: no request is too long"
        return replace(trace, notes=(*trace.notes, note))
    over = trace.isl >= context
    count = int(over.sum())
    if count and choice == "refuse":
        msg = (
            f"trace {trace.name}: {count:,} of {len(trace):,} prompts do not fit the {context:,} "
            f"tokens that {model} takes, the longest of {int(trace.isl.max()):,}. Leave them out "
            "with --over-long drop, as a server refuses them, or cut them with truncate."
        )
        raise UsageError(msg)
    if count == len(trace) and choice == "drop":
        msg = f"trace {trace.name}: no prompt fits the {context:,} tokens that {model} takes."
        raise UsageError(msg)
    if count and choice == "drop":
        note = f"{count:,} of {len(trace):,} prompts do not fit {context:,} tokens: left out"
        trace = replace(trace.rows(np.flatnonzero(~over)), notes=(*trace.notes, note))
    elif count:
        room = context - np.minimum(trace.osl, context // _MOST_OF_ANSWER)
        note = f"{count:,} of {len(trace):,} prompts do not fit {context:,} tokens: cut to fit"
        isl = np.where(over, room, trace.isl)
        prompts = trace.prompts.cut(isl.tolist()) if trace.prompts else None
        trace = replace(trace, isl=isl, prompts=prompts, notes=(*trace.notes, note))
    ends = np.minimum(trace.osl, context - trace.isl)
    shorter = int((ends < trace.osl).sum())
    if shorter:
        note = f"{shorter:,} answers end where the context of {context:,} tokens does"
        trace = replace(trace, osl=ends, notes=(*trace.notes, note))
    return trace
