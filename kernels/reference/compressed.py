"""DeepSeek-V4's attention to a window and to compressed tokens, and its several residual streams.

One row per token, ``D`` wide, is key and value of all ``h`` heads. Windows of ``m`` tokens become
one compressed token each: a mean whose weights are a softmax over the window, for every dimension
apart. With two series it is taken over the window before as well.

``R`` requests of ``T`` tokens; ``N = T // m`` compressed ones, and what is over waits.
"""

import torch
from torch import Tensor

from dflash_sim.kernels.reference.latent import rotate_pairs
from dflash_sim.kernels.reference.norm_rope import wide


def compress(x: Tensor, gates: Tensor, bias: Tensor, *, overlap: bool) -> Tensor:
    """``[R, N, D]``: each window of ``m`` tokens as one, before its norm.

    Parameters
    ----------
    x, gates : [R, T, D]; with ``overlap`` [R, T, 2 D]: what a token gives to the next window, and
        to its own
    bias : [m, D] or [m, 2 D], by the place in the window

    Source: transformers ``DeepseekV4HCACompressor``, and ``DeepseekV4CSACompressor`` with overlap.
    """
    acc, size = wide(x.dtype), bias.shape[0]
    count = x.shape[1] // size
    shape = (x.shape[0], count, size, -1)
    values = x[:, : count * size].reshape(shape).to(acc)
    logits = gates[:, : count * size].reshape(shape).to(acc) + bias.to(acc)
    if overlap:
        values, logits = _with_last(values, 0.0), _with_last(logits, -torch.inf)
    return (values * logits.softmax(dim=2)).sum(dim=2).to(x.dtype)


def _with_last(windows: Tensor, first: float) -> Tensor:
    """``[R, N, 2 m, D]``: of each window its own series, behind the other one of the last."""
    given, own = windows.chunk(2, dim=-1)
    before = torch.cat([torch.full_like(given[:, :1], first), given[:, :-1]], dim=1)
    return torch.cat([before, own], dim=2)


def rotate_tail(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbours in the last P dimensions of ``x`` [..., D]; ``cos``, ``sin`` [..., P / 2].

    Source: transformers ``apply_rotary_pos_emb`` of DeepSeek-V4.
    """
    width = 2 * cos.shape[-1]
    return torch.cat([x[..., :-width], rotate_pairs(x[..., -width:], cos, sin)], dim=-1)


def finished(positions: Tensor, *, size: int, count: int) -> Tensor:
    """``[R, B, N]``: compressed tokens whose ``size`` tokens a row at ``positions`` has seen."""
    ready = (positions + 1) // size
    return torch.arange(count, device=positions.device) < ready[..., None]


def compressed_attention(
    q: Tensor,
    near: Tensor,
    far: Tensor,
    positions: Tensor,
    sinks: Tensor,
    *,
    window: int,
    seen: Tensor,
    scale: float,
) -> Tensor:
    """Attention of rows to their window and to compressed tokens: ``[R, B, h, D]``.

    Parameters
    ----------
    q : [R, B, h, D]
    near : [R, T, D], a row for each token from the first
    far : [R, N, D], compressed ones
    positions : [R, B] int, of the rows
    sinks : [h], logits that take weight and give nothing
    window : tokens that a row sees counting itself
    seen : [R, B, N] bool, of :func:`finished`, or those that an indexer chose among them

    Source: transformers ``DeepseekV4Attention``.
    """
    acc = wide(q.dtype)
    token = torch.arange(near.shape[1], device=q.device)
    at = positions[..., None]
    close = (token <= at) & (token > at - window)
    rows = torch.cat([near, far], dim=1).to(acc)
    scores = torch.einsum("rbhd,rkd->rbhk", q.to(acc), rows) * scale
    hidden = ~torch.cat([close, seen], dim=-1)[:, :, None]
    logits = torch.cat(
        [scores.masked_fill(hidden, -torch.inf), sinks.to(acc).expand(*q.shape[:2], -1)[..., None]],
        dim=-1,
    )
    weights = logits.softmax(dim=-1)[..., :-1]
    return torch.einsum("rbhk,rkd->rbhd", weights, rows).to(q.dtype)


def gather_streams(
    streams: Tensor, fn: Tensor, base: Tensor, scale: Tensor, *, eps: float, tiny: float, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``(x, post, mix)``: the input of a part, and how its output and the streams go on.

    Parameters
    ----------
    streams : [..., S, H]
    fn, base, scale : [(2 + S) S, S H], [(2 + S) S] and [3]
    eps, tiny : of the norm before, and of the balancing
    steps : rounds that make rows and columns of ``mix`` [..., S, S] sum to one

    Source: transformers ``DeepseekV4HyperConnection``; arXiv:2512.24880.
    """
    acc, count = wide(streams.dtype), streams.shape[-2]
    flat = streams.flatten(-2).to(acc)
    flat = flat * torch.rsqrt(flat.square().mean(-1, keepdim=True) + eps)
    sizes = [count, count, count * count]
    weighed, biases = (flat @ fn.to(acc).T, base.to(acc))
    parts = zip(torch.split(weighed, sizes, -1), torch.split(biases, sizes), strict=True)
    before, after, mix = (x * s + b for (x, b), s in zip(parts, scale.to(acc), strict=True))
    weight = torch.sigmoid(before) + tiny
    mix = mix.reshape(*mix.shape[:-1], count, count).softmax(-1) + tiny
    mix = mix / (mix.sum(-2, keepdim=True) + tiny)
    for _ in range(steps - 1):
        mix = mix / (mix.sum(-1, keepdim=True) + tiny)
        mix = mix / (mix.sum(-2, keepdim=True) + tiny)
    x = (weight[..., None] * streams.to(acc)).sum(-2).to(streams.dtype)
    return x, 2 * torch.sigmoid(after), mix


def spread_streams(out: Tensor, streams: Tensor, post: Tensor, mix: Tensor) -> Tensor:
    """The streams behind a part ``[..., S, H]``, whose output was ``out`` [..., H]."""
    acc = wide(out.dtype)
    kept = mix.transpose(-1, -2) @ streams.to(acc)
    return (post[..., None] * out[..., None, :].to(acc) + kept).to(streams.dtype)
