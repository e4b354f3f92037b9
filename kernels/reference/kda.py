"""Kimi delta attention: a gated delta rule that forgets each channel of its keys apart, in torch.

Shapes as in :mod:`~dflash_sim.kernels.reference.gdn`, with as many key as value heads. One token
turns the state ``S`` [Dk, Dv] of a head into

    S <- diag(exp(g)) S + beta k (v - (diag(exp(g)) S)^T k)^T,     o = S^T q / sqrt(Dk)

with a ``g`` for each channel of the keys (Kimi Linear, arXiv:2510.26692).
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from dflash_sim.kernels.reference.gdn import l2norm
from dflash_sim.kernels.reference.norm_rope import rms_norm, wide


def kda_gates(
    f: Tensor, b: Tensor, a_log: Tensor, dt_bias: Tensor, *, lowest: float | None = None
) -> tuple[Tensor, Tensor]:
    """``(g, beta)``: the log of the decay of each channel, and the write strength in (0, 1).

    ``g = -exp(a_log) softplus(f + dt_bias)``; with ``lowest`` it is ``lowest sigmoid(exp(a_log)
    (f + dt_bias))``, which goes no lower (Kimi-K3, GLM-5.3-Flash).

    Parameters
    ----------
    f : [..., H, Dk]
    b : [..., H]
    a_log, dt_bias : [H] and [H, Dk]
    """
    acc = wide(f.dtype)
    rate = a_log.to(acc).exp()[:, None]
    shifted = f.to(acc) + dt_bias.to(acc)
    decay = -rate * softplus(shifted) if lowest is None else lowest * torch.sigmoid(rate * shifted)
    return decay, torch.sigmoid(b.to(acc))


def kda_verify(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The rule token by token, keeping the state after each one; the last one is a decode's.

    Parameters
    ----------
    q, k, v : [R, T, H, D], queries and keys not yet of unit length
    g : [R, T, H, D]
    beta : [R, T, H]
    state : [R, H, D, D], before the first row; not changed

    Returns
    -------
    ``o`` [R, T, H, D] in ``v``'s type, and the states [R, T, H, D, D] in ``state``'s.
    Source: transformers ``recurrent_kimi_delta_attention``.
    """
    acc = wide(v.dtype)
    keys, queries = l2norm(k.to(acc)), l2norm(q.to(acc)) * q.shape[-1] ** -0.5
    live, outputs, states = state.to(acc), [], []
    for t in range(v.shape[1]):
        decayed = live * g[:, t, :, :, None].to(acc).exp()
        known = torch.einsum("rhkv,rhk->rhv", decayed, keys[:, t])
        new = (v[:, t].to(acc) - known) * beta[:, t, :, None].to(acc)
        live = decayed + keys[:, t, :, :, None] * new[:, :, None, :]
        outputs.append(torch.einsum("rhkv,rhk->rhv", live, queries[:, t]))
        states.append(live)
    return torch.stack(outputs, 1).to(v.dtype), torch.stack(states, 1).to(state.dtype)


def kda_norm(x: Tensor, gate: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """``rms_norm(x) * sigmoid(gate)`` over the last dimension: the output norm of a layer."""
    acc = wide(x.dtype)
    return (rms_norm(x.to(acc), weight.to(acc), eps=eps) * torch.sigmoid(gate.to(acc))).to(x.dtype)
