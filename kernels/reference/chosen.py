"""The choice of blocks of tokens that MiniMax-M3 attends to (MSA), over a paged pool.

A small attention scores every token; the score of a block is that of the best of its tokens. Each
of its heads picks blocks for the query heads of one KV head.
"""

import torch
from torch import Tensor

from dflash_sim.kernels.reference.attention import visible_keys
from dflash_sim.kernels.reference.latent import gather_rows
from dflash_sim.kernels.reference.norm_rope import wide


def choose_blocks(
    q: Tensor,
    pool: Tensor,
    page_table: Tensor,
    seq_lens: Tensor,
    *,
    block: int,
    topk: int,
    local: int = 1,
) -> Tensor:
    """``[R, B, H, T]``: the tokens of the blocks that each head picks for each row.

    Parameters
    ----------
    q : [R, B, H, D], queries of the small attention
    pool : [pages, page_size, D], its keys, one for all heads
    page_table, seq_lens : as of
        :func:`~dflash_sim.kernels.reference.attention.block_attention`
    block, topk : tokens of a block, and blocks that are picked [1]
    local : newest blocks that are always picked [1]

    Tokens after a row are in its newest block too: attention leaves them out.
    Source: transformers ``MiniMaxM3VLIndexer``.
    """
    acc = wide(q.dtype)
    keys = gather_rows(pool, page_table).to(acc)
    rows, tokens = q.shape[1], keys.shape[1]
    seen = visible_keys(seq_lens, rows=rows, keys=tokens, causal=True, window=None)
    scores = torch.einsum("rbhd,rkd->rbhk", q.to(acc), keys)
    scores = scores.masked_fill(~seen[:, :, None], -torch.inf)
    blocks = -(-tokens // block)
    short = blocks * block - tokens
    padded = torch.nn.functional.pad(scores, (0, short), value=-torch.inf)
    best = padded.reshape(*padded.shape[:-1], blocks, block).amax(-1)
    at = seq_lens.to(torch.int64)[:, None] - rows + torch.arange(rows, device=q.device)
    newest = (at[..., None] // block - torch.arange(local, device=q.device)).clamp(min=0)
    best = best.scatter(-1, newest[:, :, None].expand(-1, -1, q.shape[2], -1), torch.inf)
    found = best.topk(min(topk, blocks), dim=-1)
    picked = torch.zeros_like(best, dtype=torch.bool)
    picked = picked.scatter(-1, found.indices, found.values > -torch.inf)
    return picked.repeat_interleave(block, dim=-1)[..., :tokens]
