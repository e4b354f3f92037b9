"""Why a measured throughput is not the predicted one, as far as the measurement tells.

Some causes can be read off a file: the accept length, the requests in flight, the seconds of the
scheduler's stages. They are put into the prediction first. What then remains of the gap in the
latencies is matched by the fewest further changes (``compare.change_search``): a cap on
running requests, slower prefills, decode steps or host stages, other CUDA graphs. Each change is a
prediction of its own, so a cause is worth what it does to the throughput.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import expm1, isfinite, log, nan
from operator import itemgetter
from typing import TypeAlias

from dflash_sim.calibrate.compare.change_search import (
    DECODING,
    FIRST_TOKEN,
    Match,
    host_known,
    matches,
)
from dflash_sim.calibrate.compare.common_definitions import Values, host_stage_s, in_flight
from dflash_sim.calibrate.compare.gap import Gap
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.readers.sglang_bench_serving import POOLED
from dflash_sim.profiles.units import MS, US
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.whatif import Change

Share: TypeAlias = float  # of the measured value [1]

CAUSES = {
    "accept_length": "accept length",
    "load": "requests in flight",
    "request_cap": "request cap",
    "host": "host time",
    "frontend": "client to scheduler",
    "prefill": "prefill",
    "step": "decode step",
    "graphs": "CUDA graphs",
    "padding": "padding",
}
TARGETS = ("output_throughput", "mean_e2e_latency_ms")
_WORTH: Share = 0.01  # a cause that moves the target by less is not named


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One reason for the gap.

    Parameters
    ----------
    name
        A key of :data:`CAUSES`.
    share
        Its part of the relative error; parts and the unexplained rest add up.
    evidence
        What in the file says so.
    or_else
        Causes that the file cannot tell from this one.
    """

    name: str
    share: Share
    evidence: str
    or_else: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """A gap taken apart.

    Parameters
    ----------
    target
        The metric whose gap it is: the throughput, or in an open loop the latency.
    rel_err
        Prediction over measurement, less one.
    spread
        Of one run around the mean of several, one sigma, relative.
    unknown
        What the file would have to hold to tell more.
    """

    target: str
    rel_err: Share
    causes: tuple[Cause, ...]
    unexplained: Share
    spread: Share
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class _Step:
    """A change made to the prediction, and why; one made by ``chance`` is no cause."""

    name: str
    change: Change
    evidence: str
    or_else: tuple[str, ...] = ()
    chance: bool = False


_Look: TypeAlias = Callable[[Gap, Change], _Step | None]


def explain(
    result: Result, row: Observation, seen: Values, *, accept_known: bool = False
) -> Diagnosis | None:
    """Take the gap between a prediction and a measurement apart.

    Parameters
    ----------
    seen
        Measured values by our definitions (``common_definitions.measured``).
    accept_known
        True if the prediction is made with the measured accept length.

    Returns
    -------
    None if neither a throughput nor, in an open loop, a latency was measured.
    """
    target = TARGETS[result.scenario.rate is not None]
    if target not in seen:
        return None
    gap = Gap(result, row, seen)
    steps = list(_read_off(gap, () if accept_known else (_accept_length,)))
    start = steps[-1].change if steps else Change()
    said: list[str] = []
    for match in matches(gap, start):
        steps.append(_matched(gap, start, match, said))
        start = match.change
    return _taken_apart(gap, target, steps)


def _taken_apart(gap: Gap, target: str, steps: list[_Step]) -> Diagnosis:
    """Each step's part of the error; parts of a product are added by their logarithms."""
    seen = gap.seen[target]
    before = gap.predicted(target, Change())
    total = log(before / seen)
    scale = expm1(total) / total if total else 1.0
    causes, left = [], total
    for step in steps:
        after = gap.predicted(target, step.change)
        part = log(before / after)
        before = after
        if abs(scale * part) >= _WORTH and not step.chance:
            left -= part
            cause = Cause(
                name=step.name, share=scale * part, evidence=step.evidence, or_else=step.or_else
            )
            causes.append(cause)
    return Diagnosis(
        target=target,
        rel_err=expm1(total),
        causes=tuple(causes),
        unexplained=scale * left,
        spread=gap.noise(itemgetter(target)),
        unknown=tuple(_unknown(gap, causes, scale * left)),
    )


def _read_off(gap: Gap, first: Sequence[_Look]) -> Iterator[_Step]:
    """Return what the file states outright, in the order in which one bears on the next."""
    change = Change()
    for look in (*first, _host):
        found = look(gap, change)
        if found is not None:
            yield found
            change = found.change


def _accept_length(gap: Gap, change: Change) -> _Step | None:
    """Twice, as accept lengths of requests and of steps do not grow alike."""
    accept = gap.accept
    if accept is None:
        return None
    measured, predicted = accept.of(gap.seen), accept.of(gap.result.values)
    for _ in range(2):
        values = gap.values(change)
        ratio = measured / accept.of(values) if values is not None else nan
        if not isfinite(ratio):
            return None
        change = replace(change, accept=change.accept * ratio)
    evidence = f"{accept.words} {measured:.2f}, predicted {predicted:.2f}"
    pooled = POOLED in gap.row.notes and accept.name == "accept_length_cycle"
    evidence += " (measured since the server started)" if pooled else ""
    return _Step("accept_length", change, evidence, chance=gap.by_chance(accept.of))


def _host(gap: Gap, change: Change) -> _Step | None:
    """In V1 the stages hold the forward itself, so they tell nothing."""
    theirs_s = host_stage_s(gap.seen)
    if theirs_s is None or gap.result.scenario.engine_mode == "v1":
        return None
    ours_s = gap.trials.host_stage_s(change)
    evidence = (
        f"scheduler stages {theirs_s / US:,.0f} us per token before the GPU is waited for, "
        f"predicted {ours_s / US:,.0f}"
    )
    return _Step("host", replace(change, host=change.host * theirs_s / ours_s), evidence)


def _matched(gap: Gap, start: Change, match: Match, said: list[str]) -> _Step:
    """Why a change is made that the latencies ask for; ``said`` are those that were named.

    What is predicted is what the page shows, whatever stands above.
    """
    to = match.change
    if match.name == "load":
        mean, predicted = in_flight(gap.seen), in_flight(gap.values(Change()) or {})
        evidence = (
            f"{mean:.1f} requests in flight on average, predicted {predicted:.1f}: "
            f"as with {to.conc} clients"
        )
        return _Step(match.name, to, evidence, match.or_else)
    as_with = {
        "accept_length": f"{to.accept / start.accept:.2f} x the accept length",
        "frontend": f"{to.wait_s / MS:,.0f} ms between client and scheduler",
        "prefill": f"prefills {to.prefill / start.prefill:.2f} x as long",
        "step": f"decode steps {to.step / start.step:.2f} x as long",
        "host": f"host stages {to.host / start.host:.2f} x as long",
        "request_cap": f"--max-running-requests {to.cap}",
        "graphs": "--cuda-graph-max-bs 0",
        "padding": "a CUDA graph for every batch size",
    }[match.name]
    waiting = match.name in ("frontend", "prefill", "request_cap")
    names = FIRST_TOKEN if waiting else DECODING
    name = next(n for n in names if n in gap.told)
    if name in said:
        return _Step(match.name, to, f"and beside that {as_with}", match.or_else)
    said.append(name)
    evidence = (
        f"{name} {gap.seen[name]:,.2f}, predicted {gap.predicted(name, Change()):,.2f}: "
        f"as with {as_with}"
    )
    return _Step(match.name, to, evidence, match.or_else)


def _unknown(gap: Gap, causes: Sequence[Cause], unexplained: Share) -> Iterator[str]:
    """Return what the file leaves open, where it matters to this gap."""
    if abs(unexplained) >= _WORTH:
        if gap.result.setup.speculative and gap.accept is None:
            yield "accept length: the file has none"
        if not any(name in gap.told for name in FIRST_TOKEN):
            yield "prefill, queueing and request cap: the file has no TTFT"
        if not any(name in gap.told for name in DECODING):
            yield "decode steps: the file has neither a mean TPOT nor an ITL"
    if not {"step", "host"}.intersection(cause.name for cause in causes):
        return
    if not host_known(gap):
        yield "host against kernels: give two scrapes of /metrics too, before and after the run"
    if round(gap.result.values["mean_batch"]) not in gap.result.setup.step.graph_sizes:
        yield "padding: the file does not say for which batch sizes CUDA graphs were captured"
