"""SwiGLU and the mixture of experts of Qwen3, Qwen3-Next and Qwen3.5, in plain torch.

Shapes: ``T`` tokens, ``H`` hidden, ``I`` intermediate, ``E`` experts, ``k`` experts per token.
Gate and up projections are stacked, gate first: per expert ``w13`` [2 I, H] and ``w2`` [H, I].
"""

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from dflash_sim.kernels.reference.norm_rope import wide


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` of ``[..., 2 I]`` with the gate in the first half; ``[..., I]``."""
    gate, up = gate_up.chunk(2, dim=-1)
    acc = wide(gate_up.dtype)
    return (silu(gate.to(acc)) * up.to(acc)).to(gate_up.dtype)


def route_topk(logits: Tensor, k: int, *, renormalise: bool) -> tuple[Tensor, Tensor]:
    """The ``k`` most probable experts of each token: weights [T, k] and ids [T, k] int32.

    Softmax over all experts first, then top-k, then with ``renormalise`` the weights are divided
    by their sum (``norm_topk_prob``; Qwen3.5 always does). Weights come back in the wide type.

    Parameters
    ----------
    logits : [T, E]

    Source: transformers ``Qwen3MoeTopKRouter``, ``Qwen3_5MoeTopKRouter``.
    """
    probability = torch.softmax(logits.to(wide(logits.dtype)), dim=-1)
    weights, experts = probability.topk(k, dim=-1)
    if renormalise:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, experts.to(torch.int32)


def grouped_swiglu(x: Tensor, w13: Tensor, w2: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
    """``sum_j weights[t, j] * expert[experts[t, j]](x[t])``, ``[T, H]`` in ``x``'s type.

    Parameters
    ----------
    x : [T, H]
    w13 : [E, 2 I, H]
    w2 : [E, H, I]
    weights, experts : [T, k]; an expert outside 0..E-1 is skipped (it lives on another rank)

    Source: transformers ``Qwen3MoeExperts``.
    """
    acc = wide(x.dtype)
    out = torch.zeros_like(x, dtype=acc)
    for e in torch.unique(experts).tolist():
        if not 0 <= e < w13.shape[0]:
            continue
        token, choice = (experts == e).nonzero(as_tuple=True)
        hidden = linear(swiglu(linear(x[token], w13[e])), w2[e])
        out.index_add_(0, token, hidden.to(acc) * weights[token, choice, None].to(acc))
    return out.to(x.dtype)


def shared_expert(x: Tensor, w13: Tensor, w2: Tensor, gate: Tensor | None = None) -> Tensor:
    """A SwiGLU MLP every token passes, times ``sigmoid(x gate^T)`` where there is a ``gate``.

    Parameters
    ----------
    x : [T, H]
    w13 : [2 I, H]
    w2 : [H, I]
    gate : [1, H] or None

    Source: transformers ``Qwen3_5MoeSparseMoeBlock``.
    """
    out = linear(swiglu(linear(x, w13)), w2)
    return out if gate is None else out * torch.sigmoid(linear(x, gate))
