"""Words of a launch -> flags with their values, as SGLang's own parser reads them.

A flag may be cut short as long as one flag alone begins so. Which do depends on the release:
``--speculative-draft`` was one flag up to 0.5.1 and is several since. An abbreviation is read by
the newest release in which it is unambiguous.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dflash_sim.calibrate.launches.other_engines import OF_VLLM
from dflash_sim.calibrate.launches.server_flags import (
    ServerFlag,
    Spelling,
    flag_releases,
    spellings,
)
from dflash_sim.profiles.errors import UsageError, close_to

_NUMBER = re.compile(r"-\d+(?:\.\d*)?|-\.\d+")
_UNSET = re.compile(r"\$(?:[@*]|\w+|\{[^}]*\})")
_UNSAID = "the text does not say what it holds"
_MOST_NAMED = 6


@dataclass(frozen=True)
class Written:
    """A flag as it was written, and its values."""

    flag: ServerFlag
    typed: str
    values: tuple[str, ...]

    @property
    def text(self) -> str:
        """The flag and its values as they were written."""
        return " ".join((self.typed, *self.values))


def written(arguments: Sequence[str], *, model_first: bool = False) -> Iterator[Written]:
    """Flags in order.

    Parameters
    ----------
    model_first
        True where the first word may be the model, as behind ``sglang serve``.

    Raises
    ------
    UsageError
        A flag is unknown, ambiguous, or has not the values that it takes.
    """
    rest = list(arguments)
    if model_first and rest and not _is_flag(rest[0]) and not _UNSET.fullmatch(rest[0]):
        rest[:1] = ["--model-path", rest[0]]
    at = 0
    while at < len(rest):
        word = rest[at]
        at += 1
        if word in ("\\", "--"):
            continue
        if word.startswith("$"):  # more arguments of a script
            yield Written(ServerFlag(word, "none", "unmodelled", frozenset(), _UNSAID), word, ())
            continue
        if not word.startswith("-"):
            msg = f"--from-launch: '{word}' belongs to no flag; a flag starts with --."
            raise UsageError(msg)
        typed, equals, value = word.partition("=")
        flag = flag_of(typed)
        most = _most(flag) if not equals else 0
        values = [value] if equals else []
        while len(values) < most and at < len(rest) and not _is_flag(rest[at]):
            values.append(rest[at])
            at += 1
        _check_count(flag, typed, values, equals=bool(equals))
        yield Written(flag, typed, tuple(values))


def _most(flag: ServerFlag) -> int:
    return {"none": 0, "one": 1, "optional": 1}.get(flag.takes, 10**6)


def _check_count(flag: ServerFlag, typed: str, values: list[str], *, equals: bool) -> None:
    if flag.takes == "none" and equals:
        msg = f"--from-launch: {typed} takes no value; write it alone, or leave it out."
        raise UsageError(msg)
    if flag.takes in ("one", "many") and not any(values):
        msg = f"--from-launch: {typed} has no value; write one behind it, or drop it."
        raise UsageError(msg)


def _is_flag(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and not _NUMBER.fullmatch(word) and " " not in word


def flag_of(typed: str) -> ServerFlag:
    """The flag that a word means, whole or cut short.

    Raises
    ------
    UsageError
        No flag begins so, or several do in every release.
    """
    known = spellings()
    for name in (typed, typed.replace("_", "-")):
        if name in known:
            return known[name].flag
    name = typed.replace("_", "-")
    begun = [s for s in known.values() if s.text.startswith(name)] if len(name) > 2 else []
    for release in flag_releases():
        flags = {s.flag.name: s.flag for s in begun if s.since <= release <= s.until}
        if len(flags) == 1:
            return flags.popitem()[1]
    if begun:
        raise _ambiguous(typed, begun)
    raise _unheard(typed, known)


def _ambiguous(typed: str, begun: Sequence[Spelling]) -> UsageError:
    newest = max(s.until for s in begun)
    names = sorted(s.text for s in begun if s.until == newest)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    msg = (
        f"--from-launch: {typed} could be {', '.join(names[:_MOST_NAMED])}{more}; "
        "write the flag in full."
    )
    return UsageError(msg)


def _unheard(typed: str, known: Mapping[str, Spelling]) -> UsageError:
    if (ours := OF_VLLM.get(typed.replace("_", "-"))) is not None:
        msg = f"--from-launch: {typed} is a flag of vLLM; the nearest of SGLang is {ours}."
        raise UsageError(msg)
    near = close_to("--" + typed.lstrip("-").replace("_", "-"), known)
    guess = f"; did you mean {' or '.join(near)}?" if near else "."
    oldest, newest = (".".join(map(str, flag_releases()[i])) for i in (-1, 0))
    msg = (
        f"--from-launch: SGLang {oldest} to {newest} has no flag {typed}{guess} "
        "If your build has it and it does not bear on speed, leave it out."
    )
    return UsageError(msg)
