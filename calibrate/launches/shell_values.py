"""Variables of a shell, and text that they are filled into: ``$A``, ``${A:-b}``, ``$((A * 2))``."""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from dflash_sim.calibrate.launches.shell_tests import verdict

SET = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
ITEM = "\x1f"  # stands before each item of an array
_OF_POWERSHELL = re.compile(r"(?i:env):([A-Za-z_]\w*)")
_PLAIN = re.compile(rf"{_OF_POWERSHELL.pattern}|[A-Za-z_]\w*|\d")
_BRACED = re.compile(r"([A-Za-z_]\w*|\d)(?:\[[@*]\])?(?:(:?[-=+?])(.*))?", re.DOTALL)
_ARRAY = re.compile(r"\$\{([A-Za-z_]\w*)\[[@*]\](?::?[-+].*)?\}", re.DOTALL)
_CHOSEN = re.compile(r"\s*(\[{1,2}\s.*?\s\]{1,2})\s*&&\s*echo\s+(\S+)\s*\|\|\s*echo\s+(\S+)\s*")
_AS_ONE = re.compile(r"\s+")  # what is not known stays one word
_NAME = re.compile(r"[A-Za-z_]\w*")
_SUM = re.compile(r"[\d\s()+\-*/%<>=!?:]+")
_TERNARY = re.compile(r"([^?]*)\?([^:]*):(.*)", re.DOTALL)
_DEEPEST, _LARGEST, _LONGEST, _LONGEST_SUM = 8, 10**12, 10_000, 300


@dataclass
class Shell:
    """Variables that were set so far, and those of them that programs see.

    Parameters
    ----------
    guessed
        Variables that are set where it is not known whether that is run, each with the reason.
    consulted
        Those of them that were filled in since this was last emptied.
    contrary
        True to read what is guessed the other way.
    """

    variables: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    guessed: dict[str, str] = field(default_factory=dict)
    consulted: set[str] = field(default_factory=set)
    contrary: bool = False

    def expanded(self, text: str) -> list[str]:
        """The words of text without quotes: a variable that holds blanks is several."""
        filled = self.filled(text)
        return [filled] if filled == text else filled.split()

    def assign(self, word: str, guess: str | None = None) -> None:
        """Set the variable of ``NAME=value`` or ``NAME+=value``; nothing if it is no such word."""
        if not (pair := SET.fullmatch(word)):
            return
        name, more, value = pair.groups()
        before = self.variables.get(name, "") if more else ""
        if value.startswith(ITEM) or before.startswith(ITEM):
            before, value = (_as_items(part) for part in (before, value))
            new = before + value
        else:
            new = f"{before} {value}".strip() if more else value
        if len(new) <= _LONGEST:
            self.variables[name] = new
            if not new.startswith(ITEM) and "$(" not in new:
                self.environment[name] = new
        if guess is not None:
            self.guessed[name] = guess
        elif not more:
            self.guessed.pop(name, None)

    def unset(self, name: str, guess: str | None = None) -> None:
        """Forget a variable."""
        self.environment.pop(name, None)
        known = self.variables.pop(name, None) is not None
        self.guessed.pop(name, None)
        if guess is not None and known:
            self.guessed[name] = guess

    def copy(self) -> "Shell":
        """A shell that begins with the variables of this one."""
        return replace(
            self,
            variables=dict(self.variables),
            environment=dict(self.environment),
            guessed=dict(self.guessed),
        )

    def back_to(self, before: "Shell") -> None:
        """Have the variables of ``before`` again, as behind a shell within this one."""
        self.variables, self.environment = before.variables, before.environment
        self.guessed = before.guessed

    def items(self, text: str) -> list[str] | None:
        """The items of ``${A[@]}``; None if the text is no array that is known."""
        found = _ARRAY.fullmatch(text)
        value = self._value(found[1]) if found else None
        if value is None or not value.startswith(ITEM):
            return None
        return value.split(ITEM)[1:] if value != ITEM else []

    def filled(self, text: str, depth: int = 0) -> str:
        """Text with the variables that are known in place of their names."""
        out: list[str] = []
        at = 0
        while (start := text.find("$", at)) >= 0 and depth < _DEEPEST:
            out.append(text[at:start])
            end = end_of(text, start)
            out.append(self._filled_one(text[start:end], depth))
            at = end
        out.append(text[at:])
        return "".join(out)

    def _value(self, name: str) -> str | None:
        if name in self.guessed:
            self.consulted.add(name)
        return self.variables.get(name)

    def _filled_one(self, text: str, depth: int) -> str:
        """One ``$...``, or the text as it is where it is not known."""
        if text.startswith("$(("):
            return self._sum(text, depth)
        if text.startswith("$("):
            chosen = _CHOSEN.fullmatch(text[2:-1])
            if chosen is None:
                return _AS_ONE.sub("_", text)
            holds = verdict([self.filled(word, depth + 1) for word in chosen[1].split()]).holds
            return text if holds is None else chosen[2 if holds else 3]
        inner = text[2:-1] if text.startswith("${") else text[1:]
        if other_shells := _OF_POWERSHELL.fullmatch(inner):
            known = self._value("env")  # of a shell where a colon ends a name
            inner = other_shells[1]
            if known is not None:
                return f"{known}:{inner}"
        found = _BRACED.fullmatch(inner)
        if found is None:
            return text
        name, how, other = found[1], found[2] or "", found[3] or ""
        value = self._value(name)
        there = value is not None and (value.strip(ITEM) != "" or not how.startswith(":"))
        if how.endswith("+"):
            return self.filled(other, depth + 1) if there else ""
        if there and value is not None:
            return value.replace(ITEM, " ").strip() if value.startswith(ITEM) else value
        if how.endswith("-") and name.isdigit() and name != "0":
            self.guessed[f"${name}"] = f"{text} rests on what it is called with"
            self.consulted.add(f"${name}")
            if self.contrary:
                return text
        if how.endswith(("-", "=")):
            new = self.filled(other.strip("\"'"), depth + 1)
            if how.endswith("="):
                self.assign(f"{name}={new}")
            return new
        return text

    def _sum(self, text: str, depth: int) -> str:
        inner = self.filled(text[3:-2], depth + 1)

        def known(found: re.Match[str]) -> str:
            value = self._value(found[0])
            return value if value is not None and value.isdigit() else found[0]

        amount = arithmetic(_NAME.sub(known, inner))
        return _AS_ONE.sub("", text) if amount is None else str(amount)


def end_of(text: str, at: int) -> int:
    """Where the ``$...`` that begins at ``at`` ends."""
    after = text[at + 1 : at + 2]
    if after in ("(", "{"):
        return _closing(text, at + 1, after, {"(": ")", "{": "}"}[after])
    found = _PLAIN.match(text, at + 1)
    return found.end() if found else at + (2 if after in ("#", "@", "*", "?", "!") else 1)


def arithmetic(text: str) -> int | None:
    """The whole number that an expression of numbers comes to; None if it is no such thing."""
    if len(text) > _LONGEST_SUM or not _SUM.fullmatch(text):
        return None
    if found := _TERNARY.fullmatch(text):
        test, *either = (arithmetic(part) for part in found.groups())
        return None if test is None else either[0 if test else 1]
    try:
        return _reckoned(ast.parse(text.strip(), mode="eval").body)
    except _NO_NUMBER:
        return None


def _reckoned(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            amount = value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            amount = -_reckoned(operand)
        case (
            ast.BinOp(left=left, op=op, right=right)
            | ast.Compare(left=left, ops=[op], comparators=[right])
        ):
            amount = int(_OPERATIONS[type(op)](_reckoned(left), _reckoned(right)))
        case _:
            raise ValueError
    if abs(amount) > _LARGEST:
        raise ValueError
    return amount


def _quotient(a: int, b: int) -> int:
    """Towards zero, as a shell divides."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


_OPERATIONS: Mapping[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: _quotient,
    ast.Mod: lambda a, b: a - b * _quotient(a, b),
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_NO_NUMBER = (SyntaxError, ValueError, LookupError, RecursionError, MemoryError, ArithmeticError)


def _as_items(text: str) -> str:
    return text if text.startswith(ITEM) or not text else ITEM + text.replace(" ", ITEM)


def _closing(text: str, at: int, opens: str, closes: str) -> int:
    """Where the parenthesis or brace that opens at ``at`` closes."""
    depth = 0
    for end in range(at, len(text)):
        depth += (text[end] == opens) - (text[end] == closes)
        if depth == 0:
            return end + 1
    return len(text)
