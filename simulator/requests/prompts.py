"""What prompts are made of: pieces of text that other prompts may begin with too.

A text is a sequence of pieces, each with a name and a number of tokens. Pieces of one name begin
alike: of two that differ in length the shorter is the beginning of the longer.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Text: TypeAlias = tuple[tuple[int, int], ...]
Units: TypeAlias = list[tuple[tuple[int, ...], int, int]]  # name, first of its units, how many


class TextOf(Protocol):
    """A text by the number of its request."""

    def __getitem__(self, rid: int, /) -> Text: ...


class Texts(Protocol):
    """What a prefix cache asks of the requests it serves."""

    @property
    def asked(self) -> TextOf:
        """Prompts."""

    @property
    def answered(self) -> TextOf:
        """Prompts with their answers, as far as later prompts may repeat them."""


@dataclass(frozen=True)
class Prompts:
    """The texts of a list of requests.

    Parameters
    ----------
    asked
        Prompt of each request.
    answered
        The same with its answer, as far as a later prompt may repeat it.
    """

    asked: tuple[Text, ...]
    answered: tuple[Text, ...]

    def rows(self, rows: Iterable[int]) -> "Prompts":
        """Some of the requests, in order."""
        kept = list(rows)
        return Prompts(tuple(self.asked[i] for i in kept), tuple(self.answered[i] for i in kept))

    def cut(self, isl: Sequence[int]) -> "Prompts":
        """The same prompts, none longer than its ``isl`` [token]."""
        pairs = list(zip(self.asked, self.answered, isl, strict=True))
        asked = tuple(beginning(text, n) for text, _, n in pairs)
        shorter = [length(text) > n for text, _, n in pairs]
        answered = tuple(
            beginning(text, n) if cut else whole
            for (text, whole, n), cut in zip(pairs, shorter, strict=True)
        )
        return Prompts(asked, answered)


def length(text: Text) -> int:
    """Tokens of a text."""
    return sum(tokens for _, tokens in text)


def beginning(text: Text, tokens: int) -> Text:
    """The first ``tokens`` of a text, or all of it."""
    kept = []
    for name, size in text:
        if tokens <= 0:
            break
        kept.append((name, min(size, tokens)))
        tokens -= size
    return tuple(kept)


def begins_with(text: Text, other: Text) -> bool:
    """Return True if ``other`` is the beginning of ``text``."""
    if not other:
        return True
    last = len(other) - 1
    if len(text) <= last or text[:last] != other[:last]:
        return False
    return text[last][0] == other[last][0] and text[last][1] >= other[last][1]


def text_of_ids(ids: Sequence[int], unit: int) -> Text:
    """A text of token ids in pieces of ``unit`` tokens, each named by what it holds."""
    return tuple(
        (hash(tuple(ids[i : i + unit])), min(unit, len(ids) - i)) for i in range(0, len(ids), unit)
    )


def in_units(text: Text, unit: int) -> Units:
    """The whole units of ``unit`` tokens of a text; what is left behind the last is dropped.

    Units within one piece share a name and are counted; one that holds the end of a piece is named
    by all it holds.
    """
    if unit == 1:
        return [((name,), 0, tokens) for name, tokens in text if tokens]
    found: Units = []
    held: list[int] = []  # of a unit over several pieces: name, first token, tokens, ...
    open_tokens = 0
    for name, tokens in text:
        at = 0
        if open_tokens:
            at = min(tokens, unit - open_tokens)
            held += (name, 0, at)
            open_tokens += at
            if open_tokens < unit:
                continue
            found.append((tuple(held), 0, 1))
            held, open_tokens = [], 0
        whole = (tokens - at) // unit
        if whole:
            found.append(((name, at), 0, whole))
        left = tokens - at - whole * unit
        if left:
            held, open_tokens = [name, at + whole * unit, left], left
    return found


def joined(blocks: Sequence[Sequence[int]]) -> Iterator[list[tuple[int, int]]]:
    """For each list of block names its pieces: ``(name of the first block, blocks)``.

    Blocks that never come without each other are one piece, so that a prompt of thousands of
    blocks has a few.
    """
    before: dict[int, int | None] = {}
    behind: dict[int, int] = {}
    forks: set[int] = set()
    for names in blocks:
        last: int | None = None
        for name in names:
            if before.setdefault(name, last) != last:
                forks.add(name)
            if last is not None and behind.setdefault(last, name) != name:
                forks.update((behind[last], name))
            last = name
    for names in blocks:
        pieces: list[tuple[int, int]] = []
        for i, name in enumerate(names):
            if i and name not in forks:
                head, count = pieces[-1]
                pieces[-1] = head, count + 1
            else:
                pieces.append((name, 1))
        yield pieces
