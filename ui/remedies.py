"""Where nothing fits: which neighbouring settings would, each a state that one click leads to."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.profiles.find import names
from dflash_sim.profiles.load import load_device
from dflash_sim.profiles.one_look import one_look
from dflash_sim.simulator.cost.methods import METHODS, PLAIN
from dflash_sim.simulator.setup import resolve
from dflash_sim.ui.state import PRICE, State, prices_of, settled

MOST = 5
_TPS = (2, 4, 8)
_FORMATS = ("fp8", "modelopt_fp4")
Change: TypeAlias = tuple[str, Mapping[str, Any]]  # in words, and the fields that change


@dataclass(frozen=True)
class Remedy:
    """A change that would fit, in words, and the address of the state with it."""

    words: str
    query: str


def remedies(state: State) -> list[Remedy]:
    """Return changes of one field, or else of two, with which there is an answer."""
    with one_look():
        found = list(islice(_fitting(state, _changes(state)), MOST))
        return found or list(islice(_fitting(state, _pairs(state)), MOST))


def _fitting(state: State, changes: Iterable[Change]) -> Iterator[Remedy]:
    seen = {state.query}
    for words, fields in changes:
        changed = settled(state.but(**fields))
        if changed.query not in seen and fits(changed):
            yield Remedy(words, changed.query)
        seen.add(changed.query)


def fits(state: State) -> bool:
    """Return True if there is such a server at such a price, and its drafts are known of."""
    try:
        prices_of(state.fields)
        setup = resolve(state.scenario())
        return setup.expectation is not None or not setup.speculative
    except DflashSimError:
        return False


def _changes(state: State) -> Iterator[Change]:
    yield from _of_the_server(state)
    yield from _of_the_method(state)
    yield from _of_the_load(state)


def _pairs(state: State) -> Iterator[Change]:
    servers = list(_of_the_server(state))
    for words, fields in _of_the_method(state):
        for more, others in servers:
            yield f"{words}, {more}", {**others, **fields}


def _of_the_server(state: State) -> Iterator[Change]:
    fields = state.fields
    if PRICE in fields:
        yield "at list prices", {PRICE: None}
    if "mem_fraction_static" in fields:
        yield "the engine's own share of memory", {"mem_fraction_static": None}
    if "max_running_requests" in fields:
        yield "the engine's own cap on requests", {"max_running_requests": None}
    tp = int(fields["tp"]) if fields.get("tp", "").isdecimal() else 0
    if "tp" in fields or "num_gpus" in fields:
        yield "on the fewest GPUs that hold it", {"tp": None, "num_gpus": None}
    for more in _TPS:
        if more > tp:
            yield f"on {more} GPUs (TP {more})", {"tp": more, "num_gpus": None}
    for name in _FORMATS:
        if fields.get("quantization") != name:
            yield f"weights in {name}", {"quantization": name}
    for gpu in _roomier(fields.get("gpu", "")):
        yield f"on {gpu}", {"gpu": gpu, "tp": None, "num_gpus": None, "attention_backend": None}


def _of_the_method(state: State) -> Iterator[Change]:
    for method in METHODS.values():
        if method.speculative and method.algorithm and method.name != state.fields.get("method"):
            own = {"method": method.name, "block": None, "steps": None, "draft_model": None}
            yield f"with {method.title.partition(',')[0]}", own
    yield "plain decoding", {"method": PLAIN.name}
    if "acceptance" not in state.fields:
        yield "with 4 tokens accepted a step", {"acceptance": "al:4"}


def _of_the_load(state: State) -> Iterator[Change]:
    for name, what in (("isl", "prompts"), ("osl", "answers")):
        asked = int(state.fields[name]) if state.fields.get(name, "").isdecimal() else 0
        for part in (2, 4, 8, 16, 32):
            if asked >= part:
                yield f"{what} of {asked // part:,} tokens", {name: asked // part}


def _roomier(gpu: str) -> list[str]:
    """GPUs with more memory, the next larger first."""
    try:
        least = load_device(gpu).mem_bytes
        sizes = {name: load_device(name).mem_bytes for name in names("gpus")}
    except DflashSimError:
        return []
    return sorted((n for n, size in sizes.items() if size > least), key=lambda n: (sizes[n], n))
