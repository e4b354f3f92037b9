"""Requests of clients, and what the engine knows of each while it runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt.

    Parameters
    ----------
    prompt
        Token ids.
    max_new_tokens
        Where the answer is cut [tokens].
    stop
        Tokens that end the answer, themselves included in it.
    arrival_s
        Open loop: when it is sent, from the start of the run [s].
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    stop: frozenset[int] = frozenset()
    arrival_s: float | None = None


class Req:
    """One request as the scheduler sees it; ``committed`` lags one step behind the device in V2."""

    __slots__ = (
        "arrival_s", "chunk_done", "chunk_s", "commits", "committed", "done", "max_new", "output",
        "pages", "prompt", "rid", "slot", "stop",
    )  # fmt: skip

    def __init__(self, rid: int, request: Request, arrival_s: float) -> None:
        self.rid = rid
        self.prompt: Sequence[int] = request.prompt
        self.max_new = request.max_new_tokens
        self.stop = request.stop
        self.arrival_s = arrival_s
        self.chunk_s: list[float] = []
        self.slot = 0
        self.pages: list[int] = []
        self.chunk_done = 0
        self.committed = 0  # tokens in the cache, as far as results have been processed
        self.commits: list[int] = []
        self.output: list[int] = []
        self.done = False

    def take(self, tokens: Iterable[int]) -> None:
        """Append to the answer and see whether it ends: at a stop token or at its cap."""
        for token in tokens:
            self.output.append(token)
            if token in self.stop or len(self.output) >= self.max_new:
                self.done = True
                return
