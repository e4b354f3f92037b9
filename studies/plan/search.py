"""The fewest GPUs, and the cheapest, that meet an objective: a search over fleets of equal servers.

For each candidate the replicas are found by bisection, starting at an estimate. A candidate that
could not be better than the best so far is tried once, at the largest fleet that would be better:
if that fails, so do all smaller ones. Which fleets are simulated does not depend on the number of
processes.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dflash_sim.jobs.pool import Pool
from dflash_sim.profiles.errors import InfeasibleError
from dflash_sim.studies.plan.candidate import Solved, Survey, solve, survey
from dflash_sim.studies.plan.close_look import (
    CLEAR,
    Fleet,
    Limit,
    Nearest,
    examine,
    limit_of,
    nearest,
)
from dflash_sim.studies.plan.difference import Difference, difference, needed_at
from dflash_sim.studies.plan.hours import Hour, hours
from dflash_sim.studies.plan.judge import Judge, Question

ENDS = ("low", "typical", "high")
OBJECTIVES = ("gpus", *ENDS)
_ROUND = 24  # candidates that are tried against the same best fleet
_EQUAL = 8  # fleets of one size and price whose headroom is looked at; of more, the first
_TOGETHER = 3  # of them that share draws, in one process
_LOOKS = 3 * len(OBJECTIVES)  # at most, at the best fleets
MOST_NUMBERED = 24  # candidates whose fleets are all found, however large; of more, the first


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
    alone
        How close a server comes that no number of replicas helps, by candidate.
    as_predicted
        GPUs of the smallest fleet of the best kind, were all times as predicted.
    headroom
        How much faster the requests may come, of fleets of one size and price with a best one.
    differences
        The best of speculation beside the best plain decoding, and what was to be compared.
    hours
        The best fleet through the hours of a day; empty for a steady load.
    """

    question: Question
    surveys: tuple[Survey, ...]
    solved: tuple[Solved, ...]
    best: dict[str, int]
    fleets: dict[int, Fleet]
    alone: dict[int, Nearest] = field(default_factory=dict)
    as_predicted: int | None = None
    headroom: dict[int, Limit] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    hours: tuple[Hour, ...] = ()

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
    with Pool(jobs, Judge, question) as judges:
        surveys = []
        for found in judges.map(survey, [(i,) for i in range(count)]):
            surveys.append(found)
            tell(found.index)
        open_ = [s for s in surveys if s.error is None]
        if not open_:
            raise next(s.error for s in surveys if s.error is not None)
        best: Best = {}
        solved: list[Solved] = []
        for few in _rounds(_ordered(open_)):
            batch = sorted(few, key=lambda s: _law(question, s))
            most = {s.index: _worth(s, best, question.max_gpus // s.tp) for s in batch}
            tasks = [(s.index, s.guess, most[s.index]) for s in batch]
            together = _TOGETHER if len(tasks) == _ROUND else 1
            for result in judges.map(solve, tasks, together=together):
                solved.append(result)
                tell(result.index)
                _improve(best, surveys[result.index], result)
        for s in surveys:
            if s.error is not None:
                tell(s.index)
        if not best:
            alone = judges.map(nearest, [(s.index,) for s in open_])
            closest = min(alone, key=lambda n: n.excess)
            raise InfeasibleError(_nothing(question, closest, open_))
        answer = {name: index for name, (_, index) in best.items()}
        sized = {r.index: r for r in solved}
        too_slow = _numbered(judges, question, surveys, sized)
        headroom = _roomiest(judges, answer, surveys, sized)
        replicas = {i: s.replicas for i, s in sized.items() if s.replicas is not None}
        sizes = {i: replicas[i] for i in sorted(set(answer.values()))}
        fleets = _examined(judges, sizes, headroom, tell)
        first = surveys[answer["gpus"]]
        pairs = _pairs(question, surveys, sized, too_slow, headroom)
        told = tuple(
            difference(judges, (surveys[i], sized[i]), (surveys[j], sized[j]), question.max_gpus)
            for i, j in pairs
        )
        central = {d.one: d.central_gpus[0] for d in told} | {
            d.other: d.central_gpus[1] for d in told if not d.at_least
        }
        if first.index not in central:
            task = first.index, 1.0, sized[first.index], question.max_gpus // first.tp
            fewer = next(iter(judges.map(needed_at, [task])))
            central[first.index] = (fewer or replicas[first.index]) * first.tp
        shares = question.by_hour
        day = hours(judges, first.index, replicas[first.index], shares) if shares else ()
    return Plan(
        question,
        tuple(surveys),
        tuple(sized[s.index] for s in solved),
        answer,
        fleets,
        too_slow,
        central[first.index],
        headroom,
        told,
        day,
    )


def _numbered(
    judges: Pool, question: Question, surveys: Sequence[Survey], found: dict[int, Solved]
) -> dict[int, Nearest]:
    """Find the fleets of candidates that were given up, and why some have none.

    ``found`` is completed; of very many candidates only the most promising, and those compared.
    """
    order = [s.index for s in _ordered([surveys[i] for i in found])]
    shown = dict.fromkeys([*question.compared, *order[:MOST_NUMBERED]])
    open_ = [surveys[i] for i in shown if i in found and found[i].replicas is None]
    tasks = []
    for s in open_:
        least = found[s.index].failed + 1
        known = 0 if s.guess is None and question.demand.as_given else found[s.index].failed
        tasks.append((s.index, max(least, s.guess or 1), question.max_gpus // s.tp, known))
    hopeless = [s.index for s in open_ if s.guess is None]
    alone = {
        i: n
        for i, n in zip(hopeless, judges.map(nearest, [(i,) for i in hopeless]), strict=True)
        if n.excess > 1
    }
    for result in judges.map(solve, [t for t in tasks if t[0] not in alone]):
        failed = max(result.failed, found[result.index].failed)
        found[result.index] = Solved(result.index, result.replicas, failed)
    rest = [s.index for s in open_ if found[s.index].replicas is None and s.index not in alone]
    near = zip(rest, judges.map(nearest, [(i,) for i in rest]), strict=True)
    alone |= {i: n for i, n in near if n.excess > 1}
    return alone


def _pairs(
    question: Question,
    surveys: Sequence[Survey],
    found: dict[int, Solved],
    alone: Collection[int],
    headroom: Mapping[int, Limit],
) -> list[tuple[int, int]]:
    """Candidates to set side by side: what is asked for, else speculation and plain decoding."""
    if question.compared:
        i, j = question.compared
        if not {i, j} <= found.keys() or {i, j} & {*alone}:
            return []
        if found[i].replicas is None:
            i, j = j, i
        return [] if found[i].replicas is None else [(i, j)]
    pairs = []
    for objective in ("gpus", "typical"):
        best: dict[bool, tuple[tuple[float, ...], int]] = {}
        for s in (surveys[i] for i in sorted(found.keys() - {*alone})):
            solved = found[s.index]
            size = solved.replicas if solved.replicas is not None else solved.failed + 1
            key = _key(s, objective, size)
            speculative = question.candidates[s.index].speculation.speculative
            met = solved.replicas is not None
            if key is None:
                continue
            room = headroom[s.index].good if s.index in headroom else 0.0
            rank = (0.0 if met else 1.0, *key, -room)
            if speculative not in best or rank < best[speculative][0]:
                best[speculative] = rank, s.index
        if len(best) == 2:
            one, other = best[True][1], best[False][1]
            if found[one].replicas is None:
                one, other = other, one
            if found[one].replicas is not None:
                pairs.append((one, other))
    return list(dict.fromkeys(pairs))


def _roomiest(
    judges: Pool, answer: dict[str, int], surveys: Sequence[Survey], found: Mapping[int, Solved]
) -> dict[int, Limit]:
    """Of fleets of one size and price put the one with the most headroom first.

    Where the difference is none, the one of which fewer servers were estimated to do.
    ``answer`` is changed. Returns the headroom of each such fleet; none where a fleet is alone.
    """
    equal: dict[str, list[int]] = {}
    for objective, best in answer.items():
        keys = {
            i: _key(surveys[i], objective, s.replicas)
            for i, s in sorted(found.items())
            if s.replicas is not None
        }
        same = [i for i, key in keys.items() if key == keys[best]]
        equal[objective] = list(dict.fromkeys([best, *same]))[:_EQUAL]
    tied = dict.fromkeys(i for same in equal.values() if len(same) > 1 for i in same)
    tasks = [(i, found[i].replicas, True) for i in tied]
    room = dict(zip(tied, judges.map(limit_of, tasks), strict=True))
    for objective, same in equal.items():
        if len(same) > 1:
            most = max(room[i].good for i in same)
            near = [i for i in same if room[i].good * CLEAR > most]
            answer[objective] = min(near, key=lambda i: (surveys[i].need or math.inf, i))
    return room


# ---- the best so far -------------------------------------------------------------------------


Key = tuple[float, float]


def _key(s: Survey, objective: str, replicas: float) -> Key | None:
    """Return what is compared: less is better; of equal fleets the headroom tells in the end."""
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


def _law(question: Question, s: Survey) -> tuple[str, int]:
    """Neighbours of one law of acceptance share their draws."""
    scenario = question.candidates[s.index]
    return scenario.method, scenario.block or scenario.steps or 0


def _rounds(surveys: Sequence[Survey]) -> Iterator[Sequence[Survey]]:
    """First the two most promising, then several at a time."""
    yield surveys[:2]
    for at in range(2, len(surveys), _ROUND):
        yield surveys[at : at + _ROUND]


def _nothing(question: Question, closest: Nearest, surveys: Sequence[Survey]) -> str:
    sizes = f"{question.max_gpus:,} GPU{'s' if question.max_gpus > 1 else ''}"
    tried = f"{len(surveys)} kind{'s' if len(surveys) > 1 else ''} of server"
    return f"no fleet of up to {sizes} meets {question.slo} ({tried} tried). {closest}"


def _examined(
    judges: Pool,
    sizes: dict[int, int],
    headroom: Mapping[int, Limit],
    tell: Callable[[int], object],
) -> dict[int, Fleet]:
    """Look closely at the best fleets, the limits of each apart from the rest."""
    kinds = [(i, r, faster) for i, r in sizes.items() for faster in (True, False)]
    limits = {(i, sizes[i], True): room for i, room in headroom.items() if i in sizes}
    open_ = [kind for kind in kinds if kind not in limits]
    limits |= zip(open_, judges.map(limit_of, open_), strict=True)
    for i, _, _ in kinds:
        tell(i)
    tasks = [(i, r, limits[i, r, True], limits[i, r, False]) for i, r in sizes.items()]
    fleets = {}
    for fleet in judges.map(examine, tasks):
        fleets[fleet.index] = fleet
        tell(fleet.index)
    for _ in range(_LOOKS - len(kinds) - len(tasks)):
        tell(0)
    return fleets
