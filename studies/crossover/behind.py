"""What stands behind a curve: how many requests run at once, and what is accepted of the drafts."""

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.simulator.caveats import in_flight
from dflash_sim.simulator.cost.methods import PLAIN
from dflash_sim.simulator.predict import doubts
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.ask.slots import capped, roomier
from dflash_sim.studies.crossover.search import Crossover, Curve
from dflash_sim.studies.crossover.server import Server


def facts(found: Crossover) -> list[str]:
    """Return one sentence for each server: its cap, what lifts it, and its accept length."""
    last = max(curve.values[-1] for curve in found.curves)
    plain = found.curves[0].plain
    out = [f"{PLAIN.title}: {text}" for text in _cap(_there(plain, last))]
    for curve in found.curves:
        setup = _there(curve.server, curve.values[-1])
        words = "; ".join([*_cap(setup), *_accepted(curve, setup)])
        out += [f"{curve.title}: {words}"] if words else []
    return out


def row(curve: Curve) -> dict[str, object]:
    """Return the same as columns, where the curve begins."""
    setup = _there(curve.server, curve.values[0])
    values, expectation = curve.server.values(curve.values[0]), setup.expectation
    return {
        "max_running_requests": setup.memory.max_running_requests,
        "cap_cause": setup.memory.cap_cause,
        "accept_length_at_from": round(values["accept_length_cycle"], 6),
        "acceptance": expectation.source if expectation else None,
    }


def doubted(found: Crossover, *, caps: bool = True) -> list[str]:
    """Return what ``predict`` warns of where each curve ends; what is not of all names its own.

    Parameters
    ----------
    caps
        Also that not all requests run at once, which :func:`facts` tell with what lifts it.
    """
    servers = [(c.title, c.server, c.values[-1]) for c in found.curves]
    every = {title for title, *_ in servers}
    plain = found.curves[0].plain
    servers.append((PLAIN.title, plain, max(end for *_, end in servers)))
    told: dict[str, list[str]] = {}
    for title, server, end in servers:
        setups = (server.base, _there(server, end))
        known = set() if caps else {capped(setup) for setup in setups}
        for line in dict.fromkeys([*server.base.warnings, *doubts(setups[1])]):
            if line in known:
                continue
            told.setdefault(line, []).append(title)
    return [
        line if every <= set(titles) else f"{', '.join(titles)}: {line}"
        for line, titles in told.items()
    ]


def _there(server: Server, value: float) -> Setup:
    try:
        return server.setup(value)
    except DflashSimError:  # plain decoding may end before: its answer is that of where it began
        return server.base


def _cap(setup: Setup) -> list[str]:
    """Say how many of the requests run at once, if not all, and which flag lets more run."""
    asked, cap = in_flight(setup.scenario) or 0, setup.memory.max_running_requests
    if asked <= cap:
        return []
    room = roomier(setup)
    lift = f"; {min(room.at_once, asked):,} with {room.words}" if room else ""
    return [f"{cap:,} of {asked:,} run at once ({setup.memory.cap_cause}{lift})"]


def _accepted(curve: Curve, setup: Setup) -> list[str]:
    """Say the accept length, at both ends where it changes, and where it comes from."""
    axis = curve.server.axis
    if axis.name == "accept" or setup.expectation is None:
        return []
    first, last = curve.values[0], curve.values[-1]
    lengths = [f"{curve.server.values(at)['accept_length_cycle']:.2f}" for at in (first, last)]
    text = lengths[0]
    if axis.name != "conc" and lengths[0] != lengths[1]:
        text = f"{lengths[0]} at {axis.said(first)} and {lengths[1]} at {axis.said(last)},"
    return [f"accept length {text} tokens a cycle ({setup.expectation.source})"]
