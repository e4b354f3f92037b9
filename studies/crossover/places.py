"""The places along an axis where a server can be asked, and what is said where they are too few."""

from collections.abc import Sequence

from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.studies.crossover.server import Server


def reached(server: Server, values: Sequence[float]) -> list[float]:
    """Return the places that can be asked of a server; refuse those of which too few are left."""
    axis, base = server.axis, server.base
    places = [v for v in values if axis.reaches(base, v)]
    beyond = [axis.said(v) for v in values if v not in places]
    if len(places) < 2 and beyond:
        verb = "are" if len(beyond) > 1 else "is"
        msg = (
            f"--over {axis.name}: {', '.join(beyond)} {verb} above the {base.most_tokens} tokens "
            f"that block {base.block} can give; a crossing lies between two --values from 1 to "
            f"{base.most_tokens}."
        )
        raise UsageError(msg)
    return places


def nowhere(
    server: Server,
    values: Sequence[float],
    found: dict[float, float],
    missing: dict[float, DflashSimError],
) -> DflashSimError:
    """Say which end of a range cannot be, where too little of it is left for a crossing."""
    axis = server.axis
    where = f"{axis.said(values[0])} to {axis.said(values[-1])} {axis.title}"
    first = min(missing)
    error = missing[first]
    if not found:
        text = f"{server.title} runs nowhere from {where}; at {axis.said(first)}: {error}"
    else:
        end = "the upper end" if first > min(found) else "the lower end"
        text = (
            f"{server.title}: of {where} only {axis.said(min(found))} is left, {end} does not run; "
            f"at {axis.said(first)}: {error}"
        )
    return type(error)(text)
