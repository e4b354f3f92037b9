"""A target and what drafts for it over shared pages: prefill, then draft, verify, accept, commit.

The cycle in SGLang's order: draft, verify, accept, commit of delta-net states, and what the drafter
learns from the verified rows (DFlash: their KV). Nothing is read on the host.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dflash_sim.kernels.cache import Cache, Placement, pack, place
from dflash_sim.kernels.models.drafter import Drafter
from dflash_sim.kernels.models.target import Hidden, TargetModel
from dflash_sim.kernels.reference.accept import Accepted, Odds
from dflash_sim.kernels.reference.draft import block_inputs
from dflash_sim.profiles.errors import UsageError


@dataclass(frozen=True)
class Running:
    """The requests of a batch, as the device sees them.

    Attributes
    ----------
    anchor : [R] int64, the last token known, not yet in any cache
    context_lens : [R] int64, tokens whose KV is committed; the anchor's place [tokens]
    page_table : [R, max_pages] int32
    state_slots : [R] int64
    first_draft, carried : [R] int64 and [R, H], what a draft head left for the next chain
    keys : [R] int64, whose random numbers a request draws
    """

    anchor: Tensor
    context_lens: Tensor
    page_table: Tensor
    state_slots: Tensor
    first_draft: Tensor | None = None
    carried: Tensor | None = None
    keys: Tensor | None = None

    def rows(self, rows: int, page_size: int, *, keep_states: bool = False) -> Placement:
        """``rows`` new rows of every request, from the anchor's place on."""
        return place(
            self.page_table,
            self.context_lens,
            self.state_slots,
            rows=rows,
            page_size=page_size,
            keep_states=keep_states,
        )

    def texts(self, lengths: Sequence[int], page_size: int) -> Placement:
        """So many new rows of each request: packed, unless they are equally many."""
        if len(set(lengths)) == 1:
            return self.rows(lengths[0], page_size)
        return pack(
            [
                place(
                    self.page_table[i : i + 1],
                    self.context_lens[i : i + 1],
                    self.state_slots[i : i + 1],
                    rows=length,
                    page_size=page_size,
                )
                for i, length in enumerate(lengths)
            ]
        )


class Drafted(NamedTuple):
    """The anchor and ``B - 1`` proposals [R, B], and what these were drawn from, if they were."""

    tokens: Tensor
    odds: Odds | None = None


@dataclass(frozen=True)
class Verified:
    """One verify pass: what it ran on [R, B], where, and what the target said.

    ``odds`` are those of the proposals, where they were drawn.
    """

    draft: Tensor
    at: Placement
    out: Hidden
    odds: Odds | None = None


class Judge(Protocol):
    """Decides which drafted tokens are kept, and what follows them."""

    def __call__(self, target: TargetModel, verified: Verified, running: Running) -> Accepted:
        """The tokens that every request gains."""
        ...


def greedy(target: TargetModel, verified: Verified, running: Running) -> Accepted:
    """Keep proposals while each is what the target would have said."""
    answer = target.argmax(verified.out.final).view_as(verified.draft)
    return target.backend.greedy_accept(verified.draft, answer)


class Plain:
    """Decoding of one rank without a drafter: a cycle of one row.

    Methods with a drafter override :meth:`draft` and :meth:`learn`.

    Parameters
    ----------
    rows
        Verify width, the anchor included [tokens].
    taps
        Target layers whose outputs the drafter reads.
    judge
        How tokens are accepted.
    """

    def __init__(
        self,
        target: TargetModel,
        target_cache: Cache,
        *,
        rows: int = 1,
        taps: Sequence[int] = (),
        judge: Judge = greedy,
    ) -> None:
        self.target, self.target_cache = target, target_cache
        self.block_rows, self.taps, self.judge = rows, taps, judge

    @property
    def page_size(self) -> int:
        """Tokens of a page, in both networks' pools."""
        return self.target_cache.kv.page_size

    def prefill(
        self,
        texts: Sequence[Tensor],
        running: Running,
        *,
        lengths: Tensor | None = None,
        following: Tensor | None = None,
    ) -> Running:
        """Read a text [n] int64 after each request's context; the anchor is what the target says.

        Parameters
        ----------
        lengths : [R] int64, those of the texts, where they are on the device already
        following : [R] int64, the token after each where the prompt goes on, else negative
        """
        rows = [len(text) for text in texts]
        ids, at = torch.cat([*texts]), running.texts(rows, self.page_size)
        out = self.target(ids, at, self.target_cache, self.taps)
        if lengths is None:
            lengths = torch.tensor(rows, device=ids.device)
        ends = at.last_of(lengths)
        end = Verified(ids[ends, None], at, Hidden(out.final[ends], None))
        spot = replace(running, context_lens=running.context_lens + lengths - 1)
        anchor = self.judge(self.target, end, spot).bonus
        if following is not None:
            anchor = torch.where(following >= 0, following, anchor)
        tokens = ids.roll(-1).index_copy(0, ends, anchor)
        after = replace(running, anchor=anchor, context_lens=running.context_lens + lengths)
        return self.learn(after, out, at, tokens, lengths)

    def decode(self, running: Running) -> Running:
        """One token for every request, without the drafter, whose KV falls behind."""
        at = running.rows(1, self.page_size)
        out = self.target(running.anchor, at, self.target_cache)
        anchor = self.target.argmax(out.final)
        return replace(running, anchor=anchor, context_lens=running.context_lens + 1)

    def cycle(self, running: Running) -> tuple[Running, Accepted]:
        """Draft, verify and accept: the requests after it, and what each of them gained."""
        verified = self.verify(self.propose(running), running)
        accepted = self.judge(self.target, verified, running)
        return self.commit(running, verified, accepted), accepted

    def propose(self, running: Running) -> Drafted:
        """The anchor and ``B - 1`` proposals, with their odds if they are drawn."""
        return Drafted(self.draft(running, running.rows(self.block_rows, self.page_size)))

    def draft(self, running: Running, at: Placement) -> Tensor:
        """The anchor and ``B - 1`` proposals [R, B], for the block that stands ``at``."""
        return running.anchor[:, None]

    def verify(self, drafted: Drafted, running: Running) -> Verified:
        """The target's pass over the block."""
        draft, odds = drafted
        speculative = draft.shape[1] > 1
        at = running.rows(draft.shape[1], self.page_size, keep_states=speculative)
        out = self.target(draft.flatten(), at, self.target_cache, self.taps)
        return Verified(draft, at, out, odds)

    def commit(self, running: Running, verified: Verified, accepted: Accepted) -> Running:
        """Make the accepted rows part of the context; the drafter learns from them."""
        states, at = self.target_cache.gdn, verified.at
        if states is not None and at.keep_states:
            states.commit(running.state_slots, accepted.commit_len, self.target.backend)
        after = replace(
            running,
            anchor=accepted.bonus,
            context_lens=running.context_lens + accepted.commit_len,
        )
        return self.learn(after, verified.out, at, accepted.tokens, accepted.commit_len)

    def learn(
        self, running: Running, out: Hidden, at: Placement, tokens: Tensor, lengths: Tensor
    ) -> Running:
        """Return what the drafter takes from a pass of the target.

        Parameters
        ----------
        running : the requests after the pass
        tokens : [R, B] or [T] int64, the token that follows each row
        lengths : [R], rows that were committed
        """
        return running


class Dflash(Plain):
    """Speculative decoding with a block drafter.

    Parameters
    ----------
    rows
        Verify width, the anchor included; the drafter's own if not given [tokens].
    mask_id
        The token that stands for "not known yet", where the drafter's config does not say.
    """

    def __init__(
        self,
        target: TargetModel,
        drafter: Drafter,
        target_cache: Cache,
        drafter_cache: Cache,
        *,
        rows: int | None = None,
        mask_id: int | None = None,
        judge: Judge = greedy,
    ) -> None:
        shape = drafter.spec.shape
        super().__init__(
            target,
            target_cache,
            rows=rows or shape.width,
            taps=shape.target_layer_ids,
            judge=judge,
        )
        self.drafter, self.drafter_cache = drafter, drafter_cache
        mask = drafter.spec.mask_id if mask_id is None else mask_id
        if mask is None:
            msg = f"{shape.name}: its config names no mask_token_id; give one"
            raise UsageError(msg)
        self.mask_id = mask

    def draft(self, running: Running, at: Placement) -> Tensor:
        """The anchor and ``B - 1`` proposals [R, B]: one pass of the drafter over the block."""
        hidden = self.block(running, at)[:, 1:]
        proposals = self.target.argmax(hidden.flatten(0, 1))
        return torch.cat([running.anchor[:, None], proposals.view(at.requests, -1)], dim=1)

    def block(self, running: Running, at: Placement) -> Tensor:
        """Hidden states [R, B, H] of the drafter for the block that stands ``at``."""
        ids, _ = block_inputs(
            running.anchor, running.context_lens, rows=at.rows, mask_id=self.mask_id
        )
        x = self.target.vocabulary.embed(ids.flatten())
        return self.drafter(x, at, self.drafter_cache).view(*ids.shape, -1)

    def learn(
        self, running: Running, out: Hidden, at: Placement, tokens: Tensor, lengths: Tensor
    ) -> Running:
        """Write the drafter's KV of the committed rows from the captured features."""
        if out.features is None:
            msg = "the target ran without captured layers"
            raise ValueError(msg)
        self.drafter.materialise(
            out.features, at.positions, at.slots_of(lengths), self.drafter_cache
        )
        return running
