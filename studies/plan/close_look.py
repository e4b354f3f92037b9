"""A fleet that was found, looked at closely: what it keeps, what it costs, how much more it takes.

How far it can be pushed is found on the first run, by bisection.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from dflash_sim.profiles.units import HOUR_S, MEGA, MS, in_percent
from dflash_sim.simulator.engine.records import DECODE, PREFILL
from dflash_sim.simulator.fleet.fleet import Service, serve, subset
from dflash_sim.simulator.fleet.replica import Replica, Tally
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.plan.demand import Demand
from dflash_sim.studies.plan.judge import Judge, held
from dflash_sim.studies.plan.objective import WORDS, Kept, crossing, kept
from dflash_sim.studies.show.titles import method_title

ENDS = ("low", "typical", "high")
_GUESSES = 4  # of where a limit is, before it is looked for by halves
_STEPS = (1.04, 1.15, 1.4, 2.0, 3.0)  # beyond the last no limit is looked for
CLEAR = _STEPS[0] ** 2  # two limits that are found to a step each differ where they do by more
_MOSTLY = 0.5  # of the time, and it binds
_ALONE = 400  # requests that are served one by one to see the best that a server can do
_FAR = 20.0  # times a limit: it may have been meant in seconds
_UNIT = " Limits are in milliseconds."
_APART_S = 1e4
SLOTS = "slots: "  # begins what is said where it is slots that bind


@dataclass(frozen=True)
class Load:
    """The time of a fleet's servers, divided by what they spend it on.

    Parameters
    ----------
    busy, prefill, host
        Shares of the time from first to last arrival: GPUs at work, of that on prefills, and GPUs
        waiting for the host [1].
    mean_batch
        Requests in a decode step.
    full
        Share of decode time with every slot taken [1].
    kv
        Largest share of the KV cache in use [1].
    """

    busy: float
    prefill: float
    host: float
    mean_batch: float
    full: float
    kv: float


@dataclass(frozen=True)
class Fleet:
    """One fleet, examined.

    Parameters
    ----------
    spread
        One standard deviation of the log of all times [1].
    slow
        How much longer than predicted times are at the stated confidence [1].
    expected, sure
        What it keeps with times as predicted, and at that confidence.
    headroom
        How many times the requests may come as fast, at that confidence [1].
    unbroken
        True if no more requests were tried than ``headroom``.
    patience
        How many times as long as predicted all times may be [1].
    confidence
        Probability of that [1].
    binds
        What stops it from taking more, in words.
    output_tok_s
        Tokens that the demand asks for, on average over the hours of the day [token/s].
    evidence
        Shares of the time of a server as busy as these that are measured, fitted, ... [1].
    acceptance
        Where accept lengths are from; empty without speculation.
    first_factor
        How much later than all times first tokens are at the stated confidence [1].
    cache_hit_rate
        Prompt tokens found in the prefix caches over prompt tokens [1].
    """

    index: int
    setup: Setup
    replicas: int
    spread: float
    slow: float
    expected: Kept
    sure: Kept
    load: Load
    headroom: float
    unbroken: bool
    patience: float
    confidence: float
    breaks: str
    binds: str
    output_tok_s: float
    accept_histogram: tuple[int, ...]
    evidence: Mapping[str, float]
    acceptance: str
    first_factor: float
    cache_hit_rate: float

    @property
    def gpus(self) -> int:
        return self.replicas * self.setup.tp

    @property
    def room(self) -> str:
        """Say how many more requests it takes."""
        return room_in_words(self.headroom, self.unbroken)

    @property
    def usd_per_hour(self) -> dict[str, float]:
        """Rent at each end of the price range, where it is known [USD/h]."""
        price = self.setup.device.price
        each = {end: getattr(price, end) for end in ENDS}
        return {end: usd * self.gpus for end, usd in each.items() if usd is not None}

    @property
    def usd_per_mtok_out(self) -> dict[str, float]:
        """Return the price per million output tokens, over the hours of the day [USD]."""
        million_h = self.output_tok_s * HOUR_S / MEGA
        return {end: usd / million_h for end, usd in self.usd_per_hour.items()}

    @property
    def title(self) -> str:
        """Such as ``3 x (2 x h200, TP 2), DFlash, block 16``."""
        each = f"{self.setup.num_gpus} x {self.setup.device.name}"
        servers = f"{self.replicas} server{'s' if self.replicas > 1 else ''} of {each}"
        return f"{servers}, {method_title(self.setup)}"


@dataclass(frozen=True)
class Nearest:
    """The nearest miss: a server that answers one request at a time, and how close it comes.

    Parameters
    ----------
    excess
        The latency that is farthest from its limit, over that limit [1].
    """

    title: str
    excess: float
    latency: str
    quantile_s: float
    percentile: float
    max_gpus: int

    def __str__(self) -> str:
        if self.excess <= 1:
            return (
                f"The closest is {self.title}, which meets it with one request at a time; more "
                "GPUs are needed: raise --max-gpus."
            )
        return (
            f"The closest is {self.title}: one request at a time, {self.percentile:g} % have "
            f"{self.latency} <= {self.quantile_s / MS:,.4g} ms. "
            f"The time of a single {'prefill' if self.latency == 'TTFT' else 'step'} binds, "
            "which no number of servers changes; "
            f"loosen the limit to {self.excess:.2f} times, or try other --gpu, --tp or --method."
            f"{_UNIT if self.excess > _FAR else ''}"
        )


@dataclass(frozen=True)
class Limit:
    """The limit of a fleet: the last factor of load that is fine, and the first that is not.

    No factor was seen that is not, if ``bad`` is None.
    """

    good: float
    bad: float | None

    @property
    def room(self) -> str:
        """Say how many more requests that is."""
        return room_in_words(self.good, self.bad is None)


def room_in_words(headroom: float, unbroken: bool) -> str:
    """A headroom in percent; more where nothing broke."""
    more = f"{100 * (headroom - 1):.0f} %"
    return f"{more} or more" if unbroken else more


def limit_of(judge: Judge, i: int, replicas: int, faster: bool) -> Limit:
    """Requests may come so many times as ``faster``, or times be as long, by the first run."""
    slow = judge.slow(i)
    seen: dict[float, float] = {}

    def fine(times: float) -> bool:
        if faster:
            found = judge.verdict(i, replicas, slow=slow, times=times)
        else:
            found = judge.verdict(i, replicas, slow=slow * times)
        seen[times] = found.excess
        return found.met

    return likely_largest(fine, lambda: crossing(seen))


def likely_largest(fine: Callable[[float], bool], likely: Callable[[], float | None]) -> Limit:
    """As :func:`largest`, where what is fine at a factor is fine at smaller ones.

    Fewer are tried: those first where the limit is ``likely``, as far as what was tried tells.
    """
    good, bad, guesses = 1.0, math.inf, _GUESSES

    def tried(factor: float) -> bool:
        nonlocal good, bad
        good, bad = (factor, bad) if fine(factor) else (good, factor)
        return good == factor

    def thought(factor: float) -> bool:
        if not good < factor < bad:
            return factor <= good
        guess = likely() if guesses > 0 else None
        if guess is None or not good <= guess <= bad:
            return tried(factor)
        return factor <= guess

    while True:
        found = largest(thought)
        if found.good > good:
            tried(found.good)
        elif found.bad is not None and found.bad < bad:
            tried(found.bad)
        else:
            return found
        guesses -= 1


def largest(fine: Callable[[float], bool]) -> Limit:
    """The largest factor from 1 up that is fine, to 4 %.

    From above, as what is far from fine shows so early.
    """
    good, bad = 1.0, math.inf
    for factor in reversed(_STEPS):
        if fine(factor):
            good = factor
            break
        bad = factor
    while math.isfinite(bad) and bad / good > _STEPS[0]:
        middle = math.sqrt(good * bad)
        if fine(middle):
            good = middle
        else:
            bad = middle
    return Limit(good, bad if math.isfinite(bad) else None)


def examine(judge: Judge, i: int, replicas: int, faster: Limit, longer: Limit) -> Fleet:
    """Look closely at a fleet.

    Parameters
    ----------
    faster, longer
        How much faster requests may come, and how much longer times may be.
    """
    setup, spread, slow = judge.setup(i), judge.spread(i), judge.slow(i)
    service = judge.serve(i, replicas)
    load = load_of(service, setup)
    sure = judge.kept(judge.serve(i, replicas, slow=slow), slow=slow)
    breaks, what = "", f"nothing up to {_STEPS[-1]:g} x the requests"
    if faster.bad is not None:
        broken, broke = judge.broken(i, replicas, slow=slow, times=faster.bad)
        breaks, what = broke.broke, binds(broke.broke, load_of(broken, setup), setup)
    patience = slow * longer.good
    demand, law = judge.question.demand, judge.expectation(i)
    return Fleet(
        index=i,
        setup=setup,
        replicas=replicas,
        spread=spread,
        slow=slow,
        expected=judge.kept(service),
        sure=sure,
        load=load,
        headroom=faster.good,
        unbroken=faster.bad is None,
        patience=patience,
        confidence=NormalDist().cdf(math.log(patience) / spread),
        breaks=breaks,
        binds=what,
        output_tok_s=judge.question.mean_rate * demand.mean_osl,
        accept_histogram=_histogram(judge, i, setup),
        evidence=_evidence(judge, setup, load),
        acceptance=law.source if law else "",
        first_factor=judge.first_factor(i, slow),
        cache_hit_rate=_found(service, demand),
    )


def _found(service: Service, demand: Demand) -> float:
    """Of the prompts that are judged and had an answer, the share that was found."""
    done = np.isfinite(service.first_token_s)
    done[: demand.lead] = False
    prompts = int(demand.runs[0].isl[done].sum())
    return float(service.cached[done].sum() / prompts) if prompts else 0.0


def _evidence(judge: Judge, setup: Setup, load: Load) -> dict[str, float]:
    conc = min(max(1, round(load.mean_batch)), setup.limits.max_running_requests)
    one = held(setup.scenario, judge.question.demand, conc)
    return predict(one, with_baseline=False, with_interval=False).evidence


def load_of(service: Service, setup: Setup) -> Load:
    """Return what the servers of a simulation did."""
    rows = [_of_one(engine, setup) for engine in service.engines if engine.pipeline.log.spans]
    busy, prefill, host, span, steps, requests, full, kv = np.array(rows).T
    decode = busy.sum() - prefill.sum()
    return Load(
        busy=float(busy.sum() / span.sum()),
        prefill=float(prefill.sum() / busy.sum()),
        host=float(host.sum() / span.sum()),
        mean_batch=float(requests.sum() / max(1, steps.sum())),
        full=float(full.sum() / decode) if decode else 0.0,
        kv=float(kv.max()),
    )


def _of_one(engine: Replica, setup: Setup) -> tuple[float, ...]:
    """Seconds and counts of one server: busy, prefill, host, span, steps, requests, full, kv."""
    log = engine.pipeline.log
    kind, batch, _, after_idle = log.expand()
    start, end, gpu_s = (np.array(c) for c in (log.start, log.end, log.gpu_s))
    decode = kind == DECODE
    gaps = np.maximum(0.0, start[1:] - end[:-1])
    waits = gaps[~after_idle[1:]].sum() + (end - start - gpu_s).clip(min=0).sum()
    full = decode & (batch >= setup.limits.max_running_requests)
    return (
        float(gpu_s.sum()),
        float(gpu_s[kind == PREFILL].sum()),
        float(waits),
        float(end[-1] - start[0]) or 1.0,
        float(decode.sum()),
        float(batch[decode].sum()),
        float(gpu_s[full].sum()),
        min(1.0, float(engine.held.max() / setup.limits.kv_tokens)) if engine.steps else 0.0,
    )


def binds(broke: str, load: Load, setup: Setup) -> str:
    """Say what stops a fleet: memory, state slots, a cap, the host, or the GPUs."""
    memory = setup.memory
    late = f"{WORDS[broke]} breaks first; " if broke in WORDS else ""
    if broke == "queue":
        late = "the queue grows first; "
    if broke == "kv":
        return "memory: the KV cache would run out and running requests be thrown out"
    if load.full > _MOSTLY:
        kind = "memory: " if memory.cap_cause in ("GDN state slots", "KV cache") else SLOTS
        cap = f"{memory.max_running_requests:,} requests a server ({memory.cap_cause})"
        return f"{late}{kind}{cap}"
    if load.kv > 1 - _MOSTLY / 2:
        return f"{late}memory: the KV cache is {in_percent(load.kv)} full and admits no more"
    if load.host > _MOSTLY * load.busy:
        return f"{late}host: the GPUs wait for it {in_percent(load.host)} of the time"
    what = "prefills" if load.prefill > _MOSTLY else "decoding"
    return f"{late}compute: {what}, with {load.mean_batch:.1f} requests in a step"


def nearest(judge: Judge, i: int) -> Nearest:
    """The best a server can do: a sample of the requests, each of them alone."""
    question, setup = judge.question, judge.setup(i)
    alone = _alone(judge, i)
    quantile, limits = alone.quantile_s, question.slo.limits_s
    excess = {name: quantile[name] / limit for name, limit in limits.items()} or {"tpot": 0.0}
    worst = max(excess, key=lambda name: excess[name])
    title = f"{setup.num_gpus} x {setup.device.name}, {method_title(setup)}"
    return Nearest(
        title,
        excess[worst],
        WORDS[worst],
        quantile[worst],
        question.slo.percentile,
        question.max_gpus,
    )


def _alone(judge: Judge, i: int) -> Kept:
    work, draws, slow = judge.question.demand.runs[0], judge.draws(i, 0), judge.slow(i)
    rows = np.unique(np.linspace(0, len(work) - 1, min(len(work), _ALONE)).astype(int))
    apart = replace(subset(work, rows), arrival_s=_APART_S * np.arange(len(rows)))
    drawn = draws.of(rows)
    setup = judge.setup(i)
    tally = Tally(
        {},
        first_factor=judge.first_factor(i, slow),
        client_s=setup.engine["client_turnaround"],
    )
    service = serve(setup, apart, drawn, replicas=1, router="round-robin", tally=tally)
    return kept(service, apart, judge.question.slo, slow=slow)


def _histogram(judge: Judge, i: int, setup: Setup) -> tuple[int, ...]:
    """Verify steps by drafts accepted."""
    if not setup.speculative:
        return ()
    draws = judge.draws(i, 0)
    mask = np.arange(draws.commits.shape[1]) < draws.cycles[:, None]
    counts = np.bincount(draws.commits[mask] - 1, minlength=setup.block)
    return tuple(int(n) for n in counts)
