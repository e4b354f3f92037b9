"""DFlash adds this around a transformer layer: features to KV, the block, the split argmax.

Shapes: ``T`` tokens, ``H`` hidden, ``K`` captured target layers, ``L`` drafter layers, ``Hkv`` KV
heads, ``D`` head dimension, ``R`` requests, ``B`` block rows, ``V`` vocabulary.

Source: Chen et al., "DFlash", arXiv:2602.06036; transformers ``MuseGlimmerAssistantModel`` and
``DFlashTokenCandidateGenerator``; SGLang ``dflash_worker_v2.py``.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

from dflash_sim.kernels.reference.norm_rope import norm_rope, paged_kv_write, rms_norm


def project_features(features: Tensor, fc: Tensor, norm: Tensor, *, eps: float) -> Tensor:
    """Captured target states to drafter context: ``rms_norm(features fc^T)``, ``[T, H]``.

    Parameters
    ----------
    features : [T, K H], the outputs of the captured layers (residual added), side by side
    fc : [H, K H]
    norm : [H]
    """
    return rms_norm(linear(features, fc), norm, eps=eps)


def project_kv(context: Tensor, kv_weight: Tensor, kv_heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values of all drafter layers in one batched product, each [L, T, Hkv, D].

    Parameters
    ----------
    context : [T, H], from :func:`project_features`
    kv_weight : [L, 2 Hkv D, H], keys first
    """
    both = torch.einsum("th,lnh->ltn", context, kv_weight)
    keys, values = both.view(*both.shape[:2], 2, kv_heads, -1).unbind(2)
    return keys, values


def materialise(
    context: Tensor,
    kv_weight: Tensor,
    k_norm: Tensor,
    cos_table: Tensor,
    sin_table: Tensor,
    positions: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    slots: Tensor,
    *,
    eps: float,
) -> None:
    """Write the drafter's KV of every layer for ``T`` context tokens into its pools, in place.

    Parameters
    ----------
    context : [T, H], from :func:`project_features`
    kv_weight : [L, 2 Hkv D, H], keys first
    k_norm : [L, D]
    cos_table, sin_table : [P, D / 2]
    positions : [T] int64
    k_pool, v_pool : [L, pages, page_size, Hkv, D]
    slots : [T] int64; a negative slot (a rejected or padded row) is not written
    """
    keys, values = project_kv(context, kv_weight, k_pool.shape[-2])
    for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
        turned = norm_rope(key, k_norm[layer], cos_table, sin_table, positions, eps=eps)
        paged_kv_write(turned, value, k_pool[layer], v_pool[layer], slots)


def block_inputs(
    anchor: Tensor, context_lens: Tensor, *, rows: int, mask_id: int
) -> tuple[Tensor, Tensor]:
    """Token ids and positions [R, B] of a DFlash block: the anchor, then ``B - 1`` masks.

    Parameters
    ----------
    anchor : [R] int64, the last token known: a bonus, or what prefill sampled
    context_lens : [R], tokens whose KV is committed; the anchor stands at this position [tokens]
    """
    ids = torch.full((anchor.shape[0], rows), mask_id, dtype=torch.int64, device=anchor.device)
    ids[:, 0] = anchor
    steps = torch.arange(rows, device=anchor.device)
    return ids, context_lens.to(torch.int64)[:, None] + steps


def local_argmax(logits: Tensor, first_id: int) -> tuple[Tensor, Tensor]:
    """This rank's maximum and its token id, [T] each, of ``logits`` [T, V / tp] from ``first_id``.

    Among equal maxima the lowest id is taken.
    """
    best = logits.amax(-1)
    width = logits.shape[-1]
    index = torch.arange(width, device=logits.device).expand_as(logits)
    local = index.masked_fill(logits != best[:, None], width).amin(-1)
    return best, local + first_id


def pick_argmax(maxima: Tensor, ids: Tensor) -> Tensor:
    """The token ids [T] of the whole vocabulary from every rank's ``(maxima, ids)`` [tp, T].

    Among equal maxima the lowest id is taken, so the answer does not depend on the sharding.
    """
    best = maxima.amax(0)
    return ids.masked_fill(maxima != best, torch.iinfo(ids.dtype).max).amin(0)
