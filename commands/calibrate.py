"""``dflash-sim calibrate``: make profiles from measurements."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dflash_sim.commands.live import live
from dflash_sim.commands.measure import compare_profiles, measure
from dflash_sim.commands.options import (
    OUTPUT,
    PROGRAM,
    Format,
    Help,
    Profiles,
    Str,
    option,
    sheets,
    stoppable,
    tell,
    use_profiles,
)

if TYPE_CHECKING:
    from dflash_sim.studies.compare.fit_question import Chosen

ROWS = "Rows"
_SHOWN = 10  # reasons that are listed
_UNSURE = 4  # there is an answer, and a reason to doubt it

app = typer.Typer(no_args_is_help=True, add_help_option=False)
app.command()(measure)
app.command()(live)
app.command("compare-profiles")(compare_profiles)


@app.callback()
def options(help: Help = False) -> None:
    """Make profiles from measurements."""


@app.command("import-silicon")
def import_silicon(
    system: Annotated[
        str, typer.Option(help="System of aiconfigurator-core, such as b200_sxm, or our GPU name")
    ],
    data_dir: Annotated[
        Path | None, typer.Option(help="Its tables; default: the installed package")
    ] = None,
    out: Annotated[Path, typer.Option(help="Profiles directory to write into")] = Path(
        "profiles-local"
    ),
) -> None:
    """Make operator tables from the measurements in aiconfigurator-core."""
    from dflash_sim.calibrate.silicon.import_tables import import_silicon as make
    from dflash_sim.studies.show.terminal import deliver

    report = make(system, out, data_dir, on_progress=tell if sys.stderr.isatty() else None)
    lines = [f"{report.folder}: operator times of {report.gpu} from {report.system}"]
    for name, size in report.files.items():
        cells = report.cells.get(name.removesuffix(".csv"))
        lines.append(f"  {name:<14} {size:>9,} bytes" + (f"  {cells:>7,} times" if cells else ""))
    lines.append("  error on points held out of the table (median, 90th percentile):")
    for what, miss in report.held_out.items():
        lines.append(f"    {what:<20} {100 * miss.median:5.1f} % {100 * miss.p90:6.1f} %")
    deliver("\n".join(lines) + "\n")
    tell(f"use it with: {PROGRAM} predict --profiles {out}")


@app.command("fit")
def fit(
    observations: Annotated[
        list[Path],
        typer.Argument(
            help="Benchmark results of any tool that is known, told by their keys",
            metavar="FILE...",
        ),
    ],
    output: Annotated[
        Path,
        option(OUTPUT, "The constants, for --calibration", "--output", "-o", metavar="FILE.toml"),
    ],
    fit_on: Annotated[
        Str, option(ROWS, 'Only these rows, such as "concurrency==1"; default: all')
    ] = None,
    assume: Annotated[
        list[str] | None,
        option(ROWS, "Stands in where a row does not say; repeatable", metavar="KEY=VALUE"),
    ] = None,
    allow_partial: Annotated[
        bool, option(ROWS, "Fit what can be fitted if some rows cannot", metavar="")
    ] = False,
    prior: Annotated[
        str, option(ROWS, "What is known before: shipped, sheet, or a file of an earlier fit")
    ] = "shipped",
    name: Annotated[Str, option(OUTPUT, "Of the calibration; default: the file's")] = None,
    engine: Annotated[
        Str,
        option(
            ROWS,
            "Release of rows that name no build; default: unknown, near the one of the priors",
            autocompletion=sheets("engines"),
        ),
    ] = None,
    jobs: Annotated[
        int | None, option(OUTPUT, "Processes; default: all cores", min=1, metavar="N")
    ] = None,
    profiles: Profiles = None,
    form: Format = None,
) -> None:
    """Fit a server, engine constants and acceptance to measured speed, with their errors.

    Where the rows say nothing, what was known before holds: the shipped calibration. Use the result
    with "dflash-sim predict --calibration FILE.toml"; "dflash-sim validate" says what it is worth.
    """
    from dflash_sim.profiles.errors import UsageError
    from dflash_sim.profiles.ways_in import there
    from dflash_sim.studies.compare.fit_page import page, summary
    from dflash_sim.studies.compare.fit_question import choose, require, run_fit
    from dflash_sim.studies.show.files import as_text, check_writable, chosen_format
    from dflash_sim.studies.show.terminal import Progress, deliver

    use_profiles(profiles)
    check_writable(output)
    shape = chosen_format(form, None)
    if shape == "csv":
        msg = "a fit is no table of rows: --format csv is not for it. Give json, or table."
        raise UsageError(msg)
    with stoppable():
        files = [there(file) for file in observations]
        chosen = choose(files, engine=engine, fit_on=fit_on, assume=assume or (), prior=prior)
        _tell(chosen)
        require(chosen, allow_partial=allow_partial)
        with Progress(chosen.passes) as progress:
            found = run_fit(
                chosen,
                name=name or output.stem,
                jobs=jobs or os.cpu_count() or 1,
                on_row=lambda: progress.advance(0),
            )
    deliver(found.calibration.to_toml(), output)
    deliver(page(found, chosen) if shape == "table" else as_text([summary(found, chosen)], shape))
    if not found.converged:
        tell(
            "the calibration was written, but the fit does not follow all of its rows: see NOT "
            "FOLLOWED or NOT CONVERGED on its page"
        )
        raise typer.Exit(_UNSURE)


def _tell(chosen: "Chosen") -> None:
    """Tell what became of every row, and what had to be assumed."""
    tell(chosen.counts)
    reasons: dict[str, list[str]] = {}
    for where, why in chosen.refused:
        reasons.setdefault(why, []).append(where)
    for why, places in list(reasons.items())[:_SHOWN]:
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        tell(f"  refused {places[0]}{more}: {why}")
    if len(reasons) > _SHOWN:
        tell(f"  and {len(reasons) - _SHOWN} reasons more")
    for note in chosen.read.notes:
        tell(f"  {note}")
