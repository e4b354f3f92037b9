"""The fewest changes of a prediction that give the latencies of a measurement.

Changes are tried on top of one another and the cheapest set is kept: what it leaves of the errors,
in squared sigmas, and a price for each change. Latencies only: the throughput, whose gap is to be
explained, takes no part.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import TypeAlias

import numpy as np

from dflash_sim.calibrate.compare.common_definitions import host_stage_s, in_flight, running
from dflash_sim.calibrate.compare.gap import Gap
from dflash_sim.profiles.units import MS
from dflash_sim.simulator.whatif import Change, Factor

Squared: TypeAlias = float  # sigmas [1]

_GAIN: Squared = 9.0  # a change worth making
_TIE: Squared = 4.0  # two as good as one another
# How far each may be off before a file says so, one sigma of its logarithm: host stages by the
# engine sheet's own error, prefills and decode steps by their operator tables and what is fitted
# on top, accept lengths as between a model and its siblings. A setting is two sigmas.
_PRIOR = {"host": 0.5, "prefill": 0.3, "step": 0.15, "accept": 0.15}
_WAIT_S = 0.05
_SETTING: Squared = 4.0
FIRST_TOKEN = ("mean_ttft_ms", "p99_ttft_ms")
DECODING = ("median_itl_ms", "step_ms", "mean_tpot_ms", "mean_itl_ms")
_OF_STEPS = ("step", "host")  # fields that stretch every gap between tokens
_LARGEST = log(20.0)
_SOLVED = 0.003
_EVALUATIONS = 3
_MOST, _BEAM = 3, 2
_NUDGE = 1.05
# What a change is called, and the field of it.
_FIELD = {
    "accept_length": "accept",
    "host": "host",
    "prefill": "prefill",
    "step": "step",
    "frontend": "wait_s",
    "load": "conc",
    "request_cap": "cap",
    "graphs": "graphs",
    "padding": "unpadded",
}
_NAME = {field: name for name, field in _FIELD.items()}


@dataclass(frozen=True)
class Match:
    """A change, and what is left of the errors of the latencies under it.

    Parameters
    ----------
    prior
        How unlikely the change is by itself.
    or_else
        Other changes that would do as well.
    """

    name: str
    change: Change
    misfit: Squared
    prior: Squared
    or_else: tuple[str, ...] = ()

    @property
    def score(self) -> Squared:
        """Less is better."""
        return self.misfit + self.prior


@dataclass(frozen=True)
class _Path:
    """Changes on top of one another and of ``start``; less ``cost`` is better."""

    start: Change
    end: Change
    misfit: Squared
    made: tuple[Match, ...] = ()

    @property
    def cost(self) -> Squared:
        return self.misfit + sum(_GAIN + match.prior for match in self.made)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(match.name for match in self.made)

    def then(self, match: Match) -> "_Path":
        return replace(self, end=match.change, misfit=match.misfit, made=(*self.made, match))


def matches(gap: Gap, start: Change) -> tuple[Match, ...]:
    """Changes on top of ``start`` and of one another, in the order of their weight."""
    misses = gap.misses(start)
    if misses is None or not misses.size:
        return ()
    best = _Path(start, start, float(misses @ misses))
    beam, rivals = [best], list[_Path]()
    for _ in range(_MOST):
        grown = [
            path.then(match)
            for path in beam
            if path.cost - path.misfit + _GAIN < best.cost
            for match in _candidates(gap, path)
        ]
        beam = sorted(grown, key=lambda path: path.cost)[:_BEAM]
        cheaper = (path for path in beam if path.cost < best.cost)
        found = next((path for path in cheaper if gap.agrees(start, path.end)), None)
        if found is not None:
            best, rivals = found, grown
        elif not beam or beam[0].cost >= best.cost:
            break
    return _refined(gap, start, _with_ties(best, rivals))


def _with_ties(best: _Path, rivals: Sequence[_Path]) -> tuple[Match, ...]:
    """For each change those that could take its place, all others being equal."""
    near = [path.names for path in rivals if path.misfit < best.misfit + _TIE]
    return tuple(
        replace(match, or_else=tuple(sorted({
            name
            for names in near
            if len(names) == len(best.names) and best.names - names == {match.name}
            for name in names - best.names
        })))
        for match in best.made
    )  # fmt: skip


def _refined(gap: Gap, start: Change, made: tuple[Match, ...]) -> tuple[Match, ...]:
    """Several factors are solved for one by one; once more, each beside the others."""
    if len(made) < 2:
        return made
    end = made[-1].change
    for match in made:
        name = _FIELD[match.name]
        if name in _PRIOR:
            again = _scaled(gap, end, name, 1.0, side=gap.side(start))
            end = again.change if again is not None else end
    refined = []
    for match in made:
        name = _FIELD[match.name]
        start = replace(start, **{name: getattr(end, name)})
        refined.append(replace(match, change=start))
    return tuple(refined)


def host_known(gap: Gap) -> bool:
    """Return True if the file has the seconds of the scheduler's stages."""
    return host_stage_s(gap.seen) is not None and gap.result.scenario.engine_mode != "v1"


def _candidates(gap: Gap, path: _Path) -> Iterator[Match]:
    """Every change that the file could confirm, at its best."""
    start, made = path.end, path.names
    for field, guess in _guesses(gap, start).items():
        if _NAME[field] in made:
            continue
        match = _scaled(gap, start, field, guess, side=gap.side(path.start))
        if match and not (field in _OF_STEPS and gap.median_speaks_against(start, match.change)):
            yield match
    if "frontend" not in made and (match := _waiting(gap, start)):
        yield match
    for name, change in _settings(gap, start, made):
        misses = gap.misses(change)
        if misses is not None:
            yield Match(name, change, float(misses @ misses), _SETTING)


def _guesses(gap: Gap, start: Change) -> dict[str, Factor]:
    """Return where to look for each factor."""
    values = gap.values(start) or {}
    step = _times_longer(gap, start, DECODING)
    first = _times_longer(gap, start, FIRST_TOKEN)
    found: dict[str, Factor] = {}
    if first is not None:
        found["prefill"] = first
    if step is None:
        return found
    found["step"] = step
    if gap.result.setup.speculative and gap.accept is None:
        found["accept"] = 1 / step
    if not host_known(gap) and values.get("host_ms"):
        overlapped = gap.result.setup.scenario.engine_mode == "v2"
        shown = step if overlapped else step - 1
        found["host"] = (not overlapped) + shown * values["step_ms"] / values["host_ms"]
    return found


def _times_longer(gap: Gap, start: Change, names: tuple[str, ...]) -> Factor | None:
    """Measured over predicted of the first latency that the file tells."""
    for name in names:
        if name in gap.told:
            return gap.seen[name] / gap.predicted(name, start)
    return None


def _scaled(gap: Gap, start: Change, name: str, guess: Factor, *, side: float) -> Match | None:
    """The factor that fits best, by secants of the misses over its logarithm.

    Its throughput stays on ``side`` of the measured one, or comes no nearer from the other.
    """
    before, at = gap.misses(start), 0.0
    to = float(np.clip(log(max(guess, exp(-_LARGEST))), -_LARGEST, _LARGEST))
    to = to if abs(to) > _SOLVED else log(_NUDGE)
    best: Match | None = None
    for _ in range(_EVALUATIONS):
        change = replace(start, **{name: getattr(start, name) * exp(to)})
        misses = gap.misses(change)
        if misses is None or before is None:
            break
        prior = (to / _PRIOR[name]) ** 2
        match = Match(_NAME[name], change, float(misses @ misses), prior)
        best = match if best is None or match.score < best.score else best
        slope = (misses - before) / (to - at)
        curved = float(slope @ slope) + _PRIOR[name] ** -2
        solved = float(slope @ (slope * to - misses)) / curved
        before, at, to = misses, to, float(np.clip(solved, -_LARGEST, _LARGEST))
        if abs(to - at) < _SOLVED:
            break
    return best and _held_back(gap, start, name, best, side)


def _held_back(gap: Gap, start: Change, name: str, found: Match, side: float) -> Match | None:
    """No more of a factor than there is to explain."""

    def beyond(log_factor: float) -> float:
        scaled = replace(start, **{name: getattr(start, name) * exp(log_factor)})
        return -side * gap.above(scaled)

    low, high = 0.0, log(getattr(found.change, name) / getattr(start, name))
    under, over = beyond(low), beyond(high)
    if over <= max(_SOLVED, under):
        return found
    if under >= 0:  # of changes that are solved for beside others, less than now may do
        low, under = -high, beyond(-high)
    if under >= 0:
        return None
    for _ in range(_EVALUATIONS):  # the false position stays between its ends
        to = high - over * (high - low) / (over - under)
        at = beyond(to)
        low, under, high, over = (to, at, high, over) if at < 0 else (low, under, to, at)
        if abs(at) < _SOLVED:
            break
    low = to if abs(at) < _SOLVED else low
    change = replace(start, **{name: getattr(start, name) * exp(low)})
    misses = gap.misses(change)
    if misses is None:
        return None
    prior = (low / _PRIOR[name]) ** 2
    return Match(found.name, change, float(misses @ misses), prior)


def _waiting(gap: Gap, start: Change) -> Match | None:
    """The wait of a request between its client and the scheduler."""
    name = next((n for n in FIRST_TOKEN if n in gap.told), None)
    if name is None:
        return None
    best: Match | None = None
    change = start
    for _ in range(2):
        more_s = (gap.seen[name] - gap.predicted(name, change)) * MS
        change = replace(change, wait_s=max(0.0, change.wait_s + more_s))
        misses = gap.misses(change)
        if misses is None or not change.wait_s:
            break
        prior = (change.wait_s / _WAIT_S) ** 2
        match = Match("frontend", change, float(misses @ misses), prior)
        best = match if best is None or match.score < best.score else best
    return best


def _settings(gap: Gap, start: Change, made: frozenset[str]) -> Iterator[tuple[str, Change]]:
    """Settings that the file does not state and that its latencies could betray."""
    stated = gap.row.fields
    queued = any(name in gap.told for name in FIRST_TOKEN)
    if queued and "max_running_requests" not in stated and "request_cap" not in made:
        for cap in _caps(gap, start):
            yield "request_cap", replace(start, cap=cap)
    if "load" not in made:
        for conc in _loads(gap, start):
            yield "load", replace(start, conc=conc)
    step = _times_longer(gap, start, DECODING)
    largest = gap.result.setup.graph_max_bs
    if step is None or not largest or {"padding", "graphs"} & made:
        return
    if step < 1:
        yield "padding", replace(start, unpadded=True)
    elif "cuda_graph_max_bs" not in stated:
        yield "graphs", replace(start, graphs=0)


def _caps(gap: Gap, start: Change) -> Iterator[int]:
    """Caps on running requests that would let as many decode as were measured to."""
    conc = start.conc or gap.result.scenario.conc
    now, then = running(gap.values(start) or {}), running(gap.seen)
    if not conc or not now or not then:
        return
    cap = min(conc, gap.result.setup.limits.max_running_requests)
    near = round(cap * then / now)
    for tried in range(near - 1, near + 2):
        if 1 <= tried <= conc and tried != cap:
            yield tried


def _loads(gap: Gap, start: Change) -> Iterator[int]:
    """Numbers of clients that would keep as many requests in flight as were measured."""
    tried = gap.result.scenario.conc
    then = in_flight(gap.seen)
    for _ in range(2):
        now = in_flight(gap.values(replace(start, conc=tried)) or {})
        if not tried or not now or not then:
            return
        near = max(1, round(tried * then / now))
        if near in (tried, gap.result.scenario.conc):
            return
        yield near
        tried = near
