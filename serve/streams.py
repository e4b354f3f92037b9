"""Answers as JSON and as server-sent events, in the forms of OpenAI's API and of SGLang's own."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from dflash_sim.serve.backend import Answer
from dflash_sim.serve.metrics import Latencies
from dflash_sim.serve.tokens import Tokens

DONE = "data: [DONE]\n\n"


@dataclass(frozen=True)
class Piece:
    """Tokens that have just come.

    Parameters
    ----------
    text
        What they say.
    tokens
        Tokens of the answer so far, they included.
    """

    text: str
    tokens: int


async def pieces(
    answer: Answer, tokens: Tokens, latencies: Latencies, *, every: int = 1
) -> AsyncIterator[Piece]:
    """Pieces of an answer as they come, ``every`` tokens at least but for first and last."""
    began = last = latencies.clock()
    voice = tokens.voice()
    told = 0
    while True:
        have = await answer.beyond(told if told == 0 else told + every - 1)
        now = latencies.clock()
        if have > told:
            if told == 0:
                latencies.first.observe(now - began)
            else:
                latencies.between.observe((now - last) / (have - told), have - told)
            last = now
            over = answer.ended is not None and have == answer.tokens
            yield Piece(voice(answer.between(told, have), last=over), have)
            told = have
        if answer.ended is not None and told == answer.tokens:
            latencies.whole.observe(now - began)
            return


def usage(answer: Answer, tokens: int | None = None) -> dict[str, Any]:
    """Counts of tokens, as OpenAI has them."""
    made = answer.tokens if tokens is None else tokens
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": made,
        "total_tokens": answer.prompt_tokens + made,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
    }


class OpenAI:
    """The forms of ``/v1/completions`` and ``/v1/chat/completions``."""

    def __init__(self, rid: str, model: str, *, chat: bool) -> None:
        self.chat = chat
        name = "chat.completion" if chat else "text_completion"
        self._head = {"id": rid, "object": name, "created": int(time.time()), "model": model}

    def whole(self, answers: list[tuple[Answer, str]]) -> dict[str, Any]:
        """A finished answer, or several."""
        choices = [self._choice(i, text, a.ended) for i, (a, text) in enumerate(answers)]
        counts = [usage(a) for a, _ in answers]
        total = dict(counts[0])
        for other in counts[1:]:
            for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
                total[name] += other[name]
        return {**self._head, "choices": choices, "usage": total}

    def _choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        said: dict[str, Any] = {"text": text}
        if self.chat:
            said = {"message": {"role": "assistant", "content": text}}
        return {"index": index, **said, "logprobs": None, "finish_reason": reason}

    def opening(self) -> Iterator[str]:
        """What comes before the first token."""
        if self.chat:
            yield self._event({"delta": {"role": "assistant", "content": ""}}, None)

    def event(self, answer: Answer, piece: Piece, *, counted: bool) -> str:
        """Tokens that have come."""
        said = {"delta": {"content": piece.text}} if self.chat else {"text": piece.text}
        return self._event(said, None, usage(answer, piece.tokens) if counted else None)

    def closing(self, answer: Answer, *, counted: bool) -> Iterator[str]:
        """What comes after the last token."""
        yield self._event({"delta": {}} if self.chat else {"text": ""}, answer.ended)
        if counted:
            yield _sse({**self._chunk, "choices": [], "usage": usage(answer)})
        yield DONE

    @property
    def _chunk(self) -> dict[str, Any]:
        return self._head | ({"object": "chat.completion.chunk"} if self.chat else {})

    def _event(
        self, said: dict[str, Any], reason: str | None, counts: dict[str, Any] | None = None
    ) -> str:
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        more = {} if counts is None else {"usage": counts}
        return _sse({**self._chunk, "choices": [choice], **more})


def native(rid: str, answer: Answer, text: str, tokens: int, began: float) -> dict[str, Any]:
    """The form of ``/generate``: all text so far, and ``meta_info``."""
    ended = answer.ended if tokens == answer.tokens else None
    info: dict[str, Any] = {
        "id": rid,
        "finish_reason": {"type": ended, "length": tokens} if ended else None,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": tokens,
        "cached_tokens": answer.cached_tokens,
    }
    if answer.cycles and answer.committed > answer.cycles:
        info["spec_verify_ct"] = answer.cycles
        info["spec_accept_length"] = (tokens - 1) / answer.cycles
    if ended:
        info["e2e_latency"] = time.perf_counter() - began
    said = {} if answer.ids is None else {"output_ids": answer.ids[:tokens]}
    return {"text": text, **said, "meta_info": info}


def _sse(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n"
