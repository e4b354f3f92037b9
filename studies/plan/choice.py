"""What candidates are called, and two of them that are named to be set side by side."""

from collections.abc import Sequence

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.studies.ask.slots import more_room
from dflash_sim.studies.show.titles import method_title

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
    cap = setup.scenario.max_running_requests
    capped = "" if cap is None else f", cap {cap:,}"
    return f"{setup.num_gpus} x {setup.device.name}, {method_title(setup)}{capped}"


def out_of_slots(candidates: Sequence[Scenario]) -> list[str]:
    """Name the flags that give servers more slots than the engine does, where slots limit them."""
    by_words: dict[str, list[str]] = {}
    for c in candidates:
        setup = resolve(c)
        if room := more_room(setup):
            m, flag = setup.memory, "--max-running-requests"
            cap, more = m.max_running_requests, room.flags["max_running_requests"]
            words = (
                f"only {cap:,} requests of a server run at once ({m.cap_cause}), which limits it; "
                f"{room.words.replace(f'{flag} {more}', f'{flag} {cap},{more}')} tries more beside"
            )
            by_words.setdefault(words, []).append(label(c))
    return [f"{', '.join(labels)}: {words}" for words, labels in by_words.items()]


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
    fits = [i for i, each in enumerate(labels) if words <= set(each.lower().split("/"))]
    if len(fits) == 1:
        return fits[0]
    among = [labels[i] for i in fits] or list(labels)
    shown = ", ".join(among[:_SHOWN]) + (", ..." if len(among) > _SHOWN else "")
    count = "no candidate is" if not fits else f"{len(fits)} candidates are"
    msg = f"--compare {name}: {count} called so; name one of {shown}."
    raise UsageError(msg)
