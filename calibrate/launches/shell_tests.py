"""Tests of a shell, such as ``[ "$TP" -gt 1 ]`` -> whether they hold, as far as the text says."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

_UNSET = re.compile(r"\$(?:\{)?([A-Za-z_]\w*)[^}\s]*\}?")
_ARGUMENTS = re.compile(r"\$(?:\{)?(?:[@*\d])[^}\s]*\}?|\$#")  # of a script, which was given none
_NUMBER = re.compile(r"\s*[-+]?\d{1,18}\s*")
_COMPARES: Mapping[str, Callable[[int, int], bool]] = {
    "-eq": int.__eq__,
    "-ne": int.__ne__,
    "-gt": int.__gt__,
    "-ge": int.__ge__,
    "-lt": int.__lt__,
    "-le": int.__le__,
}
_OPENS = {"[": "]", "[[": "]]"}
_DEEPEST = 40


@dataclass(frozen=True)
class Verdict:
    """Whether a command succeeds, and what that rests on.

    Parameters
    ----------
    holds
        None where the text does not say.
    unset
        Variables that the text does not set: an empty text was read for each.
    told
        The command; empty where it only sets variables.
    plain
        True if it is open for the sake of commands alone that test nothing, as ``cd`` does not.
    """

    holds: bool | None = None
    unset: frozenset[str] = frozenset()
    told: str = ""
    plain: bool = False

    @property
    def guess(self) -> str | None:
        """Why it is not known; None if it is."""
        if self.holds is not None and not self.unset:
            return None
        if self.unset:
            return (
                f"{self.told} rests on {', '.join(sorted(self.unset))}, which the text leaves out"
            )
        return f"the text does not say whether {self.told} holds; it is read as if it did"

    def __invert__(self) -> "Verdict":
        return replace(self, holds=None if self.holds is None else not self.holds)

    def joined(self, other: "Verdict", operator: str) -> "Verdict":
        """Return what two commands come to with ``&&`` or ``||`` between them."""
        decides = operator == "||"
        holds: bool | None = None
        if decides in (self.holds, other.holds):
            holds = decides
        elif self.holds is not None and other.holds is not None:
            holds = not decides
        told = f" {operator} ".join(one.told for one in (self, other) if one.told)
        unset = self.unset | other.unset
        open_ones = [one for one in (self, other) if one.holds is None]
        plain = holds is None and not unset and all(one.plain for one in open_ones)
        return Verdict(holds, unset, told, plain=plain)


def is_test(words: Sequence[str]) -> bool:
    """Return True if a command only tests something."""
    return bool(words) and (words[0] in ("[", "[[", "test", "true", "false"))


def verdict(words: Sequence[str]) -> Verdict:
    """Whether a command succeeds; its variables are filled in where they are known."""
    told = " ".join(words)[:200]
    if not is_test(words):
        return Verdict(None, told=told)
    if words[0] in ("true", "false"):
        return Verdict(words[0] == "true", told=told)
    inside = list(words[1:])
    if words[0] in _OPENS and inside and inside[-1] == _OPENS[words[0]]:
        inside.pop()
    unset: set[str] = set()
    holds = _any(inside, unset, 0)
    return Verdict(holds, frozenset(unset), told)


def _any(words: list[str], unset: set[str], depth: int) -> bool | None:
    """``a && b || c`` and ``a -a b -o c``: the loosest operator last."""
    if depth > _DEEPEST:
        return None
    for spelt, decides in ((("||", "-o"), True), (("&&", "-a"), False)):
        for i, word in enumerate(words):
            if word in spelt and i > 0:
                sides = (_any(words[:i], unset, depth + 1), _any(words[i + 1 :], unset, depth + 1))
                if decides in sides:
                    return decides
                return None if None in sides else not decides
    return _one(words, unset, depth)


def _one(words: list[str], unset: set[str], depth: int) -> bool | None:
    if not words:
        return False
    if words[0] == "!" and len(words) > 1:
        holds = _any(words[1:], unset, depth + 1)
        return None if holds is None else not holds
    if len(words) == 1:
        text = _operand(words[0], unset)
        return None if text is None else text != ""
    if len(words) == 2:
        text = _operand(words[1], unset)
        if words[0] in ("-n", "-z") and text is not None:
            return (text != "") == (words[0] == "-n")
        # Of files and folders the text knows nothing; else there was nothing on the left.
        return None if words[0].startswith("-") else False
    if len(words) != 3:
        return None
    left, right = _operand(words[0], unset), _operand(words[2], unset)
    if left is None or right is None:
        return None
    return _compared(left, words[1], right)


def _compared(left: str, how: str, right: str) -> bool | None:
    if how in ("=", "=="):
        return fnmatchcase(left, right) if len(right) < 200 else left == right
    if how == "!=":
        return not fnmatchcase(left, right)
    if how not in _COMPARES:
        return None
    sides = [int(side) if _NUMBER.fullmatch(side) else (0 if not side else None)
             for side in (left, right)]  # fmt: skip
    if sides[0] is None or sides[1] is None:
        return None
    return _COMPARES[how](sides[0], sides[1])


def _operand(word: str, unset: set[str]) -> str | None:
    """The text of a word: empty for what is not set, None for what a program would say."""
    if "$(" in word or "`" in word:
        return None
    unset |= {found[0] for found in _ARGUMENTS.finditer(word)}
    word = _ARGUMENTS.sub(lambda found: "0" if found[0] == "$#" else "", word)
    unset |= set(_UNSET.findall(word))
    return _UNSET.sub("", word)
