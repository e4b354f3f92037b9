"""Policies that switch speculation off: above a context, or while cycles give too little.

By batch size there is the table, whose rows may say no drafts.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from dflash_sim.profiles.policies import Measured
from dflash_sim.simulator.engine.scheduler import Req
from dflash_sim.simulator.policy.interface import Plan, Prices
from dflash_sim.simulator.requests.draws import Draws


@dataclass(frozen=True)
class ContextLimit:
    """Drafts are verified of requests with at most ``limit`` cached tokens, of others none.

    The draft is of the whole batch while any of its requests is below the limit.

    Parameters
    ----------
    limit : tokens in the cache of a request [token]
    """

    limit: int
    spread: float | None = None

    def start(self, prices: Prices, draws: Draws) -> "ContextSwitch":
        return ContextSwitch(self.limit, prices.block)


@dataclass(frozen=True)
class ContextSwitch:
    """The limit at work in one run, at a block."""

    limit: int
    block: int

    def plan(self, reqs: Sequence[Req], kv_tokens: int) -> Plan:
        widths = [self.block if r.kv <= self.limit else 1 for r in reqs]
        return Plan(widths, max(widths))

    def processed(self, batch: int, accepted: Sequence[int]) -> None:
        """Nothing to learn."""


@dataclass(frozen=True)
class MeasuredLength:
    """Drafts while cycles give enough tokens on average; without them it tries now and then.

    Parameters
    ----------
    least : tokens a cycle that are enough; None is what the step's own price asks for [token]
    numbers : how it averages and tries
    """

    least: float | None
    numbers: Measured
    spread: float | None = None

    def start(self, prices: Prices, draws: Draws) -> "MeasuredSwitch":
        return MeasuredSwitch(self, prices)


@dataclass
class MeasuredSwitch:
    """The policy at work: the mean of tokens a cycle, and for how many steps it was off.

    Results come after the next step is launched, so that each is matched with its own plan.
    """

    policy: MeasuredLength
    prices: Prices
    mean: float | None = None
    off: int = 0
    trial: int = 0
    _drafted: deque[bool] = field(default_factory=deque)

    def plan(self, reqs: Sequence[Req], kv_tokens: int) -> Plan:
        drafts = self._pays(len(reqs), kv_tokens)
        self._drafted.append(drafts)
        return Plan.uniform(len(reqs), self.prices.block if drafts else 1)

    def processed(self, batch: int, accepted: Sequence[int]) -> None:
        drafted = self._drafted.popleft() if self._drafted else False
        if not drafted or not accepted:
            return
        newest = 1 + sum(accepted) / len(accepted)
        a = self.policy.numbers.alpha
        self.mean = newest if self.mean is None else (1 - a) * self.mean + a * newest

    def _pays(self, batch: int, kv_tokens: int) -> bool:
        """Decide on drafts: they gave enough so far, or it is time to try them again."""
        numbers = self.policy.numbers
        if self.mean is None or self.mean >= self._enough(batch, kv_tokens):
            self.off = self.trial = 0
            return True
        if self.off >= numbers.probe_every:
            self.off, self.trial = 0, numbers.probe_steps
        if self.trial:
            self.trial -= 1
            return True
        self.off += 1
        return False

    def _enough(self, batch: int, kv_tokens: int) -> float:
        """Tokens a cycle that a step of this batch has to give."""
        if self.policy.least is not None:
            return self.policy.least
        block = self.prices.block
        cycle = self.prices.decode_s(batch, kv_tokens, rows=batch * block, drafted=block)
        return cycle / self.prices.decode_s(batch, kv_tokens, rows=batch, drafted=1)
