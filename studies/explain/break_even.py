"""Break-even points of speculation: other blocks, and the accept length that is needed."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import TypeAlias

from dflash_sim.profiles.errors import MissingProfileError
from dflash_sim.profiles.networks.hf_config import DrafterShape
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.other_laws import accept_length, truncated, with_accept_length
from dflash_sim.simulator.setup import Setup
from dflash_sim.simulator.trial import beside
from dflash_sim.simulator.whatif import changed
from dflash_sim.studies.explain.replay import Replay

Lookup: TypeAlias = "Callable[[int], AtBlock | None]"

BLOCKS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
_CLOSE = 1e-3  # of the accept length: a fixed point is found when it moves less
_TRIES = 20
_STEEP = 0.9  # power of the tokens from which growth is looked at
_BENT = 0.1  # fall of that power which is a jump


@dataclass(frozen=True)
class AtBlock:
    """One verify width: its mean accept length [token], its speed [token/s], and over plain."""

    block: int
    accept_length: float
    speed_tok_s: float
    speedup: float


@dataclass(frozen=True)
class BreakEven:
    """The points where speculation equals plain decoding in the first run of the scenario.

    Parameters
    ----------
    plain_tok_s
        Speed of plain decoding.
    blocks
        Other verify widths of the same drafter, with the accept lengths expected there.
    smallest_block, largest_block
        The range of widths that beat plain decoding; None where none does.
    accept_length
        Mean accept length at this block that equals plain decoding [token]. None where not even
        accepting every draft does; 1 where accepting none is enough.
    """

    plain_tok_s: float
    blocks: tuple[AtBlock, ...]
    smallest_block: int | None
    largest_block: int | None
    accept_length: float | None

    @property
    def best(self) -> AtBlock:
        """The fastest width."""
        return max(self.blocks, key=lambda b: b.speed_tok_s)


def jumps(even: BreakEven) -> list[str]:
    """Say between which blocks a step grows faster than before and after, which no kernel does.

    A step takes a constant time, then one that grows with its tokens: how fast it grows, as a power
    of the tokens, never falls again. Where it does, two rows of a measured table were timed with
    different kernels, or one was off; what is best only on one side of that is not to be trusted.
    """
    steps_s = [b.accept_length / b.speed_tok_s for b in even.blocks]
    pairs = list(pairwise(zip(even.blocks, steps_s, strict=True)))
    powers = [log(t / s) / log(b.block / a.block) for (a, s), (b, t) in pairs]
    out = []
    for i, ((one, s), (two, t)) in enumerate(pairs):
        after = powers[i + 1] if i + 1 < len(powers) else 1.0
        if powers[i] < _STEEP or powers[i] < after + _BENT:
            continue
        said = (
            f"From block {one.block} to {two.block} a step takes {t / s:.2f} x as long for "
            f"{two.block / one.block:.2f} x the tokens, more than before and after: a jump "
            "between rows of a measured table, or to another kernel"
        )
        if even.best.block == one.block:
            said += f"; that block {one.block} is the fastest hangs on it"
        out.append(f"{said}.")
    return out


def break_even(result: Result, replay: Replay) -> BreakEven:
    """Break-even points of a speculative result, which has a baseline."""
    assert result.baseline is not None
    plain = replay.speed(result.baseline.setup, None)
    known: dict[int, AtBlock] = {}

    def at(block: int) -> AtBlock | None:
        if block not in known:
            found = _at_block(result, block, replay, plain)
            if found is None:
                return None
            known[block] = found
        return known[block]

    tree = result.scenario.topk > 1  # whose steps and tokens belong together
    tried = () if tree else (b for b in BLOCKS if b <= _widest(result))
    for block in sorted({*tried, result.setup.block}):
        at(block)
    ends = [_edge(at, sorted(known, reverse=back)) for back in (False, True)]
    return BreakEven(
        plain_tok_s=plain,
        blocks=tuple(known[b] for b in sorted(known)),
        smallest_block=ends[0],
        largest_block=ends[1],
        accept_length=_break_even_length(result, replay, plain),
    )


def _widest(result: Result) -> int:
    """The largest width that this drafter, or the acceptance given, can be asked about."""
    s, drafter = result.scenario, result.setup.drafter
    if isinstance(drafter, DrafterShape) and s.acceptance is None:
        return drafter.width
    return result.setup.block


def _at_block(result: Result, block: int, replay: Replay, plain: float) -> AtBlock | None:
    try:
        setup, law = _other_width(result, block)
    except MissingProfileError:  # no accept length is known there
        return None
    speed = replay.speed(setup, law)
    return AtBlock(block, accept_length(law), speed, speed / plain)


def _other_width(result: Result, block: int) -> tuple[Setup, Expectation]:
    law = result.expectation
    assert law is not None
    if block == result.setup.block:
        return result.setup, law
    scenario = changed(result.scenario, block=block, steps=None, runs=1)
    setup = beside(result.setup, scenario)
    if result.scenario.acceptance is None:
        assert setup.expectation is not None
        return setup, setup.expectation
    return setup, truncated(law, block)


def _edge(at: Lookup, blocks: list[int]) -> int | None:
    """The first of ``blocks`` that beats plain decoding, or one between it and the one before."""
    before = None
    for block in blocks:
        if _pays(at(block)):
            break
        before = block
    else:
        return None
    while before is not None and abs(before - block) > 1:
        middle = (before + block) // 2
        if _pays(at(middle)):
            block = middle
        else:
            before = middle
    return block


def _pays(found: AtBlock | None) -> bool:
    return found is not None and found.speedup > 1


def _break_even_length(result: Result, replay: Replay, plain: float) -> float | None:
    """The accept length whose speed is that of plain decoding, by a fixed point.

    Speed is nearly proportional to accept length, so scaling it by the speed that is missing
    lands close, and closer every time.
    """
    law = result.expectation
    assert law is not None
    block = float(law.acceptance.block)
    length = accept_length(law)
    for _ in range(_TRIES):
        speed = replay.speed(result.setup, with_accept_length(law, length))
        wanted = length * plain / speed
        if abs(wanted - length) < _CLOSE * length:
            return wanted
        if (length == 1 and wanted < 1) or (length == block and wanted > block):
            return 1.0 if length == 1 else None
        length = min(max(wanted, 1.0), block)
    return length
