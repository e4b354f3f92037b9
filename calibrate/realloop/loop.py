"""Measure this machine, predict a run of our own engine, run it, compare.

Prompts are split in halves. On the first the acceptance is seen; the second is predicted and then
run. Answers have a given length, so that every configuration makes the same tokens. All of it is
done in rounds, in portions of the prompts, between probes that tell how fast the machine is: runs
that are compared with each other follow each other, and what ran while the machine changed is left
out.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dflash_sim.calibrate.measure.machine import Neighbours
from dflash_sim.calibrate.realloop.directed_workers import Stage, staged
from dflash_sim.calibrate.realloop.engine_sheet import PAGE, HostStages, host_stages
from dflash_sim.calibrate.realloop.forecast import Forecast
from dflash_sim.calibrate.realloop.outcomes import DRIFT, Config, Outcome
from dflash_sim.calibrate.realloop.rehearsal import Probe, Probes, Rehearsed, Size, pooled
from dflash_sim.profiles.times.machine_profile import MeasuredProfile
from dflash_sim.realrun.job.journal import Run
from dflash_sim.realrun.job.requests import Request
from dflash_sim.realrun.job.setup import Setup, fit
from dflash_sim.realrun.launch import serve

ROUNDS = 3
LEAST_PORTION, PER_CLIENT = 4, 3  # requests of one run
Drafting = tuple[str, int]
Prompts = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """One run of a portion of the prompts, between two probes; ``key`` is its round and number.

    What is left of it: its seconds, those of them in which the processors only waited for other
    work of the host, the tokens it made, and those of each verify step.
    """

    key: tuple[int, int]
    seconds: float
    idle_s: float
    tokens: int
    commits: tuple[int, ...]
    before: Probe
    after: Probe

    @classmethod
    def of(
        cls, key: tuple[int, int], run: Run, idle_s: float, before: Probe, after: Probe
    ) -> "Part":
        """From a run, whose records are many."""
        tokens = sum(len(answer.output) for answer in run.answers)
        commits = tuple(n for answer in run.answers for n in answer.commits)
        return cls(key, run.duration_s, idle_s, tokens, commits, before, after)

    @property
    def portion(self) -> int:
        """Return the number of the portion."""
        return self.key[1]

    @property
    def drift(self) -> float:
        """Return how far the second probe is from the first [1]."""
        return abs(self.after.seconds / self.before.seconds - 1)

    def quick_s(self, slowdown: float) -> float:
        """Return its time on a machine that is not slow; waiting takes what it takes."""
        return (self.seconds - self.idle_s) / slowdown + self.idle_s


@dataclass
class ClosedLoop:
    """The whole comparison on one machine.

    Parameters
    ----------
    model
        What the scenario calls the target.
    real
        What is run, its method aside; ``drafter`` is that of DFlash.
    prompts
        Token ids; half of them is for calibration.
    new_tokens
        Length of every answer [tokens].
    profile
        Of this machine and model: the times of ops that passes are made of; None if it is still
        to be measured.
    measure
        Makes the profile before each round, whose number it is told, from all that it has timed
        until then.
    """

    model: str
    real: Setup
    prompts: Prompts
    new_tokens: int
    profile: MeasuredProfile | None
    measure: Callable[[int], MeasuredProfile] | None = None
    seed: int = 0
    _rehearsed: dict[Drafting, list[Rehearsed]] = field(default_factory=dict)
    _probes: dict[Drafting, Probes] = field(default_factory=dict)
    _commits: dict[Drafting, list[tuple[int, ...]]] = field(default_factory=dict)
    _stages: dict[tuple[Drafting, str], HostStages] = field(default_factory=dict)
    _parts: dict[Config, list[Part]] = field(default_factory=dict)
    _others: dict[Config, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seen, self.held_out = halves(self.prompts, self.seed)

    # ---- what is done --------------------------------------------------------------------

    def rounds(self, configs: Sequence[Config], rounds: int = ROUNDS) -> Iterator[Outcome]:
        """Measure and run every configuration, and again; yields what is known after each."""
        for i in range(rounds):
            if self.measure is not None:
                self.profile = self.measure(i)
            for drafting in dict.fromkeys(c.drafting for c in configs):
                alike = [c for c in configs if c.drafting == drafting]
                # Runs that are compared follow each other, one way round and then the other.
                self._round(i, alike if i % 2 == 0 else alike[::-1])
                yield from map(self.outcome, alike)

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes of all configurations that were run, pooled over rounds."""
        return [self.outcome(config) for config in self._parts]

    def setup(self, config: Config) -> Setup:
        """Return what is run for a configuration."""
        method, imposed = config.speculation, self.real.accept_length
        if imposed is not None:
            imposed = None if config.plain else min(imposed, float(config.rows))
        return replace(
            self.real,
            accept_length=imposed,
            method=config.method,
            mode=config.mode,
            drafter=self.real.drafter if "draft_model" in method.takes else None,
            block=method.block(config.rows),
            steps=method.steps(config.rows),
            page_size=PAGE,
        )

    def check(self, configs: Sequence[Config]) -> None:
        """Refuse what cannot be run, before anything is.

        Raises
        ------
        UsageError, InfeasibleError
            Parts of a setup that do not belong together.
        """
        longest = max(map(len, self.prompts))
        for config in configs:
            fit(self.setup(config), longest_text=longest + self.new_tokens)

    def _round(self, number: int, configs: Sequence[Config]) -> None:
        """One method at one width: its host stages, its passes, its runs."""
        drafting = configs[0].drafting
        self._time_host(configs)
        most = max(c.conc for c in configs)
        setup = replace(self.setup(configs[0]), mode="v2", max_running_requests=most)
        text = max(map(len, self.prompts)) + self.new_tokens
        probes = self._probes.setdefault(drafting, Probes())
        with (
            Neighbours() as neighbours,
            staged(setup, probes, longest_text=text) as stage,
        ):
            sizes = [Size(n, length) for n in batches(configs) for length in self._lengths()]
            self._rehearsed.setdefault(drafting, []).append(stage.rehearse(sizes))
            if not configs[0].plain and drafting not in self._commits:
                run = stage.run(self._requests(self.seen), conc=most, mode="v2")
                self._commits[drafting] = [a.commits for a in run.answers if a.commits]
            self._run(number, configs, stage)
        for config in configs:
            self._others.setdefault(config, []).append(neighbours.share or 0.0)

    def _time_host(self, configs: Sequence[Config]) -> None:
        """The scheduler's stages, with workers that compute nothing and without other work."""
        sizes = batches(configs)
        asked = self._requests(self.seen)[: 2 * max(sizes)]
        for config in configs:
            if (config.drafting, config.mode) not in self._stages:
                quiet = replace(self.setup(config), host_work_s=0.0, host_work_per_request_s=0.0)
                null = replace(quiet, null=True)
                runs = [serve(null, asked, conc=n) for n in sizes]
                self._stages[config.drafting, config.mode] = host_stages(runs)

    def _run(self, number: int, configs: Sequence[Config], stage: Stage) -> None:
        """The held-out prompts in portions, each run in all modes before the next."""
        for conc in dict.fromkeys(c.conc for c in configs):
            alike = [c for c in configs if c.conc == conc]
            before = stage.probe(conc)
            for i, prompts in enumerate(portions(self.held_out, conc)):
                for config in alike if i % 2 == 0 else alike[::-1]:
                    run = stage.run(self._requests(prompts), conc=conc, mode=config.mode)
                    after = stage.probe(conc)
                    part = Part.of((number, i), run, self._idle_s(run), before, after)
                    self._parts.setdefault(config, []).append(part)
                    before = after

    def _idle_s(self, run: Run) -> float:
        """Other work of the host that no pass hid: all of it, without overlap."""
        if run.mode == "v2":
            return 0.0
        each, more = self.real.host_work_s, self.real.host_work_per_request_s
        return sum(each + more * step.batch for step in run.iterations)

    def _lengths(self) -> list[int]:
        """Lengths to time: those of the prompts, and contexts to the end of an answer."""
        have = sorted(len(p) for p in self.prompts)
        last = have[-1] + self.new_tokens - max(8, self.new_tokens // 4)
        return sorted({have[0], have[len(have) // 2], have[-1], last})

    def _requests(self, prompts: Prompts) -> list[Request]:
        return [Request(prompt=p, max_new_tokens=self.new_tokens) for p in prompts]

    # ---- what came of it -----------------------------------------------------------------

    def forecast(self, config: Config) -> Forecast:
        """From all that was measured so far."""
        assert self.profile is not None
        return Forecast(
            model=self.model,
            config=config,
            profile=self.profile,
            rehearsed=pooled(self._rehearsed[config.drafting], self._probes[config.drafting]),
            stages=self._stages[config.drafting, config.mode],
            commits=self._commits.get(config.drafting, ()),
            longest_prompt=max(map(len, self.prompts)),
            new_tokens=self.new_tokens,
            host_work_s=self.real.host_work_s,
            host_work_per_request_s=self.real.host_work_per_request_s,
            seed=self.seed,
        )

    def outcome(self, config: Config) -> Outcome:
        """A configuration's runs so far, beside what is predicted of them."""
        every, probes = self._parts[config], self._probes[config.drafting]
        parts = self._kept(config)
        prompts = list(portions(self.held_out, config.conc))
        forecast = self.forecast(config)
        rehearsed, plain = forecast.of(prompts), forecast.of(prompts, rehearsed=False)
        slow = [probes.slowdown(p.before, p.after) for p in parts]
        ran_s = [p.quick_s(s) for p, s in zip(parts, slow, strict=True)]
        tokens = sum(p.tokens for p in parts)
        # The same prompts say the same in every round: one portion is one sample.
        ratios = [
            statistics.fmean(
                t / rehearsed.seconds[i]
                for t, p in zip(ran_s, parts, strict=True)
                if p.portion == i
            )
            for i in {p.portion for p in parts}
        ]
        commits = [n for p in parts for n in p.commits]
        return Outcome(
            config=config,
            predicted_tok_s=tokens / sum(rehearsed.seconds[p.portion] for p in parts),
            profile_tok_s=tokens / sum(plain.seconds[p.portion] for p in parts),
            observed_tok_s=tokens / sum(ran_s),
            accept_predicted=rehearsed.accept_length,
            accept_observed=statistics.fmean(commits) if commits else 1.0,
            drift=statistics.median(p.drift for p in every),
            others=statistics.median(self._others.get(config) or [0.0]),
            slowdown=sum(p.seconds for p in parts) / sum(ran_s),
            runs=len(every),
            kept=len(parts),
            spread=spread(ratios),
            measured_tok_s=sum(p.tokens for p in every) / sum(p.seconds for p in every),
        )

    def _kept(self, config: Config) -> list[Part]:
        """The runs that count: those between like probes, in the other modes too.

        So modes are compared on the same prompts, at nearly the same time.
        """
        every = self._parts[config]
        steady = {
            c.mode: {p.key for p in parts if p.drift <= DRIFT}
            for c, parts in self._parts.items()
            if (c.drafting, c.conc) == (config.drafting, config.conc)
        }
        for keys in (set.intersection(*steady.values()), steady[config.mode]):
            if keys:
                return [p for p in every if p.key in keys]
        return every


def batches(configs: Sequence[Config]) -> list[int]:
    """Batch sizes to time: 1, 2 and the greatest; those between are held out."""
    most = max(c.conc for c in configs)
    return sorted({1, min(2, most), most})


def spread(ratios: Sequence[float]) -> float:
    """Standard error of a mean, over the mean [1]."""
    if len(ratios) < 2:
        return 0.0
    return statistics.stdev(ratios) / math.sqrt(len(ratios)) / statistics.fmean(ratios)


def portions(prompts: Sequence[tuple[int, ...]], conc: int) -> Iterator[Sequence[tuple[int, ...]]]:
    """Equal parts, each enough to keep ``conc`` requests in flight for most of it."""
    count = max(1, len(prompts) // max(LEAST_PORTION, PER_CLIENT * conc))
    for i in range(count):
        yield prompts[len(prompts) * i // count : len(prompts) * (i + 1) // count]


def halves(
    prompts: Sequence[tuple[int, ...]], seed: int
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Two halves that are alike: of prompts that begin alike, one goes here and one there.

    Sorted, they are beside those that begin alike; of each two, a coin decides which goes where.
    Both halves are then shuffled.
    """
    rng = np.random.default_rng(seed)
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    here: list[int] = []
    there: list[int] = []
    for i in range(0, len(order) - 1, 2):
        first = int(rng.integers(2))
        here.append(order[i + first])
        there.append(order[i + 1 - first])
    there += order[2 * len(here) :]
    mixed = (rng.permutation(half).tolist() for half in (here, there))
    seen, held_out = ([prompts[i] for i in half] for half in mixed)
    return seen, held_out
