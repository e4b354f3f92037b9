"""Drafting a block whose tokens depend on one another: DFlash2, DSpark and Domino.

A cycle is that of DFlash. At a temperature the first two draw their proposals, and what these were
drawn from goes to the verdict: the target's distribution is kept whatever a drafter draws from.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dflash_sim.kernels.cache import Cache, Placement
from dflash_sim.kernels.models.cycle import Dflash, Drafted, Judge, Running, greedy
from dflash_sim.kernels.models.drafter import Drafter
from dflash_sim.kernels.models.target import TargetModel


@dataclass(frozen=True)
class Dice:
    """How proposals are drawn.

    Parameters
    ----------
    temperature
        Scores are divided by it [1].
    numbers
        ``(running, count) -> [R, count]`` in [0, 1), which no verdict uses.
    """

    temperature: float
    numbers: Callable[[Running, int], Tensor]


class PathBlock(Dflash):
    """A block drafter with a head that chooses its tokens one after the other.

    With DFlash2's selector every row but the anchor's drafts the token at its own place. With
    DSpark's Markov head every row drafts the token after it, the anchor's too, so that the block
    has one row less than is verified. Domino's block has as many rows, and its labels say which.

    Parameters
    ----------
    dice
        How proposals are drawn; without, the best are taken.
    """

    def __init__(
        self,
        target: TargetModel,
        drafter: Drafter,
        target_cache: Cache,
        drafter_cache: Cache,
        *,
        rows: int | None = None,
        judge: Judge = greedy,
        dice: Dice | None = None,
    ) -> None:
        super().__init__(target, drafter, target_cache, drafter_cache, rows=rows, judge=judge)
        assert drafter.head is not None, "a block without a head is DFlash's"
        self.head, self.dice = drafter.head, dice
        shape = drafter.spec.shape
        shifted = shape.recurrent is not None and shape.recurrent.shift_label
        self.first_row = 0 if shape.markov is not None or shifted else 1
        self.unread = 0 if shape.markov is not None else 1  # rows that draft nothing

    def draft(self, running: Running, at: Placement) -> Tensor:
        """The anchor and the best ``B - 1`` proposals [R, B]."""
        return self.choose(running, at.rows).tokens

    def propose(self, running: Running) -> Drafted:
        """The anchor and ``B - 1`` proposals, with their odds if they are drawn."""
        if self.dice is None:
            return super().propose(running)
        return self.choose(running, self.block_rows, self.dice)

    def choose(self, running: Running, rows: int, dice: Dice | None = None) -> Drafted:
        """A pass over the block, and the head along it."""
        at = running.rows(rows - 1 + self.unread, self.page_size)
        hidden = self.block(running, at)[:, self.first_row : self.first_row + rows - 1]
        drawn = None if dice is None else dice.numbers(running, rows - 1)
        tokens, odds = self.head(
            hidden,
            running.anchor,
            self.target.vocabulary,
            temperature=dice.temperature if dice else 0.0,
            numbers=drawn,
        )
        return Drafted(torch.cat([running.anchor[:, None], tokens], 1), odds)
