"""The server lets in whoever has the token, says when its port is taken, and loads nothing."""

import http.client
import re
import socket
import subprocess
import sys
from contextlib import closing
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from dflash_sim.cli import run
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import ENV
from dflash_sim.ui.desk import Desk

pytest.importorskip("dash", reason="no dash: pip install .[ui]")
from dflash_sim.ui import server
from dflash_sim.ui.server import HOST, PORT, address, application, bound, colours, new_token


class Answer(NamedTuple):
    """What a server says."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def asked(url: str, path: str, **headers: str) -> Answer:
    place = urlsplit(url)
    with closing(http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)) as line:
        line.request("GET", path, headers=headers)
        answer = line.getresponse()
        return Answer(answer.status, answer.headers, answer.read())


def cookie(url: str) -> str:
    place = urlsplit(url)
    answer = asked(url, f"{place.path}?{place.query}&conc=4")
    assert answer.status == 302
    assert answer.headers["Location"] == "/?conc=4"  # an address to be passed on has no token
    said = answer.headers["Set-Cookie"]
    assert "HttpOnly" in said
    assert "SameSite=Strict" in said
    return said.partition(";")[0]


class TestToken:
    @pytest.mark.parametrize("path", ["/", "/_dash-layout", "/assets/page.js", "/?token=guess"])
    def test_a_stranger_is_turned_away(self, served: str, path: str) -> None:
        answer = asked(served, path)
        assert answer.status == 403
        assert b"the address that dflash-sim ui printed" in answer.body

    @pytest.mark.parametrize("path", ["/", "/_dash-layout", "/assets/page.js"])
    def test_whoever_has_it_comes_in(self, served: str, path: str) -> None:
        answer = asked(served, path, Cookie=cookie(served))
        assert answer.status == 200
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]

    def test_another_name_of_this_machine_is_no_way_in(self, served: str) -> None:
        headers = {"Cookie": cookie(served), "Host": "evil.example:80"}
        assert asked(served, "/", **headers).status == 403

    def test_tokens_differ(self) -> None:
        assert new_token() != new_token()
        assert len(new_token()) >= 20


def test_the_page_asks_nobody_else(served: str) -> None:
    page = asked(served, "/", Cookie=cookie(served)).body.decode()
    outside = re.findall(r"(?:src|href)=\"?(?:https?:)?//[^\"' >]+", page)
    assert outside == []
    assert "--series-1" in page


def test_a_short_answer_is_drawn_whatever_look_is_out() -> None:
    """Dash has a callback wait for every one that is out and sets an input of it."""
    app = application(Desk(), "t")
    inputs = [
        [each["id"] for each in call["inputs"]]
        for call in app._callback_list
        if call["output"].startswith("drawn.data")
    ]
    assert sorted(inputs) == [["short"], ["whole"]]


class TestPort:
    def test_one_that_is_in_use_is_said(self) -> None:
        with closing(socket.socket()) as taken:
            taken.bind((HOST, 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(UsageError, match=f"--port {port} is in use"):
                bound(application(Desk(), "t"), port)

    def test_without_one_there_is_always_a_free_one(self) -> None:
        first = bound(application(Desk(), "t"), None)
        second = bound(application(Desk(), "t"), None)
        assert first.server_port != second.server_port
        assert PORT not in (second.server_port,)
        assert address(second, "t", "?conc=4").endswith(f":{second.server_port}/?token=t&conc=4")
        first.server_close()
        second.server_close()

    @pytest.mark.parametrize("port", [-1, 65536])
    def test_one_that_there_is_not(self, port: int) -> None:
        with pytest.raises(UsageError, match=f"--port {port}: a port is"):
            bound(application(Desk(), "t"), port)


def test_only_colours_are_taken_from_the_stylesheet() -> None:
    assert colours("/* a */\n:root { --x: 1 }\n\n* { box-sizing: y }") == ":root { --x: 1 }\n\n"


def test_without_dash_the_command_says_what_to_type() -> None:
    code = (
        "import sys, importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'dash' else real(name, *a)\n"
        "from dflash_sim.cli import run; sys.exit(run(['ui', '--no-browser']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "ui needs dash: pip install " in done.stderr
    assert "[ui]" in done.stderr or "'dash<" in done.stderr  # from a checkout, or from a wheel


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("--model nosuch", 2, "unknown model 'nosuch'"),
        ("--gpu b20", 2, "unknown GPU 'b20'"),
        ("--model qwen3-8b", 0, ""),
        ("--model glm-5 --gpu b200 --tp 8 --method none", 0, ""),  # too large: the page says so
    ],
)
def test_a_name_that_is_none_is_refused_before_the_page_opens(
    line: str,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened: list[str] = []
    monkeypatch.setenv(ENV, "")  # which the command sets
    monkeypatch.setattr(server, "serve", lambda first, **_: opened.append(first))
    assert run(["ui", "--no-browser", *line.split()]) == code
    assert len(opened) == (code == 0)
    assert said in capsys.readouterr().err
