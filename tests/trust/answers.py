"""What a server answers to ``calibrate live``: bytes of HTTP, whole or broken off."""

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpcore
import httpx
from in_process import Clock, Loop
from trust.mutations import mutated
from trust.target import Target, check

from dflash_sim.calibrate.live import experiment
from dflash_sim.calibrate.live.client import Client
from dflash_sim.calibrate.live.experiment import Cell, measure
from dflash_sim.calibrate.live.target import accept_length, busy, look, scrape
from dflash_sim.calibrate.live.window import window
from dflash_sim.calibrate.readers.sglang_metrics import Snapshot
from dflash_sim.studies.live.kept import Kept

BETWEEN = b"\x1e\x1d"
CELL = Cell(1, 8, 8)
MODELS = {"data": [{"id": "qwen3-8b", "max_model_len": 40960, "object": "model"}], "object": "list"}
INFO = {
    "model_path": "Qwen/Qwen3-8B", "tp_size": 1, "speculative_algorithm": "DFLASH", "page_size": 1,
    "speculative_num_draft_tokens": 16, "version": "0.5.14", "simulated_speed": 1,
    "disable_overlap_schedule": False, "internal_states": [{"avg_spec_accept_length": 3.5}],
}  # fmt: skip
METRICS = b"""# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="qwen3-8b"} 0.0
sglang:num_queue_reqs{model_name="qwen3-8b"} 0.0
sglang:generation_tokens_total{model_name="qwen3-8b"} %(tokens)d
sglang:prompt_tokens_total{model_name="qwen3-8b"} %(tokens)d
sglang:num_requests_total{model_name="qwen3-8b"} %(done)d
sglang:spec_verify_calls_total{model_name="qwen3-8b"} %(done)d
sglang:e2e_request_latency_seconds_sum{model_name="qwen3-8b"} %(done)d.5
sglang:e2e_request_latency_seconds_count{model_name="qwen3-8b"} %(done)d
"""
EVENTS = (
    b'data: {"choices": [{"index": 0, "text": " a a a a"}], "usage": null}\n\n'
    b'data: {"choices": [{"index": 0, "text": " a a a a"}]}\n\n'
    b'data: {"choices": [], "usage": {"completion_tokens": 8, "prompt_tokens": 8}}\n\n'
    b"data: [DONE]\n\n"
)
KINDS = (b"application/json", b"text/event-stream", b"text/plain; charset=hex", b"\xff", b"a; b=")
SPOILT = (
    (b"200 OK", b"204 No Content"),
    (b"200 OK", b"302 Found\r\nLocation: http://elsewhere.example/"),
    (b"200 OK", b"500 Oh"),
    (b"200 OK", b"401 No"),
    (b"200 OK", b"100 Continue\r\n\r\nHTTP/1.1 200 OK"),
    (b"200 OK", b"999999999999 \x1b[31m"),
    (b"Content-Length: ", b"Content-Length: 9"),
    (b"Content-Length: ", b"Content-Length: -"),
    (b"Content-Type", b"Content-Encoding: gzip\r\nContent-Type"),
    (b"Content-Type", b"Set-Cookie: a=\xff; expires=never\r\nContent-Type"),
    (b"Content-Type", b"Transfer-Encoding: chunked\r\nContent-Type"),
    (b"HTTP/1.1", b"HTTP/9.9"),
    (b"\r\n", b"\r\nX-Long: " + b"x" * 200_000 + b"\r\n"),
)


def seeds() -> tuple[bytes, ...]:
    """Bodies at the addresses that are looked at, in the order of :data:`PLACES`."""
    before, after = ({b"tokens": 8 * n, b"done": n} for n in (10, 12))
    info, models = (json.dumps(found).encode() for found in (INFO, MODELS))
    return models, info, METRICS % before, METRICS % after, EVENTS


def spoken(draw: random.Random) -> bytes:
    """Answers of a server, one or two of them not as they should be."""
    bodies = list(seeds())
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.randrange(len(bodies))
        bodies[at] = mutated(bodies[at], seeds(), draw)
    answers = [_answer(body, draw) for body in bodies]
    if draw.random() < 0.25:
        at = draw.randrange(len(answers))
        answers[at] = draw.choice((_cut, _changed, _mutated))(answers[at], draw)
    return BETWEEN.join(answers)


def _answer(body: bytes, draw: random.Random) -> bytes:
    kind = draw.choice(KINDS) if draw.random() < 0.1 else KINDS[0]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\n"
    if draw.random() < 0.3:
        step = draw.choice((1, 7, 100))
        parts = [body[i : i + step] for i in range(0, min(len(body), 9000), step)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randint(0, len(data))]


def _changed(data: bytes, draw: random.Random) -> bytes:
    return data.replace(*draw.choice(SPOILT), 1)


def _mutated(data: bytes, draw: random.Random) -> bytes:
    return mutated(data, seeds(), draw)


class Line(httpcore.AsyncNetworkStream):
    """A connection on which the answer to what is asked is there in pieces, and then it is shut."""

    def __init__(self, heard: "Backend") -> None:
        self.heard, self.asked, self.rest = heard, b"", b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not self.asked:
            self.rest = self.heard.answer(buffer)
        self.asked += buffer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        await asyncio.sleep(0.001)
        self.asked = b""
        piece, self.rest = self.rest[:4000], self.rest[4000:]
        return piece

    async def aclose(self) -> None:
        pass

    async def start_tls(self, *_: Any, **__: Any) -> "Line":
        return self

    def get_extra_info(self, info: str) -> Any:
        return False if info == "is_readable" else None


class Backend(httpcore.AsyncNetworkBackend):
    """A network on which there is one server, whose metrics have moved when it was asked."""

    def __init__(self, data: bytes) -> None:
        self.parts = (*data.split(BETWEEN), *[b""] * 5)
        self.answers = 0

    async def connect_tcp(self, *_: Any, **__: Any) -> Line:
        return Line(self)

    def answer(self, asked: bytes) -> bytes:
        models, info, before, after, events = self.parts[:5]
        path = asked.split(b" ", 2)[1] if asked.count(b" ") > 1 else b""
        self.answers += path == b"/v1/completions"
        metrics = after if self.answers > 2 else before
        found = {b"/v1/models": models, b"/get_server_info": info, b"/metrics": metrics}
        missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        return found.get(path, events if path == b"/v1/completions" else missing)


class Transport(httpx.AsyncHTTPTransport):
    """httpx over such a network."""

    def __init__(self, data: bytes) -> None:
        self._pool = httpcore.AsyncConnectionPool(network_backend=Backend(data))


def listened(data: bytes, folder: Path) -> object:
    """Look at a server, measure a cell of it, and keep the row; its numbers mean something."""
    clock = Clock()
    loop = Loop(clock)

    async def ask() -> tuple[dict[str, Any], Snapshot | None, Snapshot | None]:
        client = Client("http://server", transport=Transport(data), clock=clock)
        async with client:
            target = await look(client)
            check("accept length", await accept_length(client) or 1.0, 1.0, 1024.0)
            before = await scrape(client) if target.counts else None
            check("requests", busy(before) if before else 0, 0, 1e13)
            row = await measure(client, target, CELL, seed=0)
            return row, before, await scrape(client) if target.counts else None

    try:
        with patch.object(experiment, "ENOUGH_TOKENS", 8), patch.object(experiment, "TURNS", 2):
            row, before, after = loop.run_until_complete(ask())
    finally:
        loop.close()
    _checked(row)
    if before is not None and after is not None and (found := window(before, after, 10.0)):
        _checked(found[0])
        _checked(found[1])
    path = folder / "rows.jsonl"
    path.unlink(missing_ok=True)
    Kept(path, {}).add(row)
    return Kept(path, {}).cells


def _checked(row: dict[str, Any]) -> None:
    for name, value in row.items():
        if not isinstance(value, str):
            check(name, value, 0.0, 1e18)


def kept(data: bytes, folder: Path) -> object:
    (folder / "rows.jsonl").write_bytes(data)
    return [str(cell) for cell in Kept(folder / "rows.jsonl", {}).cells]


def told() -> Iterator[Target]:
    """What a server answers, and rows that are gone on with."""
    yield Target("answers of a server", listened, spoken, 1)
    row = {"max_concurrency": 4, "random_input_len": 256, "random_output_len": 128, "tag": "x"}
    rows = b"".join(json.dumps({**row, "duration": s}).encode() + b"\n" for s in (1.5, 2))
    yield Target("measured rows", kept, lambda draw: mutated(rows, [rows], draw), 6)
