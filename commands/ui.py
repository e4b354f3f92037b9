"""``dflash-sim ui``."""

from typing import Annotated

from dflash_sim.commands.options import OUTPUT, Price, cores, option, tell
from dflash_sim.commands.scenario_options import Flags, takes_scenario, what_is_asked


@takes_scenario
def ui(
    flags: Flags,
    *,
    price: Price = None,
    port: Annotated[
        int | None, option(OUTPUT, "Port of this machine; left out, 8050 or a free one")
    ] = None,
    browser: Annotated[
        bool,
        option(OUTPUT, "Open the page in a browser", "--browser/--no-browser", metavar=""),
    ] = True,
) -> None:
    """Open a page with sliders, on this machine alone; it begins with the scenario given here.

    Every state of the page is an address, and "copy as" makes a command of it. Ctrl-C ends it.
    """
    from importlib.util import find_spec

    from dflash_sim.profiles.errors import (
        InfeasibleError,
        MissingProfileError,
        UsageError,
        to_install,
    )

    if find_spec("dash") is None:
        msg = f"ui needs dash: {to_install('ui')}."
        raise UsageError(msg)
    import os
    import webbrowser
    from contextlib import suppress

    from dflash_sim.profiles.find import ENV, users_folders
    from dflash_sim.simulator.setup import resolve
    from dflash_sim.studies.ask.prices import own_prices
    from dflash_sim.studies.ask.question import only_scenario
    from dflash_sim.ui.server import serve
    from dflash_sim.ui.state import from_fields, from_query

    asked = what_is_asked(flags)
    scenario = only_scenario(asked)
    with suppress(InfeasibleError, MissingProfileError):  # of which the page says what to change
        resolve(scenario)
    state = from_fields({name: given.value for name, given in asked.items()})
    if own_prices(price or ()):
        state = (state if asked else from_query("")).but(price=",".join(price or ()))
    # The page is answered by other threads and processes, which learn of the folders from here.
    os.environ[ENV] = os.pathsep.join(map(str, users_folders()))

    def ready(address: str) -> None:
        tell(f"open {address}")
        tell("Ctrl-C ends it; what was found is lost then, addresses are not.")
        if browser:
            webbrowser.open(address)

    first = state.query if asked or price else ""
    serve(first, port=port, workers=max(1, cores() - 1), ready=ready)
