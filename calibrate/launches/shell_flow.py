"""Which commands of a script are run: ``if``, ``case``, loops, ``&&`` and ``||``.

Nothing is run here. A test of variables that the text sets is decided; of one that it leaves open,
as of files, the branch behind ``then`` is read, and what it sets is known as a guess.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from dflash_sim.calibrate.launches.shell_tests import Verdict, is_test, verdict
from dflash_sim.calibrate.launches.shell_values import SET

_JOINS = ("&&", "||")
_LOOPS = ("while", "until")
_LISTS = ("for", "select")
_DEEPEST = 100
_ENDS = {"fi": "if", "esac": "case", "done": "loop", "}": "group"}


@dataclass
class _Block:
    """A compound command that is open.

    ``outer`` says whether the block itself is run, ``active`` whether the branch being read is.
    """

    kind: str
    active: bool = True
    outer: bool = True
    reading: str = "body"  # or "condition", or "pattern"
    settled: bool = False  # a branch was taken
    until: bool = False
    subject: str = ""
    patterns: list[str] = field(default_factory=list)
    guess: str | None = None


@dataclass(frozen=True)
class Run:
    """What becomes of a command: its words where it is run, and why that is a guess.

    One that is not ``sure`` rests on the success of another, or on the call of a function.
    """

    words: list[str]
    runs: bool
    guess: str | None = None
    sure: bool = False


class Flow:
    """Follows a script command by command.

    Parameters
    ----------
    contrary
        True to read every guess the other way, which shows whether it matters.
    """

    def __init__(self, *, contrary: bool = False) -> None:
        self._contrary = contrary
        self._blocks: list[_Block] = []
        self._last = Verdict(True)

    @property
    def _active(self) -> bool:
        return all(block.active for block in self._blocks)

    def take(self, words: Sequence[str], before: str, after: str) -> Run:
        """Say whether a command is run.

        Parameters
        ----------
        before, after
            The operators around it; a line's end is one.
        """
        rest = list(words)
        if self.at_patterns:
            return self._pattern(rest, after)
        denied = False
        while rest and (word := rest[0]) and self._keyword(word, rest, before):
            before = "" if word != "!" else before
            denied ^= word == "!"
            if self.at_patterns:
                return self._pattern(rest, after)
        run = self._simple(rest, before, denied=denied)
        top = self._blocks[-1] if self._blocks else None
        if after == ";;" and top is not None and top.kind == "case":
            top.reading, top.patterns = "pattern", []
        return run

    def _holds(self, said: Verdict) -> bool:
        """Whether a command is read as one that succeeds; what is open is, unless contrary."""
        return (said.holds is not False) ^ (self._contrary and said.guess is not None)

    def _goes_on(self, before: str) -> bool:
        """Whether a command is run, as far as the list that it belongs to decides it."""
        if before not in _JOINS or self._is_step(before):
            return True
        return self._holds(self._last) is (before == "&&")

    def _doubt(self, before: str) -> str | None:
        """Why it is not known whether the list goes on; None if it is."""
        return self._last.guess if before in _JOINS and not self._is_step(before) else None

    def _is_step(self, before: str) -> bool:
        """Whether what comes before is a step of a script, which is no question."""
        return before == "&&" and self._last.plain

    def _simple(self, rest: list[str], before: str, *, denied: bool) -> Run:
        top = self._blocks[-1] if self._blocks else None
        skipped = not self._goes_on(before)
        guess = next((b.guess for b in reversed(self._blocks) if b.guess is not None), None)
        guess = self._doubt(before) or guess
        grouped = any(block.kind == "group" for block in self._blocks)
        sure = guess is None and not grouped and not self._is_step(before)
        if not rest:
            return Run([], runs=False)
        if not skipped:
            self._judge(rest, before if before in _JOINS else "", denied=denied, top=top)
        return Run(rest, runs=self._active and not skipped, guess=guess, sure=sure)

    def _judge(self, rest: list[str], joins: str, *, denied: bool, top: _Block | None) -> None:
        """Keep what the list of commands comes to so far."""
        condition = top is not None and top.reading == "condition"
        if all(map(SET.fullmatch, rest)) and not condition:
            said = Verdict(True)
        else:
            said = replace(verdict(rest), plain=not (is_test(rest) or condition))
        said = ~said if denied else said
        self._last = self._last.joined(said, joins) if joins else said

    def _keyword(self, word: str, rest: list[str], before: str) -> bool:
        """Take a keyword off the words; False if the first is none."""
        top = self._blocks[-1] if self._blocks else None
        if word == "if":
            self._open(_Block("if", reading="condition"), before)
        elif word in _LOOPS:
            self._open(_Block("loop", reading="condition", until=word == "until"), before)
        elif word in _LISTS and len(rest) > 1:
            self._open(_Block("loop"), before)
            rest[:] = [word]
        elif word == "case" and len(rest) > 2 and rest[2] == "in":
            self._open(_Block("case", reading="pattern", subject=rest[1]), before)
            self._blocks[-1].active = False
            rest[:] = rest[2:]
        elif word == "function" and len(rest) > 1:
            del rest[0]
        elif word == "{":
            self._open(_Block("group"), before)
        elif top is None or not self._inside(word, top):
            return word == "!" and bool(rest.pop(0))
        del rest[0]
        return True

    def _open(self, block: _Block, before: str) -> None:
        block.outer = block.active = self._goes_on(before)
        block.guess = self._doubt(before)
        if len(self._blocks) < _DEEPEST:
            self._blocks.append(block)

    def _inside(self, word: str, top: _Block) -> bool:
        """Take a keyword that belongs to the open block."""
        if word in ("then", "do") and top.reading == "condition":
            said = ~self._last if top.until else self._last
            top.active = top.outer and not top.settled and self._holds(said)
            if not top.settled:
                top.guess = top.guess or said.guess  # of ``elif``, that of ``if`` as well
            top.settled |= top.active
            top.reading = "body"
        elif word in ("then", "do") or (word == "elif" and top.kind == "if"):
            top.active = top.outer and not top.settled
            top.reading = "condition" if word == "elif" else "body"
        elif word == "else" and top.kind == "if":
            top.active = top.outer and not top.settled
            top.settled = True
        elif _ENDS.get(word) == top.kind:
            self._blocks.pop()
            self._last = Verdict(True)
        else:
            return False
        return True

    @property
    def at_patterns(self) -> bool:
        """Whether the patterns of a branch of ``case`` come next."""
        return bool(self._blocks) and self._blocks[-1].reading == "pattern"

    def _pattern(self, rest: list[str], after: str) -> Run:
        """Read the patterns of a branch of ``case``, up to the parenthesis behind them."""
        top = self._blocks[-1]
        if rest and rest[0] == "esac":
            self._blocks.pop()
            return Run([], runs=False)
        top.patterns += rest
        if after == ")":
            open_text = "$" in top.subject
            subject = "" if open_text else top.subject
            fits = any(fnmatchcase(subject, p[:200]) for p in top.patterns)
            fits ^= open_text and self._contrary
            top.active = top.outer and fits and not top.settled
            top.settled |= top.active
            top.reading = "body"
            told = f"case {top.subject}"[:200]
            top.guess = (
                f"{told} rests on what the text leaves out: set it before" if open_text else None
            )
        return Run([], runs=False)
