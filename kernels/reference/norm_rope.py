"""RMSNorm, QK-norm with rotary embedding, and the write into a paged KV pool, in plain torch.

Shapes: ``T`` tokens (rows of all requests, flattened), ``Hq``/``Hkv`` query and key heads, ``D``
head dimension, ``P`` positions of the rotary table, ``rot`` rotated dimensions (``rot <= D``).
Every function computes in the wider of its input's type and float32, and returns the input's type,
so float64 in means float64 throughout.
"""

import torch
from torch import Tensor
from torch.nn.functional import silu


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type sums are kept in: float32, or float64 for float64 inputs."""
    return torch.promote_types(dtype, torch.float32)


def rms_norm(x: Tensor, weight: Tensor, *, eps: float, zero_centred: bool = False) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension, in ``x``'s type.

    Parameters
    ----------
    x : [..., N]
    weight : [N]; with ``zero_centred`` the factor is ``1 + weight`` (Qwen3-Next, Qwen3.5)

    Source: transformers ``Qwen3RMSNorm`` and ``Qwen3_5RMSNorm``; the product is rounded once.
    """
    acc = wide(x.dtype)
    h = x.to(acc)
    factor = weight.to(acc) + 1 if zero_centred else weight.to(acc)
    return (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps) * factor).to(x.dtype)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, *, eps: float, zero_centred: bool = False
) -> tuple[Tensor, Tensor]:
    """``(norm(x + residual), x + residual)``, both ``[..., N]``: the pre-norm step of a layer."""
    total = x + residual
    return rms_norm(total, weight, eps=eps, zero_centred=zero_centred), total


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """``rms_norm(x) * silu(gate)`` over the last dimension: the output norm of a GDN layer.

    Parameters
    ----------
    x, gate : [..., Dv]
    weight : [Dv]

    Source: transformers ``Qwen3_5RMSNormGated`` (norm before gate).
    """
    acc = wide(x.dtype)
    return (rms_norm(x.to(acc), weight.to(acc), eps=eps) * silu(gate.to(acc))).to(x.dtype)


def rotary_table(
    positions: int,
    rotary_dim: int,
    *,
    theta: float,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[positions, rotary_dim / 2]`` of ``p * theta^(-2i / rotary_dim)``."""
    exponent = torch.arange(0, rotary_dim, 2, dtype=wide(dtype), device=device) / rotary_dim
    steps = torch.arange(positions, dtype=wide(dtype), device=device)
    angle = steps[:, None] * (1.0 / theta**exponent)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first ``2 * cos.shape[-1]`` of ``x``'s last dimension; pass the rest through.

    Parameters
    ----------
    x : [T, H, D]
    cos, sin : [T, rot / 2]; pair ``i`` is ``(x[i], x[i + rot / 2])`` (the half-split layout)
    """
    half = cos.shape[-1]
    acc = wide(x.dtype)
    c, s = cos[:, None].to(acc), sin[:, None].to(acc)
    a, b = x[..., :half].to(acc), x[..., half : 2 * half].to(acc)
    turned = torch.cat([a * c - b * s, b * c + a * s], dim=-1).to(x.dtype)
    return torch.cat([turned, x[..., 2 * half :]], dim=-1)


def norm_rope(
    x: Tensor,
    weight: Tensor,
    cos_table: Tensor,
    sin_table: Tensor,
    positions: Tensor,
    *,
    eps: float,
    zero_centred: bool = False,
) -> Tensor:
    """RMSNorm over each head of ``x`` [T, H, D], then rotation to ``positions`` [T] int64.

    The normed value is not rounded before it is rotated.
    """
    acc = wide(x.dtype)
    normed = rms_norm(x.to(acc), weight, eps=eps, zero_centred=zero_centred)
    return apply_rotary(normed, cos_table[positions], sin_table[positions]).to(x.dtype)


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos_table: Tensor,
    sin_table: Tensor,
    positions: Tensor,
    *,
    eps: float,
    zero_centred: bool = False,
) -> tuple[Tensor, Tensor]:
    """Per-head norm and rotation of queries and keys, as Qwen3 and the DFlash drafter do it.

    Parameters
    ----------
    q : [T, Hq, D]
    k : [T, Hkv, D]
    q_weight, k_weight : [D]
    cos_table, sin_table : [P, rot / 2]; ``rot < D`` is a partial rotation (Qwen3.5: a quarter)
    positions : [T] int64, each below P

    Source: transformers ``Qwen3Attention``, ``Qwen3_5Attention`` (``zero_centred``).
    """
    tables = (cos_table, sin_table)
    turned_q = norm_rope(q, q_weight, *tables, positions, eps=eps, zero_centred=zero_centred)
    turned_k = norm_rope(k, k_weight, *tables, positions, eps=eps, zero_centred=zero_centred)
    return turned_q, turned_k


def paged_kv_write(k: Tensor, v: Tensor, k_pool: Tensor, v_pool: Tensor, slots: Tensor) -> None:
    """Store ``k[t], v[t]`` at ``pool[slots[t]]``, in place; a negative slot is not written.

    Parameters
    ----------
    k, v : [T, Hkv, D]
    k_pool, v_pool : [slots, Hkv, D], or [pages, page_size, Hkv, D] where slot
        ``page * page_size + offset`` is meant
    slots : [T] int64, distinct where not negative
    """
    kept = slots >= 0
    for new, pool in ((k, k_pool), (v, v_pool)):
        pool.view(-1, *pool.shape[-2:])[slots[kept]] = new[kept].to(pool.dtype)


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
    """:func:`qk_norm_rope`, then :func:`paged_kv_write`: the rotated ``q`` [T, Hq, D].

    What the fused kernel in front of every attention does; shapes as in its two parts.
    """
    weights, tables = (q_weight, k_weight), (cos_table, sin_table)
    turned_q, turned_k = qk_norm_rope(
        q, k, *weights, *tables, positions, eps=eps, zero_centred=zero_centred
    )
    paged_kv_write(turned_k, v, k_pool, v_pool, slots)
    return turned_q
