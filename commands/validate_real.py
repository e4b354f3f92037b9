"""``dflash-sim validate --real``: this machine measured, predicted, run and compared."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dflash_sim.commands.options import tell, warn

if TYPE_CHECKING:
    from dflash_sim.calibrate.realloop.outcomes import Outcome
    from dflash_sim.studies.real.loop_question import RealOptions, Rounds


def validate_real(
    o: "RealOptions", *, shape: str, output: Path | None, report: Path | None
) -> None:
    """Measure, predict, run, compare; every row is told as it is done."""
    from dflash_sim.studies.real.loop_question import closed_loop

    with closed_loop(o, tell) as rounds:
        found = _outcomes(rounds, shape, output)
        machine = rounds.machine
    _conclude(found, o, shape=shape, output=output, report=report, machine=machine)


def _outcomes(rounds: "Rounds", shape: str, output: Path | None) -> "list[Outcome]":
    """All of them; if that breaks off, what there is is put out before."""
    from dflash_sim.jobs.stopping import INTERRUPTED
    from dflash_sim.profiles.errors import DflashSimError
    from dflash_sim.studies.real.loop_question import progress_line

    done = 0
    try:
        for outcome in rounds.each():
            done += 1
            tell(progress_line(done, rounds.runs, outcome))
    except (KeyboardInterrupt, DflashSimError) as error:
        if not done:
            raise
        what = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        warn(f"{what}; what follows is from {done} of {rounds.runs} runs")
        _deliver(rounds.loop.outcomes(), shape, output)
        raise typer.Exit(getattr(error, "exit_code", INTERRUPTED)) from None
    return rounds.loop.outcomes()


def _conclude(
    found: "list[Outcome]",
    o: "RealOptions",
    *,
    shape: str,
    output: Path | None,
    report: Path | None,
    machine: str,
) -> None:
    from dflash_sim.calibrate.realloop.outcomes import as_row
    from dflash_sim.studies.compare.real_tables import tables
    from dflash_sim.studies.real.loop_question import disturbed
    from dflash_sim.studies.show.files import as_text
    from dflash_sim.studies.show.plain_table import text_of
    from dflash_sim.studies.show.terminal import deliver

    if shape == "table":
        deliver(text_of(tables(found)), output)
    else:
        deliver(as_text([as_row(x) for x in found], shape), output)
    if report is not None:
        from dflash_sim.studies.compare.real_tables import write_report

        write_report(found, report, machine=machine, model=o.model)
        tell(f"wrote {report}")
    said = disturbed(found)
    if said is not None:
        warn(said)


def _deliver(found: "list[Outcome]", shape: str, output: Path | None) -> None:
    from dflash_sim.calibrate.realloop.outcomes import as_row
    from dflash_sim.studies.show.files import as_text
    from dflash_sim.studies.show.terminal import deliver

    deliver(as_text([as_row(x) for x in found], "jsonl" if shape == "table" else shape), output)
