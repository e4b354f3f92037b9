"""Closed forms: renewal theory of commits, and the queueing laws a simulation must obey.

Notation: ``s[..., k-1] = P(accepted >= k)``; a cycle commits ``tau = accepted + 1`` tokens, with
mean ``mu`` and variance ``sigma^2``. A request of N completion tokens gets one of them from prefill
and needs ``n = N - 1`` from ``nu`` verify cycles; the last commit may overshoot.
"""

import numpy as np
import numpy.typing as npt

from dflash_sim.simulator.requests.numerics import gamma_quadrature
from dflash_sim.simulator.requests.renewal import commit_moments
from dflash_sim.simulator.requests.survival import FrailtyWeibull, Survival

Floats = npt.NDArray[np.float64]


def geometric(a: float, gamma: int) -> Survival:
    """Every draft accepted with probability ``a`` given the one before (Leviathan 2023)."""
    return Survival.table(a ** np.arange(1, gamma + 1))


def commit_pmf(s: npt.ArrayLike) -> Floats:
    """P(tau = t), t = 1..block."""
    return -np.diff(np.asarray(s, dtype=np.float64), prepend=1, append=0)


def hazards(s: npt.ArrayLike) -> Floats:
    """P(accepted >= k) given that k - 1 are; 0 where never reached."""
    s = np.asarray(s, dtype=np.float64)
    before = np.concatenate([np.ones(1), s[:-1]])[: s.size]
    return np.divide(s, before, out=np.zeros_like(s), where=before > 0)


def expected_cycles(s: npt.ArrayLike, tokens: int) -> Floats:
    """Exact E[cycles to emit n tokens] for n = 0..tokens.

    ``u_0 = 0``, ``u_n = 1 + sum_t P(tau = t) u_max(n-t, 0)``.
    """
    pmf = commit_pmf(s)
    u = np.zeros(tokens + 1)
    for n in range(1, tokens + 1):
        reach = min(n, pmf.size)
        u[n] = 1 + pmf[:reach] @ u[n - reach : n][::-1]
    return u


def expected_cycles_asymptotic(s: npt.ArrayLike, tokens: npt.ArrayLike) -> Floats:
    """E[cycles to emit n tokens] -> ``(n + E[tau(tau-1)] / 2 mu) / mu`` (renewal theorem)."""
    mean, second = commit_moments(s)
    n = np.asarray(tokens, dtype=np.float64)
    return np.asarray((n + (second - mean) / (2 * mean)) / mean)


def cycles_pmf(s: npt.ArrayLike, tokens: int) -> Floats:
    """Exact P(nu = j), j = 0..tokens, for the cycles that emit ``tokens`` tokens."""
    pmf = np.concatenate([np.zeros(1), commit_pmf(s)])
    alive = np.zeros(tokens)
    alive[:1] = 1
    unfinished = np.zeros(tokens + 1)
    for j in range(tokens):
        unfinished[j] = alive.sum()
        alive = np.convolve(alive, pmf)[:tokens]
    return np.concatenate([np.ones(1), unfinished[:-1]]) - unfinished


def overshoot_pmf(s: npt.ArrayLike) -> Floats:
    """P(the last commit overshoots by r tokens), r = 0..gamma, of a long request: ``S_r / mu``."""
    s = np.asarray(s, dtype=np.float64)
    reach: Floats = np.concatenate([np.ones(1), s])
    return reach / (1 + float(s.sum()))


def length_biased_mean(x: npt.ArrayLike) -> float:
    """Mean of ``x`` over what is in flight when time in flight is proportional to it.

    ``E[x^2] / E[x]``, the inspection paradox.
    """
    x = np.asarray(x, dtype=np.float64)
    return float((x * x).sum() / x.sum())


def closed_loop_tok_s(*, conc: int, tokens: float, cycles: float, step_s: float) -> float:
    """Throughput of slots refilled at once, by renewal reward [token/s].

    Parameters
    ----------
    conc : requests in flight
    tokens, cycles : means of a request [token], [1]
    step_s : time of a step, whatever the batch holds [s]
    """
    return conc * tokens / (cycles * step_s)


def drain_makespan(*, jobs: int, slots: int) -> float:
    """E[time to finish n jobs on c slots] over the mean job: ``(n - c) / c + H_c``.

    Jobs exponential and independent, all present at the start (order statistics).
    """
    slots = min(jobs, slots)
    return (jobs - slots) / slots + float((1 / np.arange(1, slots + 1)).sum())


def slot_efficiency(*, jobs: int, slots: int) -> float:
    """Share of slot time in use until the last job ends: ``n / (n - c + c H_c)``."""
    return jobs / (slots * drain_makespan(jobs=jobs, slots=slots))


def asymptotic_bounds(demands: npt.ArrayLike, *, users: int, think_s: float) -> tuple[float, float]:
    """Least and greatest throughput of a closed network of queues [1/s].

    ``N / (N D + Z) <= X <= min(N / (D + Z), 1 / D_max)`` (Muntz and Wong 1974).

    Parameters
    ----------
    demands : service demand of a visit round at each station [s]
    users, think_s : N customers, each away for Z between rounds [s]
    """
    d = np.asarray(demands, dtype=np.float64)
    total = float(d.sum())
    high = min(users / (total + think_s), 1 / float(d.max()))
    return users / (users * total + think_s), high


def balanced_bounds(demands: npt.ArrayLike, *, users: int, think_s: float) -> tuple[float, float]:
    """Tighter bounds of a product-form closed network: all stations as the worst, or alike [1/s].

    ``N / (D + Z + (N-1) D_max / (1 + Z / (N D)))`` to ``N / (D + Z + (N-1) D_ave / (1 + Z / D))``
    and ``1 / D_max`` (Zahorjan et al. 1982; Lazowska et al. 1984, chapter 5).
    """
    d = np.asarray(demands, dtype=np.float64)
    total, worst, others = float(d.sum()), float(d.max()), users - 1
    slow = others * worst / (1 + think_s / (users * total))
    fast = others * float(d.mean()) / (1 + think_s / total)
    return users / (total + think_s + slow), min(1 / worst, users / (total + think_s + fast))


def mean_value_analysis(
    demands: npt.ArrayLike, *, users: int, think_s: float
) -> tuple[float, Floats]:
    """Exact throughput [1/s] and queue lengths of a closed product-form network.

    ``R_k = D_k (1 + Q_k(n-1))``, ``X = n / (Z + sum R_k)``, ``Q_k = X R_k`` (Reiser and
    Lavenberg 1980). Stations are FCFS with exponential service, or processor sharing.
    """
    d = np.asarray(demands, dtype=np.float64)
    queue, rate = np.zeros_like(d), 0.0
    for n in range(1, users + 1):
        residence = d * (1 + queue)
        rate = n / (think_s + float(residence.sum()))
        queue = rate * residence
    return rate, queue


def processor_sharing_sojourn_s(*, service_s: float, load: float) -> float:
    """M/G/1-PS mean sojourn of a job of ``service_s``: ``s / (1 - rho)``, whatever G [s]."""
    return service_s / (1 - load)


def birth_death_stationary(birth: npt.ArrayLike, death: npt.ArrayLike) -> Floats:
    """P(n in system), n = 0..len(birth), of a birth-death chain.

    ``p_n = p_0 prod_j birth[j-1] / death[j-1]``; for batched decoding with n running and mean
    work m, ``death[n-1] = n mu / (m t(n))`` from the step time t(n).

    Parameters
    ----------
    birth : rate from n to n + 1, n = 0.. [1/s]
    death : rate from n + 1 to n, n = 0.. [1/s]
    """
    ratios = np.asarray(birth, dtype=np.float64) / np.asarray(death, dtype=np.float64)
    log_p = np.concatenate([np.zeros(1), np.cumsum(np.log(ratios))])
    p = np.exp(log_p - log_p.max())
    return np.asarray(p / p.sum())


def cycle_accept_length(law: FrailtyWeibull, block: int) -> float:
    """Tokens over cycles of long requests, ``1 / E_Z[1 / AL(Z)]``: what throughput follows."""
    factors, weights = gamma_quadrature(law.theta) if law.theta else (np.ones(1), np.ones(1))
    survival = np.exp(-np.multiply.outer(factors, law.cumulative_hazard(block - 1)))
    return float(1 / (weights @ (1 / (1 + survival.sum(axis=-1)))))
