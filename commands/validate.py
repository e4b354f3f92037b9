"""``dflash-sim validate``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dflash_sim.commands.options import (
    OUTPUT,
    File,
    Format,
    Profiles,
    Str,
    completer,
    option,
    tell,
    use_profiles,
)

if TYPE_CHECKING:
    from dflash_sim.calibrate.fit.held_out import Validation
    from dflash_sim.calibrate.observations.observation import ReadReport

ROWS, REAL = "Rows", "Real runs"
LEAVE_OUT = ("model", "method", "gpu", "dataset", "source")
_SHOWN = 10  # refused rows that are listed


def validate(
    observations: Annotated[
        list[Path] | None,
        option(ROWS, "Benchmark files; default: the published rows of this build", metavar="FILE"),
    ] = None,
    fit_on: Annotated[Str, option(ROWS, 'Fit these rows, such as "concurrency==1"')] = None,
    test_on: Annotated[Str, option(ROWS, "Predict these; default: all that are not fitted")] = None,
    leave_out: Annotated[
        Str,
        option(
            ROWS,
            f"Predict each of {', '.join(LEAVE_OUT)} from the others",
            autocompletion=completer(lambda: LEAVE_OUT),
        ),
    ] = None,
    assume: Annotated[
        list[str] | None,
        option(ROWS, "Stands in where a row does not say; repeatable", metavar="KEY=VALUE"),
    ] = None,
    calibration: Annotated[
        Str, option(ROWS, "Without a fit: shipped, none, or a file of calibrate fit")
    ] = None,
    prior: Annotated[
        Str,
        option(
            ROWS,
            "Where fits begin: shipped, sheet, or a file; default: shipped for files, else sheet",
        ),
    ] = None,
    allow_partial: Annotated[
        bool, option(ROWS, "Go on if some rows cannot be used", "--allow-partial", metavar="")
    ] = False,
    engine: Annotated[
        Str,
        option(
            ROWS, "Release of rows that name no build; default: unknown, near the one of the priors"
        ),
    ] = None,
    jobs: Annotated[
        int | None, option(OUTPUT, "Processes; default: all cores", min=1, metavar="N")
    ] = None,
    report: Annotated[
        File, option(OUTPUT, "Also write a page with plots", "--report", metavar="FILE.html")
    ] = None,
    real: Annotated[
        bool,
        option(REAL, "Measure this machine, predict our own engine, run it", "--real", metavar=""),
    ] = False,
    model: Annotated[
        str, option(REAL, "tiny, or one of which only the shape is used", show_default=True)
    ] = "tiny",
    device: Annotated[str, option(REAL, "cpu or cuda", show_default=True)] = "cpu",
    accept_length: Annotated[
        float | None,
        option(REAL, "Impose this mean accept length, where weights are random", metavar="X"),
    ] = None,
    isl: Annotated[
        int, option(REAL, "Tokens of a random prompt", min=1, metavar="N", show_default=True)
    ] = 256,
    blocks: Annotated[str, option(REAL, "Verify widths of DFlash", show_default=True)] = "4,8,16",
    mtp_steps: Annotated[str, option(REAL, "Draft steps of MTP", show_default=True)] = "3",
    concs: Annotated[str, option(REAL, "Requests in flight", show_default=True)] = "1,4,8",
    modes: Annotated[str, option(REAL, "Engine modes", show_default=True)] = "v1,v2",
    num_prompts: Annotated[
        int, option(REAL, "Half of them to calibrate, half to run", min=4, show_default=True)
    ] = 160,
    max_new_tokens: Annotated[
        int, option(REAL, "Tokens of every answer", min=8, show_default=True)
    ] = 96,
    rounds: Annotated[
        int, option(REAL, "Times to measure and run all of it", min=1, show_default=True)
    ] = 3,
    host_work_ms: Annotated[
        float, option(REAL, "Other host work per step, such as detokenisation", min=0)
    ] = 0.0,
    profile: Annotated[
        File, option(REAL, "Of this machine; made if it is not there", metavar="FILE")
    ] = None,
    profiles: Profiles = None,
    form: Format = None,
    output: Annotated[
        File, option(OUTPUT, "Write here, whole or not at all", "--output", "-o", metavar="FILE")
    ] = None,
) -> None:
    """Predict what was measured, from constants that were fitted without it.

    With nothing given: every model of the published rows from the others. A row is never both
    fitted and tested. With --real, the rows are made here: ops and passes of this machine are
    measured, runs of our own engine are predicted from them, and run.
    """
    from dflash_sim.profiles.ways_in import there
    from dflash_sim.studies.compare.validate_question import Question, Rows, answer
    from dflash_sim.studies.compare.validation_tables import as_rows, tables
    from dflash_sim.studies.show.files import as_text, check_writable, chosen_format
    from dflash_sim.studies.show.plain_table import text_of
    from dflash_sim.studies.show.terminal import Progress, deliver

    use_profiles(profiles)
    shape = chosen_format(form, output)
    for path in (report, output):
        if path is not None:
            check_writable(path)
    if real:
        from dflash_sim.commands.validate_real import validate_real
        from dflash_sim.studies.real.torch_needed import need_gpus, need_torch

        need_torch("validate --real")
        need_gpus(device, 1)
        from dflash_sim.studies.real.loop_question import RealOptions

        asked = RealOptions(
            model=model,
            device=device,
            accept_length=accept_length,
            isl=isl,
            blocks=blocks,
            steps=mtp_steps,
            concs=concs,
            modes=modes,
            prompts=num_prompts,
            new_tokens=max_new_tokens,
            host_work_ms=host_work_ms,
            rounds=rounds,
            profile=profile,
        )
        validate_real(asked, shape=shape, output=output, report=report)
        return
    if report is not None:
        from dflash_sim.studies.compare import validation_report
    question = Question.of(
        fit_on=fit_on,
        test_on=test_on,
        leave_out=leave_out,
        calibration=calibration,
        prior=prior,
    )
    files = [there(file) for file in observations or ()]
    rows = Rows.read(files, engine=engine, assume=assume, allow_partial=allow_partial)
    _say(rows.report, rows.refused)
    with Progress(rows.passes) as progress:
        found = answer(
            question,
            rows,
            jobs=jobs or os.cpu_count() or 1,
            on_row=lambda: progress.advance(0),
        )
    _say_fits(found)
    if shape == "table":
        deliver(text_of(tables(found)), output)
    else:
        deliver(as_text(as_rows(found), shape), output)
    if report is not None:
        validation_report.write(found, report, read=rows.report.counts)
        tell(f"wrote {report}")


def _say(report: "ReadReport", refused: list[tuple[str, str]]) -> None:
    """The counts, always; what was refused, and what was assumed."""
    tell(report.counts + (f"; {len(refused)} more cannot be simulated" if refused else ""))
    lost = [*report.refused, *refused]
    for where, why in lost[:_SHOWN]:
        tell(f"  refused {where}: {why}")
    if len(lost) > _SHOWN:
        tell(f"  and {len(lost) - _SHOWN} more")
    for note in report.notes:
        tell(f"  {note}")


def _say_fits(found: "Validation") -> None:
    for fit in found.fits:
        left = "" if fit.converged else "; not converged"
        tell(f"fitted {len(fit.rows)} rows to predict {fit.calibration.name}{left}")
        for row, error in fit.outliers:
            tell(f"  outlier {row.name}: {100 * error:+.1f} %")
