"""Multi-head latent attention over a paged pool, and its sparse choice of tokens, in plain torch.

What is cached of a token is one row: its latent ``c`` [L] and a rotated key ``r`` [P] that all
heads share. A head's key is ``(W_k c, r)`` and its value ``W_v c``. Written out like that it is the
expanded form, of prefills. The absorbed form moves both matrices to the queries' side, since
``q . W_k c = (W_k^T q) . c``, and attends to the rows as they are cached.

``R`` requests of ``B`` query rows, ``h`` heads, ``N`` unrotated key and ``V`` value widths.
"""

import torch
from torch import Tensor
from torch.nn.functional import relu

from dflash_sim.kernels.reference.attention import visible_keys
from dflash_sim.kernels.reference.norm_rope import wide


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbours ``(x[2 i], x[2 i + 1])`` of the first P dimensions; pass the rest through.

    Parameters
    ----------
    x : [..., D], of P or more
    cos, sin : [..., P / 2]

    Source: transformers ``apply_rotary_pos_emb_interleave`` (DeepSeek-V3).
    """
    acc, turning = wide(x.dtype), 2 * cos.shape[-1]
    c, s = cos.to(acc), sin.to(acc)
    a, b = x[..., 0:turning:2].to(acc), x[..., 1:turning:2].to(acc)
    turned = torch.stack([a * c - b * s, b * c + a * s], dim=-1).flatten(-2).to(x.dtype)
    return torch.cat([turned, x[..., turning:]], dim=-1)


def gather_rows(pool: Tensor, page_table: Tensor) -> Tensor:
    """``[R, max_pages * page_size, D]``: each request's rows of ``pool`` [pages, page, D]."""
    return pool[page_table.to(torch.int64)].flatten(1, 2)


def absorb(q: Tensor, w_k: Tensor) -> Tensor:
    """``W_k^T q`` of every head: ``[..., h, L]`` from ``q`` [..., h, N] and ``w_k`` [h, N, L]."""
    return torch.einsum("...hn,hnl->...hl", q, w_k)


def values_of(latents: Tensor, w_v: Tensor) -> Tensor:
    """``W_v c`` of every head: ``[..., h, V]`` from [..., h, L] and ``w_v`` [h, V, L]."""
    return torch.einsum("...hl,hvl->...hv", latents, w_v)


def latent_attention(
    q: Tensor,
    pool: Tensor,
    page_table: Tensor,
    seq_lens: Tensor,
    *,
    latent: int,
    scale: float,
    chosen: Tensor | None = None,
) -> Tensor:
    """Absorbed attention: latents [R, B, h, L] weighted by causal softmax, in ``q``'s type.

    Parameters
    ----------
    q : [R, B, h, L + P], absorbed queries beside rotated ones
    pool : [pages, page_size, L + P], the rows of this request included
    page_table : [R, max_pages] int32
    seq_lens : [R] int32, tokens of context *including* the rows [tokens]
    latent : L
    chosen : [R, B, max_pages * page_size] bool or None; what else is left out (:func:`choose`)

    A row that sees nothing returns zeros.
    Source: DeepSeek-V2, arXiv:2405.04434, section 2.1; checked against transformers
    ``DeepseekV3Attention``, which expands.
    """
    acc = wide(q.dtype)
    rows = gather_rows(pool, page_table).to(acc)
    seen = visible_keys(seq_lens, rows=q.shape[1], keys=rows.shape[1], causal=True, window=None)
    if chosen is not None:
        seen = seen & chosen
    rows = rows.masked_fill(~seen.any(dim=1)[:, :, None], 0)
    weights = _softmax(torch.einsum("rbhd,rkd->rbhk", q.to(acc), rows) * scale, seen)
    return torch.einsum("rbhk,rkl->rbhl", weights, rows[..., :latent]).to(q.dtype)


def expanded_attention(
    q: Tensor,
    pool: Tensor,
    page_table: Tensor,
    seq_lens: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    *,
    scale: float,
    chosen: Tensor | None = None,
) -> Tensor:
    """The same with keys and values multiplied out: ``[R, B, h, V]``.

    Parameters
    ----------
    q : [R, B, h, N + P], unrotated parts beside rotated ones
    w_k, w_v : [h, N, L] and [h, V, L]
    pool, page_table, seq_lens, chosen : as for :func:`latent_attention`
    """
    acc, latent = wide(q.dtype), w_k.shape[-1]
    rows = gather_rows(pool, page_table).to(acc)
    seen = visible_keys(seq_lens, rows=q.shape[1], keys=rows.shape[1], causal=True, window=None)
    if chosen is not None:
        seen = seen & chosen
    rows = rows.masked_fill(~seen.any(dim=1)[:, :, None], 0)
    keys = torch.einsum("rkl,hnl->rkhn", rows[..., :latent], w_k.to(acc))
    values = torch.einsum("rkl,hvl->rkhv", rows[..., :latent], w_v.to(acc))
    shared = rows[:, :, None, latent:].expand(-1, -1, keys.shape[2], -1)
    scores = torch.einsum("rbhd,rkhd->rbhk", q.to(acc), torch.cat([keys, shared], -1))
    return torch.einsum("rbhk,rkhv->rbhv", _softmax(scores * scale, seen), values).to(q.dtype)


def index_scores(
    q: Tensor, weights: Tensor, pool: Tensor, page_table: Tensor, seq_lens: Tensor
) -> Tensor:
    """Scores ``sum_h w_h relu(q_h . k)`` of each token, ``[R, B, T]``; -inf where a row sees none.

    Parameters
    ----------
    q : [R, B, H, D], the indexer's queries, scaled
    weights : [R, B, H]
    pool : [pages, page_size, D], its keys

    Source: transformers ``DeepseekV32Indexer``; the FP8 of SGLang's and the Hadamard rotation
    before it change no exact product.
    """
    acc = wide(q.dtype)
    keys = gather_rows(pool, page_table).to(acc)
    seen = visible_keys(seq_lens, rows=q.shape[1], keys=keys.shape[1], causal=True, window=None)
    keys = keys.masked_fill(~seen.any(dim=1)[:, :, None], 0)
    each = relu(torch.einsum("rbhd,rkd->rbhk", q.to(acc), keys))
    scores = torch.einsum("rbh,rbhk->rbk", weights.to(acc), each)
    return scores.masked_fill(~seen, -torch.inf)


def choose(scores: Tensor, topk: int) -> Tensor:
    """True at the ``topk`` highest of ``scores`` [R, B, T] that are finite; all of fewer."""
    count = min(topk, scores.shape[-1])
    best = scores.topk(count, dim=-1).indices
    picked = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, value=True)
    return picked & scores.isfinite()


def _softmax(scores: Tensor, seen: Tensor) -> Tensor:
    """Softmax of ``[R, B, h, T]`` over the tokens that ``seen`` [R, B, T] allows."""
    hidden = ~seen[:, :, None]
    weights = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1)
    return weights.masked_fill(hidden, 0)
