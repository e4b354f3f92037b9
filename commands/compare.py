"""``dflash-sim compare``."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dflash_sim.commands.options import (
    INTERVALS,
    OUTPUT,
    SIMULATORS,
    Format,
    Html,
    Output,
    Profiles,
    Str,
    completer,
    option,
    tell,
    use_profiles,
    warn,
)

if TYPE_CHECKING:
    from dflash_sim.calibrate.compare.compare import Comparison
    from dflash_sim.calibrate.observations.observation import ReadReport

FILES, JUDGEMENT = "Files", "Judgement"


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Benchmark results of any tool that is known, told by their keys",
            metavar="FILE...",
        ),
    ],
    assume: Annotated[
        list[str] | None,
        option(FILES, "Stands in where a row does not say; repeatable", metavar="KEY=VALUE"),
    ] = None,
    on: Annotated[
        Str, option(FILES, "Only these rows, such as \"conc==32 and method!='none'\"")
    ] = None,
    allow_partial: Annotated[
        bool,
        option(
            FILES, "Compare what can be read if some rows cannot", "--allow-partial", metavar=""
        ),
    ] = False,
    simulator: Annotated[
        str,
        option(OUTPUT, "auto, leap (fast) or event", autocompletion=completer(lambda: SIMULATORS)),
    ] = SIMULATORS[0],
    no_causes: Annotated[
        bool, option(JUDGEMENT, "Do not look for causes", "--no-causes", metavar="")
    ] = False,
    fail_above: Annotated[
        float | None,
        option(JUDGEMENT, "Exit code 1 if a throughput is off by more", metavar="PERCENT"),
    ] = None,
    interval: Annotated[
        str, option(OUTPUT, "90, or none for speed", autocompletion=completer(lambda: INTERVALS))
    ] = INTERVALS[0],
    profiles: Profiles = None,
    html: Html = None,
    form: Format = None,
    output: Output = None,
) -> None:
    """Compare a benchmark with the prediction of the same scenario, and say why they differ.

    The scenario is read from the file. Metrics of single requests, or two scrapes of /metrics,
    are taken for the same run as the one benchmark they are given beside.
    """
    from dflash_sim.calibrate.readers.read import read_observations
    from dflash_sim.profiles.errors import UsageError
    from dflash_sim.profiles.ways_in import there
    from dflash_sim.studies.ask.answers import check_options
    from dflash_sim.studies.compare.compare_question import answers, chosen
    from dflash_sim.studies.compare.validate_question import assumptions
    from dflash_sim.studies.show.files import check_writable, chosen_format
    from dflash_sim.studies.show.terminal import Progress

    use_profiles(profiles)
    check_options(simulator, interval)
    if fail_above is not None and not 0 <= fail_above < float("inf"):
        msg = f"--fail-above {fail_above:g}: not a share; give percent, such as 10."
        raise UsageError(msg)
    shape = chosen_format(form, output)
    output = None if output == Path("-") else output
    for target in filter(None, (output, html)):
        check_writable(target)
    assumed = assumptions(assume or [])
    read = read_observations([there(file) for file in files], assumed)
    _tell(read, assumed)
    rows, remarks = chosen(read, on, allow_partial=allow_partial)
    for remark in remarks:
        tell(remark)
    with Progress(len(rows)) as progress:
        found = answers(
            rows,
            simulator=simulator,
            with_causes=not no_causes,
            with_interval=interval != "none",
            on_row=progress.advance,
        )
    if html is not None:
        from dflash_sim.calibrate.compare.compare import summary
        from dflash_sim.studies.compare.compare_report import write_report

        write_report(html, found, summary(found), assumed)
        tell(f"wrote {html}")
    _report(found, shape, output, assumed)
    _judge(found, fail_above)


def _tell(read: "ReadReport", assumed: dict[str, str]) -> None:
    """Tell how many rows there were, which were refused and why, and what to keep in mind."""
    from dflash_sim.studies.compare.compare_question import unneeded

    tell(read.counts)
    for where, why in read.refused[0 if read.observations else 1 :]:  # the first is in the error
        tell(f"refused {where}: {why}")
    for note in read.notes:
        tell(f"note: {note}")
    idle = unneeded(read, assumed)
    if idle:
        warn(f"--assume {', '.join(idle)}: every row says it itself")


def _report(
    found: "Sequence[Comparison]", shape: str, output: Path | None, said: "Collection[str]"
) -> None:
    from dflash_sim.calibrate.compare.compare import summary
    from dflash_sim.studies.compare.compare_page import overview, page, row_of, summary_line
    from dflash_sim.studies.show.files import as_text
    from dflash_sim.studies.show.terminal import as_page, deliver

    failed = [c.error for c in found if c.error is not None]
    if len(found) == 1 and failed:
        raise failed[0]
    total = summary(found)
    if shape == "table":
        shown = page(found[0], said) if len(found) == 1 else overview(found, total, said)
        deliver(as_page(shown, to_file=output is not None), output)
    else:
        deliver(as_text([row_of(c) for c in found], shape), output)
        if len(found) > 1:
            tell(summary_line(total))
    if failed:
        warn(f"{len(failed)} of {len(found)} rows have no prediction: {failed[0]}")
    if len(failed) == len(found):
        raise typer.Exit(1)


def _judge(found: "Sequence[Comparison]", fail_above: float | None) -> None:
    """A failed comparison: a throughput that is off by more than allowed, or has no prediction."""
    from dflash_sim.studies.compare.compare_question import too_far

    said = None if fail_above is None else too_far(found, fail_above)
    if said is not None:
        tell(said)
        raise typer.Exit(1)
