"""Programs in a session of their own: all their processes are known, and what they say is kept."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Timer

PATIENCE_S = 60.0


class Program:
    """A Python program in a session of its own, so that all its processes are known."""

    def __init__(
        self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=cwd,
            env=None if env is None else {**os.environ, **env},
        )

    def processes(self) -> set[int]:
        """Living processes of the session."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process.pid and state != "Z":
                    found.add(int(path.parent.name))
        return found

    def heard(self, word: str, times: int = 1) -> None:
        """Wait until the program has said a word; one that does not is ended."""
        assert self.process.stdout is not None
        limit = Timer(PATIENCE_S, self.kill)
        limit.start()
        try:
            for line in self.process.stdout:
                times -= line.strip() == word
                if not times:
                    return
        finally:
            limit.cancel()
        raise AssertionError(self.end())

    def left(self, patience_s: float) -> set[int]:
        """Processes that are still there when everything has had time to end."""
        end_s = time.monotonic() + patience_s
        while self.processes() and time.monotonic() < end_s:
            time.sleep(0.01)
        return self.processes()

    def end(self) -> str:
        """Kill whatever is left; return what was said on stderr."""
        self.kill()
        return self.process.communicate()[1]

    def kill(self) -> None:
        """Kill whatever is left."""
        for pid in self.processes():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)
