"""Closed forms: renewal theory of commits, and the queueing laws a simulation must obey.

Notation: ``s[..., k-1] = P(accepted >= k)`` and a cycle commits ``tau = accepted + 1`` tokens with
mean ``mu``. A request of N completion tokens gets one from prefill and N - 1 from verify cycles.
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
    """E[N / cycles] of a request, SGLang's ``completion_tokens / spec_verify_ct`` [token].

    With n = N - 1, ``E[cycles] ~ (n + E[tau(tau-1)] / 2 mu) / mu`` and ``Var ~ n sigma^2 / mu^3``
    (renewal theorem), and E[1/cycles] to second order. Low for short requests, because the
    last block is cut; ``s`` may carry leading axes, which precede those of ``tokens``.
    """
    mean, second = commit_moments(s)
    total = np.asarray(tokens, dtype=np.float64)
    mean, second = (np.expand_dims(m, tuple(range(-total.ndim, 0))) for m in (mean, second))
    n = total - 1
    cycles = (n + (second - mean) / (2 * mean)) / mean
    variance = n * (second - mean**2) / mean**3
    return np.asarray(total / cycles * (1 + variance / cycles**2))
