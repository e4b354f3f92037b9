"""The choice of experts by groups, with a correction that balances their load (DeepSeek-V3)."""

import torch
from torch import Tensor

from dflash_sim.kernels.reference.norm_rope import wide

TINY = 1e-20  # keeps a sum of weights above zero, as transformers does


def route_by_groups(
    logits: Tensor,
    correction: Tensor,
    k: int,
    *,
    groups: int,
    kept_groups: int,
    renormalise: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The experts of each token: weights [T, k] in the wide type and ids [T, k] int32.

    Scores are sigmoids. The correction is added for the choice alone: the groups with the highest
    sum of two corrected scores are kept, then the best ``k`` experts in them.

    Parameters
    ----------
    logits : [T, E]
    correction : [E], ``e_score_correction_bias``
    scale : ``routed_scaling_factor``, by which the weights are multiplied

    Source: transformers ``DeepseekV3TopkRouter``.
    """
    scores = torch.sigmoid(logits.to(wide(logits.dtype)))
    corrected = scores + correction.to(scores.dtype)
    grouped = corrected.view(len(scores), groups, -1)
    best = grouped.topk(2, dim=-1).values.sum(-1).topk(kept_groups, dim=-1).indices
    kept = torch.zeros(grouped.shape[:2], dtype=torch.bool, device=logits.device)
    kept = kept.scatter(1, best, value=True)
    allowed = corrected.masked_fill(~kept.repeat_interleave(grouped.shape[2], 1), -torch.inf)
    experts = allowed.topk(k, dim=-1).indices
    weights = scores.gather(1, experts)
    if renormalise:
        weights = weights / (weights.sum(-1, keepdim=True) + TINY)
    return weights * scale, experts.to(torch.int32)
