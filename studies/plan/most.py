"""The most that GPUs one owns can carry: requests a second, or users with a request in flight.

Every candidate gets as many servers as the GPUs make. A rate is pushed until the objective
breaks, by the same simulations that size a fleet; users are clients in a closed loop on each
server, of lengths that vary, so that they do not run in lockstep.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dflash_sim.jobs.pool import Pool
from dflash_sim.profiles.errors import DflashSimError, InfeasibleError, UsageError, unknown
from dflash_sim.simulator.engine.metrics import served
from dflash_sim.simulator.fleet.fleet import Service
from dflash_sim.simulator.requests.draws import draw_commits
from dflash_sim.simulator.requests.laws import NoSpeculation
from dflash_sim.simulator.setup import Setup
from dflash_sim.simulator.trial import build_workload, run_engine
from dflash_sim.studies.plan.candidate import estimate
from dflash_sim.studies.plan.choice import roomier_than, server_title
from dflash_sim.studies.plan.close_look import SLOTS, binds, load_of
from dflash_sim.studies.plan.demand import of_rate
from dflash_sim.studies.plan.difference import CENTRE, ends
from dflash_sim.studies.plan.judge import Judge, Question, held
from dflash_sim.studies.plan.objective import WORDS

MAXIMISED = ("rate", "users")
DURATION_S = 60.0  # of arrivals that a rate is tried with, where answers are short
_SETTLED = 10  # mean answers that it is tried for at the least
_LEAST, _LARGEST = 200, 20_000  # requests of a trial
_WIDER, _CLOSE = 1.3, 1.02
_FARTHEST = 64.0  # times the estimate, either way
_WAVES = 4  # requests of each client; the first fills the server and is not judged
_SPREAD_LENGTHS = 0.8


@dataclass(frozen=True)
class Carried:
    """What one kind of server carries on the GPUs there are.

    Parameters
    ----------
    replicas
        Servers; what is left of the GPUs stays idle.
    most
        Requests a second, or users, at the stated confidence; 0 where not even one is kept.
    binds
        What stops it, in words.
    title
        What the server is called.
    """

    index: int
    tp: int = 0
    replicas: int = 0
    most: float = 0.0
    binds: str = ""
    title: str = ""
    block: int | None = None
    error: DflashSimError | None = None


@dataclass(frozen=True)
class Ratio:
    """How much more one candidate carries than another, less one: as predicted, and its 90 %."""

    one: int
    other: int
    gain: float
    ci90: tuple[float, float]


@dataclass(frozen=True)
class Lifted:
    """What a candidate carries with the flags that give it more slots."""

    flags: str
    most: float

    def helps(self, c: Carried) -> bool:
        """Return True if that is more than the search for it may be off by."""
        return self.most > _CLOSE * c.most


@dataclass(frozen=True)
class Most:
    """The answer: candidates with most first, those without an answer last.

    Parameters
    ----------
    as_predicted
        What the best carries were all times as predicted.
    """

    question: Question
    gpus: int
    what: str
    carried: tuple[Carried, ...]
    ratios: tuple[Ratio, ...]
    as_predicted: float
    lifted: Mapping[int, Lifted] = field(default_factory=dict)

    @property
    def best(self) -> Carried:
        return self.carried[0]


def most(question: Question, *, gpus: int, what: str, duration_s: float, jobs: int = 1) -> Most:
    """Find what every candidate carries on ``gpus`` GPUs.

    Raises
    ------
    UsageError
        There is no such quantity.
    InfeasibleError
        No candidate keeps the limits, or none is made of so few GPUs.
    """
    if what not in MAXIMISED:
        raise unknown(kind="--maximise", value=what, allowed=MAXIMISED)
    count = range(len(question.candidates))
    with Pool(jobs, Judge, question) as judges:
        found = list(judges.map(carried, [(i, gpus, what, duration_s) for i in count]))
        found.sort(key=lambda c: (-c.most, c.index))
        best = found[0]
        if not best.most:
            raise _nothing(question, gpus, found)
        task = best.index, best.replicas, 1.0, what, duration_s
        likely, _ = next(iter(judges.map(most_at, [task])))
        pairs = _pairs(question, found)
        ratios = tuple(
            Ratio(one.index, other.index, gain, span)
            for (one, other), (gain, span) in zip(
                pairs,
                judges.map(ratio, [(a, b, what, duration_s) for a, b in pairs]),
                strict=True,
            )
        )
    lifts = _lifted(question, pairs, gpus, what, duration_s, jobs)
    return Most(question, gpus, what, tuple(found), ratios, max(likely, best.most), lifts)


def _lifted(
    question: Question,
    pairs: Sequence[tuple[Carried, Carried]],
    gpus: int,
    what: str,
    duration_s: float,
    jobs: int,
) -> dict[int, Lifted]:
    full = {c.index for pair in pairs for c in pair if SLOTS in c.binds}
    every = question.candidates
    found = {i: roomier_than(every[i], every) for i in sorted(full)}
    rooms = {i: room for i, room in found.items() if room is not None}
    if not rooms:
        return {}
    scenarios = (
        every[i].model_copy(update=dict(room.flags)) for i, room in rooms.items()
    )  # a room's own is of clients in a closed loop
    with Pool(jobs, Judge, replace(question, candidates=tuple(scenarios))) as judges:
        each = judges.map(carried, [(k, gpus, what, duration_s) for k in range(len(rooms))])
        return {
            i: Lifted(room.words, c.most)
            for (i, room), c in zip(rooms.items(), each, strict=True)
            if c.error is None
        }


def carried(judge: Judge, i: int, gpus: int, what: str, duration_s: float) -> Carried:
    """What one candidate carries."""
    try:
        setup = judge.setup(i)
        judge.expectation(i)
        replicas = gpus // setup.tp
        if not replicas:
            msg = f"a server of {setup.tp} GPUs does not fit into {gpus}; give a smaller --tp"
            raise InfeasibleError(msg)
        sure, why = most_at(judge, i, replicas, judge.slow(i), what, duration_s)
    except DflashSimError as error:
        return Carried(i, error=error)
    block = setup.block if setup.speculative else None
    return Carried(i, setup.tp, replicas, sure, why, server_title(setup), block)


def ratio(
    judge: Judge, one: Carried, other: Carried, what: str, duration_s: float
) -> tuple[float, tuple[float, float]]:
    """The gain of the first over the second with both as predicted, and its interval.

    The least and the most from the 5 % to the 95 % point of the joint law.
    """
    found = []
    for slow_one, slow_other in (CENTRE, *ends(judge, one.index, other.index)):
        mine, _ = most_at(judge, one.index, one.replicas, slow_one, what, duration_s)
        theirs, _ = most_at(judge, other.index, other.replicas, slow_other, what, duration_s)
        found.append(mine / theirs - 1 if theirs else math.inf)
    return found[0], (min(found), max(found))


def most_at(
    judge: Judge, i: int, replicas: int, slow: float, what: str, duration_s: float
) -> tuple[float, str]:
    """What a fleet carries where all times are ``slow`` as long, and what stops it."""
    key = i, replicas, slow, what, duration_s
    if key not in judge.carries:
        if what == "users":
            judge.carries[key] = _users(judge, i, replicas, slow)
        else:
            judge.carries[key] = _rate(judge, i, replicas, slow, duration_s)
    return judge.carries[key]


def _rate(judge: Judge, i: int, replicas: int, slow: float, duration_s: float) -> tuple[float, str]:
    """Requests a second by bisection on the first run, then lowered until every run is fine."""
    need, _ = estimate(judge, i, judge.setup(i))
    if need is None:
        return 0.0, "one request alone is too slow"
    guess = judge.question.demand.rate * replicas / (need * slow)
    rate, why, answer_s = _pushed(judge, i, replicas, slow, guess, duration_s)
    if answer_s * _SETTLED > duration_s:  # so soon a queue grows at any rate
        rate, why, _ = _pushed(judge, i, replicas, slow, rate or guess, 2 * _SETTLED * answer_s)
    return rate, why


def _pushed(
    judge: Judge, i: int, replicas: int, slow: float, guess: float, duration_s: float
) -> tuple[float, str, float]:
    """The rate, what stops it, and the mean time of an answer [s], around a guess."""
    setup = judge.setup(i)
    count = min(_LARGEST, max(_LEAST, round(guess * duration_s)))
    asked = setup.scenario.model_copy(update={"rate": guess, "num_prompts": count})
    own = judge.of(of_rate(asked))
    broke: dict[float, tuple[str, Service]] = {}  # of the least factor that was not fine
    answers_s = {True: 0.0, False: 0.0}  # of the last rate that was fine, and that was not

    def fine(times: float, run: int = 0) -> bool:
        service, verdict = own.broken(i, replicas, run=run, slow=slow, times=times)
        taken_s = service.finish_s - service.arrival_s
        met = verdict.met
        if np.isfinite(taken_s).any():
            answer_s = slow * float(np.nanmean(taken_s))
            met = met and count >= guess * times * answer_s  # or all come before one is answered
            answers_s[met] = answer_s
        if not verdict.met and times <= min(broke, default=math.inf):
            broke.clear()
            broke[times] = verdict.broke, service
        return met

    good = _largest(fine)
    runs = range(1, len(own.question.demand.runs))
    while good and not all(fine(good, run) for run in runs):
        good = good / _CLOSE if good > 1 / _FARTHEST else 0.0
    why = "".join(binds(what, load_of(service, setup), setup) for what, service in broke.values())
    return good * guess, why, answers_s[True] or answers_s[False]


def _largest(fine: Callable[[float], bool]) -> float:
    """The largest factor around 1 that is fine, to 2 %; 0 if none is."""
    good, bad = 0.0, math.inf
    times = 1.0
    while 1 / _FARTHEST < times < _FARTHEST:
        if fine(times):
            good = times
            if bad < math.inf:
                break
            times *= _WIDER
        else:
            bad = times
            if good:
                break
            times /= _WIDER
    while good and bad / good > _CLOSE and bad < math.inf:
        middle = math.sqrt(good * bad)
        if fine(middle):
            good = middle
        else:
            bad = middle
    return good


def _users(judge: Judge, i: int, replicas: int, slow: float) -> tuple[float, str]:
    """Users of all servers: as many as memory holds at once, and as keep the limits."""
    setup = judge.setup(i)
    demand = judge.question.demand
    longest = demand.mean_isl + demand.mean_osl + setup.block
    holds = int(setup.limits.kv_tokens / longest)
    cap = setup.limits.max_running_requests
    most = min(cap, holds)
    if not most:
        return 0.0, "memory: not one request fits"
    memory = f"memory: {setup.limits.kv_tokens:,} tokens of keys and values"
    slots = f"{SLOTS}{cap:,} requests a server ({setup.memory.cap_cause})"
    full = memory if holds < cap else slots
    broke = _too_slow(judge, i, most, slow)
    if not broke:
        return float(most * replicas), full
    good, bad = 0, most
    while bad - good > max(1, good // 50):
        middle = (good + bad) // 2
        why = _too_slow(judge, i, middle, slow)
        if why:
            bad, broke = middle, why
        else:
            good = middle
    return float(good * replicas), f"{WORDS.get(broke, broke)} breaks first"


def _too_slow(judge: Judge, i: int, conc: int, slow: float) -> str:
    """The limit that so many clients of one server break; empty if they keep all."""
    question, setup = judge.question, judge.setup(i)
    asked = held(setup.scenario, question.demand, conc)
    if asked.dataset is None:
        asked = asked.model_copy(update={"range_ratio": _SPREAD_LENGTHS})
    asked = asked.model_copy(update={"num_prompts": _WAVES * conc})
    one: Setup = replace(setup, scenario=asked)
    seeds = np.random.SeedSequence([asked.seed, 0]).spawn(3)
    lengths, arrivals, drawn = (np.random.default_rng(s) for s in seeds)
    work = build_workload(one, lengths, arrivals)
    law = judge.expectation(i)
    draws = draw_commits(law.acceptance if law else NoSpeculation(), work, drawn)
    run = run_engine(one, work, draws)
    if run.retractions:
        return "memory"
    seen = served(run, work)
    first = slow * judge.first_factor(i, slow)
    later = slice(conc, None)
    times = {"ttft": first * seen.ttft[later], "tpot": slow * seen.tpot[later]}
    times["e2e"] = slow * seen.e2e[later] + (first - slow) * seen.ttft[later]
    for name, limit in question.slo.limits_s.items():
        late = int((times[name] > limit).sum())
        if late > question.slo.budget(len(times[name])):
            return name
    return ""


def _pairs(question: Question, found: Sequence[Carried]) -> list[tuple[Carried, Carried]]:
    """The best beside the next, and the best of speculation beside the best without."""
    kept = [c for c in found if c.most]
    first: dict[bool, Carried] = {}
    for c in kept:
        first.setdefault(question.candidates[c.index].speculation.speculative, c)
    pairs = [(kept[0], kept[1])] if len(kept) > 1 else []
    if len(first) > 1:
        pairs.append((first[True], first[False]))
    return list({frozenset((a.index, b.index)): (a, b) for a, b in pairs}.values())


def _nothing(question: Question, gpus: int, found: Sequence[Carried]) -> DflashSimError:
    errors = [c.error for c in found if c.error is not None]
    if len(errors) == len(found):
        return errors[0]
    why = next(c.binds for c in found if c.error is None)
    what = f"{gpus:,} GPUs carry" if gpus > 1 else "1 GPU carries"
    return InfeasibleError(
        f"{what} nothing within {question.slo}: {why}. Loosen the limit that binds, "
        "or try other --gpu, --tp or --method."
    )


def refuse(fields: Sequence[str], what: str) -> None:
    """Refuse what an asker who maximises cannot give.

    Raises
    ------
    UsageError
        It names what to leave out.
    """
    if fields:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in fields)
        msg = f"--maximise {what} finds how much is carried, and takes no {named}: leave it out."
        raise UsageError(msg)
