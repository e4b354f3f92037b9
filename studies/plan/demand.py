"""The requests a fleet is planned for: a trace, or a rate of arrivals for some minutes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.readers.request_traces import Trace
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.units import in_percent
from dflash_sim.simulator.engine.radix_cache import RadixCache
from dflash_sim.simulator.requests.workload import (
    Part,
    Workload,
    card_workload,
    fixed_workload,
    given_requests,
    mixed_workload,
    open_loop,
    parts_of,
    with_hits,
)
from dflash_sim.simulator.scenario import Scenario

MOST_REQUESTS = 200_000  # a run holds all of their commits in memory
DURATION_S = 600.0
WARM_UP = 1 / 5  # of the requests of a rate, which find fleets emptier than they will be
_WARM = f"{in_percent(WARM_UP)} of the requests"
LEAD_IN_S = 600.0  # of a trace before its busiest stretch, at most


@dataclass(frozen=True)
class Demand:
    """One list of requests for each run.

    Parameters
    ----------
    name
        What it is, in words.
    notes
        What was assumed about it.
    lead
        Requests at the start of every run that fill the fleet and are not judged.
    steady
        True if it comes at one rate, so that no queue may grow.
    as_given
        True if lengths follow each other as in a file, perhaps in a pattern.
    asked_rate
        Arrivals per second that were asked for; 0 for a trace's own times.
    """

    name: str
    runs: tuple[Workload, ...]
    notes: tuple[str, ...] = ()
    lead: int = 0
    steady: bool = False
    as_given: bool = False
    asked_rate: float = 0.0

    @property
    def judged(self) -> int:
        """Requests of a run that are judged."""
        return len(self.runs[0]) - self.lead

    @property
    def rate(self) -> float:
        """Mean arrivals per second, of those that are judged, in the first run."""
        return (self.judged - 1) / self.span_s if self.span_s else float(self.judged)

    @property
    def span_s(self) -> float:
        """From the first to the last arrival that is judged, in the first run [s]."""
        at = self.runs[0].arrival_s
        assert at is not None
        return float(at[-1] - at[self.lead])

    @property
    def mean_isl(self) -> float:
        return float(self.runs[0].isl[self.lead :].mean())

    @property
    def finds(self) -> bool:
        """Return True if prefix caches may hold parts of the prompts."""
        return self.runs[0].prompts is not None or bool(self.runs[0].cached.any())

    @cached_property
    def found(self) -> float:
        """Share of prompt tokens that one cache with room for all would find in the first run."""
        work = self.runs[0]
        if work.prompts is None:
            return float(work.cached.sum() / work.isl.sum())
        cache, found = RadixCache(unit=1), 0
        for asked, answered, isl in zip(
            work.prompts.asked, work.prompts.answered, work.isl.tolist(), strict=True
        ):
            found += cache.match(asked, isl - 1).tokens
            cache.insert(answered)
        return float(found / work.isl.sum())

    @property
    def mean_osl(self) -> float:
        return float(self.runs[0].osl[self.lead :].mean())


def faster(workload: Workload, times: float, *, slow: float = 1.0) -> Workload:
    """Return the same requests, arriving so many times as fast, as a ``slow`` engine sees them.

    How long users pause is their own affair: only an engine that is slower sees that differently.
    """
    assert workload.arrival_s is not None
    pauses_s = None if workload.delay_s is None else workload.delay_s / slow
    return replace(workload, arrival_s=workload.arrival_s / (times * slow), delay_s=pauses_s)


def of_rate(scenario: Scenario, *, duration_s: float = DURATION_S) -> Demand:
    """Poisson arrivals (gamma with ``burstiness``) of a data set's or fixed lengths.

    All rates of one seed see the same requests, with gaps in proportion. No prompt is found in a
    prefix cache, unless the scenario says how much.
    """
    s = scenario
    assert s.rate is not None
    n = s.num_prompts or max(1, round(s.rate * duration_s))
    _refuse_too_many(n, f"--rate {s.rate:g} for {duration_s:g} s")
    runs = []
    for run in range(s.runs):
        lengths, arrivals, _ = np.random.SeedSequence([s.seed, run]).spawn(3)
        work = _lengths(s, n, np.random.default_rng(lengths))
        rng = np.random.default_rng(arrivals)
        work = open_loop(work, rate=s.rate, burstiness=s.burstiness, rng=rng)
        runs.append(with_hits(work, s.cache_hit or 0.0, 1))
    what = s.dataset or f"{s.isl:,} in, {s.osl:,} out"
    seconds = n / s.rate
    return Demand(
        f"{s.rate:g} requests/s for {seconds:,.0f} s, {what}",
        tuple(runs),
        (hits_note(s), f"the first {_WARM} fill the fleet, not judged"),
        lead=int(n * WARM_UP),
        steady=True,
        asked_rate=s.rate,
    )


def of_trace(trace: Trace, scenario: Scenario, *, capped: bool, lead: int = 0) -> Demand:
    """The requests of a trace; without times of its own they arrive at the scenario's rate.

    Parameters
    ----------
    capped
        Answers end at the scenario's ``max_new_tokens``.
    lead
        Requests at its start that are not judged.
    """
    n, s = len(trace), scenario
    _refuse_too_many(n, f"trace {trace.name}")
    if s.cache_hit is not None:
        trace = replace(trace, prompts=None)
    names = list(dict.fromkeys(trace.content))
    told = trace.prompts is not None and s.radix_cache
    notes = [*trace.notes, *(trace.sharing if told else [hits_note(s)])]
    if trace.arrival_s is not None:
        work = with_hits(_requests(trace, s, names, capped=capped), s.cache_hit or 0.0, 1)
        name = f"trace {trace.name} ({trace.form})"
        return Demand(name, (work,) * s.runs, tuple(notes), lead, as_given=True)
    if s.rate is None:
        msg = f"trace {trace.name} has lengths and no times; say how fast they come with --rate."
        raise UsageError(msg)
    notes.append("the trace has no times; arrivals are drawn")
    notes.append(f"the first {_WARM} fill the fleet, not judged")
    runs = []
    for run in range(s.runs):
        _, arrivals, _ = np.random.SeedSequence([s.seed, run]).spawn(3)
        rng = np.random.default_rng(arrivals)
        if trace.follow is None:
            work = _requests(trace, s, names, capped=capped)
            work = open_loop(work, rate=s.rate, burstiness=s.burstiness, rng=rng)
        else:
            work = _requests(_sessions_at(trace, s, rng), s, names, capped=capped)
        runs.append(with_hits(work, s.cache_hit or 0.0, 1))
    return Demand(
        f"lengths of {trace.name} at {s.rate:g} requests/s",
        tuple(runs),
        tuple(notes),
        lead=int(n * WARM_UP),
        steady=True,
        as_given=True,
        asked_rate=s.rate,
    )


def hits_note(s: Scenario) -> str:
    """Say how much of the prompts is found in a prefix cache where no text tells it."""
    if s.cache_hit is None:
        return "no prompt is found in a prefix cache"
    return f"{s.cache_hit:.3g} of every prompt is found in a prefix cache, as --cache-hit says"


def _requests(trace: Trace, s: Scenario, names: Sequence[str], *, capped: bool) -> Workload:
    """The requests of a trace, all at once where it has no times."""
    return given_requests(
        arrival_s=np.zeros(len(trace)) if trace.arrival_s is None else trace.arrival_s,
        isl=trace.isl,
        osl=np.minimum(trace.osl, s.max_new_tokens) if capped else trace.osl,
        part=np.array([names.index(c) for c in trace.content]) if len(names) > 1 else None,
        prompts=trace.prompts,
        follow=trace.follow,
        delay_s=trace.delay_s,
    )


def _sessions_at(trace: Trace, s: Scenario, rng: np.random.Generator) -> Trace:
    """Sessions that begin at random, so often that there are ``rate`` requests a second."""
    assert s.rate is not None
    assert trace.follow is not None
    assert trace.delay_s is not None
    follow = trace.follow.tolist()
    later = set(follow)
    heads = np.array([i for i in range(len(trace)) if i not in later])
    mean_gap_s = len(trace) / len(heads) / s.rate
    gaps_s = rng.gamma(s.burstiness, mean_gap_s / s.burstiness, len(heads))
    at = np.zeros(len(trace))
    for head, start_s in zip(rng.permutation(heads).tolist(), np.cumsum(gaps_s), strict=True):
        turn = head
        at[turn] = start_s
        while (then := follow[turn]) >= 0:
            at[then] = at[turn] + trace.delay_s[then]
            turn = then
    order = np.argsort(at, kind="stable")
    return replace(trace, arrival_s=at).rows(order)


def busiest(trace: Trace, seconds: float) -> Trace:
    """The stretch of ``seconds`` in which most requests arrive."""
    return led_in(trace, seconds, lead_s=0.0)[0]


def led_in(trace: Trace, seconds: float, *, lead_s: float | None = None) -> tuple[Trace, int]:
    """The busiest stretch with what came before, and how many requests those are.

    Parameters
    ----------
    lead_s
        Part of the trace before the stretch [s]; as long as the stretch, up to ``LEAD_IN_S``.
    """
    at = trace.arrival_s
    if at is None:
        msg = f"trace {trace.name} has no times, so no busiest stretch; drop --busiest."
        raise UsageError(msg)
    count = np.searchsorted(at, at + seconds, side="left") - np.arange(len(at))
    first = int(np.argmax(count))
    before_s = min(seconds, LEAD_IN_S) if lead_s is None else lead_s
    start = int(np.searchsorted(at, at[first] - before_s)) if before_s else first
    rows = slice(start, first + int(count[first]))
    note = f"the busiest {seconds:g} s: {int(count[first]):,} of {len(at):,} requests"
    notes = (*trace.notes, note)
    if start < first:
        notes = (*notes, f"{first - start:,} requests before it fill the fleet, not judged")
    return replace(trace.rows(np.arange(len(trace))[rows]), notes=notes), first - start


def _lengths(s: Scenario, n: int, rng: np.random.Generator) -> Workload:
    if s.dataset is None:
        assert s.isl is not None
        assert s.osl is not None
        osl = min(s.osl, s.max_new_tokens)
        return fixed_workload(
            isl=s.isl, osl=osl, requests=n, conc=n, range_ratio=s.range_ratio, rng=rng
        )
    parts = parts_of(s.dataset)
    if len(parts) > 1:
        return _of_parts(s, parts, n, rng)
    dataset = parts[0].dataset
    work = card_workload(
        dataset,
        thinking=s.thinking,
        conc=1,
        max_new_tokens=s.max_new_tokens,
        cache_unit=0,
        num_prompts=-(-n // dataset.turns),
        rng=rng,
    )
    none: npt.NDArray[np.int64] = np.zeros(n, np.int64)
    # A data set comes over and over: in one order every server of a router would see its own part.
    copy = dataset.num_prompts * dataset.turns
    order = np.concatenate(
        [rng.permutation(np.arange(at, min(at + copy, n))) for at in range(0, n, copy)]
    )
    return given_requests(arrival_s=none, isl=work.isl[order], osl=work.osl[order])


def _of_parts(s: Scenario, parts: Sequence[Part], n: int, rng: np.random.Generator) -> Workload:
    """Requests of a mixture of data sets, in random order."""
    work = mixed_workload(
        parts,
        thinking=s.thinking,
        conc=1,
        max_new_tokens=s.max_new_tokens,
        cache_unit=0,
        num_prompts=n,
        rng=rng,
    )
    assert work.part is not None
    none: npt.NDArray[np.int64] = np.zeros(n, np.int64)
    return given_requests(arrival_s=none, isl=work.isl[:n], osl=work.osl[:n], part=work.part[:n])


def shares_of(trace: Trace) -> str | None:
    """Shares of the requests by what they are about, as ``--content`` takes them."""
    if not trace.content:
        return None
    counts = Counter(trace.content)
    return ",".join(f"{name}:{count / len(trace)!r}" for name, count in counts.items())


def _refuse_too_many(n: int, what: str) -> None:
    if n > MOST_REQUESTS:
        msg = (
            f"{what} is {n:,} requests; at most {MOST_REQUESTS:,} are simulated at once. "
            "Take the busiest hour of a trace with --busiest 3600, or fewer with --num-prompts."
        )
        raise UsageError(msg)
