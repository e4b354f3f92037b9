"""Which method to serve from where to where along the axis."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, isinf

from dflash_sim.simulator.cost.methods import PLAIN
from dflash_sim.studies.crossover.search import Crossover, Curve
from dflash_sim.studies.crossover.server import Server

# Gain below which a place keeps the method of the one before: neighbouring sizes of CUDA graphs
# move the best method to and fro by as much.
CLEAR = 0.02
_PLACES = 200  # between the ends of an axis that is not of whole numbers


@dataclass(frozen=True)
class Choice:
    """What serves most tokens on one stretch of the axis.

    Parameters
    ----------
    first, last
        Where it is looked at; the next choice begins behind ``last``.
    curve
        None is plain decoding.
    gain
        Log of the throughput over plain decoding, at the first place and at the last [1].
    """

    first: float
    last: float
    curve: Curve | None
    gain: tuple[float, float] = (0.0, 0.0)

    @property
    def title(self) -> str:
        """The method and its width in words."""
        return self.curve.title if self.curve else PLAIN.title


def choices(found: Crossover, curves: Sequence[Curve] | None = None) -> list[Choice]:
    """Return the best server of each stretch, plain decoding among them.

    A server is left for a clear gain, and at once where it no longer beats plain decoding.

    Parameters
    ----------
    curves
        Those that are compared; all of the answer if left out.
    """
    curves = found.curves if curves is None else curves
    best: Curve | None = None
    taken: list[tuple[float, Curve | None]] = []
    for place in _places(found):
        best = _best(curves, place, best)
        taken.append((place, best))
    out = []
    for _, run in groupby(taken, key=lambda pair: id(pair[1])):
        places = list(run)
        (first, curve), (last, _) = places[0], places[-1]
        gain = (curve.gain_at(first), curve.gain_at(last)) if curve else (0.0, 0.0)
        out.append(Choice(first, last, curve, gain))
    return out


def _best(curves: Sequence[Curve], place: float, before: Curve | None) -> Curve | None:
    gains = {id(c): c.gain_at(place) for c in curves if not _beyond(c, place)}
    kept = 0.0 if before is None else gains.get(id(before), -1.0)
    most = max(curves, key=lambda c: gains.get(id(c), -1.0))
    top = gains.get(id(most), -1.0)
    if before is not None and kept <= 0:
        return most if top > CLEAR else None
    return most if top > kept + CLEAR else before


def _beyond(curve: Curve, place: float) -> bool:
    """Return True where the server cannot run."""
    return not curve.values[0] <= place <= curve.values[-1]


def reach(found: Crossover) -> tuple[float, float]:
    """Return the ends of what was simulated: beyond, nothing is known of any server."""
    return min(c.values[0] for c in found.curves), max(c.values[-1] for c in found.curves)


def _places(found: Crossover) -> list[float]:
    low, high = reach(found)
    axis = found.axis
    if axis.whole and high - low <= 2 * _PLACES:
        return [float(n) for n in range(int(low), int(high) + 1)]
    a, b = axis.scale(low), axis.scale(high)
    raw = [axis.unscale(a + (b - a) * n / _PLACES) for n in range(_PLACES + 1)]
    # What is said ends where the table has it end, and not at a place beside.
    ends = [floor(end) for c in found.curves for s in c.stretches for end in s if low <= end < high]
    if axis.whole:
        raw += [float(end + more) for end in ends for more in (0, 1)]
    return sorted({float(round(x)) if axis.whole else x for x in raw})


def sentence(found: Crossover) -> str:
    """Say what to use where, in one sentence.

    Examples
    --------
    ``Use native MTP, 3 steps up to 8 requests at once; plain decoding above.``
    """
    if not found.axis.chooses:
        return "; ".join(f"{curve.title}: {where(curve)}" for curve in found.curves) + "."
    parts = choices(found)
    low, high = map(found.axis.said, reach(found))
    across = f"from {low} to {high} {found.axis.title}"
    but = "".join(f" But {_said_of(found, server)}." for server in thrown_out(found))
    if len(parts) == 1:
        if parts[0].curve is None:
            return f"Use plain decoding: no method beats it clearly {across}.{but}"
        return f"Use {parts[0].title}: it is the fastest {across}.{but}"
    return f"Use {'; '.join(_stretches(found, parts))}.{but}"


def thrown_out(found: Crossover) -> list[tuple[Server, tuple[float, ...]]]:
    """Return the servers that throw running requests out for want of memory, and where."""
    sides: dict[int, tuple[Server, set[float]]] = {}
    for curve in found.curves:
        for server in (curve.server, curve.plain):
            where = sides.setdefault(id(server), (server, set()))[1]
            where |= {v for v in curve.values if server.values(v).get("retractions")}
    return [(server, tuple(sorted(where))) for server, where in sides.values() if where]


def out_of_memory(found: Crossover, server: tuple[Server, tuple[float, ...]]) -> str:
    """Say where a server throws running requests out for want of memory."""
    who, where = server
    axis = found.axis
    return (
        f"{who.title}: the KV cache runs out at {', '.join(map(axis.said, where))} {axis.title}, "
        "and running requests are thrown out and computed again"
    )


def _said_of(found: Crossover, server: tuple[Server, tuple[float, ...]]) -> str:
    """The same behind an answer, with what to do about it."""
    (who, where), axis = server, found.axis
    places = f"from {axis.said(where[0])} to {axis.said(where[-1])}"
    if len(where) == 1:
        places = f"at {axis.said(where[0])}"
    conc = who.base.scenario.conc or 1
    many = "so many" if axis.name == "conc" else f"{conc:,} request{'s' if conc > 1 else ''}"
    return (
        f"{places} {axis.title} {many} with {who.title} do not fit into the KV cache: some are "
        "thrown out and computed again, and what is compared there is memory; ask for fewer at once"
    )


def _stretches(found: Crossover, parts: Sequence[Choice]) -> Iterator[str]:
    said, title = found.axis.said, found.axis.title
    for n, part in enumerate(parts):
        if n == 0:
            yield f"{part.title} up to {said(part.last)} {title}"
        elif n == len(parts) - 1:
            yield f"{part.title} above"
        else:
            yield f"{part.title} up to {said(part.last)}"


def where(curve: Curve) -> str:
    """Say where a server beats plain decoding; every stretch is told."""
    if curve.pays in ("never", "always"):
        return f"{curve.pays} pays"
    stretches = ", ".join(_stretch(curve, *ends) for ends in curve.stretches)
    return f"pays {stretches} {curve.server.axis.title}"


def _stretch(curve: Curve, since: float, until: float) -> str:
    axis = curve.server.axis
    said = axis.said
    if axis.whole:  # at the next whole place it pays no longer, at the one before not yet
        since, until = float(ceil(since)), until if isinf(until) else float(floor(until))
    if since == 0:
        return f"up to {said(until)}"
    return f"from {said(since)}" if isinf(until) else f"from {said(since)} to {said(until)}"


def reason(curve: Curve) -> str:
    """Say why a server stops paying: requests that do not fit, or cycles that take too long."""
    if curve.pays not in ("until", "between", "never"):
        return ""
    value = next((v for v in curve.values if v > curve.until.value), curve.values[-1])
    if curve.pays == "never":
        value = curve.values[0]
    own, plain = curve.server.values(value), curve.plain.values(value)
    running, others = own["mean_batch"], plain["mean_batch"]
    if running < CAPPED * others:
        cause = curve.setup.memory.cap_cause
        return f"{running:.0f} run at once, {others:.0f} without speculation ({cause})"
    longer = own["step_ms"] / plain["step_ms"]
    tokens = own["accept_length_cycle"]
    said = curve.server.axis.said(value)
    return f"at {said} a cycle takes {longer:.2f} x a plain step and gives {tokens:.2f} tokens"


CAPPED = 0.9  # of the requests that run without speculation: fewer is what binds
