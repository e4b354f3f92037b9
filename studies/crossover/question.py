"""The question of ``crossover``: the servers that are compared, and along what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.simulator.cost.methods import method_of
from dflash_sim.simulator.scenario import ONLY_SPECULATION, Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.simulator.trial import beside
from dflash_sim.studies.ask.question import FLAGS, Given, scenarios
from dflash_sim.studies.ask.ranges import real_numbers, whole_numbers
from dflash_sim.studies.crossover.axis import SHORTEST, Axis, axis_of

DEFAULT_METHODS = ("dflash", "mtp")
STEPS = 3  # of a chain whose length nobody says
_LOOK = {"conc": "1-64:x2", "context": "512-8192:x2", "accept": "1,2,4", "temperature": "0,0.5,1"}
_COMPARED = ("method", "block", "steps")


@dataclass(frozen=True)
class Question:
    """Servers that speculate, the one that does not, and the axis between them.

    Parameters
    ----------
    plain
        The server that decodes plainly.
    candidates
        Those that speculate.
    values
        Where to look along the axis, rising; ends are found more closely.
    notes
        What was left out, and why.
    """

    axis: Axis
    plain: Setup
    candidates: tuple[Setup, ...]
    values: tuple[float, ...]
    notes: tuple[str, ...] = ()


def question(
    asked: Mapping[str, Given], *, over: str, values: str | Sequence[float] | None = None
) -> Question:
    """Make the question that flags ask.

    Parameters
    ----------
    asked
        Scenario fields; lists of ``method``, ``block`` and ``steps`` are candidates, a list of the
        field that the axis moves is where to look.
    over
        Name of the axis.
    values
        Where to look, as numbers or as text such as ``1-64:x2``.

    Raises
    ------
    UsageError
        There is nothing to compare, or a list that is about something else.
    """
    axis = axis_of(over)
    fields = {name: given.value for name, given in asked.items()}
    places = _places(axis, fields, values)
    _refuse(axis, fields)
    left = _left_out(axis, fields, asked)
    fields |= _first(axis, fields, places)
    setups, notes = _candidates(fields)
    first = setups[0]
    found = tuple(places or axis.default(setups))
    if len(found) < 2:
        msg = (
            f"--over {axis.name}: {axis.said(found[0])} is one place, and a crossing lies between "
            "two; give several --values, such as 1-64:x2, or leave them out."
        )
        raise UsageError(msg)
    plain = beside(first, first.scenario.without_speculation(tp=first.tp))
    return Question(axis, plain, tuple(setups), found, (*left, *notes))


def _places(
    axis: Axis, fields: dict[str, Any], values: str | Sequence[float] | None
) -> list[float]:
    """Take where to look from ``--values`` or from the list of the axis's own field."""
    own = fields.get(axis.field)
    flag = FLAGS[axis.field]
    if isinstance(own, list) and values is not None:
        msg = f"--values and several values of {flag} both say where to look; give one of them."
        raise UsageError(msg)
    if values is None:
        if not isinstance(own, list):
            return []
        del fields[axis.field]
        return sorted({float(x) for x in own})
    text = values if isinstance(values, str) else ",".join(f"{x:g}" for x in values)
    read = whole_numbers if axis.whole else real_numbers
    zero = not axis.whole and not axis.log
    return sorted({float(x) for x in read("--values", text, zero=zero)})


def _first(axis: Axis, fields: Mapping[str, Any], places: Sequence[float]) -> dict[str, Any]:
    """Return what puts the servers at a place along the axis where that is their own field."""
    if axis.name == "context" and "osl" in fields:
        return {axis.field: int(places[0]) if places else SHORTEST}
    return {axis.field: int(places[0])} if axis.name == "conc" and places else {}


def _left_out(axis: Axis, fields: dict[str, Any], asked: Mapping[str, Given]) -> list[str]:
    """Drop one value of what changes along the axis, with a note; refuse that of a flag."""
    if fields.get(axis.field) is None:
        return []
    flag, value, origin = FLAGS[axis.field], fields.pop(axis.field), asked[axis.field].origin
    why = f"{flag} {value}: --over {axis.name} changes it from server to server"
    if origin != "flag":
        return [f"{why}; that of {origin} is left out"]
    msg = f"{why}; drop one of them, or say where to look, such as --values {_LOOK[axis.name]}."
    raise UsageError(msg)


def _refuse(axis: Axis, fields: Mapping[str, Any]) -> None:
    """Refuse what makes no comparison, before anything is loaded."""
    if fields.get("rate") is not None:
        msg = (
            "--rate: an open loop has the throughput of its arrivals, whoever serves them; "
            "crossover compares closed loops. Give --conc, or ask plan for a fleet."
        )
        raise UsageError(msg)
    if fields.get("policy", "fixed") != "fixed":
        msg = (
            f"--policy {fields['policy']}: crossover compares fixed widths and says which to use "
            "where; drop --policy, or give it to predict."
        )
        raise UsageError(msg)
    several = [n for n, v in fields.items() if isinstance(v, list) and n not in _COMPARED]
    if several:
        flags = " and ".join(FLAGS[name] for name in several)
        msg = (
            f"crossover is about one server over {axis.name}; give one value of {flags}. Lists of "
            "--method, --block and --steps are compared."
        )
        raise UsageError(msg)
    if axis.name == "accept" and fields.get("acceptance") is not None:
        msg = (
            f"--acceptance {fields['acceptance']}: --over accept asks which accept length pays; "
            "drop one of them."
        )
        raise UsageError(msg)


def _candidates(fields: dict[str, Any]) -> tuple[list[Setup], list[str]]:
    """Resolve the servers that speculate; of those that nobody named, what cannot be is told."""
    methods = fields.get("method")
    listed = methods if isinstance(methods, list) else [methods] if methods else DEFAULT_METHODS
    named = [name for name in listed if method_of(name).speculative]
    if not named:
        msg = (
            f"--method {','.join(listed)}: there is nothing to compare with plain decoding; add a "
            "method that drafts, such as --method dflash,mtp."
        )
        raise UsageError(msg)
    found, notes, errors = [], [], []
    for name in named:
        try:
            setups = [resolve(point) for point in _points(fields, name, named, asked=bool(methods))]
            for setup in setups if methods is None and fields.get("acceptance") is None else ():
                _ = setup.expectation
            found += setups
        except DflashSimError as error:
            if methods is not None:
                raise
            errors.append(error)
            notes.append(f"{name} is left out: {error}")
    if not found:
        raise errors[0]
    return found, notes


def _points(
    fields: Mapping[str, Any], name: str, beside_it: Sequence[str], *, asked: bool
) -> list[Scenario]:
    """Return the scenarios of a method at each of its widths; chains draft three steps untold."""
    method = method_of(name)
    each = {"block", "steps"}  # of those that have it; a branching is dropped beside one that has
    if any("topk" in method_of(other).takes for other in beside_it):
        each.add("topk")
    own = {n: v for n, v in fields.items() if n not in each or n in method.takes}
    own["method"] = name
    chain = method.sequential and str(own.get("topk", 1)) == "1"  # a tree needs both, and says so
    if chain and "steps" not in own and not (asked and "block" in own):
        own["steps"] = STEPS
    if chain and "steps" in own:
        own.pop("block", None)
    beside = ONLY_SPECULATION - method.takes
    given = {n: Given(v, "flag") for n, v in own.items() if asked or n not in beside}
    return scenarios(given)
