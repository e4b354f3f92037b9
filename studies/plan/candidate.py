"""One kind of server: an estimate of its fleet, and the fewest that meet the objective."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.profiles.sheets import PriceRange
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.plan.judge import Judge, Verdict
from dflash_sim.studies.plan.objective import crossing

_AT_MOST_FEWER = 2  # times fewer servers than estimated that could have the capacity
_GUESSES = 4  # of the size of a fleet, before it is looked for by halves
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


def solve(judge: Judge, i: int, guess: int | None, most: int, failed: int = 0) -> Solved:
    """The fewest replicas up to ``most``, from a guess outwards, then by bisection.

    Where requests come in an order that is given, one server more may meet less: round robin cuts
    a pattern of lengths otherwise. Then all smaller fleets are tried that could have the capacity.

    Parameters
    ----------
    failed
        Fleets up to this size are known to fail.
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
    tried: dict[int, Verdict] = {}

    def look(replicas: int) -> Verdict:
        if replicas not in tried:
            tried[replicas] = judge.every(i, replicas, slow=slow)
        return tried[replicas]

    good, bad = _fewest(look, guess, most, failed)
    if patterned:
        least_size = max(1, (guess or good) // _AT_MOST_FEWER, failed + 1)
        for replicas in range(good - 1, least_size - 1, -1):
            good = replicas if look(replicas).met else good
        bad = good - 1
    return Solved(i, good if good <= most else None, bad)


def fewest_at(judge: Judge, i: int, slow: float, guess: int, most: int) -> int | None:
    """The fewest replicas where all times are ``slow`` as long; None if more than ``most``."""
    good, _ = _fewest(lambda n: judge.every(i, n, slow=slow), min(guess, most), most)
    return good if good <= most else None


def _fewest(
    look: Callable[[int], Verdict], guess: int | None, most: int, failed: int = 0
) -> tuple[int, int]:
    """A fleet that meets, and the next smaller one, which does not; ``most + 1`` is not tried.

    The next that is tried is the one where too few requests begin to be late, by what was seen;
    else those around a guess, ever farther out; then the one in the middle.
    """
    bad, good = failed, most + 1
    probe, stride, guesses = min(max(guess or most, bad + 1), most), 1, _GUESSES
    seen: dict[float, float] = {}
    while good - bad > 1:
        found = look(probe)
        seen[1 / probe] = found.excess
        if found.met:
            good = probe
        else:
            bad = probe
        load = crossing(seen) if guesses else None
        likely = math.ceil(1 / load) if load else 0
        if bad < likely and (likely <= good or good > most):
            probe, guesses = likely, guesses - 1
        elif bad > failed and good <= most:
            probe = (good + bad) // 2
        else:
            probe += stride if good > most else -stride
            stride *= 2
        probe = min(max(probe, bad + 1), good - 1)
    return good, bad
