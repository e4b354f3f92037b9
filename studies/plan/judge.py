"""Does a fleet meet its objective? Simulations of candidates, and what is kept between them."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.profiles.one_look import Looks, one_look
from dflash_sim.simulator.fleet.fleet import Service, serve
from dflash_sim.simulator.intervals import Sensitivity, ratio_variance, sensitivity, unmodelled
from dflash_sim.simulator.requests.draws import Draws, draw_commits
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.laws import NoSpeculation
from dflash_sim.simulator.requests.workload import Workload, with_hits
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.simulator.trial import hit_unit
from dflash_sim.studies.ask.prices import priced
from dflash_sim.studies.plan.demand import Demand, faster
from dflash_sim.studies.plan.objective import Kept, Slo, kept

_HELD_BYTES = 250_000_000  # of commits, in each process
_BATCHES = 10  # of each half, whose means are nearly independent
_MORE = 1 / 4  # growth of a queue that counts as unstable; an overloaded one doubles
_SOME = 1 / 10  # of what is in flight, so that a short queue may become less short
_SIGNIFICANT = 3.0  # standard errors
_FILLED = 3.0  # times a mean answer, after which a fleet holds what it will hold
_THROUGHPUT = "output_throughput"
_AT_CONC = 32  # requests in flight at which the uncertainty of time is taken


@dataclass(frozen=True)
class Question:
    """The question of a plan.

    Parameters
    ----------
    candidates
        One server each, fleets of which are compared.
    confidence
        Probability that the objective is met, over what is uncertain of the prediction [1].
    max_gpus
        Fleets are no larger.
    notes
        What is asked for and left out of some candidates.
    prices
        What the asker pays for a GPU, in place of published prices [USD/h].
    compared
        Two candidates whose fleets are set side by side; empty for none.
    by_hour
        Share of the demand's rate in each hour of a day, 1 in the busiest; empty for a steady one.
    """

    candidates: tuple[Scenario, ...]
    demand: Demand
    slo: Slo
    router: str = "round-robin"
    confidence: float = 0.9
    max_gpus: int = 512
    notes: tuple[str, ...] = ()
    prices: Mapping[str, float] = field(default_factory=dict)
    compared: tuple[int, ...] = ()
    by_hour: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 1 / 2 <= self.confidence < 1:
            msg = f"--confidence {self.confidence:g}: it is at least 0.5 and below 1, such as 0.9."
            raise UsageError(msg)
        if self.max_gpus < 1:
            msg = f"--max-gpus {self.max_gpus}: a fleet has at least one GPU."
            raise UsageError(msg)

    @property
    def mean_rate(self) -> float:
        """Requests a second: as asked, on average over the hours of the day; or a trace's own."""
        share = sum(self.by_hour) / len(self.by_hour) if self.by_hour else 1.0
        return share * (self.demand.asked_rate or self.demand.rate)

    @property
    def z(self) -> float:
        """Standard deviations that the confidence asks for."""
        return NormalDist().inv_cdf(self.confidence)


@dataclass(frozen=True)
class Verdict:
    """One simulation, judged: what broke, or nothing; empty where it is met.

    Parameters
    ----------
    excess
        The odds of being late over those that may be, by the limit that is worst, of as many
        requests as were seen [1]; 0 where that is not what tells.
    """

    broke: str = ""
    excess: float = 0.0

    @property
    def met(self) -> bool:
        return not self.broke


def held(scenario: Scenario, demand: Demand, conc: int) -> Scenario:
    """A closed loop of ``conc`` requests of the same kind on one server."""
    fields = scenario.model_dump() | {"rate": None, "conc": conc, "num_prompts": None, "runs": 1}
    if scenario.dataset is None:
        osl = max(2, round(demand.mean_osl))
        isl = max(1, round(demand.mean_isl))
        fields |= {"isl": isl, "osl": osl, "range_ratio": 1.0}
    return Scenario.parse(**fields)


def grows(service: Service, replicas: int, *, lead: int = 0) -> bool:
    """Return True if requests pile up in the later half of those that are judged.

    More wait, or are in flight, by a quarter, by one a server, and by three standard errors of
    batch means. What is in flight says nothing while a fleet still fills.
    """
    at = np.sort(service.arrival_s)
    half = (len(at) - lead) // 2
    if half < _BATCHES:
        return False
    came = np.arange(1, len(at) + 1)
    decode_s = float(np.nanmean(service.finish_s - service.first_token_s))
    fills = at[-1] - at[lead] < _FILLED * decode_s
    in_flight = 0.0
    for until_s in (service.finish_s, service.first_token_s):
        there = came - np.searchsorted(np.sort(until_s), at, side="right")
        early, late = (
            np.array([part.mean() for part in np.array_split(x, _BATCHES)])
            for x in (there[-2 * half : -half], there[-half:])
        )
        in_flight = in_flight or float(early.mean())
        noise = math.sqrt((early.var(ddof=1) + late.var(ddof=1)) / _BATCHES)
        least = max(_MORE * early.mean(), _SOME * in_flight, replicas, _SIGNIFICANT * noise)
        if late.mean() - early.mean() > least and not (until_s is service.finish_s and fills):
            return True
    return False


class Judge:
    """Simulates candidates of one question; in one process.

    A candidate is named by its place in the question.
    """

    def __init__(self, question: Question) -> None:
        self.question = question
        self._files: Looks = {}  # sheets are read once for all candidates
        self._setups: dict[int, Setup | DflashSimError] = {}
        self.carries: dict[tuple[object, ...], tuple[float, str]] = {}  # what was pushed already
        self._spread: dict[int, tuple[float, float]] = {}
        self._sensitivity: dict[int, Sensitivity] = {}
        self._expectations: dict[tuple[object, ...], Expectation | None] = {}
        self._draws: OrderedDict[tuple[object, ...], Draws] = OrderedDict()

    def of(self, demand: Demand) -> "Judge":
        """A judge of the same servers under another demand, as uncertain as under this one."""
        other = Judge(replace(self.question, demand=demand))
        other._files, other._setups = self._files, self._setups
        other._spread, other._expectations = self._spread, self._expectations
        other._sensitivity = self._sensitivity
        return other

    def setup(self, i: int) -> Setup:
        """The candidate, resolved; what it raises is raised again."""
        if i not in self._setups:
            try:
                with one_look(self._files):
                    setup = resolve(self.question.candidates[i])
                device = priced(setup.device, self.question.prices)
                self._setups[i] = replace(setup, device=device)
            except DflashSimError as error:
                self._setups[i] = error
        found = self._setups[i]
        if isinstance(found, DflashSimError):
            raise found
        return found

    def expectation(self, i: int) -> Expectation | None:
        """The acceptance to expect; none without speculation."""
        setup = self.setup(i)
        key = self._law(setup)
        if key not in self._expectations:
            with one_look(self._files):
                self._expectations[key] = self._of_demand(setup).expectation
        return self._expectations[key]

    def _of_demand(self, setup: Setup) -> Setup:
        """The server, asked about the mean lengths: those of a trace are its longest."""
        s, demand = setup.scenario, self.question.demand
        if s.dataset is not None:
            return setup
        mean = {"isl": max(1, round(demand.mean_isl)), "osl": max(2, round(demand.mean_osl))}
        return replace(setup, scenario=s.model_copy(update=mean | {"range_ratio": 1.0}))

    def _law(self, setup: Setup) -> tuple[object, ...]:
        """Return what acceptance depends on: candidates that share it share their draws too."""
        s = setup.scenario
        return s.model, s.draft_model, s.method, setup.block, setup.window, s.acceptance

    def least_spread(self, i: int) -> float:
        """A lower bound of :meth:`spread`, at no cost [1]."""
        return math.sqrt(unmodelled(self.setup(i)))

    def spread(self, i: int) -> float:
        """One standard deviation of the log of throughput, as ``predict`` has it [1]."""
        return self._spreads(i)[0]

    def _spreads(self, i: int) -> tuple[float, float]:
        """:meth:`spread`, and that of the time to first token."""
        if i not in self._spread:
            setup = self.setup(i)
            conc = min(_AT_CONC, setup.limits.max_running_requests)
            with one_look(self._files):
                one = resolve(
                    held(setup.scenario, self.question.demand, conc),
                    engine=setup.engine,
                    tables=setup.tables,
                    calibration=setup.calibration,
                )
                found = self._sensitivity[i] = sensitivity(one)
            whole, first = (
                math.sqrt(found.variance(name) + unmodelled(setup, name))
                for name in (_THROUGHPUT, "mean_ttft_ms")
            )
            self._spread[i] = whole, first
        return self._spread[i]

    def ratio_spread(self, i: int, j: int) -> float:
        """One standard deviation of the log of the ratio of two throughputs [1]."""
        self.spread(i), self.spread(j)
        ours, theirs = self._sensitivity[i], self._sensitivity[j]
        return math.sqrt(ratio_variance(self.setup(i), ours, self.setup(j), theirs))

    def slow(self, i: int) -> float:
        """Return how much longer than predicted all times are, at the confidence's quantile [1]."""
        return math.exp(self.question.z * self.spread(i))

    def first_factor(self, i: int, slow: float) -> float:
        """Return how much later than all times first tokens are, where those are ``slow`` [1].

        At the confidence's quantile of their own uncertainty, which is larger.
        """
        if slow <= 1:
            return 1.0
        whole, first = self._spreads(i)
        return math.exp(self.question.z * max(0.0, first - whole))

    def draws(self, i: int, run: int) -> Draws:
        """The commits of a run, shared by candidates of one method and block."""
        key = (*self._law(self.setup(i)), run)
        if key not in self._draws:
            law = self.expectation(i)
            _, _, stream = np.random.SeedSequence([self.setup(i).scenario.seed, run]).spawn(3)
            self._draws[key] = draw_commits(
                law.acceptance if law else NoSpeculation(),
                self.question.demand.runs[run],
                np.random.default_rng(stream),
            )
            while sum(d.commits.nbytes for d in self._draws.values()) > _HELD_BYTES:
                if len(self._draws) == 1:
                    break
                self._draws.popitem(last=False)
        self._draws.move_to_end(key)
        return self._draws[key]

    def workload(self, run: int, *, slow: float = 1.0, times: float = 1.0) -> Workload:
        """The requests of a run, ``times`` as fast, as a ``slow`` engine sees them."""
        return faster(self.question.demand.runs[run], times, slow=slow)

    def serve(
        self,
        i: int,
        replicas: int,
        *,
        run: int = 0,
        slow: float = 1.0,
        times: float = 1.0,
        early: bool = False,
    ) -> Service:
        """Simulate a fleet.

        Parameters
        ----------
        slow
            All times are so many times as long as predicted [1].
        times
            Requests arrive so many times as fast [1].
        early
            Stop as soon as the objective is missed.
        """
        work = self.workload(run, slow=slow, times=times)
        demand, since_s = self.question.demand, 0.0
        if demand.lead:
            assert work.arrival_s is not None
            since_s = float(work.arrival_s[demand.lead])
        setup = self.setup(i)
        if setup.scenario.cache_hit is not None:
            work = with_hits(work, setup.scenario.cache_hit, hit_unit(setup))
        tally = self.question.slo.tally(
            demand.judged,
            slow=slow,
            since_s=since_s,
            early=early,
            first_factor=self.first_factor(i, slow),
            client_s=setup.engine["client_turnaround"],
        )
        router = self.question.router
        draws = self.draws(i, run)
        return serve(setup, work, draws, replicas=replicas, router=router, tally=tally)

    def kept(self, service: Service, *, slow: float = 1.0) -> Kept:
        """Return how far a whole simulation kept the objective."""
        demand = self.question.demand
        return kept(service, demand.runs[0], self.question.slo, slow=slow, lead=demand.lead)

    def verdict(self, i: int, replicas: int, **how: Any) -> Verdict:
        """Judge one run of a fleet by the objective; ``how`` is :meth:`serve`'s."""
        return self.broken(i, replicas, **how)[1]

    def broken(self, i: int, replicas: int, **how: Any) -> tuple[Service, Verdict]:
        """Return the verdict with the simulation, which stops where the objective is missed."""
        service = self.serve(i, replicas, **how, early=True)
        late: Mapping[str, int] = service.tally.late
        worst = max(late, key=lambda name: late[name])
        if service.kv_ran_out:
            return service, Verdict("kv")
        if not service.tally.over and self._falls_behind(i, service, replicas):
            return service, Verdict("queue")
        seen = int(np.isfinite(service.first_token_s[self.question.demand.lead :]).sum())
        may = 1 - self.question.slo.percentile / 100
        odds = late[worst] / max(1, seen - late[worst])
        excess = odds * (1 - may) / may if may else 0.0
        return service, Verdict(worst if service.tally.over else "", excess)

    def _falls_behind(self, i: int, service: Service, replicas: int) -> bool:
        """Return True if what waits grows, at one rate; else if too many are left waiting."""
        if self.question.demand.steady and grows(service, replicas, lead=self.question.demand.lead):
            return True
        if not self.question.slo.must_keep_up:
            return False
        n = self.question.demand.judged
        waiting = int((service.first_token_s > service.arrival_s.max()).sum())
        room = replicas * self.setup(i).limits.max_running_requests
        return waiting > max(self.question.slo.budget(n), room)

    def meets(self, i: int, replicas: int, *, slow: float) -> bool:
        """Return True if every run meets it."""
        return self.every(i, replicas, slow=slow).met

    def every(self, i: int, replicas: int, *, slow: float) -> Verdict:
        """Judge all runs: the first that misses the objective, else the one that is closest."""
        closest = Verdict()
        for run in range(len(self.question.demand.runs)):
            found = self.verdict(i, replicas, run=run, slow=slow)
            if not found.met:
                return found
            closest = max(closest, found, key=lambda v: v.excess)
        return closest
