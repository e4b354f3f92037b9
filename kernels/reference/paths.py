"""DFlash2's choice of a path through the best tokens of every place of a block.

Shapes: ``R`` requests, ``N`` drafts, ``C`` candidates of each, ``D`` length of a token's vectors.

Source: the tensors ``candidate_selector`` of z-lab/Qwen3.8-27B-DFlash2; SGLang ``dflash.py`` and
vLLM ``dflash2/speculator.py``.
"""

import torch
from torch import Tensor

from dflash_sim.kernels.reference.accept import Odds, inverse_cdf


def best_tokens(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of ``logits`` [..., V], largest first, and their indices.

    Among equal ones the lowest index comes first.
    """
    order = logits.sort(dim=-1, descending=True, stable=True)
    return order.values[..., :count], order.indices[..., :count]


def score_pairs(unary: Tensor, scaled: Tensor, successors: Tensor) -> Tensor:
    """The score of every candidate after every one of the place before, [R, N, C, C].

    Entry ``[r, n, a, b]`` is ``unary[r, n, b] + scaled[r, n, a] . successors[r, n, b]``.

    Parameters
    ----------
    unary : [R, N, C], logits of the candidates
    scaled : [R, N, C, D], vectors of the candidates of the place before (of the anchor, before the
        first), times the hidden state's
    successors : [R, N, C, D], vectors of the candidates
    """
    return unary[:, :, None] + torch.einsum("rnad,rnbd->rnab", scaled, successors)


def walk(
    scores: Tensor, ids: Tensor, *, temperature: float = 0.0, numbers: Tensor | None = None
) -> tuple[Tensor, Odds | None]:
    """The tokens [R, N] of a path from the anchor on, each chosen by its score after the last.

    The best is taken at temperature 0. Above it a token is drawn, and the distributions that the
    tokens came from are returned too: verification needs them to keep the target's.

    Parameters
    ----------
    scores : [R, N, C, C], from :func:`score_pairs`; all rows of the first place are alike
    ids : [R, N, C] int64, the candidates
    numbers : [R, N] in [0, 1), one per draw
    """
    requests, places = ids.shape[:2]
    request = torch.arange(requests, device=ids.device)
    chosen = torch.zeros_like(request)
    tokens, chances = [], []
    for place in range(places):
        row = scores[request, place, chosen]
        if numbers is None:
            chosen = row.argmax(-1)
        else:
            chances.append(torch.softmax(row.to(torch.float64) / temperature, -1))
            chosen = inverse_cdf(chances[-1], numbers[:, place])
        tokens.append(ids[request, place, chosen])
    odds = Odds(torch.stack(chances, 1), ids) if chances else None
    return torch.stack(tokens, 1), odds
