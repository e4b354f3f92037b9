"""What a crossing may be looked for along: concurrency, context, accept length, temperature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf, isinf, log

import numpy as np

from dflash_sim.profiles.errors import InfeasibleError, unknown
from dflash_sim.profiles.sheets import Dataset
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.simulator.trial import build_workload
from dflash_sim.simulator.whatif import changed, with_step

_CLIENTS, _KIBI = 256, 2**10
SHORTEST, _LONGEST = 512, 131_072  # tokens of a prompt
_LENGTHS = 2  # accept lengths tried for each token more
_WARMEST = 1.0
_TEMPERATURES = 4
_TURNS = 32  # of a client: below so many clients a run of all requests is long for what it tells


@dataclass(frozen=True)
class Axis:
    """One thing that changes from server to server, all else being equal.

    Parameters
    ----------
    name
        As ``--over`` takes it.
    field
        The scenario's field that it changes.
    title
        What it is in words, after a number.
    whole
        True if positions are whole numbers.
    log
        True if positions are looked at on a log scale.
    moves_plain
        True if plain decoding depends on it.
    same_prices
        True if steps of equal shape take equally long anywhere along it.
    chooses
        True if a place along it is one for all methods, so that the best of them can be told.
    default
        Positions to look at, from the servers that are compared.
    """

    name: str
    field: str
    title: str
    whole: bool
    log: bool
    moves_plain: bool
    same_prices: bool
    chooses: bool
    default: Callable[[Sequence[Setup]], list[float]]

    def scale(self, value: float) -> float:
        """Return the position on the scale of the axis."""
        return log(value) if self.log else value

    def unscale(self, position: float) -> float:
        """Return the value at a position; what is before the first is 0."""
        if isinf(position):
            return inf if position > 0 else 0.0
        return exp(position) if self.log else position

    def between(self, low: float, high: float) -> float | None:
        """Return a value between two; None if they are as near as it pays to look."""
        middle = self.unscale((self.scale(low) + self.scale(high)) / 2)
        if self.whole:
            middle = round(middle)
        close = high <= _CLOSE * low if self.log else high - low <= _CLOSE - 1
        return None if close or not low < middle < high else middle

    def said(self, value: float) -> str:
        """Return a value as people write it."""
        return f"{value:,.0f}" if self.whole else f"{value:.3g}"

    def briefly(self, value: float) -> str:
        """Return a value as the head of a column has it, such as ``32k`` tokens of context."""
        if self.name == "context" and value >= _KIBI and value % _KIBI == 0:
            return f"{value / _KIBI:.0f}k"
        return self.said(value)

    def reaches(self, base: Setup, value: float) -> bool:
        """Return False where a place cannot be asked of a server: it drafts fewer tokens."""
        return self.name != "accept" or value <= base.most_tokens

    def setup(self, base: Setup, value: float, *, own_prices: bool = False) -> Setup:
        """The server of ``base`` at a position; it takes prices from there where it can.

        Parameters
        ----------
        own_prices
            True for prices that follow when constants of its engine are changed.

        Raises
        ------
        DflashSimError
            There is no such server.
        """
        if self.name == "context":
            _refuse_beyond(base, value)
        fields, dataset = _changes(self, base, value)
        found = resolve(
            changed(base.scenario, **fields),
            engine=base.engine,
            tables=base.tables,
            calibration=base.calibration,
            dataset=dataset,
        )
        return with_step(found, base.step) if self.same_prices and not own_prices else found


_CLOSE = 1.1  # times the lower end, or that much more: an end is told no closer


def axis_of(name: str) -> Axis:
    """The axis of that name.

    Raises
    ------
    UsageError
        It names those that there are.
    """
    if name not in AXES:
        raise unknown(kind="--over", value=name, allowed=AXES)
    return AXES[name]


def _changes(axis: Axis, base: Setup, value: float) -> tuple[dict[str, object], Dataset | None]:
    """Return the fields of a scenario at a position, and the data set that stands in."""
    s, dataset = base.scenario, base.dataset
    conc = int(value) if axis.name == "conc" else s.conc or 1
    fields: dict[str, object] = {"conc": conc}
    if s.num_prompts is None and dataset is not None and 1 < conc < _TURNS:
        fields["num_prompts"] = _TURNS * conc
    if axis.name == "context" and dataset is None:
        fields["isl"] = int(value)
    elif axis.name == "context":
        fields |= _fixed_lengths(base, int(value))
        dataset = None
    elif axis.name == "accept" and base.speculative:
        fields["acceptance"] = f"al:{value:g}"
    elif axis.name == "temperature":
        fields[axis.field] = value
    return fields, dataset


def _refuse_beyond(base: Setup, value: float) -> None:
    """Refuse prompts that the model cannot take; a data set's own lengths are never so long."""
    most = base.model.context
    if most is not None and value >= most:
        msg = (
            f"prompts of {value:,.0f} tokens: {base.model.name} has a context of {most:,} tokens, "
            "answer included; look below it with --values."
        )
        raise InfeasibleError(msg)


def _fixed_lengths(base: Setup, isl: int) -> dict[str, object]:
    """Return fields of prompts of one length in place of a data set's, whose text stays its own."""
    s = base.scenario
    lengths, arrivals = (np.random.default_rng([s.seed, i]) for i in range(2))
    osl = round(float(build_workload(base, lengths, arrivals).osl.mean()))
    found: dict[str, object] = {
        "dataset": None,
        "isl": isl,
        "osl": osl,
        "num_prompts": s.num_prompts,
    }
    if base.speculative:
        found["content"] = s.content or s.dataset
    return found


def _doubling(first: int, last: int) -> list[float]:
    found: list[float] = []
    while first <= last:
        found.append(first)
        first *= 2
    return found


def _clients(_: Sequence[Setup]) -> list[float]:
    return _doubling(1, _CLIENTS)


def _contexts(setups: Sequence[Setup]) -> list[float]:
    """Prompts from a page to what the model takes with an answer behind it."""
    model = setups[0].model
    room = (model.context or _LONGEST) - setups[0].limits.max_new_tokens
    return _doubling(SHORTEST, max(SHORTEST, min(_LONGEST, room)))


def _accepted(setups: Sequence[Setup]) -> list[float]:
    widest = max(setup.most_tokens for setup in setups)
    return [1 + n / _LENGTHS for n in range(_LENGTHS * (min(widest, _MANY) - 1) + 1)]


_MANY = 8  # tokens of a cycle: beyond, nobody doubts that it pays


def _temperatures(_: Sequence[Setup]) -> list[float]:
    return [_WARMEST * n / _TEMPERATURES for n in range(_TEMPERATURES + 1)]


AXES = {
    axis.name: axis
    for axis in (
        Axis(
            name="conc",
            field="conc",
            title="requests at once",
            whole=True,
            log=True,
            moves_plain=True,
            same_prices=True,
            chooses=True,
            default=_clients,
        ),
        Axis(
            name="context",
            field="isl",
            title="tokens of context",
            whole=True,
            log=True,
            moves_plain=True,
            same_prices=True,
            chooses=True,
            default=_contexts,
        ),
        Axis(
            name="accept",
            field="acceptance",
            title="tokens a cycle",
            whole=False,
            log=True,
            moves_plain=False,
            same_prices=True,
            chooses=False,  # each method has an accept length of its own
            default=_accepted,
        ),
        Axis(
            name="temperature",
            field="temperature",
            title="of temperature",
            whole=False,
            log=False,
            moves_plain=True,
            same_prices=False,
            chooses=True,
            default=_temperatures,
        ),
    )
}
