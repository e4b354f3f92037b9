"""A server in this process, and a clock that nothing but waiting moves."""

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

import httpx
import pytest

from dflash_sim.calibrate.live.client import Client
from dflash_sim.serve.app import Routes, application
from dflash_sim.serve.metrics import Latencies
from dflash_sim.serve.tokens import Counted
from dflash_sim.serve.twin import Twin
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.studies.live import question


class Clock(selectors.SelectSelector):
    """Wall time that passes at once whenever everybody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found and timeout is None:
            message = "everybody waits for ever"
            raise RuntimeError(message)
        if not found and timeout:
            self.now_s += timeout
        return found


class Loop(asyncio.SelectorEventLoop):
    """An event loop in the time of a clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._told = clock

    def time(self) -> float:
        return self._told()


class Body(httpx.AsyncByteStream):
    """A body as it comes."""

    def __init__(self, parts: asyncio.Queue[bytes | None], task: asyncio.Task[None]) -> None:
        self.parts, self.task = parts, task

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (part := await self.parts.get()) is not None:
            yield part

    async def aclose(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


class Wire(httpx.AsyncBaseTransport):
    """Requests go to an ASGI application; unlike httpx's own, answers are streamed."""

    def __init__(self, app: Any, delay_s: float) -> None:
        self.app, self.delay_s = app, delay_s

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        if body:  # HTTP and tokenisation, which the twin leaves to the network
            await asyncio.sleep(self.delay_s)
        parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        begun: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        asked = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            for message in asked:
                return message
            await asyncio.Future()
            return None

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                begun.set_result(message)
            else:
                parts.put_nowait(message.get("body", b""))
                if not message.get("more_body"):
                    parts.put_nowait(None)

        scope = {
            "type": "http", "method": request.method, "path": request.url.path,
            "raw_path": request.url.raw_path, "query_string": b"", "root_path": "",
            "http_version": "1.1", "scheme": "http", "server": ("twin", 80), "client": ("me", 1),
            "headers": [(k.lower(), v) for k, v in request.headers.raw],
        }  # fmt: skip
        task = asyncio.ensure_future(self.app(scope, receive, send))
        await asyncio.wait({task, begun}, return_when=asyncio.FIRST_COMPLETED)
        if not begun.done():
            task.result()
        start = begun.result()
        return httpx.Response(start["status"], headers=start["headers"], stream=Body(parts, task))


class Served:
    """A twin that answers in simulated time, and what asks it."""

    def __init__(self, setup: Setup, *, metrics: bool = True, api_key: str | None = None) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock)
        self.twin = Twin(setup, clock=self.clock)
        self.routes = Routes(self.twin, Counted())
        self.routes.latencies = Latencies(self.clock)
        self.app = application(self.routes, api_key=api_key)
        self.delay_s = setup.engine["client_turnaround"]
        self.missing = set() if metrics else {"/metrics"}

    def __del__(self) -> None:
        self.loop.close()

    def connect(self, **more: Any) -> Client:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] in self.missing:
                scope = {**scope, "path": "/nothing-here"}
            await self.app(scope, receive, send)

        return Client("http://twin", transport=Wire(app, self.delay_s), clock=self.clock, **more)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run it while the twin works."""

        async def both() -> Any:
            serving = asyncio.create_task(self.twin.serve())
            try:
                return await work
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)

        return self.loop.run_until_complete(both())

    def ask(self, question: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
        """What a client is answered."""

        async def one() -> Any:
            async with self.connect() as client:
                return await question(client)

        return self.run(one())


def stand_in(monkeypatch: pytest.MonkeyPatch) -> Served:
    """A simulated server in place of the one that is connected to, and a short experiment."""
    asked = {"gpu": "b200", "model": "qwen3-8b", "num_gpus": 1, "method": "none"}
    served = Served(resolve(Scenario.parse(**asked, isl=64, osl=64)))
    own = question.Terms

    def terms(connect: Any, **rest: Any) -> question.Terms:
        return own(**{**rest, "connect": served.connect, "run": served.run})

    monkeypatch.setattr(question, "Terms", terms)
    monkeypatch.setattr(question, "CONCURRENCIES", (1, 2, 4))
    monkeypatch.setattr(question, "LENGTHS", ((64, 64),))
    monkeypatch.setattr("dflash_sim.calibrate.live.experiment.ENOUGH_TOKENS", 512)
    return served
