"""``dflash-sim calibrate``: make profiles from measurements."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dflash_sim.commands.options import PROGRAM, Help, tell

app = typer.Typer(no_args_is_help=True, add_help_option=False)


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
    from dflash_sim.calibrate.silicon import import_silicon as make
    from dflash_sim.studies.terminal import deliver

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
