"""A target and its drafter over shared pages: prefill, decode, and one DFlash cycle.

The cycle in SGLang's order: block, draft, verify, accept, commit of delta-net states, KV
materialisation of the verified rows. Nothing is read on the host.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dflash_sim.kernels.cache import Cache, Placement, place
from dflash_sim.kernels.drafter import Drafter
from dflash_sim.kernels.model import Hidden, TargetModel
from dflash_sim.kernels.ref_accept import Accepted
from dflash_sim.kernels.ref_draft import block_inputs
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
    """

    anchor: Tensor
    context_lens: Tensor
    page_table: Tensor
    state_slots: Tensor

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


class Dflash:
    """Speculative decoding of one rank; greedy.

    Parameters
    ----------
    rows
        Verify width, the anchor included; the drafter's own block size if not given [tokens].
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
    ) -> None:
        self.target, self.drafter = target, drafter
        self.target_cache, self.drafter_cache = target_cache, drafter_cache
        self.taps = drafter.spec.shape.target_layer_ids
        self.block_rows = rows or drafter.spec.shape.block_size
        mask = drafter.spec.mask_id if mask_id is None else mask_id
        if mask is None:
            msg = f"{drafter.spec.shape.name}: its config names no mask_token_id; give one"
            raise UsageError(msg)
        self.mask_id = mask

    @property
    def page_size(self) -> int:
        """Tokens of a page, in both networks' pools."""
        return self.target_cache.kv.page_size

    def prefill(self, ids: Tensor, running: Running) -> Running:
        """Read ``ids`` [R, n] after each request's context; the anchor is what the target says."""
        at = running.rows(ids.shape[1], self.page_size)
        out = self.target(ids.flatten(), at, self.target_cache, self.taps)
        self.materialise(out, at)
        last = out.final.view(*ids.shape, -1)[:, -1]
        return replace(
            running,
            anchor=self.target.argmax(last),
            context_lens=running.context_lens + ids.shape[1],
        )

    def decode(self, running: Running) -> Running:
        """One token for every request, without the drafter, whose KV falls behind."""
        at = running.rows(1, self.page_size)
        out = self.target(running.anchor, at, self.target_cache)
        anchor = self.target.argmax(out.final)
        return replace(running, anchor=anchor, context_lens=running.context_lens + 1)

    def draft(self, running: Running, at: Placement) -> Tensor:
        """The anchor and ``B - 1`` proposals [R, B]: one pass of the drafter over the block."""
        ids, _ = block_inputs(
            running.anchor, running.context_lens, rows=at.rows, mask_id=self.mask_id
        )
        x = self.target.vocabulary.embed(ids.flatten())
        hidden = self.drafter(x, at, self.drafter_cache).view(*ids.shape, -1)
        proposals = self.target.argmax(hidden[:, 1:].flatten(0, 1))
        return torch.cat([ids[:, :1], proposals.view(at.requests, -1)], dim=1)

    def cycle(self, running: Running) -> tuple[Running, Accepted]:
        """Draft, verify and accept: the requests after it, and what each of them gained."""
        at = running.rows(self.block_rows, self.page_size, keep_states=True)
        draft = self.draft(running, at)
        out = self.target(draft.flatten(), at, self.target_cache, self.taps)
        answer = self.target.argmax(out.final).view_as(draft)
        accepted = self.target.backend.greedy_accept(draft, answer)
        if self.target_cache.gdn is not None:
            self.target_cache.gdn.commit(
                running.state_slots, accepted.commit_len, self.target.backend
            )
        self.materialise(out, at, accepted.commit_len)
        context_lens = running.context_lens + accepted.commit_len
        return replace(running, anchor=accepted.bonus, context_lens=context_lens), accepted

    def materialise(self, out: Hidden, at: Placement, commit_len: Tensor | None = None) -> None:
        """Write the drafter's KV from captured features; of committed rows only, if so told."""
        if out.features is None:
            msg = "the target ran without captured layers"
            raise ValueError(msg)
        slots = at.slots
        if commit_len is not None:
            step = torch.arange(at.rows, device=slots.device)
            kept = (step < commit_len[:, None]).flatten()
            slots = slots.masked_fill(~kept, -1)
        self.drafter.materialise(out.features, at.positions, slots, self.drafter_cache)
