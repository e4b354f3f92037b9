"""A client of OpenAI's API that times what it is sent, as SGLang's ``bench_serving`` does."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx

from dflash_sim.calibrate.observations.values import short
from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.profiles.ways_in import MIB, UnreadableError, parse_json

_CONNECT_S, _SILENT_S = 5.0, 120.0  # a server that says nothing for so long is given up
_SAID = 160  # characters of an answer that a message shows
_LARGEST, _LONGEST = 16 * MIB, MIB  # bytes of a page, and of an event of a stream
_MOST_TOKENS, _LAST_PORT = 2**31, 65535


class ServerError(DflashSimError):
    """A server that cannot be measured, or that broke off; what was measured is kept."""


@dataclass(frozen=True)
class Timed:
    """One answer.

    Parameters
    ----------
    sent_s, first_s, end_s
        When it was asked for, and when its first and last tokens came, by the client's clock.
    gaps_s
        Times between two pieces.
    prompt_tokens, tokens
        As the server counts them.
    """

    sent_s: float
    first_s: float
    end_s: float
    gaps_s: tuple[float, ...]
    prompt_tokens: int
    tokens: int

    @property
    def tpot_s(self) -> float:
        """Time per token after the first."""
        return (self.end_s - self.first_s) / max(1, self.tokens - 1)


class Client:
    """Asks one server; use it as an asynchronous context.

    Parameters
    ----------
    url
        Of the server, with or without ``/v1``.
    transport
        What carries requests; None is the network.
    clock
        What times them [s].

    Raises
    ------
    UsageError
        The address is none.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        try:
            found = httpx.URL(base)
        except httpx.InvalidURL:
            found = httpx.URL("")
        known = found.scheme in ("http", "https") and found.host
        if not known or not 0 < (found.port or 80) <= _LAST_PORT:
            msg = f"--url {url}: no address of a server; give one such as http://127.0.0.1:30000."
            raise UsageError(msg)
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            msg = "--api-key: it has letters that no HTTP header carries; copy it again."
            raise UsageError(msg)
        self.url, self.clock = base, clock
        self._http = httpx.AsyncClient(
            base_url=base,
            headers={"Accept-Encoding": "identity"}
            | ({"Authorization": f"Bearer {api_key}"} if api_key else {}),
            transport=transport,
            timeout=httpx.Timeout(_CONNECT_S, read=_SILENT_S),
            # None is kept, as bench_serving keeps none: a server may close an idle one as a request
            # goes out on it, and after a halt httpx itself closes one that it has just handed out.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,  # through a proxy, times are those of the proxy
        )

    async def __aenter__(self) -> "Client":
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._http.__aexit__(*error)

    async def get(self, path: str) -> str | None:
        """The text at an address; None if the server has none there.

        Raises
        ------
        ServerError
            It cannot be reached, asks for a key, or goes on and on.
        """
        with _naming(self.url):
            async with asyncio.timeout(_SILENT_S), self._http.stream("GET", path) as answer:
                self._check_key(answer)
                if answer.status_code != httpx.codes.OK:
                    return None
                return await self._text(answer)

    async def get_json(self, path: str) -> Any:
        """The same as parsed JSON; None also if it is none."""
        text = await self.get(path)
        try:
            return None if text is None else parse_json(text)
        except UnreadableError:
            return None

    async def answer(self, model: str, prompt: Sequence[int], tokens: int) -> Timed:
        """Ask for an answer of so many tokens, and time it.

        Raises
        ------
        ServerError
            It was refused, broke off, or is of another length.
        """
        body = {
            "model": model,
            "prompt": list(prompt),
            "max_tokens": tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        sent = self.clock()
        times: list[float] = []
        usage: dict[str, Any] = {}
        async with self._asked("/v1/completions", body) as events:
            async for event in events:
                now = self.clock()
                if _says_text(event.get("choices")):
                    times.append(now)
                if isinstance(told := event.get("usage"), dict):
                    usage = told
        told, inward = usage.get("completion_tokens"), usage.get("prompt_tokens") or len(prompt)
        if not times or told is None:
            msg = f"{self.url} streamed no {'usage' if times else 'tokens'}: it cannot be timed."
            raise ServerError(msg)
        if told != tokens:
            msg = (
                f"{self.url} answered {short(told)} tokens where {tokens} were asked for: it takes "
                "no ignore_eos, without which lengths are not ours to choose."
            )
            raise ServerError(msg)
        if type(inward) is not int or not 0 < inward <= _MOST_TOKENS:
            msg = f"{self.url} counts {short(inward)} tokens in a prompt of {len(prompt)}."
            raise ServerError(msg)
        gaps = tuple(b - a for a, b in pairwise(times))
        return Timed(sent, times[0], times[-1], gaps, inward, tokens)

    @asynccontextmanager
    async def _asked(self, path: str, body: Any) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        with _naming(self.url):
            async with self._http.stream("POST", path, json=body) as answer:
                self._check_key(answer)
                if answer.status_code != httpx.codes.OK:
                    said = _message(await self._text(answer))
                    msg = f"{self.url}{path} answers {answer.status_code}: {said}"
                    raise ServerError(msg)
                yield self._events(answer)

    async def _text(self, answer: httpx.Response) -> str:
        data = bytearray()
        async for part in answer.aiter_bytes():
            data += part
            if len(data) > _LARGEST:
                msg = f"{self.url} answers with more than {_LARGEST // MIB} MiB; it is not read."
                raise ServerError(msg)
        return data.decode("utf-8", "replace")

    async def _events(self, answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
        async for line in self._lines(answer):
            data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
            if not data or data == "[DONE]":
                continue
            try:
                event = parse_json(data)
            except UnreadableError:
                msg = f"{self.url} streams what is no JSON: {data[:_SAID]}"
                raise ServerError(msg) from None
            if not isinstance(event, dict) or event.get("error"):
                msg = f"{self.url} broke off: {_message(data)}"
                raise ServerError(msg)
            yield event

    async def _lines(self, answer: httpx.Response) -> AsyncIterator[str]:
        rest = b""
        async for part in answer.aiter_bytes():
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", "replace")
            if len(rest) > _LONGEST:
                msg = f"{self.url} streams a line of more than {_LONGEST // MIB} MiB."
                raise ServerError(msg)
        yield rest.decode("utf-8", "replace")

    def _check_key(self, answer: httpx.Response) -> None:
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            msg = f"{self.url} asks for a key, or for another one: give --api-key KEY."
            raise ServerError(msg)


def _says_text(choices: object) -> bool:
    found = choices if isinstance(choices, list) else ()
    return any(isinstance(choice, dict) and choice.get("text") for choice in found)


def _message(text: str) -> str:
    """What an error says, in one line."""
    try:
        body = parse_json(text)
        inner = body.get("error", body)
        said = inner["message"] if isinstance(inner, dict) else inner
        said = said if isinstance(said, str) else short(said)
    except (UnreadableError, KeyError, AttributeError):
        said = text
    return " ".join(said.split())[:_SAID]


@contextmanager
def _naming(url: str) -> Iterator[None]:
    """What goes wrong on the way is told in a line, with the address."""
    try:
        yield
    except TimeoutError:
        msg = f"{url} does not come to an end within {_SILENT_S:g} s."
        raise ServerError(msg) from None
    except (httpx.HTTPError, UnicodeError) as error:  # UnicodeError: a name that no host can have
        why = " ".join(str(error).split()) or type(error).__name__
        msg = f"{url} cannot be reached, or broke off: {why[:_SAID]}."
        raise ServerError(msg) from None
