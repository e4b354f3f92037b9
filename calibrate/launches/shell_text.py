"""Shell text -> simple commands: quotes, comments, continued lines, variables that the text sets.

A line that begins with ``-`` goes on with the command above it, whether or not that one ended in a
backslash: no command begins so, and backslashes are lost where commands are copied.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from dflash_sim.profiles.errors import UsageError

_CONTINUED = re.compile(r"\\[ \t]*\r?\n")
_GOES_ON = re.compile(r"(?:\r?\n[ \t]*(?:#[^\n]*)?)*\r?\n[ \t]*-{1,2}[A-Za-z]")
_REDIRECT = re.compile(r"&>>?|<<<|[<>]{1,2}(?:&[\d-]+)?")
_BARE = re.compile(r"[^\s\\'\"`$&|;()<>]+|\$")
_SET = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
_NAMED = re.compile(
    r"\$(?:(?P<plain>[A-Za-z_]\w*)|\{(?P<name>[A-Za-z_]\w*)(?:\[[@*]\])?(?::?[-=](?P<other>[^}]*))?\})"
)
_ENDS = {"&", "&&", ";", ";;", "|", "||", "\n", "(", ")"}


@dataclass
class Shell:
    """Variables that were set so far, and those of them that programs see."""

    variables: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def expanded(self, text: str) -> list[str]:
        """The words of text without quotes: a variable that holds blanks is several."""
        filled = self.filled(text)
        return [filled] if filled == text else filled.split()

    def filled(self, text: str) -> str:
        """Text with the variables that are known in place of their names."""

        def value(found: re.Match[str]) -> str:
            name = found["plain"] or found["name"]
            other = found["other"]
            return self.variables.get(name, other if other is not None else found[0])

        return _NAMED.sub(value, text)


@dataclass(frozen=True)
class Command:
    """A simple command: its words, and variables that are set for it alone."""

    words: tuple[str, ...]
    environment: dict[str, str]


@dataclass(frozen=True)
class _Piece:
    """Part of a word: ``bare``, in ``double`` quotes, or ``exact``, where nothing is filled in."""

    kind: str
    text: str


def commands(text: str, shell: Shell) -> Iterator[Command]:
    """Simple commands in order; assignments between them are kept in ``shell``.

    Raises
    ------
    UsageError
        A quotation is not closed.
    """
    pending: list[str] = []
    array: str | None = None
    for token in _tokens(text):
        if isinstance(token, list):
            pending += _word(token, shell)
        elif token == "(" and pending and _SET.fullmatch(pending[-1]):
            array = pending.pop()
            begun, pending = pending, []
        elif array is not None and token == ")":
            _assign(shell, array + " ".join(pending))
            array, pending = None, begun
        elif array is None:
            yield from _command(pending, shell)
            pending = []
    yield from _command(pending, shell)


def _command(words: list[str], shell: Shell) -> Iterator[Command]:
    """The command that words are; one that only sets variables is none."""
    own: dict[str, str] = {}
    at = 0
    if words and words[0] in ("export", "declare", "local", "ENV", "set"):
        at = 1
    while at < len(words) and (pair := _SET.fullmatch(words[at])):
        own[pair[1]] = pair[3]
        at += 1
    if at < len(words) and words[0] != "export":
        yield Command(tuple(words[at:]), own)
        return
    for word in words:
        _assign(shell, word)


def _assign(shell: Shell, word: str) -> None:
    if pair := _SET.fullmatch(word):
        name, more, value = pair.groups()
        before = shell.variables.get(name, "") if more else ""
        shell.variables[name] = f"{before} {value}".strip() if more else value
        shell.environment[name] = shell.variables[name]


def _word(pieces: list[_Piece], shell: Shell) -> list[str]:
    """One word, or several where a variable outside quotes holds blanks."""
    words = [""]
    for piece in pieces:
        if piece.kind == "exact":
            words[-1] += piece.text
            continue
        filled = shell.filled(piece.text)
        array = piece.kind == "double" and re.fullmatch(r"\$\{\w+\[@\]\}", piece.text)
        if filled == piece.text or (piece.kind == "double" and not array):
            words[-1] += filled
            continue
        first, *others = re.split(r"\s+", filled.strip())
        words[-1] += first
        words += others
    return words


def _tokens(text: str) -> Iterator[list[_Piece] | str]:
    """Words as lists of pieces, and operators as text; a redirection takes its file along."""
    word: list[_Piece] | None = None
    at, to_file = 0, False
    while at < len(text):
        piece, operator, end = _next(text, at, begun=word is not None)
        if piece is not None:
            word = [*(word or []), piece]
        elif word is not None:
            descriptor = operator is not None and _REDIRECT.fullmatch(operator) and _digits(word)
            if not descriptor and not to_file:
                yield word
            word, to_file = None, False
        if operator is not None:
            if operator in _ENDS:
                yield operator
                to_file = False
            else:
                to_file = "&" not in operator[1:]
        at = end
    if word is not None and not to_file:
        yield word


def _digits(word: list[_Piece]) -> bool:
    return len(word) == 1 and word[0].kind == "bare" and word[0].text.isdigit()


def _next(text: str, at: int, *, begun: bool) -> tuple[_Piece | None, str | None, int]:
    """The piece or operator at ``at``, or blanks if neither, and where it ends."""
    char = text[at]
    if found := _CONTINUED.match(text, at):
        return None, None, found.end()
    if char in " \t\r" or (char == "#" and not begun):
        end = at + 1 if char != "#" else text.find("\n", at)
        return None, None, end if end > 0 else len(text)
    if char == "\\":
        return _Piece("exact", text[at + 1 : at + 2]), None, at + 2
    if char in "'\"`":
        return _quoted(text, at)
    if text.startswith("$(", at):
        end = _closing(text, at + 1)
        return _Piece("exact", text[at:end]), None, end
    if found := _NAMED.match(text, at):
        return _Piece("bare", found[0]), None, found.end()
    if found := _REDIRECT.match(text, at):
        return None, found[0], found.end()
    if char == "\n" and _GOES_ON.match(text, at):
        return None, None, at + 1
    if char in "&|;\n()":
        double = text[at : at + 2] in ("&&", "||", ";;")
        return None, text[at : at + 1 + double], at + 1 + double
    bare = _BARE.match(text, at)
    end = bare.end() if bare else at + 1
    return _Piece("bare", text[at:end]), None, end


def _quoted(text: str, at: int) -> tuple[_Piece, None, int]:
    quote, end = text[at], at + 1
    while end < len(text) and text[end] != quote:
        end += 2 if text[end] == "\\" and quote != "'" else 1
    if end >= len(text):
        msg = "--from-launch: no closing quotation in the command; close it."
        raise UsageError(msg)
    inside = text[at + 1 : end]
    if quote == '"':
        return _Piece("double", re.sub(r'\\(["\\$`]|\r?\n)', _unescaped, inside)), None, end + 1
    whole = inside if quote == "'" else text[at : end + 1]
    return _Piece("exact", whole), None, end + 1


def _unescaped(found: re.Match[str]) -> str:
    return "" if found[1].endswith("\n") else found[1]


def _closing(text: str, at: int) -> int:
    """Where the parenthesis that opens at ``at`` closes."""
    depth = 0
    for end in range(at, len(text)):
        depth += (text[end] == "(") - (text[end] == ")")
        if depth == 0:
            return end + 1
    return len(text)
