"""The interface of a policy of verify widths: it plans each step, and may learn from results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dflash_sim.simulator.engine.scheduler import Req
from dflash_sim.simulator.requests.draws import Draws

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Plan:
    """The widths that one step drafts and verifies.

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


class Prices(Protocol):
    """GPU seconds of cycles of any width; ``width_tables.WidthSteps``."""

    @property
    def block(self) -> int:
        """The widest verify [token]."""

    def graph_of(self, batch: int) -> int:
        """Requests that the graph of a batch computes."""

    def decode_s(self, batch: int, kv_tokens: float, *, rows: int, drafted: int) -> float:
        """GPU seconds of a cycle that verifies ``rows`` in all, after a draft of ``drafted``."""

    def tail_s(self, batch: int, kv_tokens: float, *, rows: int) -> float:
        """GPU seconds after the accepted lengths are published."""

    def draft_s(self, batch: int, kv_tokens: float, *, drafted: int) -> float:
        """GPU seconds of the draft phase."""

    def curve(self, batch: int, kv_tokens: float) -> tuple[Floats, Floats]:
        """Seconds but for the draft by rows, from one per request; of the draft, from width 1."""


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
        """Return the spread of the confidences that it asks for [1]; None if it asks for none."""

    def start(self, prices: Prices, draws: Draws) -> Chooser:
        """Begin a run."""
