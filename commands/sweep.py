"""``dflash-sim sweep``."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dflash_sim.commands.options import (
    INTERVALS,
    OUTPUT,
    SIMULATORS,
    Profiles,
    Str,
    completer,
    cores,
    option,
    sheets,
    tell,
    use_profiles,
    warn,
)

if TYPE_CHECKING:
    from dflash_sim.studies.sweep.folder import Shard, SweepFolder
    from dflash_sim.studies.sweep.workers import Crew, How

QUESTION, WORK = "Question", "Work"
_INTERRUPTED = 130
_SHARD = re.compile(r"(\d{1,5})/(\d{1,5})")


def sweep(
    study: Annotated[
        Path | None, typer.Argument(help="Fields and a grid, in YAML", metavar="STUDY.yaml")
    ] = None,
    *,
    output: Annotated[
        Path | None, option(OUTPUT, "Folder of the results", "--output", "-o", metavar="DIR")
    ] = None,
    set_: Annotated[
        list[str] | None,
        option(
            QUESTION, "Values of a field, over the file's; repeatable", "--set", metavar="F=RANGE"
        ),
    ] = None,
    preset: Annotated[
        Str, option(QUESTION, "Start from a named scenario", autocompletion=sheets("presets"))
    ] = None,
    simulator: Annotated[
        str,
        option(
            QUESTION, "auto, leap (fast) or event", autocompletion=completer(lambda: SIMULATORS)
        ),
    ] = SIMULATORS[0],
    no_baseline: Annotated[
        bool, option(QUESTION, "Skip plain decoding", "--no-baseline", metavar="")
    ] = False,
    interval: Annotated[
        str, option(QUESTION, "90, or none for speed", autocompletion=completer(lambda: INTERVALS))
    ] = INTERVALS[0],
    profiles: Profiles = None,
    jobs: Annotated[
        int | None, option(WORK, "Workers; default: all cores", min=1, metavar="N")
    ] = None,
    shard: Annotated[Str, option(WORK, "Do part i of n, in a job array", metavar="i/n")] = None,
    cluster: Annotated[
        Str, option(WORK, "Several machines: ray, or ray://HOST:PORT", metavar="ray")
    ] = None,
    address: Annotated[
        Str, option(WORK, "Where Ray listens; default: this machine", metavar="HOST:PORT")
    ] = None,
    resume: Annotated[
        bool, option(WORK, "Go on where a sweep was stopped", "--resume", metavar="")
    ] = False,
    merge: Annotated[
        bool, option(WORK, "Only write the files of a finished sweep", "--merge", metavar="")
    ] = False,
    form: Annotated[
        Str,
        option(
            OUTPUT, "jsonl, csv, parquet; default: all that can be", "--format", metavar="NAMES"
        ),
    ] = None,
    tag: Annotated[Str, option(OUTPUT, "Label of the rows")] = None,
) -> None:
    """Answer every point of a study; stop it at any moment, and go on with --resume.

    A study has 'scenario:' with fixed fields, 'grid:' with lists or ranges such as 1-32:x2, and
    perhaps 'preset:'. The rows do not depend on who did the work, or in how many parts.
    """
    from dflash_sim.profiles.errors import UsageError, unknown
    from dflash_sim.studies.ask.study import load_study
    from dflash_sim.studies.sweep.fingerprint import fingerprint
    from dflash_sim.studies.sweep.folder import SweepFolder
    from dflash_sim.studies.sweep.rows import chosen_formats
    from dflash_sim.studies.sweep.workers import How

    for flag, value, allowed in (
        ("--simulator", simulator, SIMULATORS),
        ("--interval", interval, INTERVALS),
    ):
        if value not in allowed:
            raise unknown(kind=flag, value=value, allowed=allowed)
    if output is None:
        msg = "no folder for the results; give one, such as -o runs."
        raise UsageError(msg)
    formats, mine = chosen_formats(form), _shard(shard)
    use_profiles(profiles)
    if merge:
        if study is not None or set_ or preset:
            msg = "--merge: the folder knows its study; leave STUDY.yaml, --set and --preset out."
            raise UsageError(msg)
        _finish(SweepFolder.found(output), formats)
        return
    if study is None and not set_:
        msg = "nothing to sweep; name a STUDY.yaml, or give lists such as --set block=4,8,16."
        raise UsageError(msg)
    asked = load_study(study, set_ or [], preset=preset)
    how = How(simulator=simulator, baseline=not no_baseline, interval=interval != "none", tag=tag)
    about = {"program": fingerprint(asked.files()), **vars(how)}
    folder = SweepFolder(output, asked, about=about)
    asked.check_names(folder.points)
    hire = _crew(how, folder, jobs=jobs, cluster=cluster, address=address)
    folder.claim(resume=resume)
    with folder.lock(mine, warn):
        if not resume:
            folder.refuse_begun(mine)
        _work(folder, mine, hire)
        _finish(folder, formats, shard=mine)


def _shard(text: str | None) -> "Shard":
    from dflash_sim.profiles.errors import UsageError
    from dflash_sim.studies.sweep.folder import Shard

    if text is None:
        return Shard()
    found = _SHARD.fullmatch(text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        msg = f"--shard {text}: not i/n with i from 1 to n, such as 3/16."
        raise UsageError(msg)
    return Shard(int(found[1]), int(found[2]))


def _crew(
    how: "How",
    folder: "SweepFolder",
    *,
    jobs: int | None,
    cluster: str | None,
    address: str | None,
) -> "Callable[[int], Crew]":
    """Who will do so many points."""
    from dflash_sim.profiles.errors import UsageError
    from dflash_sim.studies.sweep.workers import crew_of

    if cluster is None:
        if address is not None:
            msg = f"--address {address}: what listens there? Give --cluster ray with it."
            raise UsageError(msg)
        return lambda points: crew_of(how, min(jobs or cores(), points))
    if cluster != "ray" and not cluster.startswith("ray://"):
        msg = f"--cluster {cluster}: the only kind is ray; give ray, or ray://HOST:PORT."
        raise UsageError(msg)
    if cluster != "ray" and address is not None:
        msg = f"--cluster {cluster} and --address {address}: two addresses; give one."
        raise UsageError(msg)
    from dflash_sim.studies.sweep.ray_cluster import RayCluster, connect

    ray = connect(address if cluster == "ray" else cluster)
    return lambda points: RayCluster(
        how,
        ray=ray,
        jobs=min(jobs or points, points),
        files=folder.study.files(),
        say=tell,
    )


def _work(folder: "SweepFolder", shard: "Shard", hire: "Callable[[int], Crew]") -> None:
    """Answer what this shard has left."""
    from dflash_sim.simulator.row import Row
    from dflash_sim.studies.sweep.progress import SweepProgress
    from dflash_sim.studies.sweep.run import answer_all, part

    done = folder.done()
    mine = part(folder.points, shard)
    left = [point for point in mine if point.number not in done]
    if not left:
        return
    with (
        folder.journal(shard) as journal,
        SweepProgress(len(mine), len(mine) - len(left)) as progress,
    ):

        def write(number: int, row: Row) -> None:
            journal.add(number, row)
            progress.advance()

        try:
            answer_all(folder.study, left, hire(len(left)), write=write)
        except KeyboardInterrupt:
            tell(f"stopped; {progress.done:,} of {len(mine):,} points are kept, for --resume")
            raise typer.Exit(_INTERRUPTED) from None


def _finish(folder: "SweepFolder", formats: Sequence[str], shard: "Shard | None" = None) -> None:
    """Write the rows if every point is there."""
    from dflash_sim.profiles.errors import DflashSimError, UsageError
    from dflash_sim.studies.sweep.rows import write_rows

    done, points = folder.done(), len(folder.points)
    if len(done) < points:
        there = f"{folder.path} holds {len(done):,} of {points:,} points"
        if shard is not None:
            tell(f"part {shard} is done; {there}, and the files are written with the last")
            return
        msg = f"{there}; answer the others first, with --resume and --shard as it was."
        raise DflashSimError(msg)
    failed: list[str] = []
    rows = folder.rows(done, failed.append)
    try:
        paths = write_rows(rows, folder.path, formats)
    except UsageError as error:
        msg = f"{error} All {points:,} points are kept; --merge writes them again."
        raise DflashSimError(msg) from error
    tell(f"wrote {', '.join(map(str, paths))}: {points:,} rows")
    if failed:
        warn(f"{len(failed):,} of {points:,} points have no answer: {failed[0]}")
    if len(failed) == points:
        raise typer.Exit(1)
