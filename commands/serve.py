"""``dflash-sim serve``."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dflash_sim.commands.options import Str, option, tell
from dflash_sim.commands.scenario_options import Flags, takes_scenario, what_is_asked

if TYPE_CHECKING:
    from dflash_sim.serve.app import Routes

SERVER, REAL = "Server", "Server that is real"


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
    real: Annotated[
        bool, option(REAL, "Run networks: tiny, or a Hugging Face folder", "--real", metavar="")
    ] = False,
    device: Annotated[str, option(REAL, "cpu or cuda", show_default=True)] = "cpu",
) -> None:
    """Serve an OpenAI API whose answers take the simulated time, or with --real are computed.

    The scenario is given in the words of "dflash-sim predict"; its load is whatever clients send.
    """
    from dflash_sim.profiles.errors import UsageError, to_install

    try:
        from dflash_sim.serve.server import check_address, listen
        from dflash_sim.serve.server import serve as answer
    except ImportError as error:
        msg = f"serve needs {error.name}: {to_install('serve')}."
        raise UsageError(msg) from None

    check_address(host, api_key)
    if device != "cpu" and not real:
        msg = "--device is for --real; a simulated server has it from its scenario."
        raise UsageError(msg)
    if real and speed != 1:
        msg = f"--speed {speed:g}: --real runs as fast as it runs; leave it out."
        raise UsageError(msg)
    made = (
        _real(flags, device, tokenizer, max_queued)
        if real
        else _twin(flags, speed, tokenizer, max_queued)
    )
    with made as (routes, what):

        def ready(address: str) -> None:
            with suppress(OSError):  # a log on a full disk ends no server
                tell(f"{what.format(at=f'{address}/v1')}; Ctrl-C ends it")

        answer(routes, listen(host, port), api_key=api_key, ready=ready)


@contextmanager
def _twin(
    flags: Flags, speed: float, tokenizer: Path | None, max_queued: int
) -> "Iterator[tuple[Routes, str]]":
    """Routes to a simulated server, and what is said of it."""
    from dflash_sim.serve.app import Routes
    from dflash_sim.serve.tokens import load_tokens
    from dflash_sim.serve.twin import Twin
    from dflash_sim.simulator.setup import resolve
    from dflash_sim.studies.ask.question import only_scenario

    scenario = only_scenario(what_is_asked(flags))
    words = load_tokens(tokenizer)
    twin = Twin(resolve(scenario), speed=speed, max_queued=max_queued)
    fast = "" if speed == 1 else f", {speed:g} times as fast"
    said = f"simulated {scenario.model} at {{at}}{fast}"
    yield Routes(twin, words, every=scenario.stream_interval), said


@contextmanager
def _real(
    flags: Flags,
    device: str,
    tokenizer: Path | None,
    max_queued: int,
) -> "Iterator[tuple[Routes, str]]":
    """Routes to our own engine, whose workers live as long."""
    from dflash_sim.studies.real.torch_needed import need_gpus, need_torch

    need_torch("serve --real")
    from dflash_sim.serve.app import Routes
    from dflash_sim.serve.real import Real, working
    from dflash_sim.serve.tokens import tokens_of
    from dflash_sim.studies.real.serve_question import engine_of

    engine = engine_of(flags, device=device)
    need_gpus(device, engine.fitted.setup.tp)
    words = tokens_of(engine.folder, tokenizer)
    with working(engine.fitted) as workers:
        backend = Real(engine.fitted, workers, name=engine.name, max_queued=max_queued)
        yield Routes(backend, words, every=engine.stream_interval), f"{engine.name} runs at {{at}}"
