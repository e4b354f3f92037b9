"""A checkpoint's chat template: where it lies, and the process that renders it."""

import json
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from threading import Lock, Timer
from typing import Any

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.ways_in import MIB, UnreadableError, json_object, read_text
from dflash_sim.serve.backend import RefusedError

RENDERING_S = 10.0  # of one conversation, and of the start of the process
FILE, CONFIG = "chat_template.jinja", "tokenizer_config.json"


class Template:
    """A chat template, rendered in a process of its own that is ended when it takes too long.

    Parameters
    ----------
    text
        In Jinja's language.
    tokens
        The tokenizer's own, by the names that a template has for them: ``bos_token`` and so on.
    """

    def __init__(self, text: str, tokens: Mapping[str, str]) -> None:
        self._first = {"template": text, "tokens": dict(tokens)}
        self._lock = Lock()
        self._process: subprocess.Popen[str] | None = None
        self._end: Any = None

    def render(self, given: Mapping[str, Any]) -> str:
        """The text that is to be continued.

        Raises
        ------
        RefusedError
            The template refuses this conversation, or does not come to an end.
        """
        with self._lock:
            began = time.monotonic()
            try:
                if self._process is None or self._process.poll() is not None:
                    self._start()
                    self._ask(self._first)
                return self._ask(given)
            except OSError:
                self.close()
                msg = f"messages: the chat template does not end within {RENDERING_S:g} s."
                if time.monotonic() - began < RENDERING_S:
                    msg = "messages: the process that renders chat templates ended by itself."
                raise RefusedError(msg) from None

    def _start(self) -> None:
        self.close()
        command = [sys.executable, "-m", "dflash_sim.serve.render"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the server, which first ends what runs
        )
        self._end = weakref.finalize(self, _end, self._process)

    def _ask(self, given: Mapping[str, Any]) -> str:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        limit = Timer(RENDERING_S, process.kill)
        limit.start()
        try:
            process.stdin.write(f"{json.dumps(given)}\n")
            process.stdin.flush()
            line = process.stdout.readline()
        finally:
            limit.cancel()
        if not line:
            raise BrokenPipeError
        answer: dict[str, str] = json.loads(line)
        if "error" in answer:
            if given is self._first:
                self.close()
            msg = f"messages: the model's chat template does not take them: {answer['error']}."
            raise RefusedError(msg)
        return answer["text"]

    def close(self) -> None:
        """End the process; the next conversation starts one anew."""
        if self._end is not None:
            self._end()
        self._process = self._end = None


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def read_template(folder: Path) -> Template | None:
    """Return the chat template of a checkpoint, as transformers finds it; None if it has none.

    Raises
    ------
    UsageError
        It cannot be read, or the package `jinja2` is not installed.
    """
    config = json_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    text: Any = config.get("chat_template")
    if isinstance(text, list):
        named = {one.get("name"): one.get("template") for one in text if isinstance(one, dict)}
        text = named.get("default")
    if (folder / FILE).is_file():
        try:
            text = read_text(folder / FILE, most=MIB)
        except UnreadableError as error:
            msg = f"{folder / FILE}: {error}."
            raise UsageError(msg) from None
    if not isinstance(text, str):
        return None
    if find_spec("jinja2") is None:
        msg = f'{folder}: its chat template needs jinja2: pip install "dflash-sim[serve]".'
        raise UsageError(msg)
    tokens = {name: _content(value) for name, value in config.items() if name.endswith("_token")}
    return Template(text, {name: said for name, said in tokens.items() if said is not None})


def _content(token: object) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None
