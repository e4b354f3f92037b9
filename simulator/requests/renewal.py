"""The accept length of a request, by renewal theory.

Notation: ``s[..., k-1] = P(accepted >= k)``; a cycle commits ``tau = accepted + 1`` tokens, with
mean ``mu`` and variance ``sigma^2``. A request of N completion tokens gets one of them from prefill
and needs ``n = N - 1`` from ``nu`` verify cycles; the last commit may overshoot.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def commit_moments(s: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Mean and second moment of the commit length: ``1 + sum S_k``, ``1 + sum (2k+1) S_k``."""
    s = np.asarray(s, dtype=np.float64)
    k = np.arange(1, s.shape[-1] + 1)
    return 1 + s.sum(axis=-1), 1 + ((2 * k + 1) * s).sum(axis=-1)


def request_accept_length(s: npt.ArrayLike, tokens: npt.ArrayLike) -> Floats:
    """E[N / nu] of a request, SGLang's ``completion_tokens / spec_verify_ct`` [token].

    The asymptotic mean of nu, its variance ``n sigma^2 / mu^3``, and E[1/nu] to second order.
    The cut last block makes it low, the prefill token and Jensen's inequality high; what is left
    falls as 1/N. Any leading axes of ``s`` precede those of ``tokens``.
    """
    mean, second = commit_moments(s)
    total = np.asarray(tokens, dtype=np.float64)
    mean, second = (m.reshape(m.shape + (1,) * total.ndim) for m in (mean, second))
    n = total - 1
    cycles = (n + (second - mean) / (2 * mean)) / mean
    variance = n * (second - mean**2) / mean**3
    return np.asarray(total / cycles * (1 + variance / cycles**2))
