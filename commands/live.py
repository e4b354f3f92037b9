"""``dflash-sim calibrate live``."""

from pathlib import Path
from typing import Annotated

import typer

from dflash_sim.commands.options import (
    OUTPUT,
    PROGRAM,
    Format,
    Profiles,
    Str,
    cores,
    option,
    sheets,
    stoppable,
    tell,
    use_profiles,
    warn,
)

SERVER, EXPERIMENT = "Server", "Experiment"
_UNSURE = 4  # there is an answer, and a reason to doubt it


def live(
    url: Annotated[str, option(SERVER, "Of an OpenAI server, such as http://127.0.0.1:30000")],
    output: Annotated[
        Path,
        option(OUTPUT, "The constants, for --calibration", "--output", "-o", metavar="FILE.toml"),
    ] = Path("server.calibration.toml"),
    rows: Annotated[
        Path | None,
        option(OUTPUT, "Measured rows; gone on with if there. Default: beside the output"),
    ] = None,
    minutes: Annotated[float, option(EXPERIMENT, "Measure for so long at most", min=0.1)] = 3.0,
    max_requests: Annotated[int, option(EXPERIMENT, "Requests at most", min=1)] = 3000,
    assume: Annotated[
        list[str] | None,
        option(SERVER, "What the server does not say; repeatable", metavar="KEY=VALUE"),
    ] = None,
    api_key: Annotated[Str, option(SERVER, "Sent as a bearer token")] = None,
    engine: Annotated[
        Str, option(SERVER, "Its release, if it names none", autocompletion=sheets("engines"))
    ] = None,
    prior: Annotated[
        str, option(EXPERIMENT, "What is known before: shipped, sheet, or an earlier fit")
    ] = "shipped",
    watch: Annotated[
        float | None,
        option(SERVER, "Measure nothing: compare its own traffic every so many seconds", min=1.0),
    ] = None,
    jobs: Annotated[
        int | None, option(OUTPUT, "Processes; default: all cores", min=1, metavar="N")
    ] = None,
    profiles: Profiles = None,
    form: Format = None,
) -> None:
    """Calibrate a running server: measure the few loads that tell most, and fit.

    The server must be idle. Interrupt it at will: what was measured is kept, and the same command
    goes on. --watch compares a server with its prediction instead, and names what drifts.
    """
    from dflash_sim.profiles.errors import UsageError, to_install
    from dflash_sim.studies.show.files import as_text, check_writable, chosen_format
    from dflash_sim.studies.show.terminal import deliver

    try:
        from dflash_sim.calibrate.live.client import Client
    except ImportError as error:
        msg = f"calibrate live needs {error.name}: {to_install('serve')}."
        raise UsageError(msg) from None
    from dflash_sim.studies.live import page, question
    from dflash_sim.studies.live.watch import watch as compare_on

    use_profiles(profiles)
    shape = chosen_format(form, None)
    if shape == "csv":
        msg = "a calibration is no table of rows: --format csv is not for it. Give json, or table."
        raise UsageError(msg)
    terms = question.Terms(
        connect=lambda: Client(url, api_key=api_key),
        rows=rows or output.with_suffix(".rows.jsonl"),
        minutes=minutes,
        max_requests=max_requests,
        assume=tuple(assume or ()),
        engine=engine,
        prior=prior,
        jobs=jobs or cores(),
    )
    kept_words = f"what was measured is kept in {terms.rows}; run this again"
    with stoppable(lambda: "nothing was written" if watch else kept_words):
        target = question.find(terms, idle=watch is None)
        for note in target.notes:
            warn(note)
        if watch is not None:
            if output.exists():
                terms = terms.calibrated(output)
                tell(f"predicted with {output}")
            compare_on(terms, target, every_s=watch, tell=tell)
            return
        check_writable(output)
        check_writable(terms.rows)
        kept = question.kept_of(terms, target)
        tell(f"{target.model} at {target.url}")
        planned = question.plan(terms, target, kept)
        tell(page.plan_line(planned, len(kept.rows)))
        stopped = question.experiment(
            terms,
            target,
            planned,
            kept,
            on_cell=lambda i, cell: tell(
                f"  {i + 1} of {len(planned.cells)}, about {planned.cost_s[i]:.0f} s: {cell} ..."
            ),
            on_row=lambda row: tell("    " + page.row_line(kept.cell(row), row)),
        )
        if stopped:
            warn(f"{stopped}; {len(kept.rows)} cells are kept in {terms.rows}")
        found = question.learn(terms, kept, name=output.stem)
    deliver(found.fit.calibration.to_toml(), output)
    deliver(page.page(found) if shape == "table" else as_text([page.summary(found)], shape))
    tell(f"use it with: {PROGRAM} predict --calibration {output}")
    if stopped or not found.fit.converged:
        raise typer.Exit(_UNSURE)
