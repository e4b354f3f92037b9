"""The gated delta net of Qwen3-Next and Qwen3.5: convolution, delta rule, commit, in plain torch.

Shapes: ``R`` requests, ``T`` rows per request, ``Hk``/``Hv`` key and value heads (``Hv`` a
multiple of ``Hk``; key head ``h // (Hv / Hk)`` serves value head ``h``), ``Dk``/``Dv`` head
dimensions, ``C`` convolution channels, ``K`` its width. The state ``S`` of a value head is
``[Dk, Dv]``, float32 or wider. One token turns it into

    S <- exp(g) S + beta k (v - exp(g) S^T k)^T,     o = S^T q / sqrt(Dk)

with ``q`` and ``k`` scaled to unit length (Yang et al., "Gated Delta Networks", arXiv:2412.06464;
transformers ``torch_recurrent_gated_delta_rule``).
"""

import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu, softplus

from dflash_sim.kernels.reference.norm_rope import wide

L2_EPS = 1e-6


def conv_windows(x: Tensor, state: Tensor) -> Tensor:
    """``[R, T, C, K - 1]``: the convolution's state after each row, without arithmetic."""
    width = state.shape[-1]
    stream = torch.cat([state.to(x.dtype), x.transpose(1, 2)], dim=-1)
    return stream.unfold(-1, width, 1)[:, :, 1:].transpose(1, 2)


def causal_conv1d(x: Tensor, weight: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``silu`` of the depthwise causal convolution, and the state ``[R, C, K - 1]`` after it.

    Parameters
    ----------
    x : [R, T, C]
    weight : [C, K]; tap ``K - 1`` multiplies the row itself
    state : [R, C, K - 1], the ``K - 1`` inputs before ``x``, oldest first; None is zeros

    Prefill, decode (``T = 1``) and verify are the same sum. For verify, take the state after each
    row from :func:`conv_windows`.
    """
    channels, width = weight.shape
    before = x.new_zeros(x.shape[0], channels, width - 1) if state is None else state.to(x.dtype)
    acc = wide(x.dtype)
    stream = torch.cat([before, x.transpose(1, 2)], dim=-1)
    summed = conv1d(stream.to(acc), weight.to(acc)[:, None], groups=channels)
    return silu(summed).transpose(1, 2).to(x.dtype), stream[..., -(width - 1) :].contiguous()


def gdn_gates(a: Tensor, b: Tensor, a_log: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor]:
    """``(g, beta)``: the log of the decay, never positive, and the write strength in (0, 1).

    ``g = -exp(a_log) softplus(a + dt_bias)`` and ``beta = sigmoid(b)``; ``a``, ``b`` are
    [..., Hv], ``a_log``, ``dt_bias`` are [Hv]. float32 or wider comes back.
    """
    acc = wide(a.dtype)
    decay = -a_log.to(acc).exp() * softplus(a.to(acc) + dt_bias.to(acc))
    return decay, torch.sigmoid(b.to(acc))


def l2norm(x: Tensor) -> Tensor:
    """``x / sqrt(sum(x^2) + 1e-6)`` over the last dimension."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + L2_EPS)


def gdn_verify(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The delta rule token by token, keeping the state after each one.

    Parameters
    ----------
    q, k : [R, T, Hk, Dk], not yet of unit length
    v : [R, T, Hv, Dv]
    g, beta : [R, T, Hv]
    state : [R, Hv, Dk, Dv], before the first row; not changed

    Returns
    -------
    ``o`` [R, T, Hv, Dv] in ``v``'s type, and the states [R, T, Hv, Dk, Dv] in ``state``'s.
    """
    acc = wide(v.dtype)
    group = v.shape[2] // q.shape[2]
    keys = l2norm(k.to(acc)).repeat_interleave(group, dim=2)
    queries = l2norm(q.to(acc)).repeat_interleave(group, dim=2) * q.shape[-1] ** -0.5
    live, outputs, states = state.to(acc), [], []
    for t in range(v.shape[1]):
        decayed = live * g[:, t, :, None, None].to(acc).exp()
        known = torch.einsum("rhkv,rhk->rhv", decayed, keys[:, t])
        new = (v[:, t].to(acc) - known) * beta[:, t, :, None].to(acc)
        live = decayed + keys[:, t, :, :, None] * new[:, :, None, :]
        outputs.append(torch.einsum("rhkv,rhk->rhv", live, queries[:, t]))
        states.append(live)
    return torch.stack(outputs, 1).to(v.dtype), torch.stack(states, 1).to(state.dtype)


def gdn_decode(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Do the same as :func:`gdn_verify`, but only the last state [R, Hv, Dk, Dv]; any ``T``."""
    out, states = gdn_verify(q, k, v, g, beta, state)
    return out, states[:, -1]


def gdn_prefill(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor, *, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """Run the recurrence in chunks of matrix products; shapes as :func:`gdn_decode`.

    Inside a chunk, with ``G`` the running sum of ``g`` and ``D_ij = exp(G_i - G_j)`` for
    ``j <= i``, the written values ``U`` solve ``(I + tril(beta K K^T D, -1)) U = beta (V - exp(G)
    K S)``; then ``O = exp(G) Q S + (Q K^T D) U`` and ``S <- exp(G_T) S + (K exp(G_T - G))^T U``.

    Source: the chunked form of the same paper; transformers ``torch_chunk_gated_delta_rule``.
    """
    acc = wide(v.dtype)
    group = v.shape[2] // q.shape[2]
    keys = l2norm(k.to(acc)).repeat_interleave(group, dim=2).transpose(1, 2)
    queries = l2norm(q.to(acc)).repeat_interleave(group, dim=2).transpose(1, 2)
    queries = queries * q.shape[-1] ** -0.5
    values, live, outputs = v.to(acc).transpose(1, 2), state.to(acc), []
    decays, strengths = g.to(acc).transpose(1, 2), beta.to(acc).transpose(1, 2)[..., None]
    for start in range(0, v.shape[1], chunk):
        part = slice(start, start + chunk)
        key, query, strength = keys[:, :, part], queries[:, :, part], strengths[:, :, part]
        total = decays[:, :, part].cumsum(-1)
        ratio = (total[..., :, None] - total[..., None, :]).tril().exp().tril()
        reach = total.exp()[..., None]
        target = strength * (values[:, :, part] - reach * (key @ live))
        system = strength * (key @ key.transpose(-1, -2)) * ratio
        written = torch.linalg.solve_triangular(system, target, upper=False, unitriangular=True)
        outputs.append(reach * (query @ live) + (query @ key.transpose(-1, -2) * ratio) @ written)
        remaining = (total[..., -1:] - total).exp()[..., None]
        live = live * total[..., -1].exp()[..., None, None]
        live = live + (key * remaining).transpose(-1, -2) @ written
    return torch.cat(outputs, 2).transpose(1, 2).to(v.dtype), live.to(state.dtype)


def conv_extend(x: Tensor, weight: Tensor, pool: Tensor, slots: Tensor) -> Tensor:
    """:func:`causal_conv1d` after ``pool[slots]`` [S, C, K - 1], which moves on past the rows."""
    out, after = causal_conv1d(x, weight, pool[slots])
    pool[slots] = after.to(pool.dtype)
    return out


def conv_verify(x: Tensor, weight: Tensor, pool: Tensor, slots: Tensor, scratch: Tensor) -> Tensor:
    """:func:`causal_conv1d` after ``pool[slots]``, which stays; windows go to ``scratch``.

    ``scratch`` is [>= R, >= B, C, K - 1]; its first R x B entries are written.
    """
    before = pool[slots]
    scratch[: x.shape[0], : x.shape[1]] = conv_windows(x, before)
    return causal_conv1d(x, weight, before)[0]


def gdn_extend(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, pool: Tensor, slots: Tensor
) -> Tensor:
    """The delta rule from ``pool[slots]`` [S, Hv, Dk, Dv], which moves on past the rows.

    Token by token for a single row, in chunks for more; ``slots`` is [R] int64.
    """
    rule = gdn_decode if v.shape[1] == 1 else gdn_prefill
    out, after = rule(q, k, v, g, beta, pool[slots])
    pool[slots] = after
    return out


def gdn_verify_slots(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    pool: Tensor,
    slots: Tensor,
    scratch: Tensor,
) -> Tensor:
    """:func:`gdn_verify` from ``pool[slots]``, which stays; the states go to ``scratch``.

    ``scratch`` is [>= R, >= B, Hv, Dk, Dv]; its first R x B entries are written.
    """
    out, states = gdn_verify(q, k, v, g, beta, pool[slots])
    scratch[: v.shape[0], : v.shape[1]] = states
    return out


def commit_states(pool: Tensor, scratch: Tensor, slots: Tensor, commit_len: Tensor) -> None:
    """Copy the state after each request's last committed row into its live slot, in place.

    Parameters
    ----------
    pool : [L, S, ...], the live states of ``L`` layers and ``S`` slots
    scratch : [L, >= R, B, ...], what verify stored (delta-rule states or :func:`conv_windows`)
    slots : [R] int64; the slot of a request with ``commit_len > 0`` appears once
    commit_len : [R] integer, rows kept, 0..B; 0 leaves the slot as it is (a padded request)
    """
    last = commit_len.to(torch.int64).clamp(min=1) - 1
    request = torch.arange(slots.shape[0], device=slots.device)
    moved = (commit_len > 0).view(-1, *[1] * (pool.dim() - 2))
    pool[:, slots] = torch.where(moved, scratch[:, request, last].to(pool.dtype), pool[:, slots])
