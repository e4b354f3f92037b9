"""What reaches ``serve``: HTTP requests as bytes, with heads, chunks and bodies of any kind."""

import asyncio
import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h11
from in_process import Served
from trust.mutations import mutated
from trust.target import LONGEST, Target, WrongError

from dflash_sim.profiles.errors import UsageError
from dflash_sim.serve.twin import Twin
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

KEY = "sesame"
CODES = {200, 307, 400, 401, 404, 405, 413, 499, 503}
HEAD = b"Host: twin\r\nAuthorization: Bearer sesame\r\nContent-Type: application/json\r\n"
OPENAI = {"model": "qwen3-8b", "max_tokens": 9, "temperature": 0.5, "stream": True, "n": 1}
BODIES = {
    b"/v1/completions": (
        {**OPENAI, "prompt": "Why?", "stream_options": {"include_usage": True}},
        {"prompt": ["a", "b"], "max_tokens": 3, "best_of": 1, "logprobs": None, "stop": ["x"]},
        {"prompt": [[1, 2], [3]], "max_tokens": 5, "min_tokens": 2, "ignore_eos": True},
        {"prompt": [7] * 40, "max_tokens": 4, "echo": False, "seed": 1, "user": "me"},
    ),
    b"/v1/chat/completions": (
        {**OPENAI, "messages": [{"role": "user", "content": "Why?"}], "tools": []},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "n": None},
        {"messages": [{"role": "system", "content": None}], "max_completion_tokens": 7},
        {"messages": [{"role": "a", "content": ""}], "response_format": {"type": "text"}},
    ),
    b"/generate": (
        {"text": "Why?", "sampling_params": {"max_new_tokens": 8, "regex": None}, "stream": True},
        {"input_ids": [1, 2, 3], "sampling_params": {"ignore_eos": True, "min_new_tokens": 1}},
    ),
}
PATHS = (
    *(b"/v1/models", b"/health", b"/health_generate", b"/get_server_info", b"/metrics?name[]=x"),
    *(b"/flush_cache", b"/model_info", b"/v1/models/", b"/", b"*", b"/v1/%2e%2e/models", b"/%ff"),
)
SPOILT = (
    (b"\r\n", b"\r\nX-Long: " + b"x" * 20_000 + b"\r\n"),
    (b"HTTP/1.1", b"HTTP/1.0"),
    (b"POST", b"GET"),
    (b"POST", b"DELETE"),
    (b"GET", b"HEAD"),
    (b"Bearer sesame", b"Bearer \xc3\xa9"),
    (b"Bearer sesame", b"Basic c2VzYW1l"),
    (b"application/json", b"application/json; charset=utf-7"),
    (b"Host: twin", b"Host: [::1"),
    (b"Host: twin", b"Host: a\r\nHost: b"),
    (b"\r\n", b"\r\nExpect: 100-continue\r\n"),
    (b"\r\n", b"\r\nContent-Encoding: gzip\r\n"),
    (b"\r\n", b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"),
)


class Narrow(Twin):
    """A server with little context, so that no answer takes long."""

    context_length = 256


@cache
def server() -> Served:
    asked = {"gpu": "h200", "model": "qwen3-8b", "method": "dflash", "acceptance": "al:3"}
    served = Served(resolve(Scenario.parse(**asked, isl=64, osl=16)), api_key=KEY)
    served.twin.__class__ = Narrow
    return served


def call(draw: random.Random) -> bytes:
    """A request that is almost right."""
    path = draw.choice((*BODIES, *BODIES, *BODIES, draw.choice(PATHS)))
    if path not in BODIES:
        data = b"GET " + path + b" HTTP/1.1\r\n" + HEAD + b"\r\n"
        return _spoilt(mutated(data, [data], draw) if draw.random() < 0.5 else data, draw)
    seeds = [json.dumps(body).encode() for body in BODIES[path]]
    body = mutated(draw.choice(seeds), seeds, draw)
    first = b"POST " + path + b" HTTP/1.1\r\n" + HEAD
    if draw.random() < 0.2:
        at = draw.randint(0, len(body))
        parts = [part for part in (body[:at], body[at:]) if part]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        data = first + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        return mutated(data, [data], draw) if draw.random() < 0.2 else data
    data = first + b"Content-Length: %d\r\n\r\n" % len(body) + body
    return _spoilt(data, draw) if draw.random() < 0.1 else data


def _spoilt(data: bytes, draw: random.Random) -> bytes:
    return data.replace(*draw.choice(SPOILT), 1)


def parsed(data: bytes) -> tuple[dict[str, Any], list[bytes], bool]:
    """What uvicorn makes of bytes: a scope, the parts of a body, and whether it is whole."""
    reading = h11.Connection(h11.SERVER)
    reading.receive_data(data)
    reading.receive_data(b"")
    scope, parts, whole = dict[str, Any](), list[bytes](), False
    try:
        while not whole:
            match reading.next_event():
                case h11.Request() as head:
                    path, _, query = head.target.partition(b"?")
                    scope = {
                        "type": "http", "method": head.method.decode("ascii"), "raw_path": path,
                        "path": unquote(path.decode("ascii")), "query_string": query,
                        "headers": list(head.headers), "root_path": "", "scheme": "http",
                        "http_version": "1.1", "server": ("twin", 80), "client": ("me", 1),
                    }  # fmt: skip
                case h11.Data(data=part):
                    parts.append(bytes(part))
                case h11.EndOfMessage():
                    whole = True
                case _:
                    break
    except h11.RemoteProtocolError as error:
        if not scope:
            msg = "uvicorn refuses it"
            raise UsageError(msg) from error
    if not scope:
        msg = "nothing was asked"
        raise UsageError(msg)
    return scope, parts, whole


def answered(data: bytes, _: Path) -> object:
    """What the server answers, within what it promises; nothing of a request is left behind."""
    scope, parts, whole = parsed(data)
    served, said = server(), list[Any]()
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    end = {"type": "http.request", "body": b"", "more_body": False}
    waiting = [*messages, end if whole else {"type": "http.disconnect"}]

    async def receive() -> Any:
        if waiting:
            return waiting.pop(0)
        await asyncio.Future()
        return None

    async def send(message: Any) -> None:
        said.append(message)

    served.run(served.app(scope, receive, send))
    status = said[0]["status"]
    body = b"".join(message.get("body", b"") for message in said[1:])
    if status not in CODES or len(body) > 1 << 20:
        msg = f"status {status}, {len(body)} bytes: {body[:200]!r}"
        raise WrongError(msg)
    if served.twin.engine.calls or served.twin._calls:
        msg = f"{len(served.twin.engine.calls)} requests are left"
        raise WrongError(msg)
    if status not in (200, 307):
        _look(body, scope["method"])
    return body


def _look(body: bytes, method: str) -> None:
    """Refuse a refusal that is no line."""
    message = json.loads(body)["message"] if body.startswith(b"{") else body.decode()
    if len(message) > LONGEST or "\n" in message.rstrip() or "Traceback" in message:
        msg = f"it refuses with {message[:300]!r}"
        raise WrongError(msg)
    if not message and method != "HEAD" and b"Cache" not in body:
        return
    msg = "refused"
    raise UsageError(msg)


def asked() -> Iterator[Target]:
    """What ``serve`` is asked."""
    yield Target("requests", answered, call, 8)
