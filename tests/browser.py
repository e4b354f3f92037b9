"""Headless Chromium, driven over the pipe of its DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import deque
from pathlib import Path
from select import select
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
)
PIPE = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1'  # it reads from 3 and answers on 4
PATIENCE_S = 30.0


def find_chromium() -> str | None:
    """Path of a Chromium; the environment variable CHROMIUM may name one."""
    names = (os.environ.get("CHROMIUM", ""), *NAMES)
    return next((path for name in names if name and (path := shutil.which(name))), None)


class Browser:
    """One page of a Chromium that runs until the end of a ``with`` block.

    Of what was opened last, ``complaints`` holds the errors and warnings of the console, uncaught
    exceptions and violations of the page's policy; ``requests`` every address it asked for.
    """

    def __init__(self, program: str) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        profile = f"--user-data-dir={self._folder.name}"
        self._process = subprocess.Popen(
            ["sh", "-c", PIPE, "sh", program, *FLAGS, profile],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._messages: deque[dict[str, Any]] = deque()
        self._unread = b""
        self._sent = 0
        self._events: set[str] = set()
        self._session: dict[str, str] = {}

    def __enter__(self) -> "Browser":
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # which closes its pipes: a process that it began may hold them too
            self._process.kill()
        self._folder.cleanup()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command; what happens meanwhile is noted."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params, **self._session}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._sent:
            self._note(answer)
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, path: Path, *, scheme: str = "light", width: int = 1100) -> None:
        """Load a file as a reader sees it who prefers ``scheme``, and wait until it is drawn."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.prefer(scheme)
        self._events.clear()
        self.complaints.clear()
        self.requests.clear()
        self.ask("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._note(self._next())
        self.wait_for("document.documentElement.dataset.drawn !== undefined")

    def prefer(self, scheme: str) -> None:
        """Change the reader's preference."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=features)

    def value(self, expression: str) -> Any:
        """Value of a JavaScript expression; a promise is waited for."""
        answer = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript condition holds."""
        until = time.monotonic() + PATIENCE_S
        while not self.value(condition):
            assert time.monotonic() < until, f"never: {condition}"
            time.sleep(0.05)

    def screenshot(self, path: Path) -> None:
        """The whole page, as PNG."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        """The page on A4."""
        size = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True}
        printed = self.ask("Page.printToPDF", printBackground=False, **size)
        path.write_bytes(base64.b64decode(printed["data"]))

    def _next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while not self._messages:
            ready, _, _ = select([self._process.stdout], [], [], PATIENCE_S)
            chunk = os.read(self._process.stdout.fileno(), 1 << 20) if ready else b""
            assert chunk, "Chromium stopped answering"
            *whole, self._unread = (self._unread + chunk).split(b"\0")
            self._messages.extend(json.loads(message) for message in whole)
        return self._messages.popleft()

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method", ""), event.get("params", {})
        self._events.add(method)
        if method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"]["exception"]["description"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str([a.get("value") for a in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            self.requests += [] if url.startswith("data:") else [url]  # that is no request
