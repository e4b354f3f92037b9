"""What candidates are called, and two of them that are named to be set side by side."""

from collections.abc import Iterator, Sequence

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.studies.ask.slots import Room, more_room
from dflash_sim.studies.show.titles import method_title

OWN_CAP = "default"  # in a list of caps: as many as the engine itself lets each method run
_SHOWN = 6


def label(scenario: Scenario) -> str:
    """The words that tell a candidate from the others, such as ``b200/tp2/dflash/block16``.

    Examples
    --------
    >>> label(Scenario(gpu="h200", tp=2, method="none", model="qwen3-8b"))
    'h200/tp2/none'
    """
    s = scenario
    words = [s.gpu, f"tp{s.tp or s.num_gpus}", s.method]
    named = {"block": s.block, "steps": s.steps, "cap": s.max_running_requests}
    return "/".join([*words, *(f"{n}{x}" for n, x in named.items() if x is not None)])


def server_title(setup: Setup) -> str:
    """What pages of plans call a kind of server, of which each has its colour."""
    title = f"{setup.num_gpus} x {setup.device.name}, {method_title(setup)}"
    return title + capped(setup.scenario)


def capped(scenario: Scenario) -> str:
    """What a title says of a cap that is asked for."""
    cap = scenario.max_running_requests
    return "" if cap is None else f", cap {cap:,}"


def out_of_slots(full: Sequence[Scenario], tried: Sequence[Scenario]) -> list[str]:
    """Name the flags that give servers more slots than the engine does, where slots limit them.

    Parameters
    ----------
    full
        Candidates whose slots limit them.
    tried
        All candidates: where one of them has more slots already, there is nothing to name.
    """
    by_words: dict[str, list[str]] = {}
    for c in full:
        for words in _slots(c, tried):
            by_words.setdefault(words, []).append(label(c))
    return [f"{', '.join(labels)}: {words}" for words, labels in by_words.items()]


def _slots(c: Scenario, tried: Sequence[Scenario]) -> Iterator[str]:
    """How many slots a candidate has and what gives it more, if that is not among ``tried``."""
    room = roomier_than(c, tried)
    if room is None:
        return
    memory = resolve(c).memory
    cap = memory.max_running_requests
    words = f"only {cap:,} requests of a server run at once ({memory.cap_cause})"
    more = room.flags.get("max_running_requests")
    if more is None or len(room.flags) > 1:  # flags that every candidate of a plan would have
        yield f"{words}; {room.at_once:,} would in a plan of --method {c.method} {room.words}"
    else:
        yield f"{words}; --max-running-requests {OWN_CAP},{more} tries more beside"


def roomier_than(c: Scenario, tried: Sequence[Scenario]) -> Room | None:
    """What gives a candidate more slots than the engine does, if none of ``tried`` has more."""
    setup = resolve(c)
    alike = (o for o in tried if o.model_copy(update={"max_running_requests": None}) == c)
    cap = setup.memory.max_running_requests
    if any((other.max_running_requests or 0) > cap for other in alike):
        return None
    return more_room(setup)


def chosen(names: Sequence[str], candidates: Sequence[Scenario]) -> tuple[int, ...]:
    """The places of the candidates that ``names`` tell apart, two of them or none.

    Raises
    ------
    UsageError
        A name fits no candidate, or several; or both fit the same.
    """
    if not names:
        return ()
    labels = [label(c) for c in candidates]
    first, other = (_one(name, labels) for name in names)
    if first == other:
        msg = f"--compare {names[0]} {names[1]}: both are {labels[first]}; name two candidates."
        raise UsageError(msg)
    return first, other


def _one(name: str, labels: Sequence[str]) -> int:
    words = set(name.lower().split("/"))
    parts = [set(each.lower().split("/")) for each in labels]
    fits = [i for i, each in enumerate(parts) if words == each]
    fits = fits or [i for i, each in enumerate(parts) if words <= each]
    if len(fits) == 1:
        return fits[0]
    among = [labels[i] for i in fits] or list(labels)
    shown = ", ".join(among[:_SHOWN]) + (", ..." if len(among) > _SHOWN else "")
    count = "no candidate is" if not fits else f"{len(fits)} candidates are"
    msg = f"--compare {name}: {count} called so; name one of {shown}."
    raise UsageError(msg)
