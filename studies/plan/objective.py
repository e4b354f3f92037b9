"""The promise of a fleet to its users: latencies that a share of all requests must keep."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.units import MS
from dflash_sim.simulator.fleet.fleet import Service
from dflash_sim.simulator.fleet.replica import LATE, Tally
from dflash_sim.simulator.requests.workload import Workload

Floats = npt.NDArray[np.float64]
_HUNDRED = 100
_BEYOND = 5  # requests that are to lie beyond a percentile
WORDS = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E"}


@dataclass(frozen=True)
class Slo:
    """Limits [s] that ``percentile`` percent of the requests keep, each limit for itself.

    A fleet must also keep up: no limit may be kept only because the demand ends in time.

    Examples
    --------
    >>> slo = Slo(ttft_s=2.0, tpot_s=0.03, percentile=95)
    >>> str(slo).split("; ")[0]
    'TTFT <= 2,000 ms, TPOT <= 30 ms for 95 % of the requests'
    >>> slo.budget(1000)
    50
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    percentile: float = 95.0

    def __post_init__(self) -> None:
        for name, limit in self.limits_s.items():
            if not 0 < limit < np.inf:
                msg = f"--{name} {limit / MS:g}: a limit is a number of milliseconds above 0."
                raise UsageError(msg)
        if not 0 < self.percentile <= _HUNDRED:
            msg = f"--percentile {self.percentile:g}: it is above 0 and at most 100, such as 95."
            raise UsageError(msg)

    def __str__(self) -> str:
        limits = [f"{WORDS[n]} <= {x / MS:,.6g} ms" for n, x in self.limits_s.items()]
        words = ", ".join(limits) or "no request waits for long"
        return (
            f"{words} for {self.percentile:g} % of the requests; a queue that grows, or one KV "
            "retraction, fails"
        )

    @property
    def limits_s(self) -> dict[str, float]:
        """The limits that there are, by name [s]."""
        given = (self.ttft_s, self.tpot_s, self.e2e_s)
        return {n: x for n, x in zip(LATE, given, strict=True) if x is not None}

    @property
    def must_keep_up(self) -> bool:
        """Return True if nothing else notices a queue that grows."""
        return self.ttft_s is None and self.e2e_s is None

    @property
    def least(self) -> int:
        """Requests that a percentile asks for, so that a few of them lie beyond it."""
        beyond = (_HUNDRED - Decimal(str(self.percentile))) / _HUNDRED
        return math.ceil(_BEYOND / beyond) if beyond else 1

    def budget(self, requests: int) -> int:
        """Return how many of so many requests may break a limit."""
        return int(requests * (_HUNDRED - Decimal(str(self.percentile))) / _HUNDRED)

    def tally(
        self,
        requests: int,
        *,
        slow: float,
        since_s: float = 0.0,
        early: bool = True,
        first_factor: float = 1.0,
        client_s: float = 0.0,
    ) -> Tally:
        """A count of what is late, where all times are ``slow`` as long as simulated.

        Parameters
        ----------
        requests
            That are judged.
        since_s
            When the first of them arrives [s].
        first_factor, client_s
            As :class:`~dflash_sim.simulator.fleet.replica.Tally` has them.
        """
        limits = {name: limit / slow for name, limit in self.limits_s.items()}
        most = self.budget(requests) if early else None
        return Tally(limits, most, since_s, first_factor, client_s)


@dataclass(frozen=True)
class Kept:
    """The record of how far a fleet kept an objective.

    Parameters
    ----------
    quantile_s
        For each latency, the value that ``percentile`` percent of the requests do not exceed [s].
    share
        Share of the requests that keep each limit [1].
    all_limits
        Share of the requests that keep every limit at once [1].
    goodput
        Those requests per second of arrivals; of the whole time where all arrive at once.
    came
        All requests that are judged, over the same time.
    waiting
        Requests without a first token when the last one arrives.
    mean_e2e_s
        Latencies of the requests that were answered [s].
    """

    quantile_s: Mapping[str, float]
    share: Mapping[str, float]
    all_limits: float
    goodput: float
    came: float
    waiting: int
    mean_e2e_s: float


def crossing(excess: Mapping[float, float]) -> float | None:
    """Where too many requests begin to be late, as far as what was simulated tells.

    Parameters
    ----------
    excess
        By load: the odds of being late over those that may be [1]; 0 where they are not known.

    Returns
    -------
    The load on the line through the two nearest to it, both as logarithms; None without such a
    line, or where that falls.
    """
    known = [(math.log(load), math.log(late)) for load, late in excess.items() if late > 0]
    below = sorted((p for p in known if p[1] <= 0), key=lambda p: -p[0])
    above = sorted(p for p in known if p[1] > 0)
    near = [*below[:1], *above[:1]] if below and above else (below or above)[:2]
    if len(near) < 2 or (near[1][0] - near[0][0]) * (near[1][1] - near[0][1]) <= 0:
        return None
    (x, y), (x1, y1) = near
    return math.exp(x - y * (x1 - x) / (y1 - y))


def latencies_s(service: Service, workload: Workload, *, slow: float) -> dict[str, Floats]:
    """TTFT, TPOT and E2E of every request of a whole simulation, as its client sees them [s].

    Parameters
    ----------
    slow
        All times are so many times as long as simulated [1].
    """
    tally = service.tally
    ttft = slow * tally.first_factor * (service.first_token_s - service.arrival_s + tally.client_s)
    decode = slow * (service.finish_s - service.first_token_s)
    steps = np.maximum(workload.osl - 1, 1)
    return {"ttft": ttft, "tpot": decode / steps, "e2e": ttft + decode}


def kept(service: Service, workload: Workload, slo: Slo, *, slow: float, lead: int = 0) -> Kept:
    """Judge a whole simulation; what had no answer kept nothing.

    Parameters
    ----------
    lead
        Requests at the start that are not judged.
    """
    every = {n: x[lead:] for n, x in latencies_s(service, workload, slow=slow).items()}
    n = len(workload) - lead
    good = np.isfinite(every["e2e"])
    rank = n - slo.budget(n) - 1
    share, quantile = {}, {}
    for name, values in every.items():
        filled = np.nan_to_num(values, nan=np.inf)
        quantile[name] = float(np.partition(filled, rank)[rank])
        if name in slo.limits_s:
            ok = filled <= slo.limits_s[name]
            share[name] = float(ok.mean())
            good &= ok
    first, last = float(service.arrival_s[lead]), float(service.arrival_s.max())
    span = slow * (last - first) * n / max(1, n - 1)
    if not span:
        span = slow * (float(np.nanmax(service.finish_s)) - first) if good.any() else np.inf
    return Kept(
        quantile_s=quantile,
        share=share,
        all_limits=float(good.mean()),
        goodput=float(good.sum() / span),
        came=float(n / span),
        waiting=int((~(service.first_token_s <= last)).sum()),
        mean_e2e_s=float(np.nanmean(every["e2e"])) if np.isfinite(every["e2e"]).any() else np.inf,
    )
