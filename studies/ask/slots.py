"""Where fewer requests run at once than are asked for: the warning, and the flags that let more."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.simulator.caveats import in_flight, over_cap
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup
from dflash_sim.simulator.trial import beside

_FRACTIONS = (None, 0.85, 0.9)  # of memory for weights and caches, the engine's own first
_TIMES_MORE = 4  # requests than slots, of which a fleet may have any number in flight
_RATIOS = (None, 1.5, 3.0)  # recurrent states over keys and values


@dataclass(frozen=True)
class Room:
    """Flags that let more requests run at once.

    Parameters
    ----------
    at_once
        Slots for requests then.
    """

    flags: Mapping[str, object]
    scenario: Scenario
    at_once: int

    @property
    def words(self) -> str:
        """The flags as they are typed."""
        return " ".join(_typed(name, value) for name, value in self.flags.items())


def capped(setup: Setup) -> str | None:
    """The warning that not all requests in flight run at once, as it is among all others."""
    return over_cap(setup.scenario, setup.memory, setup.device)


def roomier(setup: Setup) -> Room | None:
    """Find what lets all requests in flight run at once, or more of them; None if nothing does.

    A cap is tried first, then with a larger share of memory, with more of it for states, and with
    states that are replayed; a flag that adds nothing is left out.
    """
    asked, now = in_flight(setup.scenario) or 0, setup.memory.max_running_requests
    if asked <= now:
        return None
    best: Room | None = None
    for flags in _ways(setup, asked):
        at_once = _at_once(setup, flags)
        if at_once > (best.at_once if best else now):
            best = Room(flags, setup.scenario.model_copy(update=dict(flags)), at_once)
        if best is not None and best.at_once >= asked:
            break
    return None if best is None else _fewest(setup, best)


def more_room(setup: Setup) -> Room | None:
    """Find what lets more requests run at once, several times as many as now at most.

    None where nothing does, or the asker said how many are to run.
    """
    if setup.scenario.max_running_requests is not None:
        return None
    many = _TIMES_MORE * setup.memory.max_running_requests
    loaded = {"conc": many, "rate": None, "num_prompts": None}
    return roomier(replace(setup, scenario=setup.scenario.model_copy(update=loaded)))


def _fewest(setup: Setup, room: Room) -> Room:
    """The same room without the flags that add nothing to it."""
    flags = dict(room.flags)
    for name in room.flags:
        fewer = {n: value for n, value in flags.items() if n != name}
        if fewer and _at_once(setup, fewer) >= room.at_once:
            flags = fewer
    return Room(flags, setup.scenario.model_copy(update=flags), room.at_once)


def _ways(setup: Setup, asked: int) -> Iterator[dict[str, object]]:
    hybrid = bool(setup.model.gdn_layers)
    replays = (None, True) if hybrid and setup.speculative else (None,)
    ratios = _RATIOS if hybrid else _RATIOS[:1]
    for replay, ratio, fraction in product(replays, ratios, _FRACTIONS):
        if fraction is not None and fraction <= setup.mem_fraction:
            continue
        more = {"mem_fraction_static": fraction, "mamba_full_memory_ratio": ratio}
        more["linear_replayssm_spec"] = replay
        given = {name: value for name, value in more.items() if value is not None}
        yield {"max_running_requests": asked, **given}


def _at_once(setup: Setup, flags: Mapping[str, object]) -> int:
    """How many requests run at once with other flags; none where there is no such server."""
    try:
        other = beside(setup, setup.scenario.model_copy(update=dict(flags)))
    except DflashSimError:
        return 0
    return other.memory.max_running_requests


def _typed(name: str, value: object) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag} {value:g}"
