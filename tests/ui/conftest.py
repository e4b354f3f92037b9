"""A page that is served, and a browser to look at it with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Thread
from typing import Any

import pytest

from dflash_sim.jobs.crew import Alone
from dflash_sim.ui.answer import SHORT, WHOLE, Answer, Reasons
from dflash_sim.ui.desk import WHY, Desk, Found, Task, done
from dflash_sim.ui.hand import Hand

TOKEN = "secret-of-this-test"
RUNGS = (
    {"name": "plain decoding", "speed_tok_s": 100.0, "factor": 1.0, "why": "a token a step"},
    {"name": "acceptance", "speed_tok_s": 400.0, "factor": 4.0, "why": "4 tokens a step"},
)


class Quick(Hand):
    """Answers with short runs and says that they were whole: the page is tried, not the answers."""

    def __init__(self) -> None:
        super().__init__(Alone)

    def do(self, _work: Callable[..., Any], *arguments: Any) -> Found:
        task: Task = arguments[0]
        if task.quality == WHY:
            return Reasons("a title", RUNGS)
        found = done(replace(task, quality=SHORT))
        if task.quality == SHORT or not isinstance(found, Answer):
            return found
        tok_s = found.row["output_throughput"]
        row = {**found.row, "output_throughput_ci90": [0.9 * tok_s, 1.1 * tok_s]}
        return replace(found, quality=WHOLE, row=row)


@contextmanager
def page(desk: Desk) -> Iterator[str]:
    """Serve a page whose answers are from a desk; the address has its token."""
    pytest.importorskip("dash", reason="no dash: pip install .[ui]")
    from dflash_sim.ui.server import address, application, bound

    with desk:
        server = bound(application(desk, TOKEN), 0)
        Thread(target=server.serve_forever, daemon=True).start()
        yield address(server, TOKEN)
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The address of a page whose answers are quick."""
    with page(Desk(1, Quick)) as address:
        yield address


@pytest.fixture(scope="module")
def served_in_full() -> Iterator[str]:
    """The address of a page as users have it."""
    with page(Desk(1)) as address:
        yield address
