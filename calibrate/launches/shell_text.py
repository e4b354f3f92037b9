"""Shell text -> simple commands: quotes, comments, continued lines, variables that the text sets.

A line that begins with ``-`` goes on with the command above it, whether or not that one ended in a
backslash: no command begins so, and backslashes are lost where commands are copied.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dflash_sim.calibrate.launches.shell_flow import Flow
from dflash_sim.calibrate.launches.shell_values import ITEM, SET, Shell, end_of
from dflash_sim.profiles.errors import UsageError

_CONTINUED = re.compile(r"[\\`^][ \t]*\r?\n")  # of a shell, PowerShell and cmd.exe
_GOES_ON = re.compile(r"(?:\r?\n[ \t]*(?:#[^\n]*)?)*\r?\n[ \t]*(?=-{1,2}[A-Za-z])")
_NO_COMMANDS = re.compile(r"(?:\r?\n[ \t]*(?:#[^\n]*)?)*")
_REDIRECT = re.compile(r"&>>?|<<<|[<>]{1,2}(?:&[\d-]+)?")
_BARE = re.compile(r"[^\s\\'\"`$&|;()<>]+|\$")
_OTHER_SHELLS = (  # fish and csh
    re.compile(r"set\x1f-\w*x\w*\x1f(\w+)\x1f(.*)"),
    re.compile(r"setenv\x1f(\w+)\x1f(.*)"),
)
_SET_BY_POWERSHELL = re.compile(
    r"(^|;)[ \t]*\$(?:(?i:env):)?([A-Za-z_]\w*)[ \t]*=(?!=)[ \t]*", re.MULTILINE
)
_SETS = ("export", "declare", "local", "readonly", "typeset", "ENV", "set")
_ENDS = {"&", "&&", "||", ";", ";;", "|", "\n", "(", ")"}
_PROGRAM = re.compile(r"\bpython[\d.]*\b[^\n]*<<-?[ \t]*(['\"]?)(\w+)\1")


@dataclass(frozen=True)
class Command:
    """A simple command.

    Parameters
    ----------
    words
        Its words, variables filled in where they are known.
    environment
        Variables that are set for it alone.
    guesses
        Variables in it that rest on what the text does not say, each with what that is.
    """

    words: tuple[str, ...]
    environment: dict[str, str]
    guesses: tuple[tuple[str, str], ...] = ()


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
    flow = Flow(contrary=shell.contrary)
    around: list[Shell | None] = []  # the shells that those in parentheses come from
    text = _SET_BY_POWERSHELL.sub(r"\1\2=", _without_programs(text))
    for simple in _simple(text, shell):
        brackets = "" if flow.at_patterns else simple.after
        run = flow.take(simple.words, simple.before, simple.after)
        guess = run.guess
        for name in sorted(shell.consulted):
            guess = guess or shell.guessed[name]
        if run.runs:
            if run.words[0] == "exit" and run.sure and not around:
                return
            yield from _command(run.words, shell, guess)
        elif run.guess is not None:
            _mark(run.words, shell, run.guess)
        shell.consulted.clear()
        if brackets == "(":
            sum_of_two = simple.before == "(" and not simple.words
            if sum_of_two and around:
                around[-1] = None  # double ones hold a sum, which sets variables
            around.append(None if sum_of_two else shell.copy())
        elif brackets == ")" and around and (before := around.pop()) is not None:
            shell.back_to(before)


@dataclass(frozen=True)
class _Simple:
    words: list[str]
    before: str
    after: str


def _simple(text: str, shell: Shell) -> Iterator[_Simple]:
    """Simple commands with the operators around them; an array is one word that sets it."""
    pending: list[str] = []
    before = "\n"
    array: tuple[str, list[str]] | None = None
    within = False  # double brackets, where nothing is split or dropped
    for token in _tokens(text):
        if isinstance(token, list):
            words = _word(token, shell)
            pending += [" ".join(words)] if within else words
            within = (within or words == ["[["]) and words != ["]]"]
        elif array is None and token == "(" and pending and SET.fullmatch(pending[-1]):
            array, pending = (pending[-1], pending[:-1]), []
        elif array is not None and token == ")":
            name, begun = array
            array, pending = None, [*begun, name + ITEM + ITEM.join(pending)]
        elif within and token not in ("\n", ";"):
            pending.append(token)
        elif array is None:
            yield _Simple(pending, before, token)
            before, pending, within = token, [], False
    yield _Simple(pending, before, "\n")


def _command(words: list[str], shell: Shell, guess: str | None) -> Iterator[Command]:
    """The command that words are; one that only sets variables is none."""
    own: dict[str, str] = {}
    at = 0
    line = ITEM.join(words)
    if pair := next((found for form in _OTHER_SHELLS if (found := form.fullmatch(line))), None):
        shell.assign(f"{pair[1]}={pair[2].replace(ITEM, ' ')}", guess)
        return
    if words[0] == "unset":
        for name in words[1:]:
            shell.unset(name, guess)
        return
    if words and words[0] in _SETS:
        at = 1
    while at < len(words) and (pair := SET.fullmatch(words[at])):
        own[pair[1]] = pair[3].replace(ITEM, " ").strip()
        at += 1
    if at < len(words) and words[0] != "export":
        guesses = tuple((name, shell.guessed[name]) for name in sorted(shell.consulted))
        yield Command(tuple(words[at:]), own, guesses)
        return
    for word in words:
        shell.assign(word, guess)


def _mark(words: list[str], shell: Shell, guess: str) -> None:
    """Remember what a command would have set, where it is a guess that it is not run."""
    for word in words:
        if pair := SET.fullmatch(word):
            shell.guessed[pair[1]] = guess
        elif words[0] == "unset" and word in shell.variables:
            shell.guessed[word] = guess


def _word(pieces: list[_Piece], shell: Shell) -> list[str]:
    """One word, or several where a variable outside quotes holds blanks; none for nothing."""
    words = [""]
    quoted = False
    sets = SET.fullmatch(pieces[0].text) if pieces[0].kind == "bare" else None
    for piece in pieces:
        items = shell.items(piece.text) if piece.kind != "exact" else None
        quoted |= piece.kind != "bare" and items is None
        if items is not None:
            words[-1] += items[0] if items else ""
            words += items[1:]
            continue
        filled = piece.text if piece.kind == "exact" else shell.filled(piece.text)
        if filled == piece.text or piece.kind == "double" or sets:
            words[-1] += filled
            continue
        first, *others = re.split(r"\s+", filled.strip())
        words[-1] += first
        words += others
    return words if quoted or words != [""] else []


def _without_programs(text: str) -> str:
    """The text less programs of another language in it, each up to the word that ends it."""
    if "<<" not in text:
        return text
    lines = text.split("\n")
    last = {line.strip(): i for i, line in enumerate(lines)}
    kept: list[str] = []
    until: str | None = None
    for i, line in enumerate(lines):
        if until is not None:
            until = None if line.strip() == until else until
            continue
        kept.append(line)
        found = _PROGRAM.search(line)
        if found is not None and last.get(found[2], -1) > i:
            until = found[2]
    return "\n".join(kept)


def _tokens(text: str) -> Iterator[list[_Piece] | str]:
    """Words as lists of pieces, and operators as text; a redirection takes its file along."""
    word: list[_Piece] | None = None
    at, to_file = 0, False
    ended = 0  # no line up to here goes on with the command above it
    while at < len(text):
        goes_on = None
        if text[at] == "\n" and at >= ended and not (goes_on := _GOES_ON.match(text, at)):
            ended = _end_of_blank(text, at)
        piece, operator, end = _next(text, at, begun=word is not None)
        if goes_on:
            operator, end = None, goes_on.end()
        if piece is not None:
            word = [] if word is None else word
            word.append(piece)
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


def _end_of_blank(text: str, at: int) -> int:
    """Where the lines without a command end that follow the line's end at ``at``."""
    found = _NO_COMMANDS.match(text, at)
    return found.end() if found else at


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
    if char == "$":
        end = end_of(text, at)
        return _Piece("bare", text[at:end]), None, end
    if found := _REDIRECT.match(text, at):
        return None, found[0], found.end()
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
