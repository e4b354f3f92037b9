"""``dflash-sim sweep``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dflash_sim.commands.options import (
    INTERVALS,
    OUTPUT,
    SIMULATORS,
    Html,
    Price,
    Profiles,
    Str,
    completer,
    cores,
    option,
    sheets,
    stoppable,
    tell,
    use_profiles,
    warn,
)

if TYPE_CHECKING:
    from dflash_sim.studies.sweep.folder import Shard, SweepFolder
    from dflash_sim.studies.sweep.job import Hire

QUESTION, WORK = "Question", "Work"


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
    price: Price = None,
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
    html: Html = None,
) -> None:
    """Answer every point of a study; stop it at any moment, and go on with --resume.

    A study has 'scenario:' with fixed fields, 'grid:' with lists or ranges such as 1-32:x2, and
    perhaps 'preset:'. The rows do not depend on who did the work, or in how many parts.
    """
    from dflash_sim.profiles.errors import UsageError
    from dflash_sim.studies.ask.answers import check_options
    from dflash_sim.studies.ask.prices import checked_prices
    from dflash_sim.studies.ask.question import left_out
    from dflash_sim.studies.ask.study import load_study
    from dflash_sim.studies.show.files import check_writable
    from dflash_sim.studies.sweep.folder import SweepFolder
    from dflash_sim.studies.sweep.job import crew_for, folder_of, shard_of
    from dflash_sim.studies.sweep.rows import chosen_formats
    from dflash_sim.studies.sweep.workers import How

    check_options(simulator, interval)
    if output is None:
        msg = "no folder for the results; give one, such as -o runs."
        raise UsageError(msg)
    if html is not None:
        check_writable(html)
    formats, mine = chosen_formats(form), shard_of(shard)
    use_profiles(profiles)
    if merge:
        if study is not None or set_ or preset or price:
            msg = (
                "--merge: the folder knows its study; leave STUDY.yaml, --set, --preset and "
                "--price out."
            )
            raise UsageError(msg)
        _finish(SweepFolder.found(output), formats, html)
        return
    if study is None and not set_:
        msg = "nothing to sweep; name a STUDY.yaml, or give lists such as --set block=4,8,16."
        raise UsageError(msg)
    asked = load_study(study, set_ or [], preset=preset)
    how = How(
        simulator=simulator, baseline=not no_baseline, interval=interval != "none", tag=tag,
        prices=checked_prices(price or (), asked.gpus) or None,
    )  # fmt: skip
    folder = folder_of(output, asked, how)
    for text in left_out({**asked.fields, **asked.axes}):
        warn(text)
    hire = crew_for(
        how, asked, jobs=jobs, cores=cores(), cluster=cluster, address=address, say=tell
    )
    folder.claim(resume=resume)
    with folder.lock(mine, warn):
        if not resume:
            folder.refuse_begun(mine)
        _work(folder, mine, hire)
        _finish(folder, formats, html, shard=mine)


def _work(folder: "SweepFolder", shard: "Shard", hire: "Hire") -> None:
    """Answer what this shard has left."""
    from dflash_sim.studies.sweep.job import left, work
    from dflash_sim.studies.sweep.progress import SweepProgress

    todo = left(folder, shard)
    with SweepProgress(todo.of, todo.of - len(todo.points)) as progress:
        kept = f"of {todo.of:,} points are kept, for --resume"
        with stoppable(lambda: f"{progress.done:,} {kept}"):
            work(folder, shard, todo.points, hire, on_point=progress.advance)


def _finish(
    folder: "SweepFolder", formats: Sequence[str], html: Path | None, shard: "Shard | None" = None
) -> None:
    """Write the rows if every point is there, and end with the fastest."""
    from dflash_sim.studies.predict.varied import varied
    from dflash_sim.studies.sweep.ending import fastest
    from dflash_sim.studies.sweep.job import write_files

    there, points = len(folder.done()), len(folder.points)
    if there < points and shard is not None:
        tell(
            f"part {shard} is done; {folder.path} holds {there:,} of {points:,} points, and the "
            "files are written with the last"
        )
        return
    paths, failed = write_files(folder, formats)
    tell(f"wrote {', '.join(map(str, paths))}: {points:,} rows")
    rows = list(folder.rows(folder.done(), lambda _: None))
    prices = folder.about.get("prices")
    study = folder.study
    asked = [dict(zip(study.axes, point.values, strict=True)) for point in folder.points]
    rows, differing = varied(rows, asked)
    best = fastest(rows, prices, differing)
    if best is not None:
        typer.echo(best.text())
        if html is not None:
            from dflash_sim.studies.predict.report import write_rows

            write_rows(html, rows, differing=differing, prices=prices)
            tell(f"wrote {html}")
    if failed:
        warn(f"{len(failed):,} of {points:,} points have no answer: {failed[0]}")
    if len(failed) == points:
        raise typer.Exit(1)
