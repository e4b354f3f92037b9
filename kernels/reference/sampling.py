"""The distribution that a sampling verify keeps: temperature, then top-k, then top-p."""

import torch
from torch import Tensor


def target_distribution(
    logits: Tensor, temperature: float, *, top_k: int | None = None, top_p: float = 1.0
) -> Tensor:
    """Probabilities [..., V] in float64 of ``logits`` [..., V] after temperature and cuts.

    Top-k leaves the ``top_k`` largest, top-p the fewest of those left, the largest first, that
    together reach ``top_p`` of them; after each, what is left is divided by its sum. Among equal
    logits the lowest index counts as the larger.

    Parameters
    ----------
    temperature
        Above 0 [1].
    top_k
        At least 1 [token], or None.
    top_p
        Above 0 and at most 1 [1].

    Source: SGLang ``dflash_utils.py`` and ``sampler.py``: ``top_k_renorm_prob``, then
    ``top_p_renorm_prob``.
    """
    scaled = logits.to(torch.float64) / temperature
    if (top_k is None or top_k >= logits.shape[-1]) and top_p >= 1:
        return torch.softmax(scaled, -1)
    order = scaled.sort(dim=-1, descending=True, stable=True)
    left = order.values if top_k is None else order.values[..., :top_k]
    chances = torch.softmax(left, -1)
    if top_p < 1:
        before = chances.cumsum(-1) - chances
        chances = chances.masked_fill(before >= top_p, 0)
        chances = chances / chances.sum(-1, keepdim=True)
    kept = order.indices[..., : chances.shape[-1]]
    return torch.zeros_like(scaled).scatter(-1, kept, chances)
