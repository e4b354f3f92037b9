"""Prompts in tokens, and tokens in words."""

import asyncio
from codecs import getincrementaldecoder
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dflash_sim.profiles.errors import UsageError, to_install
from dflash_sim.realrun.job.prompts import is_shipped
from dflash_sim.serve.backend import RefusedError
from dflash_sim.serve.template import Template, read_template

WORD = " a"  # one token in every vocabulary that splits at spaces
BYTES_PER_TOKEN = 4  # of English text in the vocabularies of 2024 to 2026
BYTES = 256  # ids of a byte-level vocabulary that are bytes; what follows is no text
_HALF = "\ufffd"  # what a decoder makes of half a character

# Messages of a conversation; their texts are one text each, where they are any.
Turns = Sequence[Mapping[str, Any]]
Options = Mapping[str, Any]  # what a chat template is told beside them


class Voice(Protocol):
    """What one answer says, piece by piece."""

    def __call__(self, ids: Sequence[int], *, last: bool) -> str:
        """Text of more tokens; the beginning of a character waits for its end."""


class Tokens(Protocol):
    """How text becomes tokens, and back."""

    def ids(self, text: str) -> Sequence[int]:
        """Token ids of a text."""

    async def chat(self, turns: Turns, options: Options) -> str:
        """A conversation as the text that is to be continued."""

    def voice(self) -> Voice:
        """Return what turns one answer's tokens into text."""


class Counted:
    """Without a vocabulary: a token every four bytes, and answers of one short word a token.

    Equal texts have equal ids, and texts that begin alike have ids that begin alike.
    """

    def ids(self, text: str) -> Sequence[int]:
        """Ids of runs of four bytes."""
        data = text.encode("utf-8", "surrogatepass")
        step = BYTES_PER_TOKEN
        return [int.from_bytes(data[i : i + step], "little") for i in range(0, len(data), step)]

    async def chat(self, turns: Turns, options: Options) -> str:
        """Role by role."""
        said = "".join(f"<|{role}|>\n{text}\n" for role, text in _plain(turns, options))
        return said + "<|assistant|>\n"

    def voice(self) -> Voice:
        """Return a word a token."""
        return _words


def _words(ids: Sequence[int], *, last: bool) -> str:
    return WORD * len(ids)


def _plain(turns: Turns, options: Options) -> list[tuple[str, str]]:
    """Who says what, which is all of a conversation that is joined without a template."""
    if options:
        msg = "chat_template_kwargs: there is no chat template here to be told; leave it out."
        raise RefusedError(msg)
    for name in ("tool_calls", "function_call"):
        if any(turn.get(name) for turn in turns):
            msg = f"messages: {name} is read by chat templates alone, and there is none here."
            raise RefusedError(msg)
    return [(turn["role"], turn["content"] or "") for turn in turns]


class Vocabulary(Counted):
    """The tokens of a ``tokenizer.json``; answers are words all the same."""

    def __init__(self, tokenizer: Any, template: Template | None = None) -> None:
        self._tokenizer = tokenizer
        self._template = template

    def ids(self, text: str) -> Sequence[int]:
        """Token ids of a text, without special tokens."""
        whole = text.encode("utf-8", "replace").decode()  # without halves of surrogate pairs
        found: list[int] = self._tokenizer.encode(whole, add_special_tokens=False).ids
        return found

    async def chat(self, turns: Turns, options: Options) -> str:
        """As the model's chat template has it, or else role by role."""
        if self._template is None:
            return await super().chat(turns, options)
        given = {
            **options,
            "messages": turns,
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
        }
        return await asyncio.to_thread(self._template.render, given)


class Spoken(Vocabulary):
    """The tokens of a ``tokenizer.json``, and what a real answer says in them."""

    async def chat(self, turns: Turns, options: Options) -> str:
        """As the model's chat template has it; what it has not seen in training is refused."""
        if self._template is None:
            msg = "messages: this model has no chat template; give the text to /v1/completions."
            raise RefusedError(msg)
        return await super().chat(turns, options)

    def voice(self) -> Voice:
        """Decode with a few tokens of context, as a token may read differently after others."""
        return _Decoded(self._tokenizer)


class _Decoded:
    def __init__(self, tokenizer: Any) -> None:
        self._decode = tokenizer.decode
        self._ids: list[int] = []
        self._said = 0  # of these ids; they are kept as context

    def __call__(self, ids: Sequence[int], *, last: bool) -> str:
        self._ids += ids
        before: str = self._decode(self._ids[: self._said])
        text: str = self._decode(self._ids)
        if text.endswith(_HALF) and not last:
            return ""
        self._ids = self._ids[self._said :]
        self._said = len(self._ids)
        return text[len(before) :]


class ByteLevel:
    """A vocabulary whose first 256 tokens are bytes, such as the small pair's."""

    def ids(self, text: str) -> Sequence[int]:
        """Bytes of UTF-8; half a pair of UTF-16 is a question mark."""
        return text.encode("utf-8", "replace")

    async def chat(self, turns: Turns, options: Options) -> str:
        """The dialogues that the small pair was trained on."""
        return "".join(f"{role}: {said}\n" for role, said in _plain(turns, options)) + "assistant:"

    def voice(self) -> Voice:
        """Decode UTF-8; tokens that are no bytes say nothing."""
        decoder = getincrementaldecoder("utf-8")("replace")

        def say(ids: Sequence[int], *, last: bool) -> str:
            return decoder.decode(bytes(i for i in ids if i < BYTES), final=last)

        return say


def load_tokens(path: Path | None) -> Tokens:
    """Return the vocabulary of a ``tokenizer.json``, or of the folder that holds one; else none.

    Raises
    ------
    UsageError
        There is no such file, it is no tokenizer, or the package `tokenizers` is not installed.
    """
    return Counted() if path is None else Vocabulary(*_read(path))


def tokens_of(folder: Path, tokenizer: Path | None = None) -> Tokens:
    """Return the vocabulary of networks that are run: bytes for the shipped pair alone.

    Parameters
    ----------
    folder
        Of the target; its ``tokenizer.json`` is read if there is one.
    tokenizer
        A ``tokenizer.json`` in its place, or the folder that holds one.

    Raises
    ------
    UsageError
        As for :func:`load_tokens`.
    """
    if tokenizer is None and is_shipped(folder):
        return ByteLevel()
    return Spoken(*_read(tokenizer or folder))


def _read(path: Path) -> tuple[Any, Template | None]:
    """A tokenizer, and the chat template that lies beside it."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        msg = f"--tokenizer {path}: there is no tokenizer.json; name the file or its folder."
        raise UsageError(msg)
    try:
        from tokenizers import Tokenizer
    except ImportError:
        msg = f"--tokenizer needs the package tokenizers: {to_install('serve')}."
        raise UsageError(msg) from None
    try:
        found = Tokenizer.from_file(str(file))
    except Exception as error:
        msg = f"--tokenizer {path}: not a tokenizer ({str(error).splitlines()[0][:120]})."
        raise UsageError(msg) from None
    return found, read_template(file.parent)
