"""Drafting one token after another: Qwen3.5's MTP layer and the EAGLE-3 head.

A cycle of ``k`` drafts is ``k - 1`` passes of one row, the verify of ``k + 1`` rows, and a
draft-extend: one pass of the head over all verified rows, which leaves the first draft of the next
cycle. Rows of the head stand one place before the token they read, as in SGLang.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dflash_sim.kernels.cache import Cache, Placement
from dflash_sim.kernels.models.cycle import Judge, Plain, Running, greedy
from dflash_sim.kernels.models.heads import Eagle3Head, MtpHead
from dflash_sim.kernels.models.target import Hidden, TargetModel


class Chain(Plain):
    """A draft head run step by step; subclasses say how it is fed.

    Parameters
    ----------
    steps
        Drafts of a cycle; one less than its verify width [tokens].
    head_cache
        KV of the head, under the target's page numbers.
    """

    def __init__(
        self,
        target: TargetModel,
        target_cache: Cache,
        head_cache: Cache,
        *,
        steps: int,
        taps: Sequence[int] = (),
        judge: Judge = greedy,
    ) -> None:
        super().__init__(target, target_cache, rows=steps + 1, taps=taps, judge=judge)
        self.head_cache = head_cache

    def draft(self, running: Running, at: Placement) -> Tensor:
        """The anchor, the draft left by the last extend, and those of the chain after it."""
        if running.first_draft is None or running.carried is None:
            msg = "a chain cannot draft before a prefill"
            raise ValueError(msg)
        drafts, carried = [running.anchor, running.first_draft], running.carried
        for step in range(at.rows - 2):
            ahead = replace(running, context_lens=running.context_lens + step)
            x = self.target.vocabulary.embed(drafts[-1])
            final, carried = self.head(x, carried, ahead.rows(1, self.page_size))
            drafts.append(self.head_argmax(final))
        return torch.stack(drafts, 1)

    def learn(
        self, running: Running, out: Hidden, at: Placement, tokens: Tensor, lengths: Tensor
    ) -> Running:
        """Draft-extend: the head over every row, padded ones too, and the last row's draft.

        After a prefill the head's logits are taken of the last row alone, as in SGLang.
        """
        x = self.target.vocabulary.embed(tokens.clamp(min=0).flatten())
        final, carried = self.head(x, self.features(out), at)
        last = at.last_of(lengths)
        every = len(x) <= at.requests * self.block_rows
        first = self.head_argmax(final)[last] if every else self.head_argmax(final[last])
        return replace(running, first_draft=first, carried=carried[last])

    def head(self, x: Tensor, hidden: Tensor, at: Placement) -> tuple[Tensor, Tensor]:
        """``(final, carried)`` of the head: the input of its logits, and of its next step."""
        raise NotImplementedError

    def head_argmax(self, final: Tensor) -> Tensor:
        """The most probable tokens."""
        return self.target.argmax(final)

    def features(self, out: Hidden) -> Tensor:
        """Return what the head reads of a pass of the target [T, H]."""
        return out.final


class Mtp(Chain):
    """The target's own multi-token-prediction layer."""

    def __init__(
        self,
        target: TargetModel,
        mtp: MtpHead,
        target_cache: Cache,
        head_cache: Cache,
        *,
        steps: int,
        judge: Judge = greedy,
    ) -> None:
        super().__init__(target, target_cache, head_cache, steps=steps, judge=judge)
        self.mtp = mtp

    def head(self, x: Tensor, hidden: Tensor, at: Placement) -> tuple[Tensor, Tensor]:
        """The layer's output serves as both."""
        final = self.mtp(x, hidden, at, self.head_cache)
        return final, final


class Eagle3(Chain):
    """An EAGLE-3 head, fed three layers of the target."""

    def __init__(
        self,
        target: TargetModel,
        eagle: Eagle3Head,
        target_cache: Cache,
        head_cache: Cache,
        *,
        steps: int,
        taps: Sequence[int],
        judge: Judge = greedy,
    ) -> None:
        super().__init__(target, target_cache, head_cache, steps=steps, taps=taps, judge=judge)
        self.eagle = eagle

    def head(self, x: Tensor, hidden: Tensor, at: Placement) -> tuple[Tensor, Tensor]:
        """One step of the head."""
        return self.eagle(x, hidden, at, self.head_cache)

    def head_argmax(self, final: Tensor) -> Tensor:
        """Over the head's own, smaller vocabulary."""
        return self.eagle.argmax(final)

    def features(self, out: Hidden) -> Tensor:
        """The captured layers, fused."""
        if out.features is None:
            msg = "the target ran without captured layers"
            raise ValueError(msg)
        return self.eagle.fuse(out.features)
