"""The ops a layer calls, in few torch calls: on a CPU a small op costs its dispatch.

What each op takes and returns is said at its reference; shapes there. Nothing waits for a value,
and what is not to be written goes to page 0, which belongs to nobody.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from dflash_sim.kernels.reference.attention import visible_keys
from dflash_sim.kernels.reference.backend import REFERENCE
from dflash_sim.kernels.reference.draft import project_kv
from dflash_sim.kernels.reference.norm_rope import wide


def rms_norm(x: Tensor, weight: Tensor, *, eps: float, zero_centred: bool = False) -> Tensor:
    """Do the same as :func:`~dflash_sim.kernels.reference.norm_rope.rms_norm`, fused."""
    factor = weight + 1 if zero_centred else weight
    return torch.rms_norm(x, x.shape[-1:], factor, eps)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, *, eps: float, zero_centred: bool = False
) -> tuple[Tensor, Tensor]:
    """Do the same as :func:`~dflash_sim.kernels.reference.norm_rope.add_rms_norm`."""
    total = x + residual
    return rms_norm(total, weight, eps=eps, zero_centred=zero_centred), total


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """Do the same as :func:`~dflash_sim.kernels.reference.norm_rope.gated_rms_norm`."""
    return rms_norm(x, weight, eps=eps) * silu(gate)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of heads ``x`` [..., T, H, D], ``cos`` and ``sin`` [T, 1, rot / 2]."""
    half = cos.shape[-1]
    a, b = x[..., :half], x[..., half : 2 * half]
    turned = [a * cos - b * sin, b * cos + a * sin]
    parts = [*turned, x[..., 2 * half :]] if 2 * half < x.shape[-1] else turned
    return torch.cat(parts, -1).to(x.dtype)  # tables are wider than half-precision rows


def write(new: Tensor, pool: Tensor, slots: Tensor) -> None:
    """Store ``new`` [T, Hkv, D] at ``slots``; negative ones end up in page 0."""
    pool.view(-1, *pool.shape[-2:]).index_copy_(0, slots.clamp(min=0), new.to(pool.dtype))


def qk_norm_rope_write(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos_table: Tensor,
    sin_table: Tensor,
    positions: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    slots: Tensor,
    *,
    eps: float,
    zero_centred: bool = False,
) -> Tensor:
    """Do the same as ``norm_rope.qk_norm_rope_write``; queries and keys at once."""
    normed = torch.cat(
        [
            rms_norm(q, q_weight, eps=eps, zero_centred=zero_centred),
            rms_norm(k, k_weight, eps=eps, zero_centred=zero_centred),
        ],
        1,
    )
    turned = rotate(normed, cos_table[positions][:, None], sin_table[positions][:, None])
    heads = q.shape[1]
    write(turned[:, heads:], k_pool, slots)
    write(v, v_pool, slots)
    return turned[:, :heads]


class Masks:
    """Masks of the keys before and among the rows, as numbers to be added to scores.

    Counted from the last key it is the same for every context: one mask is kept for each kind of
    rows, and shorter contexts use its end. Those of prompts come in all lengths and are large: the
    last ones are kept, up to ``most`` bytes, for the next layer of the same pass.
    """

    def __init__(self, most: int = 2**26) -> None:
        self.made: dict[tuple[object, ...], Tensor] = {}
        self.of_prompts: dict[tuple[object, ...], Tensor] = {}
        self.most = most

    def of(
        self,
        *,
        rows: int,
        group: int,
        keys: int,
        causal: bool,
        window: int | None,
        dtype: torch.dtype,
    ) -> Tensor | None:
        """[group x rows, keys] in ``dtype``, or None where every row sees every key."""
        if window is None and (rows == 1 or not causal):
            return None
        key = rows, group, causal, window, dtype
        made = self.made.get(key, self.of_prompts.get(key))
        if made is None or made.shape[1] < keys:
            size = -(-max(keys, rows) // MASK_STEP) * MASK_STEP
            end = torch.tensor([size])
            seen = visible_keys(end, rows=rows, keys=size, causal=causal, window=window)[0]
            made = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
            made = made.repeat(group, 1)
            if rows <= FEW_ROWS:
                self.made[key] = made
            else:
                self._keep(key, made)
        return made[:, made.shape[1] - keys :]

    def _keep(self, key: tuple[object, ...], made: Tensor) -> None:
        self.of_prompts.pop(key, None)
        self.of_prompts[key] = made
        while sum(mask.nbytes for mask in self.of_prompts.values()) > self.most:
            del self.of_prompts[next(iter(self.of_prompts))]


MASK_STEP = 512  # keys by which a mask grows
FEW_ROWS = 64  # of a verify or a draft; a prompt has more
masks = Masks()


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
) -> Tensor:
    """Do the same as ``attention.block_attention``, one request after the other.

    Each reads its own context and no more, so that it takes as long as in other company. The
    query heads of one KV head are rows of one product.
    """
    acc = wide(q.dtype)
    requests, rows, heads, dim = q.shape
    page_size, kv_heads = k_pool.shape[-3:-1]
    group = heads // kv_heads
    packed = q.to(acc).view(requests, rows, kv_heads, group, dim)
    packed = packed.permute(0, 2, 3, 1, 4).reshape(requests, kv_heads, group * rows, dim)
    out = torch.zeros_like(packed)
    how: dict[str, Any] = {"rows": rows, "group": group, "causal": causal, "window": window}
    for i, keys in enumerate(seq_lens.tolist()):
        if keys == 0:
            continue
        pages = page_table[i, : -(-keys // page_size)]
        k, v = (
            pool.index_select(0, pages).view(1, -1, kv_heads, dim)[:, :keys].transpose(1, 2).to(acc)
            for pool in (k_pool, v_pool)
        )
        mask = masks.of(keys=keys, dtype=acc, **how)
        one = slice(i, i + 1)
        out[one] = scaled_dot_product_attention(packed[one], k, v, attn_mask=mask, scale=scale)
        if keys < rows:  # the first rows stand before the text
            out[i].view(kv_heads, group, rows, dim)[:, :, : rows - keys] = 0
    out = out.view(requests, kv_heads, group, rows, dim).permute(0, 3, 1, 2, 4).reshape(q.shape)
    return (out if gate is None else out * torch.sigmoid(gate.to(acc))).to(q.dtype)


def swiglu(gate_up: Tensor) -> Tensor:
    """Do the same as :func:`~dflash_sim.kernels.reference.moe.swiglu`."""
    gate, up = gate_up.chunk(2, -1)
    return silu(gate) * up


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
    """Do :func:`~dflash_sim.kernels.reference.draft.materialise` for all layers at once."""
    keys, values = project_kv(context, kv_weight, k_pool.shape[-2])
    normed = torch.rms_norm(keys, keys.shape[-1:], None, eps) * k_norm[:, None, None]
    turned = rotate(normed, cos_table[positions][:, None], sin_table[positions][:, None])
    places = slots.clamp(min=0)
    for new, pool in ((turned, k_pool), (values, v_pool)):
        flat = pool.view(pool.shape[0], -1, *pool.shape[-2:])
        flat.index_copy_(1, places, new.to(pool.dtype))


def local_argmax(logits: Tensor, first_id: int) -> tuple[Tensor, Tensor]:
    """Do the same as ``draft.local_argmax``; ``max`` takes the first of equals."""
    best, index = logits.max(-1)
    return best, index + first_id


CPU = replace(
    REFERENCE,
    rms_norm=rms_norm,
    add_rms_norm=add_rms_norm,
    gated_rms_norm=gated_rms_norm,
    qk_norm_rope_write=qk_norm_rope_write,
    block_attention=block_attention,
    swiglu=swiglu,
    materialise=materialise,
    local_argmax=local_argmax,
)
