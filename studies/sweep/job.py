"""A sweep from its question to its rows: which part of it, who does it, the files at the end."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dflash_sim.jobs.crew import Crew
from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.simulator.row import Row
from dflash_sim.studies.ask.study import Point, Study
from dflash_sim.studies.sweep.fingerprint import fingerprint
from dflash_sim.studies.sweep.folder import Shard, SweepFolder
from dflash_sim.studies.sweep.rows import write_rows
from dflash_sim.studies.sweep.run import answer_all, part
from dflash_sim.studies.sweep.workers import How, crew_of

Hire = Callable[[int], Crew]  # who will do so many points
_SHARD = re.compile(r"(\d{1,5})/(\d{1,5})")


def shard_of(text: str | None) -> Shard:
    """Read ``i/n``; left out, it is all of a sweep.

    Raises
    ------
    UsageError
        It is not i/n with i from 1 to n.
    """
    if text is None:
        return Shard()
    found = _SHARD.fullmatch(text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        msg = f"--shard {text}: not i/n with i from 1 to n, such as 3/16."
        raise UsageError(msg)
    return Shard(int(found[1]), int(found[2]))


def folder_of(path: Path, study: Study, how: How) -> SweepFolder:
    """Return the folder of a study, not begun yet; an unknown name in the study is refused."""
    about = {"program": fingerprint(study.files()), **vars(how)}
    folder = SweepFolder(path, study, about=about)
    study.check_names(folder.points)
    return folder


def crew_for(
    how: How,
    study: Study,
    *,
    jobs: int | None,
    cores: int,
    cluster: str | None = None,
    address: str | None = None,
    say: Callable[[str], None],
) -> Hire:
    """Return who will do so many points: processes of this machine, or of a Ray cluster.

    Parameters
    ----------
    jobs
        Workers; left out, ``cores`` of them here, and as many as there are points on a cluster.
    cluster, address
        ``ray`` and where it listens, or ``ray://HOST:PORT``.
    say
        Called with what a cluster has to say.
    """
    if cluster is None:
        if address is not None:
            msg = f"--address {address}: what listens there? Give --cluster ray with it."
            raise UsageError(msg)
        return lambda points: crew_of(how, min(jobs or cores, points))
    if cluster != "ray" and not cluster.startswith("ray://"):
        msg = f"--cluster {cluster}: the only kind is ray; give ray, or ray://HOST:PORT."
        raise UsageError(msg)
    if cluster != "ray" and address is not None:
        msg = f"--cluster {cluster} and --address {address}: two addresses; give one."
        raise UsageError(msg)
    from dflash_sim.studies.sweep.ray_cluster import RayCluster, connect

    ray = connect(address if cluster == "ray" else cluster)
    return lambda points: RayCluster(
        how, ray=ray, jobs=min(jobs or points, points), files=study.files(), say=say
    )


@dataclass(frozen=True)
class Left:
    """The points that a shard still has to answer.

    Parameters
    ----------
    points
        Those that are not answered yet.
    of
        Points of the shard in all.
    """

    points: Sequence[Point]
    of: int


def left(folder: SweepFolder, shard: Shard) -> Left:
    """Return what a shard of a folder has to do."""
    done = folder.done()
    mine = part(folder.points, shard)
    return Left([point for point in mine if point.number not in done], len(mine))


def work(
    folder: SweepFolder,
    shard: Shard,
    points: Sequence[Point],
    hire: Hire,
    *,
    on_point: Callable[[], None] | None = None,
) -> None:
    """Answer points into a folder; ``on_point`` is called when another one is written."""
    if not points:
        return
    with folder.journal(shard) as journal:

        def write(number: int, row: Row) -> None:
            journal.add(number, row)
            if on_point is not None:
                on_point()

        answer_all(folder.study, points, hire(len(points)), write=write)


def write_files(folder: SweepFolder, formats: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Write every row of a finished sweep; return the files, and why points have no answer.

    Raises
    ------
    DflashSimError
        Points are missing, or a file cannot be written.
    """
    done, points = folder.done(), len(folder.points)
    if len(done) < points:
        msg = (
            f"{folder.path} holds {len(done):,} of {points:,} points; answer the others first, "
            "with --resume and --shard as it was."
        )
        raise DflashSimError(msg)
    failed: list[str] = []
    try:
        paths = write_rows(folder.rows(done, failed.append), folder.path, formats)
    except UsageError as error:
        msg = f"{error} All {points:,} points are kept; --merge writes them again."
        raise DflashSimError(msg) from error
    return paths, failed
