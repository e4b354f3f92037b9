"""``dflash-sim compare``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dflash_sim.commands.options import (
    INTERVALS,
    OUTPUT,
    SIMULATORS,
    Format,
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
    from dflash_sim.calibrate.observations.observation import Observation, ReadReport

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
    form: Format = None,
    output: Output = None,
) -> None:
    """Compare a benchmark with the prediction of the same scenario, and say why they differ.

    The scenario is read from the file. Metrics of single requests, or two scrapes of /metrics,
    are taken for the same run as the one benchmark they are given beside.
    """
    from dflash_sim.calibrate.compare.compare import compare as compare_row
    from dflash_sim.calibrate.compare.compare import joined
    from dflash_sim.calibrate.readers.read import read_observations
    from dflash_sim.profiles.errors import UsageError, unknown
    from dflash_sim.studies.compare.validate_question import assumptions
    from dflash_sim.studies.show.files import check_writable, chosen_format
    from dflash_sim.studies.show.terminal import Progress

    use_profiles(profiles)
    if simulator not in SIMULATORS:
        raise unknown(kind="--simulator", value=simulator, allowed=SIMULATORS)
    if interval not in INTERVALS:
        raise unknown(kind="--interval", value=interval, allowed=INTERVALS)
    if fail_above is not None and not 0 <= fail_above < float("inf"):
        msg = f"--fail-above {fail_above:g}: not a share; give percent, such as 10."
        raise UsageError(msg)
    shape = chosen_format(form, output)
    output = None if output == Path("-") else output
    if output is not None:
        check_writable(output)
    assumed = assumptions(assume or [])
    read = read_observations(files, assumed)
    _tell(read, assumed)
    rows, remarks = joined(_usable(read, on, allow_partial=allow_partial))
    for remark in remarks:
        tell(remark)
    found = []
    with Progress(len(rows)) as progress:
        for row in rows:
            made = compare_row(
                row,
                engine=simulator,
                with_causes=not no_causes,
                with_interval=interval != "none",
            )
            found.append(made)
            progress.advance(len(found))
    _report(found, shape, output)
    _judge(found, fail_above)


def _tell(read: "ReadReport", assumed: dict[str, str]) -> None:
    """How many rows there were, which were refused and why, and what to keep in mind."""
    tell(read.counts)
    for where, why in read.refused:
        tell(f"refused {where}: {why}")
    for note in read.notes:
        tell(f"note: {note}")
    needed = {name for row in read.observations for name in row.assumed}
    idle = [name for name in assumed if read.observations and name not in needed]
    if idle:
        warn(f"--assume {', '.join(idle)}: every row says it itself")


def _usable(read: "ReadReport", on: str | None, *, allow_partial: bool) -> "list[Observation]":
    """The rows asked for; acceptance and scheduler rows stay beside the benchmarks selected."""
    from dflash_sim.calibrate.compare.compare import is_benchmark
    from dflash_sim.calibrate.observations.observation import parse_filter
    from dflash_sim.profiles.errors import UsageError

    selected = parse_filter(on) if on else None
    rows = list(read.observations)
    if not rows:
        msg = f"nothing to compare: {read.counts}."
        raise UsageError(msg)
    if read.refused and not allow_partial:
        msg = f"{read.counts}; give --allow-partial to compare those that can be used."
        raise UsageError(msg)
    if selected is None:
        return rows
    benchmarks = [row for row in rows if is_benchmark(row)] or rows
    chosen = [row for row in benchmarks if selected(row)]
    if not chosen:
        msg = f"--on '{on}' selects none of {len(benchmarks)} rows."
        raise UsageError(msg)
    tell(f"{len(chosen)} of {len(benchmarks)} rows selected")
    return chosen + [row for row in rows if row not in benchmarks]


def _report(found: "Sequence[Comparison]", shape: str, output: Path | None) -> None:
    from dflash_sim.calibrate.compare.compare import summary
    from dflash_sim.studies.compare.compare_page import overview, page, row_of, summary_line
    from dflash_sim.studies.show.files import as_text
    from dflash_sim.studies.show.terminal import as_page, deliver

    failed = [c.error for c in found if c.error is not None]
    if len(found) == 1 and failed:
        raise failed[0]
    total = summary(found)
    if shape == "table":
        shown = page(found[0]) if len(found) == 1 else overview(found, total)
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
    if fail_above is None:
        return
    errors = {
        c.observation.row: m.rel_err
        for c in found
        if (m := c.metric("output_throughput")) is not None
    }
    off = [f"{row} by {100 * e:+.1f} %" for row, e in errors.items() if 100 * abs(e) > fail_above]
    off += [f"{c.observation.row} has no prediction" for c in found if c.error is not None]
    if off:
        tell(f"off by more than {fail_above:g} %: {'; '.join(off)}")
        raise typer.Exit(1)
    if not errors:
        tell("--fail-above: no row has a throughput to compare")
        raise typer.Exit(1)
