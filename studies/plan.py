"""The fewest GPUs, and the cheapest, that meet an objective: a search over fleets of equal servers.

For each candidate the replicas are found by bisection, starting at an estimate. A candidate that
could not be better than the best so far is tried once, at the largest fleet that would be better:
if that fails, so do all smaller ones. Which fleets are simulated does not depend on the number of
processes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

from dflash_sim.profiles.errors import DflashSimError, InfeasibleError, UsageError
from dflash_sim.profiles.sheets import PriceRange
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.fleet import Fleet, Nearest, examine, limit_of, nearest
from dflash_sim.studies.judge import Judge, Question

ENDS = ("low", "typical", "high")
OBJECTIVES = ("gpus", *ENDS)
_ROUND = 8  # candidates that are tried against the same best fleet
_LOOKS = 3 * len(OBJECTIVES)  # at most, at the best fleets
_FULL = 0.9  # of a server's capacity that an estimate uses

T, R = TypeVar("T"), TypeVar("R")


@dataclass(frozen=True)
class Survey:
    """A candidate before any simulation: its size and price, or why it is out.

    Parameters
    ----------
    need
        Estimated servers, not rounded; None where one request alone seems too slow [1].
    """

    index: int
    tp: int = 0
    price: PriceRange | None = None
    need: float | None = None
    error: DflashSimError | None = None

    @property
    def guess(self) -> int | None:
        """Estimated replicas."""
        return None if self.need is None else max(1, round(self.need))

    def usd(self, end: str, replicas: float) -> float | None:
        """Rent of a fleet [USD/h]."""
        each = getattr(self.price, end) if self.price else None
        return None if each is None else each * replicas * self.tp


@dataclass(frozen=True)
class Solved:
    """What a search found of one candidate.

    Parameters
    ----------
    replicas
        The fewest that meet the objective; None where they are more than was of interest.
    failed
        The largest fleet that was seen to fail, in replicas.
    """

    index: int
    replicas: int | None
    failed: int


@dataclass(frozen=True)
class Plan:
    """The answer.

    Parameters
    ----------
    best
        By objective of ``OBJECTIVES``, the candidate whose fleet is best; prices that are not
        known leave an objective out.
    fleets
        What was examined of the best fleets, by candidate.
    solved
        Every candidate that was searched.
    """

    question: Question
    surveys: tuple[Survey, ...]
    solved: tuple[Solved, ...]
    best: dict[str, int]
    fleets: dict[int, Fleet]

    @property
    def fewest(self) -> Fleet:
        return self.fleets[self.best["gpus"]]

    @property
    def cheapest(self) -> Fleet | None:
        """At typical prices, where any are known."""
        found = self.best.get("typical")
        return None if found is None else self.fleets[found]


def steps(question: Question) -> int:
    """Parts of the work: an estimate and a search of each candidate, and looks at the best."""
    return 2 * len(question.candidates) + _LOOKS


def plan(
    question: Question, *, jobs: int = 1, on_step: Callable[[int], None] | None = None
) -> Plan:
    """Answer a question.

    Parameters
    ----------
    jobs
        Processes.
    on_step
        Called :func:`steps` times, as parts of the work are done.

    Raises
    ------
    InfeasibleError
        Nothing meets the objective; says what comes closest, and what binds it.
    """
    tell = on_step or (lambda _: None)
    count = len(question.candidates)
    with _workers(question, jobs) as each:
        surveys = []
        for found in each(survey, [(i,) for i in range(count)]):
            surveys.append(found)
            tell(found.index)
        open_ = [s for s in surveys if s.error is None]
        if not open_:
            raise next(s.error for s in surveys if s.error is not None)
        best: Best = {}
        solved: list[Solved] = []
        for batch in _rounds(_ordered(open_)):
            most = {s.index: _worth(s, best, question.max_gpus // s.tp) for s in batch}
            tasks = [(s.index, s.guess, most[s.index]) for s in batch]
            for result in each(solve, tasks):
                solved.append(result)
                tell(result.index)
                _improve(best, surveys[result.index], result)
        for s in surveys:
            if s.error is not None:
                tell(s.index)
        if not best:
            closest = min(each(nearest, [(s.index,) for s in open_]), key=lambda n: n.excess)
            raise InfeasibleError(_nothing(question, closest, open_))
        answer = {name: index for name, (_, index) in best.items()}
        replicas = {s.index: s.replicas for s in solved if s.replicas is not None}
        sizes = {i: replicas[i] for i in sorted(set(answer.values()))}
        fleets = _examined(each, sizes, tell)
    return Plan(question, tuple(surveys), tuple(solved), answer, fleets)


def brute_force(question: Question, *, most: int) -> dict[int, int | None]:
    """The fewest replicas of every candidate, each number tried from one up; for small cases."""
    judge = Judge(question)
    found: dict[int, int | None] = {}
    for i in range(len(question.candidates)):
        sizes = range(1, most + 1)
        slow = judge.slow(i)
        found[i] = next((r for r in sizes if judge.meets(i, r, slow=slow)), None)
    return found


# ---- one candidate ---------------------------------------------------------------------------


def survey(judge: Judge, i: int) -> Survey:
    """Resolve a candidate and estimate the size of its fleet."""
    try:
        setup = judge.setup(i)
        judge.expectation(i)
        return Survey(i, setup.tp, setup.device.price, estimate(judge, i, setup))
    except DflashSimError as error:
        return Survey(i, error=error)


def estimate(judge: Judge, i: int, setup: Setup) -> float | None:
    """Servers by the steady state of full batches; None where one request alone is too slow."""
    demand, slo = judge.question.demand, judge.question.slo
    law = judge.expectation(i)
    length = law.acceptance.survival().mean_accept_length if law else 1.0
    cycles = max(0.0, demand.mean_osl - 1) / length
    longest = int(max(w.isl.max() for w in demand.runs))
    setup.step.reach(longest + setup.limits.max_new_tokens + setup.block)
    prefill_s = setup.step.prefill_s(requests=1, tokens=max(1, round(demand.mean_isl)))
    ctx = demand.mean_isl + demand.mean_osl / 2
    best, batch = 0.0, 1
    while batch <= min(setup.limits.max_running_requests, int(setup.limits.kv_tokens / ctx)):
        step_s = setup.step.decode_s(batch, batch * ctx)
        rate = 1 / (prefill_s + cycles * step_s / batch)
        slowed = 1 + prefill_s * rate
        kept = step_s / length * slowed <= (slo.tpot_s or float("inf"))
        kept = kept and prefill_s + cycles * step_s * slowed <= (slo.e2e_s or float("inf"))
        if not kept:
            break
        best, batch = max(best, rate), 2 * batch
    return demand.rate / (best * _FULL) if best else None


def solve(judge: Judge, i: int, guess: int | None, most: int) -> Solved:
    """The fewest replicas up to ``most``, from a guess outwards, then by bisection."""
    if most < 1:
        return Solved(i, None, 0)
    if guess is None or guess > most:
        # Short of the whole uncertainty already: fails at little cost.
        least = judge.question.z * judge.least_spread(i)
        if not judge.meets(i, most, slow=_exp(least)):
            return Solved(i, None, most)
    slow = judge.slow(i)

    def met(replicas: int) -> bool:
        return judge.meets(i, replicas, slow=slow)

    bad, good = 0, most + 1
    probe = min(guess or most, most)
    stride = 1
    while bad < probe < good:
        if met(probe):
            good, probe = probe, probe - stride
        else:
            bad, probe = probe, min(probe + stride, most) if good > most else probe
        stride *= 2
    while good - bad > 1:
        middle = (good + bad) // 2
        if met(middle):
            good = middle
        else:
            bad = middle
    return Solved(i, good if good <= most else None, bad)


def _exp(x: float) -> float:
    from math import exp

    return exp(x)


# ---- the best so far -------------------------------------------------------------------------


Key = tuple[float, float]


def _key(s: Survey, objective: str, replicas: float) -> Key | None:
    """What is compared: less is better; of equal fleets the first that was searched stays."""
    gpus = replicas * s.tp
    typical = s.usd("typical", replicas)
    if objective == "gpus":
        return gpus, float("inf") if typical is None else typical
    usd = s.usd(objective, replicas)
    return None if usd is None else (usd, gpus)


Best = dict[str, tuple[Key, int]]  # by objective: its key, and the candidate


def _improve(best: Best, s: Survey, found: Solved) -> None:
    if found.replicas is None:
        return
    for objective in OBJECTIVES:
        key = _key(s, objective, found.replicas)
        if key is not None and (objective not in best or key < best[objective][0]):
            best[objective] = key, s.index


def _worth(s: Survey, best: Best, most: int) -> int:
    """The largest fleet of a candidate that would be better by any objective."""
    good, bad = 0, most + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if _better(s, best, middle):
            good = middle
        else:
            bad = middle
    return good


def _better(s: Survey, best: Best, replicas: int) -> bool:
    for objective in OBJECTIVES:
        key = _key(s, objective, replicas)
        if key is not None and (objective not in best or key < best[objective][0]):
            return True
    return False


def _ordered(surveys: Sequence[Survey]) -> list[Survey]:
    """The most promising first, by GPUs and by price in turn."""

    def by(objective: str) -> list[Survey]:
        def promise(s: Survey) -> tuple[float, ...]:
            far = float("inf"), float("inf")
            key = None if s.need is None else _key(s, objective, s.need)
            return (*(key or far), s.index)

        return sorted(surveys, key=promise)

    turns = [s for pair in zip(by("gpus"), by("typical"), strict=True) for s in pair]
    return list({s.index: s for s in turns}.values())


def _rounds(surveys: Sequence[Survey]) -> Iterator[Sequence[Survey]]:
    """First the two most promising, then several at a time."""
    yield surveys[:2]
    for at in range(2, len(surveys), _ROUND):
        yield surveys[at : at + _ROUND]


def _nothing(question: Question, closest: Nearest, surveys: Sequence[Survey]) -> str:
    sizes = f"{question.max_gpus:,} GPUs"
    tried = f"{len(surveys)} kind{'s' if len(surveys) > 1 else ''} of server"
    return f"no fleet of up to {sizes} meets {question.slo} ({tried} tried). {closest}"


def _examined(
    each: "Each[Any]", sizes: dict[int, int], tell: Callable[[int], object]
) -> dict[int, Fleet]:
    """Look closely at the best fleets, the limits of each apart from the rest."""
    kinds = [(i, r, faster) for i, r in sizes.items() for faster in (True, False)]
    limits = {}
    for kind, limit in zip(kinds, each(limit_of, kinds), strict=True):
        limits[kind] = limit
        tell(kind[0])
    tasks = [(i, r, limits[i, r, True], limits[i, r, False]) for i, r in sizes.items()]
    fleets = {}
    for fleet in each(examine, tasks):
        fleets[fleet.index] = fleet
        tell(fleet.index)
    for _ in range(_LOOKS - len(kinds) - len(tasks)):
        tell(0)
    return fleets


# ---- processes -------------------------------------------------------------------------------

_judge: Judge | None = None


def _start(question: Question) -> None:
    global _judge
    _judge = Judge(question)


def _call(task: tuple[Callable[..., Any], tuple[Any, ...]]) -> Any:
    assert _judge is not None
    work, arguments = task
    return work(_judge, *arguments)


Each = Callable[[Callable[..., R], Iterable[tuple[Any, ...]]], Iterable[R]]


@contextmanager
def _workers(question: Question, jobs: int) -> "Iterator[Each[Any]]":
    """Apply a function of a judge to arguments, in order, here or in other processes."""
    if jobs < 1:
        msg = f"--jobs {jobs}: at least one process is needed."
        raise UsageError(msg)
    if jobs == 1:
        judge = Judge(question)
        yield lambda work, tasks: (work(judge, *arguments) for arguments in tasks)
        return
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_start, initargs=(question,)
    ) as pool:
        yield lambda work, tasks: pool.map(_call, [(work, arguments) for arguments in tasks])
