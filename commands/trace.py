"""``dflash-sim trace``."""

import sys
from pathlib import Path
from typing import Annotated

from dflash_sim.commands.options import OUTPUT, Output, PrintConfig, option
from dflash_sim.commands.scenario_options import Flags, takes_scenario, what_is_asked


@takes_scenario
def trace(
    flags: Flags,
    *,
    iterations: Annotated[
        int, option(OUTPUT, "Engine iterations to show", min=1, metavar="N", show_default=True)
    ] = 32,
    skip: Annotated[
        int, option(OUTPUT, "Iterations to leave out before them", min=0, metavar="N")
    ] = 0,
    output: Output = None,
    print_config: PrintConfig = False,
) -> None:
    """Write a timeline of simulated steps, for ui.perfetto.dev or chrome://tracing.

    Lanes for host, GPU, copies and collectives, arrows from launch to kernel, and counters. One
    scenario, in the words of "dflash-sim predict"; its first run.
    """
    from dflash_sim.profiles.errors import UsageError
    from dflash_sim.studies.ask.question import as_yaml, only_scenario
    from dflash_sim.studies.show.files import check_writable
    from dflash_sim.studies.show.terminal import deliver
    from dflash_sim.studies.trace.simulated import simulated_trace

    if output == Path("-"):
        output = None
    if output is not None:
        check_writable(output)
    asked = what_is_asked(flags)
    scenario = only_scenario(asked)
    if print_config:
        deliver(as_yaml(asked), output)
        return
    if output is None and sys.stdout.isatty():
        msg = "a trace is for a viewer, not for a terminal; give a file, such as -o step.json."
        raise UsageError(msg)
    found = simulated_trace(scenario, iterations=iterations, skip=skip)
    deliver(found.to_json(), output)
