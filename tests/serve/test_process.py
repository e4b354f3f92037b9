"""The server as a process: drained, killed, read slowly, left by its clients."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
httpx = pytest.importorskip("httpx")

from served_process import (  # noqa: E402
    PATIENCE_S,
    TWIN,
    Server,
    crowd,
    rest,
    serving,
    taken,
    tokens_in,
)


def test_what_runs_is_ended_and_nothing_more_is_taken(tmp_path: Path) -> None:
    with serving(tmp_path, *TWIN) as server:
        streams = [server.ask(500) for _ in range(4)]  # about four seconds
        for stream in streams:
            taken(stream)
        server.process.send_signal(signal.SIGTERM)
        server.wait(lambda: refused(server))
        answers = [rest(stream) for stream in streams]
        assert server.process.wait(PATIENCE_S) == -signal.SIGTERM
    for answer in answers:
        assert tokens_in(answer) == 500
        assert "[DONE]" in answer


def refused(server: Server) -> bool:
    try:
        return server.get("/health")[0] == 503
    except OSError:
        return True


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, *TWIN) as server:
        stream = server.ask(20_000)
        server.wait(lambda: server.metric("num_running_reqs") == 1)
        server.process.send_signal(signal.SIGINT)
        server.wait(lambda: refused(server))
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(PATIENCE_S) in (130, -signal.SIGINT)
        assert tokens_in(rest(stream)) < 20_000


@pytest.mark.slow
def test_a_slow_reader_holds_nobody_up_and_loses_nothing(tmp_path: Path) -> None:
    many = 30_000  # some five megabytes, more than sockets hold
    with serving(tmp_path, *TWIN, "--speed", "200") as server:
        slow = server.ask(many, small=True)
        server.wait(lambda: server.metric("num_requests_total") == 1)  # computed, and not read
        before = server.rss_mib()
        for _ in range(5):
            assert tokens_in(rest(server.ask(40))) == 40
        assert server.rss_mib() - before < 20
        assert server.metric("num_running_reqs") == 0
        assert tokens_in(rest(slow)) == many


def test_clients_that_are_killed_leave_the_batch(tmp_path: Path) -> None:
    with serving(tmp_path, *TWIN) as server:
        streams = [server.ask(30_000) for _ in range(6)]
        kept = server.ask(300)
        for stream in (*streams, kept):
            taken(stream)
        server.wait(lambda: server.metric("num_running_reqs") >= 6)
        for stream in streams:  # as the kernel does for a process that is killed
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            stream.close()
        server.wait(lambda: server.metric("num_aborted_requests_total") == 6)
        assert tokens_in(rest(kept)) == 300
        server.wait(lambda: server.metric("num_running_reqs") == 0)
        assert server.get("/flush_cache")[0] == 200


def test_a_disk_that_is_full_takes_its_words_and_not_its_answers(tmp_path: Path) -> None:
    ours = socket.socket()  # bound for as long as the test, so that nobody else is given the port
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    ours.bind(("127.0.0.1", 0))
    port = ours.getsockname()[1]
    command = [sys.executable, "-m", "dflash_sim", "serve", *TWIN, "--port", str(port)]
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(command, stderr=full, stdout=full)
    try:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                address = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
                with closing(address) as connection:
                    connection.request("GET", "/v1/models")
                    with connection.getresponse() as answer:
                        assert answer.status == 200
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
        ours.close()


def children(pid: int) -> list[int]:
    task = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in task.read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_real_server_leaves_no_worker(how: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    with serving(tmp_path, "--real") as server:
        stream = server.ask(900)
        taken(stream)
        workers = children(server.process.pid)
        assert workers
        server.process.send_signal(how)
        server.process.wait(PATIENCE_S)
        server.wait(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in workers))
        stream.close()


@pytest.mark.slow
def test_the_example_of_the_readme_answers(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    printed = r"&& dflash-sim serve (.*)\n(curl http://127.0.0.1:30000\S+) -d '(.*)'"
    command = re.search(printed, readme)
    assert command
    with serving(tmp_path, *command[1].split()) as server:
        path = command[2].partition(":30000")[2]
        answer = httpx.post(
            f"http://127.0.0.1:{server.port}{path}", content=command[3], trust_env=False
        ).json()
        assert answer["usage"]["completion_tokens"] == json.loads(command[3])["max_tokens"]


CROWD = ("--gpu", "b200", "--model", "qwen3-8b", "--num-gpus", "1", "--method", "dflash",
         "--acceptance", "al:4", "--isl", "256", "--osl", "800", "--stream-interval", "100",
         "--max-running-requests", "200")  # fmt: skip


@pytest.mark.slow
def test_of_two_hundred_streams_none_is_lost(tmp_path: Path) -> None:
    with serving(tmp_path, *CROWD) as server:
        crowd(server, 200, seconds=3, tokens=800)  # what it holds for so many
        before, begun = server.rss_mib(), server.metric("num_requests_total")
        found = crowd(server, 200, seconds=6, tokens=800)
        assert found.whole == found.asked >= 200
        assert max(found.running) > 10
        assert server.metric("num_requests_total") - begun == found.asked
        assert server.metric("num_running_reqs") == server.metric("num_queue_reqs") == 0
        assert found.rss_mib[-1] - before < 100
