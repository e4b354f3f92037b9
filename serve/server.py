"""The process that listens: loopback by default, drained on SIGTERM."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable

import uvicorn

from dflash_sim.profiles.errors import UsageError
from dflash_sim.serve.app import Routes, application

DRAIN_S = 30.0  # running answers may take so long after SIGTERM
# A connection that is closed while the next request is under way loses it; clients keep theirs
# for less.
KEEP_ALIVE_S = 75


def check_address(host: str, api_key: str | None) -> None:
    """Refuse to listen beyond this machine without a key.

    Raises
    ------
    UsageError
        The address is no loopback one, and there is no API key.
    """
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key):
        msg = "--api-key: it is empty, or has letters that no HTTP header carries; give another."
        raise UsageError(msg)
    if api_key or host == "localhost":
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    msg = f"--host {host} lets others in; give --api-key KEY with it, or leave it at 127.0.0.1."
    raise UsageError(msg)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises
    ------
    UsageError
        The address is not ours, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, port))
        except OSError:
            found.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
        why = getattr(error, "strerror", None) or "no host has such a name"
        msg = f"cannot listen at {host}:{port}: {why}; give another --port or --host."
        raise UsageError(msg) from None
    return found


class Brief(logging.Filter):
    """Of what is logged, says in a line and once what the system refused.

    What is cancelled because the time to drain is over is nothing to tell; a bug keeps its trace.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True for what is told."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, asyncio.CancelledError):
            return False
        if not isinstance(error, OSError):
            return True
        record.msg = f"{record.getMessage().splitlines()[0]}: {error.strerror or error}"
        record.args = record.exc_info = record.exc_text = None
        seen = record.msg in self._said
        self._said.add(record.msg)
        return not seen


class Server(uvicorn.Server):
    """Uvicorn that refuses new requests while it ends those that run."""

    def __init__(self, config: uvicorn.Config, routes: Routes) -> None:
        super().__init__(config)
        self.routes = routes

    def handle_exit(self, sig: int, frame: object) -> None:
        """Begin to drain; a second signal ends at once."""
        self.routes.draining = True
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


def serve(
    routes: Routes,
    listening: socket.socket,
    *,
    api_key: str | None = None,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer until a signal comes; running answers are ended first.

    Raises
    ------
    DflashSimError
        What answers broke down.
    """
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        application(routes, api_key=api_key),
        lifespan="off",
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=int(DRAIN_S),
        timeout_keep_alive=KEEP_ALIVE_S,
        backlog=1024,
    )
    server = Server(config, routes)

    def give_up() -> None:
        server.should_exit = True

    routes.on_failure = give_up

    async def run() -> None:
        backend = asyncio.create_task(routes.backend.serve())
        backend.add_done_callback(routes.ended)
        work = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            while not server.started and not work.done():
                await asyncio.sleep(0.01)
            if not work.done():
                ready(f"http://{shown}:{port}")
            await work
        finally:
            backend.cancel()
            await asyncio.gather(backend, return_exceptions=True)

    brief, loggers = Brief(), [logging.getLogger(name) for name in ("uvicorn.error", "asyncio")]
    for logger in loggers:
        logger.addFilter(brief)
    try:
        asyncio.run(run())
    finally:
        for logger in loggers:
            logger.removeFilter(brief)
    if routes.failure is not None:
        raise routes.failure
