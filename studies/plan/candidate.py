"""One kind of server: an estimate of its fleet, and the fewest that meet the objective."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.profiles.sheets import PriceRange
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.plan.judge import Judge

_AT_MOST_FEWER = 2  # times fewer servers than estimated that could have the capacity
_FULL = 0.9  # of a server's capacity that an estimate uses


@dataclass(frozen=True)
class Survey:
    """A candidate before any simulation: its size and price, or why it is out.

    Parameters
    ----------
    need
        Estimated servers, not rounded; None where one request alone seems too slow [1].
    capped
        True if it is the number of slots that keeps a server from carrying more.
    """

    index: int
    tp: int = 0
    price: PriceRange | None = None
    need: float | None = None
    error: DflashSimError | None = None
    capped: bool = False

    @property
    def guess(self) -> int | None:
        """Estimated replicas."""
        return None if self.need is None else max(1, round(self.need))

    def usd(self, end: str, replicas: float) -> float | None:
        """Rent of a fleet [USD/h]."""
        each = getattr(self.price, end) if self.price else None
        return None if each is None else each * replicas * self.tp


@dataclass(frozen=True)
class Solved:
    """The result of a search for one candidate.

    Parameters
    ----------
    replicas
        The fewest that meet the objective; None where they are more than was of interest.
    failed
        The largest fleet that was seen to fail, in replicas.
    """

    index: int
    replicas: int | None
    failed: int


def survey(judge: Judge, i: int) -> Survey:
    """Resolve a candidate and estimate the size of its fleet."""
    try:
        setup = judge.setup(i)
        judge.expectation(i)
        need, capped = estimate(judge, i, setup)
        return Survey(i, setup.tp, setup.device.price, need, capped=capped)
    except DflashSimError as error:
        return Survey(i, error=error)


def estimate(judge: Judge, i: int, setup: Setup) -> tuple[float | None, bool]:
    """Servers by the steady state of full batches; None where one request alone is too slow.

    And whether fuller ones would carry more, were there slots.
    """
    demand, slo = judge.question.demand, judge.question.slo
    law = judge.expectation(i)
    length = law.acceptance.survival().mean_accept_length if law else 1.0
    cycles = max(0.0, demand.mean_osl - 1) / length
    longest = int(max(w.isl.max() for w in demand.runs))
    setup.step.reach(longest + setup.limits.max_new_tokens + setup.block)
    found = demand.found if setup.cache_unit else 0.0
    tokens = max(1, round(demand.mean_isl * (1 - found)))
    prefill_s = setup.step.prefill_s(
        requests=1, tokens=tokens, prefix=round(demand.mean_isl * found)
    )
    prefill_s = max(prefill_s, setup.step.prefill_launch_s(tokens))
    ctx = demand.mean_isl + demand.mean_osl / 2
    best, batch, held = 0.0, 1, int(setup.limits.kv_tokens / ctx)
    while batch <= min(setup.limits.max_running_requests, held):
        step_s = setup.step.decode_s(batch, batch * ctx)
        rate = 1 / (prefill_s + cycles * step_s / batch)
        slowed = 1 + prefill_s * rate
        kept = step_s / length * slowed <= (slo.tpot_s or float("inf"))
        kept = kept and prefill_s + cycles * step_s * slowed <= (slo.e2e_s or float("inf"))
        if not kept:
            break
        best, batch = max(best, rate), 2 * batch
    capped = setup.limits.max_running_requests < batch <= held
    return demand.rate / (best * _FULL) if best else None, capped


def solve(judge: Judge, i: int, guess: int | None, most: int) -> Solved:
    """The fewest replicas up to ``most``, from a guess outwards, then by bisection.

    Where requests come in an order that is given, one server more may meet less: round robin cuts
    a pattern of lengths otherwise. Then all smaller fleets are tried that could have the capacity.
    """
    if most < 1:
        return Solved(i, None, 0)
    patterned = judge.question.demand.as_given
    if guess is None or guess > most:
        # Short of the whole uncertainty already: fails at little cost.
        least = judge.question.z * judge.least_spread(i)
        hopeless = guess is None or not patterned
        if hopeless and not judge.meets(i, most, slow=math.exp(least)):
            return Solved(i, None, most)
    slow = judge.slow(i)
    tried: dict[int, bool] = {}

    def met(replicas: int) -> bool:
        if replicas not in tried:
            tried[replicas] = judge.meets(i, replicas, slow=slow)
        return tried[replicas]

    good, bad = _fewest(met, guess, most)
    if patterned:
        least_size = max(1, (guess or good) // _AT_MOST_FEWER)
        for replicas in range(good - 1, least_size - 1, -1):
            good = replicas if met(replicas) else good
        bad = good - 1
    return Solved(i, good if good <= most else None, bad)


def fewest_at(judge: Judge, i: int, slow: float, guess: int, most: int) -> int | None:
    """The fewest replicas where all times are ``slow`` as long; None if more than ``most``."""
    good, _ = _fewest(lambda n: judge.meets(i, n, slow=slow), min(guess, most), most)
    return good if good <= most else None


def _fewest(met: Callable[[int], bool], guess: int | None, most: int) -> tuple[int, int]:
    """A fleet that meets, and the next smaller one, which does not; ``most + 1`` is not tried."""
    bad, good = 0, most + 1
    probe = min(guess or most, most)
    stride = 1
    while bad < probe < good:
        if met(probe):
            good, probe = probe, probe - stride
        else:
            bad, probe = probe, min(probe + stride, most) if good > most else probe
        stride *= 2
    while good - bad > 1:
        middle = (good + bad) // 2
        if met(middle):
            good = middle
        else:
            bad = middle
    return good, bad
