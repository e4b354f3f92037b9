"""Crossings by a scan along the axis and bisection where a gain changes its sign."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import log

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.profiles.one_look import one_look
from dflash_sim.simulator.intervals import misfit, unmodelled
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.crossover.axis import Axis
from dflash_sim.studies.crossover.ends import METRIC, Span, Spread, doubtful, spans, stretches
from dflash_sim.studies.crossover.places import nowhere, reached
from dflash_sim.studies.crossover.question import Question
from dflash_sim.studies.crossover.server import Server

Floats = npt.NDArray[np.float64]
_ASKED = 5  # places at most where what is uncertain is asked for


@dataclass(frozen=True)
class Curve:
    """One server's gain over plain decoding along the axis, and where it pays.

    Or over another one that speculates, which is ``plain`` then, and where it is the faster.

    Parameters
    ----------
    values
        Positions that were tried, rising.
    gain
        Log of the throughput over that of plain decoding there [1].
    sd
        One standard deviation of it; empty if not asked for [1].
    since, until
        Ends of the last stretch that pays, in units of the axis.
    stretches
        All of them; the first may begin at 0 and the last may end at infinity.
    at
        ``(of it, of plain)``: what a run shows at each position.
    missing
        Positions where it cannot run, with the reason.
    """

    server: Server
    plain: Server
    values: tuple[float, ...]
    gain: Floats
    sd: Floats
    since: Span
    until: Span
    stretches: tuple[tuple[float, float], ...]
    missing: tuple[tuple[float, str], ...] = ()

    @property
    def setup(self) -> Setup:
        """The server where the scenario puts it."""
        return self.server.base

    @property
    def title(self) -> str:
        """The method and its width in words."""
        return self.server.title

    @property
    def pays(self) -> str:
        """Say ``never``, ``always``, ``until``, ``from`` or ``between``."""
        if not self.stretches:
            return "never"
        starts, ends = self.since.value == 0, np.isinf(self.until.value)
        if starts:
            return "always" if ends else "until"
        return "from" if ends else "between"

    @property
    def within_error(self) -> tuple[tuple[float, float], ...]:
        """Stretches of tried positions whose 90 % interval of the gain holds 0, ends included."""
        return doubtful(self.values, self.gain, self.sd) if self.sd.size else ()

    def gain_at(self, value: float) -> float:
        """Return the gain between positions, and beyond them that of the last [1]."""
        scale = self.server.axis.scale
        places = [scale(x) for x in self.values]
        return float(np.interp(scale(value), places, self.gain))


@dataclass(frozen=True)
class Crossover:
    """The answer: a curve for each server that speculates.

    Parameters
    ----------
    curves
        In the order of the question.
    failed
        Servers that run nowhere along the axis, with the reason.
    leads
        Of a method that the answer leaves for another one: its gain over that.
    """

    question: Question
    curves: tuple[Curve, ...]
    failed: tuple[tuple[str, DflashSimError], ...] = ()
    with_interval: bool = field(default=True)
    leads: tuple[Curve, ...] = ()

    @property
    def axis(self) -> Axis:
        """What changes."""
        return self.question.axis


def steps(question: Question, *, interval: bool) -> int:
    """Return about how many runs an answer takes."""
    servers = 1 + len(question.candidates)
    return servers * (len(question.values) + 2) + (_ASKED * servers if interval else 0)


def crossover(
    question: Question,
    *,
    interval: bool = True,
    on_run: Callable[[int], None] | None = None,
) -> Crossover:
    """Find where each server stops beating plain decoding.

    Parameters
    ----------
    interval
        Also 90 % intervals, by draws that move both servers at once.
    on_run
        Called after each run, with its number.

    Raises
    ------
    DflashSimError
        No server runs anywhere along the axis.
    """
    told = on_run or (lambda _: None)
    with one_look():
        plain = Server(question.plain, question.axis, told)
        curves, failed = [], []
        for setup in question.candidates:
            server = Server(setup, question.axis, told)
            try:
                places = reached(server, question.values)
                curves.append(curve_of(server, plain, places, interval=interval))
            except DflashSimError as error:
                failed.append((server.title, error))
    if not curves:
        raise failed[0][1]
    return Crossover(question, tuple(curves), tuple(failed), interval)


def curve_of(
    server: Server,
    plain: Server,
    values: Sequence[float],
    *,
    interval: bool,
) -> Curve:
    """Return the gain of a server over another, which decodes plainly or not.

    Raises
    ------
    DflashSimError
        Both run at fewer than two of the values.
    """
    found: dict[float, float] = {}
    missing: dict[float, DflashSimError] = {}
    for value in values:
        try:
            found[value] = _gain(server, plain, value)
        except DflashSimError as error:
            missing[value] = error
    if len(found) < 2:
        raise nowhere(server, values, found, missing)
    _bisect(server, plain, found)
    axis = server.axis
    at = sorted(found)
    x = np.array([axis.scale(v) for v in at])
    gain = np.array([found[v] for v in at])
    spread = None
    if interval:
        spread = _spread(server, plain, [v for v in values if v in found], x=x, gain=gain)
    since, until = spans(x, gain, spread, seed=server.base.scenario.seed)
    low_and_high = [(axis.unscale(a), axis.unscale(b)) for a, b in stretches(x, gain)]
    return Curve(
        server=server,
        plain=plain,
        values=tuple(at),
        gain=gain,
        sd=spread.sd(x) if spread else np.zeros(0),
        since=_unscaled(axis, since),
        until=_unscaled(axis, until),
        stretches=tuple(low_and_high),
        missing=tuple((v, str(e)) for v, e in sorted(missing.items())),
    )


def _gain(server: Server, plain: Server, value: float) -> float:
    return log(server.values(value)[METRIC] / plain.values(value)[METRIC])


def _bisect(server: Server, plain: Server, found: dict[float, float]) -> None:
    """Narrow every change of sign down, as far as the axis wants to know it."""
    todo = list(pairwise(sorted(found)))
    while todo:
        low, high = todo.pop()
        middle = server.axis.between(low, high)
        if middle is None or (found[low] > 0) == (found[high] > 0):
            continue
        try:
            found[middle] = _gain(server, plain, middle)
        except DflashSimError:
            continue
        todo += [(low, middle), (middle, high)]


def _spread(
    server: Server, plain: Server, values: list[float], *, x: Floats, gain: Floats
) -> Spread:
    """Ask what is uncertain at both ends of the scan, next to parity, and around the last end."""
    axis = server.axis
    at = np.array([axis.scale(v) for v in values])
    flips = np.flatnonzero((gain[1:] > 0) != (gain[:-1] > 0))
    order = [0, len(at) - 1, int(np.argmin(np.abs(at - x[np.argmin(np.abs(gain))])))]
    if len(flips):
        near = x[flips[-1] : flips[-1] + 2].mean()
        order += np.argsort(np.abs(at - near))[:2].tolist()
    chosen = sorted({values[i] for i in order})
    own = server.setup(chosen[-1])
    return Spread.between(
        np.array([axis.scale(v) for v in chosen]),
        [server.sensitivity(v) for v in chosen],
        [plain.sensitivity(v) for v in chosen],
        offset_variance=unmodelled(own) + misfit(own),
    )


def _unscaled(axis: Axis, span: Span) -> Span:
    return Span(*(axis.unscale(end) for end in (span.value, span.low, span.high)))
