"""``dflash-sim serve``."""

from pathlib import Path
from typing import Annotated

from dflash_sim.commands.options import Str, option, tell
from dflash_sim.commands.scenario_options import Flags, takes_scenario, what_is_asked

SERVER = "Server"


@takes_scenario
def serve(
    flags: Flags,
    *,
    host: Annotated[str, option(SERVER, "Address to listen at")] = "127.0.0.1",
    port: Annotated[
        int, option(SERVER, "Port to listen at; 0 takes a free one", min=0, max=65535)
    ] = 30000,
    api_key: Annotated[Str, option(SERVER, "Asked of every client; needed beyond loopback")] = None,
    speed: Annotated[
        float, option(SERVER, "Simulated seconds in a second", min=0.001, max=1000.0)
    ] = 1.0,
    max_queued: Annotated[
        int,
        option(SERVER, "Requests that may wait", "--max-queued-requests", min=1, max=1_000_000),
    ] = 4096,
    tokenizer: Annotated[
        Path | None, option(SERVER, "tokenizer.json, or its folder, to count prompts with")
    ] = None,
) -> None:
    """Serve an OpenAI API whose answers take the simulated time.

    The scenario is given in the words of "dflash-sim predict"; its load is whatever clients send.
    """
    from dflash_sim.profiles.errors import UsageError
    from dflash_sim.studies.ask.question import only_scenario

    try:
        from dflash_sim.serve.server import check_address, listen
        from dflash_sim.serve.server import serve as answer
    except ImportError as error:
        msg = f'serve needs {error.name}: pip install "dflash-sim[serve]".'
        raise UsageError(msg) from None
    from dflash_sim.serve.app import Routes
    from dflash_sim.serve.tokens import load_tokens
    from dflash_sim.serve.twin import Twin
    from dflash_sim.simulator.setup import resolve

    check_address(host, api_key)
    scenario = only_scenario(what_is_asked(flags))
    words = load_tokens(tokenizer)
    twin = Twin(resolve(scenario), speed=speed, max_queued=max_queued)
    listening = listen(host, port)
    routes = Routes(twin, words, every=scenario.stream_interval)

    def ready(address: str) -> None:
        fast = "" if speed == 1 else f", {speed:g} times as fast"
        tell(f"simulated {scenario.model} at {address}/v1{fast}; Ctrl-C ends it")

    answer(routes, listening, api_key=api_key, ready=ready)
