"""Prompts in tokens, and tokens in words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from dflash_sim.profiles.errors import UsageError

WORD = " a"  # one token in every vocabulary that splits at spaces
BYTES_PER_TOKEN = 4  # of English text in the vocabularies of 2024 to 2026


class Tokens(Protocol):
    """How text becomes tokens, and back."""

    def ids(self, text: str) -> Sequence[int]:
        """Token ids of a text."""

    def text(self, tokens: int) -> str:
        """What so many tokens of an answer say."""


class Counted:
    """Without a vocabulary: a token every four bytes, and answers of one short word a token.

    Equal texts have equal ids, and texts that begin alike have ids that begin alike.
    """

    def ids(self, text: str) -> Sequence[int]:
        """Ids of runs of four bytes."""
        data = text.encode("utf-8", "surrogatepass")
        step = BYTES_PER_TOKEN
        return [
            int.from_bytes(data[i : i + step], "little") for i in range(0, max(1, len(data)), step)
        ]

    def text(self, tokens: int) -> str:
        """Return a word a token."""
        return WORD * tokens


class Vocabulary(Counted):
    """The tokens of a ``tokenizer.json``; answers are words all the same."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def ids(self, text: str) -> Sequence[int]:
        """Token ids of a text, without special tokens."""
        whole = text.encode("utf-8", "replace").decode()  # without halves of surrogate pairs
        found: list[int] = self._tokenizer.encode(whole, add_special_tokens=False).ids
        return found


def load_tokens(path: Path | None) -> Tokens:
    """Return the vocabulary of a ``tokenizer.json``, or of the folder that holds one; else none.

    Raises
    ------
    UsageError
        There is no such file, it is no tokenizer, or the package `tokenizers` is not installed.
    """
    if path is None:
        return Counted()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        msg = f"--tokenizer {path}: there is no tokenizer.json; name the file or its folder."
        raise UsageError(msg)
    try:
        from tokenizers import Tokenizer
    except ImportError:
        msg = '--tokenizer needs the package tokenizers; pip install "dflash-sim[serve]".'
        raise UsageError(msg) from None
    try:
        return Vocabulary(Tokenizer.from_file(str(file)))
    except Exception as error:
        msg = f"--tokenizer {path}: not a tokenizer ({str(error).splitlines()[0][:120]})."
        raise UsageError(msg) from None
