"""The controls: which fields have one, the values each can take, and what its stops are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dflash_sim.profiles.find import names
from dflash_sim.profiles.formats import formats
from dflash_sim.profiles.releases.engine_sheet import HOME
from dflash_sim.profiles.releases.engine_versions import releases
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.ui.state import NAMES, State, from_fields, spelled

AUTO = ""  # the stop of a control whose field is left to its default
_STEPS = (1, 1.25, 1.5, 1.75)  # between two powers of two
_LENGTHS = 131072
_ACCEPTED = 16.0


@dataclass(frozen=True)
class Choice:
    """A list to choose from; an empty value leaves the field to its default."""

    name: str
    label: str
    options: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Slide:
    """A slider over stops, each the text of a value; the empty one leaves the field alone.

    Parameters
    ----------
    unit
        Written behind the value.
    auto
        What the empty stop is called.
    """

    name: str
    label: str
    stops: Sequence[str]
    unit: str = ""
    auto: str = ""


Control = Choice | Slide


def server(state: State) -> list[Control]:
    """Return the controls of the server."""
    weights = [name for form in formats().values() for name in form.spelled[:1]]
    builds = [".".join(map(str, version)) for version in sorted(releases(), reverse=True)]
    return [
        Choice("model", "Model", _named(names("models"), state.fields.get("model"))),
        Choice("quantization", "Weights", _named(weights, state.fields.get("quantization"),
                                                 auto="as the checkpoint")),
        Choice("gpu", "GPU", _named(names("gpus"), state.fields.get("gpu"))),
        Choice("tp", "GPUs (TP)", _named(["1", "2", "4", "8"], state.fields.get("tp"),
                                         auto="fewest that fit")),
        Choice("build", "SGLang", _named(builds, state.fields.get("build"), auto=HOME)),
    ]  # fmt: skip


def speculation(state: State) -> list[Control]:
    """Return the controls of the method."""
    methods = [(name, method.title.partition(",")[0]) for name, method in METHODS.items()]
    blocks = [str(n) for n in (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)]
    accepted = [f"al:{n / 10:g}" for n in range(11, int(10 * _ACCEPTED) + 1)]
    return [
        Choice("method", "Method", methods),
        _slide("block", "Block", blocks, state, auto="as trained"),
        _slide("steps", "Draft steps", [str(n) for n in range(1, 16)], state, auto="default"),
        _slide("acceptance", "Accept length", accepted, state, auto="as published"),
    ]


def load(state: State) -> list[Control]:
    """Return the controls of the load."""
    concs = _spread(1, 256)
    rates = [f"{n:g}" for n in (0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20,
                                24, 32, 48, 64)]  # fmt: skip
    lengths = [n for n in _spread(32, _LENGTHS) if int(n) % 8 == 0]
    hits = [f"{n / 100:g}" for n in range(5, 100, 5)]
    warmth = [f"{n / 10:g}" for n in range(1, 16)]
    return [
        _slide("conc", "Requests in flight", concs, state),
        _slide("rate", "Arrivals", rates, state, unit="/s"),
        Choice("dataset", "Data set", _named(names("datasets"), state.fields.get("dataset"))),
        _slide("isl", "Prompt", lengths, state, unit="tokens"),
        _slide("osl", "Answer", lengths, state, unit="tokens"),
        _slide("cache_hit", "Cached of a prompt", hits, state, auto="none"),
        _slide("temperature", "Temperature", warmth, state, auto="greedy"),
    ]


MODES = {"closed": "conc", "open": "rate"}
_BEGIN = {"conc": "16", "rate": "2", "isl": "1024", "osl": "1024"}  # where sliders begin


def default_of(name: str) -> str:
    """Return what a control says of a field that is not set."""
    default = Scenario.model_fields[name].default
    return _BEGIN.get(name, AUTO if default is None else spelled(default))


def chosen(values: Mapping[str, Any], kept: Mapping[str, str]) -> State:
    """Return the state of what the controls say, over the fields that have none.

    Parameters
    ----------
    values
        By name: the text of each control, ``load`` (closed or open), ``lengths`` (data set or
        fixed), ``thinking``, and ``calibration``.
    kept
        Fields of the address that no control shows.
    """
    said = {n: v for n, v in values.items() if n in NAMES and v not in (AUTO, None)}
    said.pop("rate" if values.get("load") == "closed" else "conc", None)
    for name in ("dataset",) if values.get("lengths") == "fixed" else ("isl", "osl"):
        said.pop(name, None)
    thinking = values.get("thinking")
    if thinking is not None and not thinking and values.get("lengths") != "fixed":
        said["thinking"] = False
    else:
        said.pop("thinking", None)
    return from_fields({**kept, **said})


def is_shown(name: str, values: Mapping[str, Any]) -> bool:
    """Return whether a control applies beside what the others say."""
    takes = METHODS[str(values.get("method"))].takes if values.get("method") in METHODS else set()
    if name in ("block", "steps"):
        return name in takes and not (name == "block" and "steps" in takes)
    if name == "acceptance":
        return name in takes
    if name == "temperature":
        return values.get("method") not in METHODS or METHODS[str(values["method"])].samples
    if name in ("conc", "rate"):
        return MODES[str(values.get("load"))] == name
    fixed = values.get("lengths") == "fixed"
    if name in ("isl", "osl"):
        return fixed
    return not fixed if name in ("dataset", "thinking") else True


def _slide(
    name: str,
    label: str,
    stops: Sequence[str],
    state: State,
    *,
    unit: str = "",
    auto: str = "",
) -> Slide:
    own = state.fields.get(name)
    every = [*stops, own] if own and own not in stops else list(stops)
    ordered = sorted(every, key=_size)
    return Slide(name, label, [AUTO, *ordered] if auto else ordered, unit, auto)


def _size(text: str) -> float:
    try:
        return float(text.removeprefix("al:"))
    except ValueError:
        return float("inf")


def _named(
    known: Sequence[str], own: str | None, *, auto: str | None = None
) -> list[tuple[str, str]]:
    listed = list(known) if own is None or own in known else [own, *known]
    first = [] if auto is None else [(AUTO, auto)]
    return first + [(name, name) for name in listed]


def _spread(first: int, last: int) -> list[str]:
    """Whole numbers from ``first`` to ``last``, four to each doubling."""
    found, power = set[int](), 1
    while power <= last:
        found |= {int(power * step) for step in _STEPS}
        power *= 2
    return [str(n) for n in sorted(found) if first <= n <= last]
