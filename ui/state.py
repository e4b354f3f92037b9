"""What is asked on the page: fields of a scenario as an address has them, and back."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.simulator.cost.methods import method_of
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.prices import checked_prices, own_prices
from dflash_sim.studies.ask.question import ask, only_scenario

START = {"gpu": "b200", "model": "qwen3.5-397b-a17b", "method": "dflash", "block": "16",
    "dataset": "humaneval", "conc": "32"}  # fmt: skip
TRUTHS = {name for name, f in Scenario.model_fields.items() if f.annotation is bool}
PRICE = "price"  # beside the fields of a scenario: what the asker pays for a GPU
NAMES = (*Scenario.model_fields, PRICE)
_SAID = {"true": True, "false": False}
_TOO_LONG = 4000  # letters of an address


@dataclass(frozen=True)
class State:
    """One state of the page.

    Parameters
    ----------
    fields
        Fields of a scenario that are set, as text, and a price; the others have their defaults.
    dropped
        Parts of an address that are none, each with the reason.
    """

    fields: Mapping[str, str] = field(default_factory=lambda: dict(START))
    dropped: tuple[str, ...] = ()

    @property
    def query(self) -> str:
        """The address of this state, from the question mark on."""
        ordered = {n: self.fields[n] for n in NAMES if n in self.fields}
        return "?" + urlencode(ordered, safe=":,/@")

    @property
    def open_loop(self) -> bool:
        """True where requests arrive by themselves."""
        return "rate" in self.fields

    @property
    def load(self) -> float:
        """Requests in flight, or arrivals per second in an open loop; 1 where it is no number."""
        try:
            return float(self.fields.get("rate") or self.fields.get("conc") or 1)
        except ValueError:
            return 1.0

    def keywords(self) -> dict[str, Any]:
        """The fields as the Python call has them."""
        found = {name: _value(name, text) for name, text in self.fields.items()}
        if PRICE in found:
            found[PRICE] = _of_one_gpu(self.fields)
        return {name: value for name, value in found.items() if value != {}}

    def scenario(self) -> Scenario:
        """Return the scenario.

        Raises
        ------
        UsageError
            A value is none, or two exclude each other.
        """
        return scenario_of(self.keywords())

    def but(self, **changes: Any) -> "State":
        """Return another state; a field that is None is left to its default."""
        merged = {**self.fields, **{n: spelled(v) for n, v in changes.items() if v is not None}}
        return State({n: v for n, v in merged.items() if changes.get(n, v) is not None})


def scenario_of(fields: Mapping[str, Any]) -> Scenario:
    """Return the scenario of fields, as the command line has it of flags.

    Raises
    ------
    UsageError
        A value is none, there are several of a field, or two fields exclude each other.
    """
    asked = {name: value for name, value in fields.items() if name != PRICE}
    return only_scenario(ask(asked, preset=None, from_launch=None)[0])


def prices_of(fields: Mapping[str, Any]) -> dict[str, float]:
    """Return what the asker pays by GPU [USD/h]: ``h200=2.20``, or a number for the GPU asked for.

    Raises
    ------
    UsageError
        It is none.
    """
    gpu = fields.get("gpu") or Scenario.model_fields["gpu"].default
    told = [part.strip() for part in str(fields.get(PRICE) or "").split(",") if part.strip()]
    return own_prices(part if "=" in part else f"{gpu}={part}" for part in told)


def _of_one_gpu(fields: Mapping[str, str]) -> dict[str, float]:
    """The price of the GPU that is asked for, where it is one; of others the page says nothing."""
    gpu = fields.get("gpu") or Scenario.model_fields["gpu"].default
    with suppress(DflashSimError):
        return checked_prices(prices_of(fields), [gpu])
    return {}


def spelled(value: Any) -> str:
    """Return a field as an address has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def from_query(query: str) -> State:
    """Return the state of an address; an empty one is the launch that the README begins with.

    What is no field of a scenario is left out and named in ``dropped``.
    """
    if len(query) > _TOO_LONG:
        return State(dropped=(f"an address of {len(query):,} letters; it was not read",))
    pairs = parse_qsl(query.removeprefix("?"), keep_blank_values=False)
    if not pairs:
        return State()
    fields, dropped = dict[str, str](), list[str]()
    for name, text in pairs:
        if name in NAMES:
            fields[name] = text.strip()
        else:
            dropped.append(f"{name}: no field of a scenario is called so")
    return State(fields, tuple(dropped))


def from_fields(fields: Mapping[str, Any]) -> State:
    """Return the state of scenario fields, such as those of a launch command."""
    return State({n: spelled(v) for n, v in fields.items() if v is not None})


def settled(state: State) -> State:
    """Return the state with what its method and its load do not take left out.

    A control that is hidden keeps its value on the page, and must not refuse the others.
    """
    fields = dict(state.fields)
    try:
        method = method_of(fields.get("method", "dflash"))
    except DflashSimError:
        return state
    owned = {"block", "steps", "topk", "window", "draft_model", "acceptance", "policy",
        "speculative_draft_model_quantization", "speculative_use_rejection_sampling"}  # fmt: skip
    drawn = set[str]() if method.samples else {"temperature", "top_p", "top_k"}
    for name in (owned - method.takes) | drawn:
        fields.pop(name, None)
    if "steps" in fields and "topk" not in fields:
        fields.pop("block", None)
    if "rate" in fields:
        fields.pop("conc", None)
    if "isl" in fields or "osl" in fields:
        fields.pop("dataset", None)
    return State(fields, state.dropped)


def _value(name: str, text: str) -> Any:
    return _SAID.get(text.lower(), text) if name in TRUTHS else text
