"""Every point of a study answered once, whoever does the work and however often it is stopped."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from dflash_sim.jobs.crew import Crew, NoWorkerError
from dflash_sim.jobs.supervisor import TRIES, Call, Supervisor
from dflash_sim.jobs.worker import Bug, Done, Lost
from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.simulator.row import Row
from dflash_sim.studies.ask.study import Point, Study
from dflash_sim.studies.sweep.folder import Shard
from dflash_sim.studies.sweep.workers import Worker

_GO_ON = "The points before are kept; go on with --resume, and fewer --jobs if memory ran out."
_DEALT_WHOLE = 2  # groups per shard from which on they are not split


def part(points: Sequence[Point], shard: Shard) -> list[Point]:
    """The points of one shard: whole groups, or single points where there are few groups."""
    order = {group: i for i, group in enumerate(dict.fromkeys(p.group for p in points))}
    whole = len(order) >= _DEALT_WHOLE * shard.of
    return [
        point
        for point in points
        if (order[point.group] if whole else point.number) % shard.of == shard.number - 1
    ]


class Queue:
    """Points to be answered; a worker stays with a group, then helps where most is left."""

    def __init__(self, points: Iterable[Point]) -> None:
        self.groups: dict[tuple[Any, ...], deque[Point]] = {}
        self.at: dict[int, tuple[Any, ...]] = {}
        for point in points:
            self.groups.setdefault(point.group, deque()).append(point)
        self.fresh = deque(self.groups)

    def take(self, worker: int) -> Point | None:
        """The next point for a worker; None if all are taken."""
        group = self.at.get(worker)
        if group is None or not self.groups.get(group):
            group = self._another()
            if group is None:
                return None
            self.at[worker] = group
        return self.groups[group].popleft()

    def _another(self) -> tuple[Any, ...] | None:
        while self.fresh:  # from the end, where ranges have their slow points: short ones come last
            group = self.fresh.pop()
            if self.groups[group]:
                return group
        fullest = max(self.groups, key=lambda g: len(self.groups[g]), default=None)
        return fullest if fullest is not None and self.groups[fullest] else None

    def put_back(self, point: Point) -> None:
        """A point to be answered again, soon."""
        self.groups[point.group].appendleft(point)


def answer_all(
    study: Study,
    points: Collection[Point],
    crew: Crew,
    *,
    write: Callable[[int, Row], None],
) -> None:
    """Answer points; each is written as soon as its row is there.

    A point with a bug, or that ends two workers, is set aside, and the others are answered.

    Parameters
    ----------
    write
        Called with the number of a point and its row.

    Raises
    ------
    DflashSimError
        Points were set aside because workers were lost at them, or no worker is left. Every row
        that came is written.
    RuntimeError
        Points were set aside because of a bug, with the traceback of the first.
    """
    aside: dict[int, Bug | Lost] = {}

    def call(point: Point) -> Call:
        return Worker.answer, point.group, study.scenario(point)

    with Supervisor(crew) as workers:
        try:
            for point, word in workers.outcomes(Queue(points), call, len(points)):
                if isinstance(word, Done):
                    write(point.number, word.value)
                elif isinstance(word, DflashSimError):
                    raise word
                else:
                    aside[point.number] = word
        except NoWorkerError as error:
            raise NoWorkerError(error.why, _GO_ON) from None
    if aside:
        raise _set_aside(study, points, aside)


def _set_aside(
    study: Study, points: Collection[Point], aside: Mapping[int, Bug | Lost]
) -> Exception:
    """Return an error that tells of the first bug, or else of the first loss."""
    bugs = [number for number, why in aside.items() if isinstance(why, Bug)]
    first = (bugs or list(aside))[0]
    asked = next(study.scenario(p) for p in points if p.number == first)
    where = asked.model_dump_json(exclude_unset=True)
    count = (
        f"{len(aside):,} of {len(points):,} points were set aside; the others are kept, and "
        "--resume tries only these again"
    )
    why = aside[first]
    if isinstance(why, Bug):
        return RuntimeError(f"{count}. A bug, met at {where}\n{why.trace}")
    return DflashSimError(
        f"{count}, perhaps with fewer --jobs. {TRIES} workers were lost at {where}: {why.why}."
    )
