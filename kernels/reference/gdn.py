"""The gated delta net of Qwen3-Next and Qwen3.5: convolution, delta rule, commit, in plain torch.

Shapes: ``R`` requests, ``T`` rows per request, ``Hk``/``Hv`` key and value heads (``Hv`` a
multiple of ``Hk``; key head ``h // (Hv / Hk)`` serves value head ``h``), ``Dk``/``Dv`` head
dimensions, ``C`` convolution channels, ``K`` its width. The state ``S`` of a value head is
``[Dk, Dv]``, float32 or wider. One token turns it into

    S <- exp(g) S + beta k (v - exp(g) S^T k)^T,     o = S^T q / sqrt(Dk)

with ``q`` and ``k`` scaled to unit length (Yang et al., "Gated Delta Networks", arXiv:2412.06464;
transformers ``torch_recurrent_gated_delta_rule``).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad, silu, softplus

from dflash_sim.kernels.reference.norm_rope import wide

L2_EPS = 1e-6
MOST_STATES = 1024  # that a prefill holds at once: 64 MiB of 128 x 128 in float32


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
    ``j <= i``, the written values are ``U - W S`` where ``U`` and ``W`` solve ``(I + tril(beta K
    K^T D, -1)) [U W] = beta [V exp(G) K]``. So ``S <- (exp(G_T) - K'^T W) S + K'^T U`` with ``K' =
    K exp(G_T - G)``, and ``O = exp(G) Q S + (Q K^T D) (U - W S)``. Only the state waits for the
    chunk before: all else is done for many chunks at once, in as few launches as for one.

    Source: the WY form of the same paper; transformers ``torch_chunk_gated_delta_rule``.
    """
    acc, (requests, tokens, heads) = wide(v.dtype), v.shape[:3]
    count = -(-tokens // chunk)
    size = -(-tokens // count)

    def cut(x: Tensor) -> Tensor:
        """[R, T, H, D] as [R Hv, N, C, D]; rows past the end write nothing and decay nothing."""
        rows = pad(x, (0, 0, 0, 0, 0, count * size - tokens))
        rows = rows.view(requests, count, size, *x.shape[2:]).movedim(3, 1)
        return rows.repeat_interleave(heads // x.shape[2], dim=1).flatten(0, 1)

    rows = (
        cut(l2norm(q.to(acc)) * q.shape[-1] ** -0.5),
        cut(l2norm(k.to(acc))),
        cut(v.to(acc)),
        cut(g.to(acc)[..., None]).cumsum(2),
        cut(beta.to(acc)[..., None]),
    )
    at_once = max(1, MOST_STATES // (requests * heads))
    live, outputs = state.to(acc).flatten(0, 1), []
    for start in range(0, count, at_once):
        out, live = _chunks([x[:, start : start + at_once] for x in rows], live)
        outputs.append(out)
    out = torch.cat(outputs, 1).flatten(1, 2)[:, :tokens].view(requests, heads, tokens, -1)
    return out.transpose(1, 2).to(v.dtype), live.view_as(state).to(state.dtype)


def _chunks(rows: Sequence[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs [H, N, C, Dv] of ``N`` chunks of ``H`` heads, and the state after the last."""
    query, key, value, total, strength = rows
    reach, transposed = total.exp(), key.mT
    ratio = (total - total.mT).tril().exp().tril()
    system = strength * (key @ transposed) * ratio
    wanted = strength * torch.cat([value, reach * key], -1)
    solved = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    written, read = solved.split([value.shape[-1], key.shape[-1]], dim=-1)
    last = total[:, :, -1:]
    grown, lost = ((key * (last - total).exp()).mT @ solved).split(
        [value.shape[-1], key.shape[-1]], dim=-1
    )
    kept = last.exp() * torch.eye(key.shape[-1], dtype=key.dtype, device=key.device) - lost
    states = [state]
    for n in range(key.shape[1]):
        states.append(torch.baddbmm(grown[:, n], kept[:, n], states[-1]))
    before = torch.stack(states[:-1], 1)
    told = (query @ transposed * ratio) @ (written - read @ before)
    return reach * (query @ before) + told, states[-1]


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
