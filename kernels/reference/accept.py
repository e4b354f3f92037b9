"""Acceptance of drafted tokens: greedy matching and chain rejection sampling, in plain torch.

``draft`` [R, B] int64 is what verify ran on: the anchor, then ``B - 1`` proposals. Row ``i`` of the
target's answer predicts the token after ``draft[:, i]``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NO_TOKEN = -1


class Accepted(NamedTuple):
    """The tokens that one verify kept.

    Attributes
    ----------
    accept_len : [R] int32, proposals kept, 0..B-1
    commit_len : [R] int32, ``accept_len + 1``: rows whose KV and state stay, and tokens emitted
    bonus : [R] int64, the target's own next token, and the next anchor
    tokens : [R, B] int64, ``accept_len`` proposals, then the bonus, then :data:`NO_TOKEN`
    """

    accept_len: Tensor
    commit_len: Tensor
    bonus: Tensor
    tokens: Tensor


class Odds(NamedTuple):
    """The distributions that a block's proposals were drawn from.

    Attributes
    ----------
    chances : [R, B - 1, C], which sum to 1
    ids : [R, B - 1, C] int64, the tokens that they belong to; None if C is the whole vocabulary
    """

    chances: Tensor
    ids: Tensor | None = None

    def dense(self, vocab: int) -> Tensor:
        """Chances of all tokens, [R, B - 1, V]."""
        if self.ids is None:
            return self.chances
        empty = self.chances.new_zeros((*self.chances.shape[:2], vocab))
        return empty.scatter(2, self.ids, self.chances)


def assemble(draft: Tensor, accept_len: Tensor, bonus: Tensor) -> Accepted:
    """An :class:`Accepted` from how many proposals were kept [R] and what follows them [R]."""
    step = torch.arange(draft.shape[1], device=draft.device)
    proposals = torch.cat([draft[:, 1:], bonus[:, None]], dim=1)
    kept = accept_len[:, None]
    ended = torch.where(step == kept, bonus[:, None], NO_TOKEN)
    tokens = torch.where(step < kept, proposals, ended)
    count = accept_len.to(torch.int32)
    return Accepted(count, count + 1, bonus, tokens)


def leading(matches: Tensor) -> Tensor:
    """Count the entries of each row of ``matches`` [R, N] before the first one that is false."""
    return matches.to(torch.int64).cumprod(dim=1).sum(dim=1)


def greedy_accept(draft: Tensor, target: Tensor) -> Accepted:
    """Keep proposals while each equals the target's argmax one row before.

    Parameters
    ----------
    draft : [R, B] int64
    target : [R, B] int64, argmax of each verify row
    """
    accept_len = leading(draft[:, 1:] == target[:, :-1])
    return assemble(draft, accept_len, target.gather(1, accept_len[:, None])[:, 0])


def inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """The first index of each row of ``weights`` [R, V] whose running sum exceeds ``u * total``."""
    running = weights.cumsum(-1)
    threshold = uniform[:, None].to(running.dtype) * running[:, -1:]
    # A zero weight never holds the first running sum above the threshold, except past the end.
    last = weights.shape[-1] - 1 - (weights.flip(-1) > 0).to(torch.int64).argmax(-1)
    return torch.minimum((running <= threshold).sum(-1), last)


def chain_rejection_sample(
    draft: Tensor,
    probabilities: Tensor,
    uniforms: Tensor,
    bonus_uniform: Tensor,
    odds: Tensor | None = None,
) -> Accepted:
    """Keep proposal ``d_i`` with probability ``p_{i-1}(d_i) / q_i(d_i)``; sample what follows.

    After a rejection the next token comes from what ``p`` has above ``q``, after ``B - 1``
    acceptances from the last row's ``p``. Every emitted token is then distributed as the target's
    own. A greedy drafter's ``q`` is one-hot: ``p_{i-1}(d_i)`` is the chance to be kept, and a
    rejected token is left out of ``p``.

    Parameters
    ----------
    draft : [R, B] int64
    probabilities : [R, B, V], the target's distribution at each row after temperature and cuts
    uniforms : [R, B - 1] in [0, 1), one per proposal
    bonus_uniform : [R] in [0, 1)
    odds : [R, B - 1, V], the distribution ``q`` that each proposal was drawn from; None if they
        were not drawn

    Source: Leviathan et al., arXiv:2211.17192, section 2.3; with a one-hot ``q`` SGLang's
    ``tree_speculative_sampling_target_only`` with thresholds 1 on a chain.
    """
    proposals = draft[:, 1:]
    chance = probabilities[:, :-1].gather(2, proposals[:, :, None])[:, :, 0]
    drawn = uniforms
    if odds is not None:
        drawn = uniforms * odds.gather(2, proposals[:, :, None])[:, :, 0]
    accept_len = leading(drawn < chance)
    request = torch.arange(draft.shape[0], device=draft.device)
    whole = probabilities[request, accept_len]
    rest = whole.clone()
    refused = (accept_len < draft.shape[1] - 1).nonzero()[:, 0]
    if odds is None:
        rest[refused, proposals[refused, accept_len[refused]]] = 0
    else:
        rest[refused] = (whole[refused] - odds[refused, accept_len[refused]]).clamp(min=0)
    # A refused token may have held everything that rounding left of the distribution.
    weights = torch.where(rest.sum(-1, keepdim=True) > 0, rest, whole)
    return assemble(draft, accept_len, inverse_cdf(weights, bonus_uniform))
