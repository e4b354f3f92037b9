"""``dflash-sim explain``."""

from pathlib import Path
from typing import Annotated

from dflash_sim.commands.options import OUTPUT, Format, Html, Output, PrintConfig, option, tell
from dflash_sim.commands.scenario_options import Flags, takes_scenario, what_is_asked


@takes_scenario
def explain(
    flags: Flags,
    *,
    phase: Annotated[
        str | None,
        option(
            OUTPUT,
            "Only this part of a step, each op with where its price is from: "
            "draft, verify, state-commit, kv-injection (draft-extend of a chain), other or host",
            metavar="NAME",
        ),
    ] = None,
    html: Html = None,
    form: Format = None,
    output: Output = None,
    print_config: PrintConfig = False,
) -> None:
    """Say why: from plain decoding to the answer, where its time goes, what would change it.

    One scenario, in the words of "dflash-sim predict". It takes ten times as long.
    """
    from dflash_sim.profiles.errors import UsageError
    from dflash_sim.studies.ask.question import as_yaml, only_scenario
    from dflash_sim.studies.explain.explain import explain as answer
    from dflash_sim.studies.explain.explain import simulations, to_json
    from dflash_sim.studies.explain.page import explanation_page
    from dflash_sim.studies.explain.phase import phase_detail, phase_page, phase_rows
    from dflash_sim.studies.show.files import as_text, check_writable, chosen_format
    from dflash_sim.studies.show.terminal import Progress, as_page, deliver

    shape = chosen_format(form, output)
    if shape == "csv" and phase is None:
        msg = "an explanation is no table of rows: --format csv is not for it. Give json, or table."
        raise UsageError(msg)
    if output == Path("-"):
        output = None
    for target in filter(None, (output, html)):
        check_writable(target)
    if phase is not None and html is not None:
        msg = "--html is a page of the whole explanation; leave --phase out, or --html."
        raise UsageError(msg)
    asked = what_is_asked(flags)
    scenario = only_scenario(asked)
    if print_config:
        deliver(as_yaml(asked), output)
        return
    if phase is not None:
        detail = phase_detail(scenario, phase)
        page = as_page(phase_page(detail), to_file=output is not None) if shape == "table" else ""
        deliver(page or as_text(list(phase_rows(detail)), shape), output)
        return
    with Progress(simulations(scenario)) as progress:
        found = answer(scenario, on_run=progress.advance)
    if html is not None:
        from dflash_sim.studies.explain.report import write_report

        write_report(html, found)
        tell(f"wrote {html}")
    if shape == "table":
        deliver(as_page(explanation_page(found), to_file=output is not None), output)
    else:
        deliver(as_text([to_json(found)], shape), output)
