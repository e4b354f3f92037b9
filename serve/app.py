"""The HTTP routes: OpenAI's, and those of SGLang that its clients ask for."""

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dflash_sim.serve.backend import Answer, Ask, Backend, RefusedError
from dflash_sim.serve.bodies import (
    DEFAULT_TOKENS,
    Chat,
    Common,
    Completion,
    Generate,
    ask,
    fields_of,
    prompts_of,
    read_body,
    turns_of,
)
from dflash_sim.serve.metrics import Latencies, exposition
from dflash_sim.serve.streams import DONE, OpenAI, native, pieces
from dflash_sim.serve.tokens import Tokens

MOST_BYTES = 32 * 2**20
SILENT_S = 5.0  # in which more of a body comes: a server that shall end waits no longer for it
MOST_PROMPTS = 256  # of one body


class Key:
    """Refuses requests without the API key; health is open to all."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self.key = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what carries the key."""
        if scope["type"] == "http" and scope["path"] != "/health":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self.key):
                await _error("Unauthorized: give the API key as a bearer token.", 401)(
                    scope, receive, send
                )
                return
        await self.app(scope, receive, send)


class Routes:
    """What is answered at each address.

    Parameters
    ----------
    every
        ``--stream-interval``: tokens that are sent together.
    """

    def __init__(self, backend: Backend, tokens: Tokens, *, every: int = 1) -> None:
        self.backend = backend
        self.tokens = tokens
        self.every = every
        self.latencies = Latencies()
        self.draining = False
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None

    def ended(self, work: "asyncio.Task[None]") -> None:
        """The backend works no more: nothing is taken from now on, and why is kept."""
        self.draining = True
        self.failure = None if work.cancelled() else work.exception()
        if self.failure is not None:
            self.on_failure()

    # ---- requests ------------------------------------------------------------------------

    async def completions(self, request: Request) -> Response:
        """``/v1/completions``."""
        body: Completion = await self._body(request, Completion)
        prompts = prompts_of(body, self.tokens)
        if len(prompts) > MOST_PROMPTS or (body.stream and len(prompts) > 1):
            most = 1 if body.stream else MOST_PROMPTS
            msg = f"prompt: {len(prompts)} prompts in one body; at most {most} are taken."
            raise RefusedError(msg)
        asks = [
            ask(
                prompt,
                max_tokens=body.max_tokens,
                min_tokens=body.min_tokens,
                ignore_eos=body.ignore_eos,
                context_length=self.backend.context_length,
                default=DEFAULT_TOKENS,
            )
            for prompt in prompts
        ]
        return await self._openai(request, body, asks, chat=False)

    async def chat(self, request: Request) -> Response:
        """``/v1/chat/completions``."""
        body: Chat = await self._body(request, Chat)
        one = ask(
            self.tokens.ids(
                await self.tokens.chat(turns_of(body), body.chat_template_kwargs or {})
            ),
            max_tokens=body.max_completion_tokens or body.max_tokens,
            min_tokens=body.min_tokens,
            ignore_eos=body.ignore_eos,
            context_length=self.backend.context_length,
            default=None,
        )
        return await self._openai(request, body, [one], chat=True)

    async def _openai(
        self, request: Request, body: Common, asks: list[Ask], *, chat: bool
    ) -> Response:
        rid = ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex
        form = OpenAI(rid, body.model or self.backend.model, chat=chat)
        answers = self._take_all(asks)
        if not body.stream:
            texts = await self._texts(request, answers)
            return JSONResponse(form.whole(list(zip(answers, texts, strict=True))))
        options = body.stream_options
        counted = bool(options and options.include_usage)
        always = bool(options and options.continuous_usage_stats)
        answer = answers[0]

        async def events() -> AsyncIterator[str]:
            try:
                for event in form.opening():
                    yield event
                async for piece in pieces(answer, self.tokens, self.latencies, every=self.every):
                    yield form.event(answer, piece, counted=always)
                for event in form.closing(answer, counted=counted):
                    yield event
            finally:
                self.backend.drop(answer)

        return _stream(events())

    async def generate(self, request: Request) -> Response:
        """SGLang's own ``/generate``."""
        body: Generate = await self._body(request, Generate)
        if (body.text is None) == (body.input_ids is None):
            msg = "text: either text or input_ids is to be given."
            raise RefusedError(msg)
        asked = body.sampling_params
        one = ask(
            self.tokens.ids(body.text) if body.text is not None else body.input_ids or [],
            max_tokens=asked.max_new_tokens,
            min_tokens=asked.min_new_tokens,
            ignore_eos=asked.ignore_eos,
            context_length=self.backend.context_length,
            default=None,
            kind="max_new_tokens",
        )
        rid, began = uuid.uuid4().hex, time.perf_counter()
        answer = self._take(one)
        if not body.stream:
            (text,) = await self._texts(request, [answer])
            return JSONResponse(native(rid, answer, text, answer.tokens, began))

        async def events() -> AsyncIterator[str]:
            said: list[str] = []
            try:
                async for piece in pieces(answer, self.tokens, self.latencies, every=self.every):
                    said.append(piece.text)
                    data = native(rid, answer, "".join(said), piece.tokens, began)
                    yield f"data: {json.dumps(data)}\n\n"
                yield DONE
            finally:
                self.backend.drop(answer)

        return _stream(events())

    def _take_all(self, asks: list[Ask]) -> list[Answer]:
        """Take all, or none."""
        taken: list[Answer] = []
        with ExitStack() as refused:
            for one in asks:
                taken.append(answer := self._take(one))
                refused.callback(self.backend.drop, answer)
            refused.pop_all()
        return taken

    def _take(self, one: Ask) -> Answer:
        if self.draining:
            msg = "the server is shutting down."
            raise RefusedError(msg, 503)
        return self.backend.take(one)

    async def _texts(self, request: Request, answers: list[Answer]) -> list[str]:
        """Texts of whole answers; dropped when the client has gone."""

        async def text(answer: Answer) -> str:
            found = pieces(answer, self.tokens, self.latencies)
            return "".join([piece.text async for piece in found])

        work = asyncio.gather(*(text(answer) for answer in answers))
        gone = asyncio.ensure_future(_disconnected(request))
        gone.add_done_callback(lambda _: work.cancel())
        try:
            return list(await work)
        except asyncio.CancelledError:
            if not gone.done() or gone.cancelled():
                raise
            raise ClientDisconnect from None
        finally:
            gone.cancel()
            work.cancel()
            for answer in answers:
                self.backend.drop(answer)

    async def _body(self, request: Request, kind: type) -> Any:
        data, parts = bytearray(), request.stream()
        try:
            while (part := await asyncio.wait_for(anext(parts, None), SILENT_S)) is not None:
                data += part
                if len(data) > MOST_BYTES:
                    msg = f"the body is longer than {MOST_BYTES // 2**20} MiB."
                    raise RefusedError(msg, 413)
        except TimeoutError:
            msg = f"the body did not go on for {SILENT_S:g} s."
            raise RefusedError(msg, 408) from None
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError) as error:
            why = "nested too deep" if isinstance(error, RecursionError) else str(error)[:120]
            msg = f"the body is no JSON: {why}."
            raise RefusedError(msg) from None
        body = read_body(kind, parsed)
        self.backend.check(fields_of(body, parsed))
        return body

    # ---- state ---------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        """``/v1/models``."""
        one = {
            "id": self.backend.model,
            "object": "model",
            "created": 0,
            "owned_by": "dflash-sim",
            "root": self.backend.model,
            "max_model_len": self.backend.context_length,
        }
        return JSONResponse({"object": "list", "data": [one]})

    async def health(self, request: Request) -> Response:
        """``/health``: 200, or 503 while the server shuts down."""
        return Response(status_code=503 if self.draining else 200)

    async def server_info(self, request: Request) -> Response:
        """``/get_server_info`` and ``/server_info``."""
        return JSONResponse(self.backend.info())

    async def model_info(self, request: Request) -> Response:
        """``/get_model_info`` and ``/model_info``."""
        name = self.backend.model
        return JSONResponse({"model_path": name, "tokenizer_path": name, "is_generation": True})

    async def metrics(self, request: Request) -> Response:
        """``/metrics``."""
        text = exposition(self.backend, self.latencies)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def flush_cache(self, request: Request) -> Response:
        """``/flush_cache``: 400 while requests run, as SGLang answers."""
        if self.backend.flush():
            return PlainTextResponse("Cache flushed.\n")
        return PlainTextResponse("Cache not flushed: requests are running.\n", status_code=400)

    def all(self) -> list[Route]:
        """Addresses and what answers them."""
        return [
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/generate", self.generate, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/health", self.health),
            Route("/health_generate", self.health),
            Route("/get_server_info", self.server_info),
            Route("/server_info", self.server_info),
            Route("/get_model_info", self.model_info),
            Route("/model_info", self.model_info),
            Route("/metrics", self.metrics),
            Route("/flush_cache", self.flush_cache, methods=["GET", "POST"]),
        ]


def application(routes: Routes, *, api_key: str | None = None) -> Starlette:
    """Return the ASGI application; its backend is to work as long as it runs."""
    return Starlette(
        routes=routes.all(),
        middleware=[Middleware(Key, key=api_key)] if api_key else [],
        exception_handlers={
            RefusedError: _refused,
            404: _plain("no such address; /v1/models lists what is served."),
            405: _plain("this address takes another method."),
            ClientDisconnect: _gone,
        },
    )


def _stream(events: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(events, media_type="text/event-stream")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(request: Request, error: Exception) -> Response:
    return _error(str(error), getattr(error, "status", 400))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


def _plain(message: str) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        return _error(message, getattr(error, "status_code", 400))

    return answer


def _error(message: str, status: int) -> JSONResponse:
    kind = {401: "AuthenticationError", 503: "ServiceUnavailable"}.get(status, "BadRequestError")
    error = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
    return JSONResponse({**error, "error": error}, status_code=status)
