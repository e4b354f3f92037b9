"""``dflash-sim serve`` as a process, its metrics and memory, and streams that are read later."""

import asyncio
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

TWIN = ("--gpu", "h100", "--model", "qwen3-8b", "--method", "none", "--isl", "64", "--osl", "64")
PATIENCE_S = 60.0


class Server:
    """A server in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self.process, self.log = process, log
        found = self.wait(lambda: re.search(r"http://127\.0\.0\.1:(\d+)", self.said()))
        self.port = int(found[1])

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait(self, look: Callable[[], Any]) -> Any:
        until = time.monotonic() + PATIENCE_S
        while not (found := look()):
            assert time.monotonic() < until, self.said()
            time.sleep(0.01)
        return found

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with closing(connection):
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def metric(self, name: str) -> float:
        found = re.search(rf"^sglang:{name}{{[^}}]*}} (\S+)$", self.get("/metrics")[1], re.M)
        assert found, name
        return float(found[1])

    def ask(self, tokens: int, *, small: bool = False) -> socket.socket:
        """Ask for a stream; its answer is not read yet."""
        body = json.dumps(
            {"prompt": [7] * 64, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        )
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        connection = socket.socket()
        if small:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE_S)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(f"{head}Connection: close\r\n\r\n{body}".encode())
        return connection

    def rss_mib(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def taken(connection: socket.socket) -> None:
    """Wait until a request is taken: its answer begins."""
    assert connection.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL) == b"HTTP/1.1 200"


def rest(connection: socket.socket) -> str:
    """All that is still to come."""
    with connection:
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts).decode()


def tokens_in(answer: str) -> int:
    return sum(text.count("a") for text in re.findall(r'"text":"((?: a)*)"', answer))


@contextmanager
def serving(tmp_path: Path, *flags: str) -> Iterator[Server]:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "dflash_sim", "serve", *flags, "--port", "0"]
    with log.open("w") as out:
        process = subprocess.Popen(command, stderr=out, stdout=out, text=True)
    try:
        yield Server(process, log)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text(encoding="utf-8")


@dataclass
class Crowd:
    """What became of many clients.

    Parameters
    ----------
    asked, whole
        Streams that were opened, and those that brought every token and an end.
    lost
        Why a stream did not come to its end.
    rss_mib
        Memory of the server, every half second.
    """

    asked: int = 0
    whole: int = 0
    lost: list[str] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)


def crowd(server: Server, streams: int, *, seconds: float, tokens: int) -> Crowd:
    """Keep so many streams open for so long; each is read to its end."""
    found = Crowd()
    body = {"prompt": [7] * 256, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    until = time.monotonic() + seconds

    async def one(client: httpx.AsyncClient, number: int) -> None:
        while time.monotonic() < until:
            found.asked += 1
            mine = {**body, "prompt": [number, found.asked % 30000, *([7] * 254)]}
            path = f"http://127.0.0.1:{server.port}/v1/completions"
            try:
                async with client.stream("POST", path, json=mine) as answer:
                    text = (await answer.aread()).decode()
            except httpx.HTTPError as error:
                why = repr(error.__context__ or error)
                found.lost.append(f"{time.monotonic() - until + seconds:.1f} s: {why}")
                continue
            found.whole += tokens_in(text) == tokens and text.endswith("[DONE]\n\n")

    async def look() -> None:
        while time.monotonic() < until:
            await asyncio.sleep(0.5)
            found.rss_mib.append(server.rss_mib())
            found.running.append(await asyncio.to_thread(server.metric, "num_running_reqs"))

    async def all_of_them() -> None:
        # Of connections that it keeps httpx closes one in use, when the loop has stood still for
        # longer than they are kept.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(limits=limits, timeout=PATIENCE_S, trust_env=False) as client:
            await asyncio.gather(look(), *(one(client, i) for i in range(streams)))

    asyncio.run(all_of_them())
    return found
