"""Attention of a block of queries per request over a paged KV pool, in plain torch.

One definition serves decoding (``B = 1``), target verify (``B`` rows, causal), the DFlash block
(``B`` rows, each seeing the whole block and the whole context) and a prefill chunk (``B`` rows of
one request, causal). The keys and values of the block are in the pool already.
"""

import torch
from torch import Tensor

from dflash_sim.kernels.reference.norm_rope import wide


def visible_keys(
    seq_lens: Tensor, *, rows: int, keys: int, causal: bool, window: int | None
) -> Tensor:
    """Boolean ``[R, rows, keys]``: which context positions each query row attends to.

    Row ``i`` of request ``r`` stands at position ``p = seq_lens[r] - rows + i`` and sees positions
    below ``seq_lens[r]``; with ``causal`` none above ``p``; with ``window`` [tokens] none at
    ``p - window`` or before (the window counts the row itself).
    """
    end = seq_lens.to(torch.int64)[:, None, None]
    at = end - rows + torch.arange(rows, device=seq_lens.device)[None, :, None]
    key = torch.arange(keys, device=seq_lens.device)[None, None, :]
    seen = (key < end) & (at >= 0)
    if causal:
        seen = seen & (key <= at)
    if window is not None:
        seen = seen & (key > at - window)
    return seen


def gather_pages(pool: Tensor, page_table: Tensor) -> Tensor:
    """``[R, max_pages * page_size, Hkv, D]``: each request's keys (or values) in token order."""
    return pool[page_table.to(torch.int64)].flatten(1, 2)


def block_attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    page_table: Tensor,
    seq_lens: Tensor,
    *,
    causal: bool,
    scale: float,
    window: int | None = None,
    gate: Tensor | None = None,
    chosen: Tensor | None = None,
) -> Tensor:
    """Grouped-query attention of ``B`` queries per request; ``[R, B, Hq, D]`` in ``q``'s type.

    Parameters
    ----------
    q : [R, B, Hq, D]; query head ``h`` reads KV head ``h // (Hq / Hkv)``
    k_pool, v_pool : [pages, page_size, Hkv, D]
    page_table : [R, max_pages] int32; entries past a request's last page are not attended to but
        must be valid indices
    seq_lens : [R] int32, tokens of context *including* the block [tokens]; 0 is a padded request
    causal : rows of the block see no later row (verify, decode, prefill); else all of them (DFlash)
    window : tokens a row sees counting itself, or None; see :func:`visible_keys`
    gate : [R, B, Hq, D] or None; the output is multiplied by ``sigmoid(gate)`` (Qwen3.5)
    chosen : [R, B, Hkv, max_pages * page_size] bool or None; the tokens that query heads of a KV
        head are left with (:func:`~dflash_sim.kernels.reference.chosen.choose_blocks`)

    A row that sees nothing returns zeros.
    Source: transformers ``eager_attention_forward`` (Qwen3), ``Qwen3_5Attention`` (gate),
    ``MuseGlimmerAssistantAttention`` (block without causality).
    """
    acc = wide(q.dtype)
    requests, rows, heads, _ = q.shape
    group = heads // k_pool.shape[-2]
    k, v = gather_pages(k_pool, page_table).to(acc), gather_pages(v_pool, page_table).to(acc)
    seen = visible_keys(seq_lens, rows=rows, keys=k.shape[1], causal=causal, window=window)
    # Values nobody sees may be anything, NaN too, and 0 * NaN is not 0.
    v = v.masked_fill(~seen.any(dim=1)[:, :, None, None], 0)
    grouped = q.to(acc).view(requests, rows, heads // group, group, -1)
    scores = torch.einsum("rbhgd,rkhd->rhgbk", grouped, k) * scale
    left = seen[:, None, None]
    if chosen is not None:
        left = left & chosen.transpose(1, 2)[:, :, None]
    scores = scores.masked_fill(~left, -torch.inf)
    weights = torch.softmax(scores, dim=-1).masked_fill(~left, 0)
    out = torch.einsum("rhgbk,rkhd->rbhgd", weights, v).reshape(q.shape)
    return (out if gate is None else out * torch.sigmoid(gate.to(acc))).to(q.dtype)
