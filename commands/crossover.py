"""``dflash-sim crossover``."""

from pathlib import Path
from typing import Annotated

from dflash_sim.commands.options import (
    INTERVALS,
    OUTPUT,
    File,
    Format,
    Output,
    Str,
    completer,
    option,
    stoppable,
    tell,
)
from dflash_sim.commands.scenario_options import Flags, takes_scenario, what_is_asked

QUESTION = "Question"
AXES = ("conc", "context", "accept", "temperature")


@takes_scenario
def crossover(
    flags: Flags,
    *,
    over: Annotated[
        str,
        option(QUESTION, "What changes: conc, context, accept (tokens a cycle) or temperature",
               autocompletion=completer(lambda: AXES)),
    ] = AXES[0],
    values: Annotated[
        Str,
        option(QUESTION, "Where to look, such as 1-64:x2; left out, 1 to 256 requests",
               metavar="RANGE"),
    ] = None,
    interval: Annotated[
        str, option(OUTPUT, "90, or none for speed", autocompletion=completer(lambda: INTERVALS))
    ] = INTERVALS[0],
    report: Annotated[
        File, option(OUTPUT, "Write an HTML page with a chart here", metavar="FILE")
    ] = None,
    form: Format = None,
    output: Output = None,
) -> None:  # fmt: skip
    """Find where each method stops beating plain decoding, and what to serve on either side.

    Lists of --method, --block and --steps are compared; by default DFlash at the drafter's block
    and MTP with 3 steps. The answer ends with settings to paste: SGLang's flags, vLLM's table of
    drafts by batch size, and SGLang's adaptive ladder where it has one.
    """
    from dflash_sim.studies.ask.answers import check_options
    from dflash_sim.studies.crossover.leads import answer
    from dflash_sim.studies.crossover.page import CrossoverPage
    from dflash_sim.studies.crossover.question import question
    from dflash_sim.studies.crossover.rows import crossover_rows, to_json
    from dflash_sim.studies.crossover.search import steps
    from dflash_sim.studies.show.files import as_text, check_writable, chosen_format
    from dflash_sim.studies.show.terminal import Progress, as_page, deliver

    check_options("auto", interval)
    shape = chosen_format(form, output)
    if output == Path("-"):
        output = None
    for target in filter(None, (output, report)):
        check_writable(target)
    made = question(what_is_asked(flags), over=over, values=values)
    spans = interval == INTERVALS[0]
    with stoppable(), Progress(steps(made, interval=spans)) as progress:
        found = answer(made, interval=spans, on_run=progress.advance)
    if report is not None:
        from dflash_sim.studies.crossover.report import write_report

        write_report(report, found)
        tell(f"wrote {report}")
    if shape == "table":
        deliver(as_page(CrossoverPage(found), to_file=output is not None), output)
    else:
        rows = [to_json(found)] if shape == "json" else crossover_rows(found)
        deliver(as_text(rows, shape), output)
