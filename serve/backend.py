"""What answers requests behind the HTTP routes: the simulated server, or our own engine."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dflash_sim.profiles.errors import DflashSimError


class RefusedError(DflashSimError):
    """A request that is not taken; the message says why, the status how a client shall react."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Ask:
    """One request, checked.

    Parameters
    ----------
    prompt
        Token ids of the prompt.
    max_tokens
        Tokens of the answer at most.
    ignore_eos
        The answer has that many, whatever the model would say.
    min_tokens
        Tokens of the answer at least.
    """

    prompt: Sequence[int]
    max_tokens: int
    ignore_eos: bool = False
    min_tokens: int = 0


@dataclass(eq=False)
class Answer:
    """An answer as it comes: how many tokens there are, and what they say.

    A reader waits for more than it has seen; what comes meanwhile is counted, not queued, so a
    slow reader holds nobody up and costs no memory.

    Parameters
    ----------
    prompt_tokens, cached_tokens
        Tokens of the prompt, and those of them found in the prefix cache.
    ids
        The tokens themselves; None where they are simulated and say nothing.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    tokens: int = 0
    ids: list[int] | None = None
    cycles: int = 0
    committed: int = 0
    ended: str | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, tokens: int) -> None:
        """Say how many tokens there are now."""
        self.tokens = tokens
        self._news.set()

    def between(self, first: int, last: int) -> Sequence[int]:
        """Tokens of these places; simulated ones are all alike."""
        return range(first, last) if self.ids is None else self.ids[first:last]

    def end(self, reason: str) -> None:
        """Say that no more come: ``length``, ``stop`` or ``abort``."""
        self.ended = reason
        self._news.set()

    async def beyond(self, seen: int) -> int:
        """Wait until there are more than ``seen`` tokens, or the end; returns how many."""
        while self.tokens <= seen and self.ended is None:
            self._news.clear()
            await self._news.wait()
        return self.tokens


@dataclass(frozen=True)
class Load:
    """What a server does now, and what it has done since it started.

    Parameters
    ----------
    running, queued
        Requests.
    cached_tokens_now, cache_tokens
        Tokens in the KV cache, and those that fit.
    counters
        Totals since the start, by the names of :class:`~..simulator.engine.live.Totals`.
    stages
        Seconds of the scheduler since the start, by SGLang's categories; they add up to all of it.
    """

    running: int
    queued: int
    cached_tokens_now: int
    cache_tokens: int
    counters: Mapping[str, float]
    stages: Mapping[str, float] = field(default_factory=dict)


class Backend(Protocol):
    """A server without its HTTP routes."""

    @property
    def model(self) -> str:
        """The name that ``/v1/models`` gives."""

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer at most."""

    def check(self, fields: Mapping[str, Any]) -> None:
        """Raise :class:`RefusedError` for fields of a body that would not be done as they say."""

    def take(self, ask: Ask) -> Answer:
        """Take a request, or raise :class:`RefusedError`."""

    def drop(self, answer: Answer) -> None:
        """Take a request back; nobody reads it any more."""

    def load(self) -> Load:
        """What it does now."""

    def info(self) -> Mapping[str, Any]:
        """Server arguments and state, by SGLang's names."""

    def flush(self) -> bool:
        """Empty the prefix cache; False while requests run."""

    async def serve(self) -> None:
        """Work until cancelled."""
