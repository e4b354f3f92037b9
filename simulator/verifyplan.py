"""What a policy of verify widths is: it plans each step, and may learn from the results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dflash_sim.simulator.draws import Draws
from dflash_sim.simulator.scheduler import Req
from dflash_sim.simulator.widths import WidthSteps


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step drafts and verifies.

    Parameters
    ----------
    widths : tokens that each request verifies
    drafted : width of the draft before it; 1 drafts nothing
    """

    widths: Sequence[int]
    drafted: int

    @classmethod
    def uniform(cls, batch: int, width: int) -> "Plan":
        return cls([width] * batch, width)


class Chooser(Protocol):
    """A policy at work in one run."""

    def plan(self, reqs: Sequence[Req], kv_tokens: int) -> Plan:
        """Widths of the step about to be launched, with ``kv_tokens`` cached in all."""

    def processed(self, batch: int, accepted: Sequence[int]) -> None:
        """The host has seen how many drafts each request of a step of ``batch`` accepted."""


class Policy(Protocol):
    """A way to choose verify widths."""

    @property
    def spread(self) -> float | None:
        """Of the confidences it asks for [1]; None asks for none."""

    def start(self, steps: WidthSteps, draws: Draws) -> Chooser:
        """Begin a run."""
