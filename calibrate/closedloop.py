"""Measure this machine, predict a run of our own engine, run it, compare.

Prompts are split in halves. On the first the acceptance is seen; the second is predicted and then
run. Answers have a given length, so that every configuration makes the same tokens. All of it is
done in rounds, in which the runs that are compared with each other follow each other.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dflash_sim.calibrate.machine import Neighbours
from dflash_sim.calibrate.real_outcomes import Config, Outcome, together
from dflash_sim.calibrate.realengine import PAGE, HostStages, host_stages, real_engine
from dflash_sim.calibrate.rehearsal import Rehearsed, Size
from dflash_sim.calibrate.stage import Stage, staged
from dflash_sim.profiles.measured import FUSED_S, NOT_IN_PASSES, MeasuredPass, MeasuredProfile
from dflash_sim.realrun.journal import Run
from dflash_sim.realrun.launch import serve
from dflash_sim.realrun.requests import Request
from dflash_sim.realrun.setup import Setup as RealSetup
from dflash_sim.simulator.cycle import Cycle
from dflash_sim.simulator.draws import Draws
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.simulator.trial import run_engine
from dflash_sim.simulator.workload import Workload

PREDICTED_RUNS = 5
ROUNDS = 3
LEAST_PORTION, PER_CLIENT = 4, 3  # requests of one run


@dataclass(frozen=True)
class Part:
    """One run of some of the prompts, between two probes [s]."""

    prompts: Sequence[tuple[int, ...]]
    run: Run
    probes: tuple[float, float]
    slowdown: float = 1.0

    @property
    def drift(self) -> float:
        """How far the second probe is from the first [1]."""
        return abs(self.probes[1] / self.probes[0] - 1)

    def after(self, stage: Stage) -> "Part":
        """The same, when all probes are known: how slow the machine was."""
        conc = max(step.batch for step in self.run.iterations)
        return replace(self, slowdown=stage.slowdown(conc, *self.probes))


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
        Of this machine and model: the times of ops that passes are made of.
    """

    model: str
    real: RealSetup
    prompts: Sequence[tuple[int, ...]]
    new_tokens: int
    profile: MeasuredProfile
    seed: int = 0

    def __post_init__(self) -> None:
        self.profile = self._of_our_engine(self.profile)
        self.seen, self.held_out = halves(self.prompts, self.seed)
        self._rehearsed: dict[tuple[str, int], Rehearsed] = {}
        self._commits: dict[tuple[str, int], list[tuple[int, ...]]] = {}
        self._stages: dict[tuple[str, str, int], HostStages] = {}

    @staticmethod
    def _of_our_engine(profile: MeasuredProfile) -> MeasuredProfile:
        """The profile without what SGLang's passes have and ours have not."""
        ops = tuple(
            replace(op, seconds=FUSED_S) if op.shape.get("name") in NOT_IN_PASSES else op
            for op in profile.ops
        )
        return replace(profile, ops=ops, _found={})

    # ---- calibration ---------------------------------------------------------------------

    def setup(self, config: Config) -> RealSetup:
        """What is run for a configuration."""
        chain = config.method in ("mtp", "eagle3")
        return replace(
            self.real,
            method=config.method,
            mode=config.mode,
            block=config.rows if config.method == "dflash" else None,
            steps=config.rows - 1 if chain else None,
            drafter=self.real.drafter if config.method in ("dflash", "eagle3") else None,
            page_size=PAGE,
        )

    def calibrate(self, configs: Sequence[Config], stage: Stage) -> None:
        """All that is measured to predict configurations of one method and width."""
        first, batches = configs[0], self._batches(configs)
        key = first.drafting
        sizes = [Size(n, length) for n in batches for length in self._lengths()]
        self._rehearsed[key] = stage.rehearse(sizes)
        if first.method != "none" and key not in self._commits:
            run = stage.run(self._requests(self.seen), conc=max(batches), mode="v2")
            self._commits[key] = [answer.commits for answer in run.answers if answer.commits]

    def time_host(self, configs: Sequence[Config]) -> None:
        """The scheduler's stages, with workers that compute nothing."""
        batches = self._batches(configs)
        asked = self._requests(self.seen)[: 2 * max(batches)]
        for config in configs:
            staged = (config.method, config.mode, config.rows)
            if staged not in self._stages:
                null = replace(self.setup(config), null=True)
                self._stages[staged] = host_stages([serve(null, asked, conc=n) for n in batches])

    def _batches(self, configs: Sequence[Config]) -> list[int]:
        """Batch sizes to time: 1, 2 and the greatest; those between are held out."""
        most = max(c.conc for c in configs)
        return sorted({1, min(2, most), most})

    def _lengths(self) -> list[int]:
        """Lengths to time: those of the prompts, and contexts to the end of an answer."""
        have = sorted(len(p) for p in self.prompts)
        last = have[-1] + self.new_tokens - max(8, self.new_tokens // 4)
        return sorted({have[0], have[len(have) // 2], have[-1], last})

    def _requests(self, prompts: Sequence[tuple[int, ...]]) -> list[Request]:
        return [Request(prompt=p, max_new_tokens=self.new_tokens) for p in prompts]

    # ---- prediction ----------------------------------------------------------------------

    def predict(
        self, config: Config, parts: Sequence[Part], *, rehearsed: bool = True
    ) -> tuple[float, float]:
        """Throughput [token/s] and accept length of runs of the held-out prompts.

        With ``rehearsed``, passes are as the engine's workers ran them just before; without, as
        the profile has them, which was made before and outside the engine. Each run takes as much
        longer as its probes did.
        """
        setup = self._simulated(config, rehearsed=rehearsed)
        rng = np.random.default_rng(self.seed)
        seconds = committed = steps = 0.0
        repeats = PREDICTED_RUNS if config.method != "none" else 1
        for _ in range(repeats):
            source = _again_and_again(self._commits.get(config.drafting, ()), rng)
            for part in parts:
                workload = self._workload(part.prompts, config.conc)
                draws = self._draws(config, len(workload), source)
                run = run_engine(setup, workload, draws, engine="event")
                seconds += part.slowdown * float(run.finish_s.max()) / repeats
                mask = np.arange(draws.commits.shape[1]) < draws.cycles[:, None]
                committed += float(draws.commits[mask].sum())
                steps += float(mask.sum())
        tokens = self.new_tokens * sum(len(part.prompts) for part in parts)
        return tokens / seconds, committed / steps

    def _simulated(self, config: Config, *, rehearsed: bool = True) -> Setup:
        known = self._rehearsed[config.drafting]
        stages = self._stages[config.method, config.mode, config.rows]
        engine = real_engine(stages, known.overheads)
        work_s, each_s = self.real.host_work_s, self.real.host_work_per_request_s
        engine = engine.with_constants(
            process_batch_result=engine["process_batch_result"] + work_s,
            process_batch_result_per_request=engine["process_batch_result_per_request"] + each_s,
        )
        chain = config.method in ("mtp", "eagle3")
        scenario = Scenario.parse(
            gpu=str(self.profile.path),
            model=self.model,
            tp=1,
            method=config.method,
            block=config.rows if config.method == "dflash" else None,
            steps=config.rows - 1 if chain else None,
            engine_mode=config.mode,
            isl=max(map(len, self.prompts)),
            osl=self.new_tokens,
            conc=config.conc,
            page_size=PAGE,
            max_running_requests=config.conc,
            chunked_prefill_size=8192,
            radix_cache=False,
            runs=1,
        )
        found = resolve(scenario, engine=engine)
        if not rehearsed:
            return replace(found, measured=self.profile)
        return replace(found, measured=self._with_passes(config, known))

    def _with_passes(self, config: Config, rehearsed: Rehearsed) -> MeasuredProfile:
        """The profile with the passes as the engine's own workers ran them."""
        cycle = self._cycle(config)
        rows: dict[tuple[str, int, int, float], float] = {}
        for p in rehearsed.of(config.mode):
            phase = "verify" if p.phase == "accept" else p.phase  # the head is part of the pass
            key = phase, p.requests, p.rows, p.ctx
            rows[key] = rows.get(key, 0.0) + p.seconds
        passes = []
        for (phase, n, width, ctx), seconds in rows.items():
            ops_s = self._ops_s(cycle, phase, n, width, ctx)
            if ops_s > 0:
                name = f"{config.method}-{phase}"
                passes.append(MeasuredPass(name, n, width, ctx, seconds, ops_s, 0))
        return replace(self.profile, passes=tuple(passes), _found={})

    def _cycle(self, config: Config) -> Cycle:
        found = resolve(
            Scenario.parse(
                gpu=str(self.profile.path),
                model=self.model,
                tp=1,
                method=config.method,
                block=config.rows if config.method == "dflash" else None,
                steps=config.rows - 1 if config.method in ("mtp", "eagle3") else None,
                isl=16,
                osl=16,
            )
        )
        return found.step.cycle

    def _ops_s(self, cycle: Cycle, phase: str, n: int, rows: int, ctx: float) -> float:
        """The ops of a phase, as the simulator will sum them [s]."""
        if phase == "prefill":
            phases = cycle.prefill(requests=n, seq=rows, prefix=0.0)
            calls = [c for part in phases for c in part.calls]
        else:
            parts = cycle.decode(requests=n, ctx=ctx)
            calls = [c for part in parts if part.name == phase for c in part.calls]
        ours = [c for c in calls if self.profile.in_passes(c.op)]
        times = [(self.profile.timing(c.op), c.count) for c in ours]
        return sum(t.seconds * count for t, count in times if t is not None)

    def _workload(self, prompts: Sequence[tuple[int, ...]], conc: int) -> Workload:
        n = len(prompts)
        ones = np.ones(n, np.int64)
        return Workload(
            isl=np.array([len(p) for p in prompts]),
            osl=ones * self.new_tokens,
            cached=ones * 0,
            measured=ones.astype(bool),
            follow=-ones,
            conc=conc,
        )

    def _draws(self, config: Config, requests: int, source: Iterator[tuple[int, ...]]) -> Draws:
        """Commits of each request: those of one that was seen, whole, in random order.

        That keeps what differs by request and what lasts from step to step.
        """
        need = self.new_tokens - 1
        if config.method == "none":
            ones = np.ones((requests, need + 2), np.int8)
            return Draws(ones, np.full(requests, need, np.int64))
        rows, cycles = [], []
        for _ in range(requests):
            row: list[int] = []
            while sum(row) < need:
                row += next(source)
            used = int(np.searchsorted(np.cumsum(row), need) + 1)
            rows.append(row[:used])
            cycles.append(used)
        wide = max(cycles) + 2
        commits = np.ones((requests, wide), np.int8)
        for i, row in enumerate(rows):
            commits[i, : len(row)] = row
        return Draws(commits, np.array(cycles, np.int64))

    # ---- reality -------------------------------------------------------------------------

    def trials(self, configs: Sequence[Config], rounds: int = ROUNDS) -> Iterator[Outcome]:
        """Measure, predict, run, for every configuration; then all of it again."""
        draftings = list(dict.fromkeys(c.drafting for c in configs))
        for i in range(rounds):
            for drafting in draftings:
                alike = [c for c in configs if c.drafting == drafting]
                # Runs that are compared follow each other, one way round and then the other.
                yield from self._round(alike if i % 2 == 0 else alike[::-1])

    def _round(self, configs: Sequence[Config]) -> Iterator[Outcome]:
        """One method at one width: measured, run between probes, and predicted."""
        self.time_host(configs)
        most = replace(
            self.setup(configs[0]), mode="v2", max_running_requests=max(c.conc for c in configs)
        )
        text = max(map(len, self.prompts)) + self.new_tokens
        with Neighbours() as neighbours:
            with staged(most, longest_prompt=max(self._lengths()), longest_text=text) as stage:
                self.calibrate(configs, stage)
                runs = self._runs(configs, stage)
            parts = {c: [p.after(stage) for p in done] for c, done in runs.items()}
        for config in configs:
            yield self._outcome(config, parts[config], neighbours.share or 0.0)

    def _runs(self, configs: Sequence[Config], stage: Stage) -> dict[Config, list[Part]]:
        """The held-out prompts in portions, each run in all modes before the next."""
        found: dict[Config, list[Part]] = {c: [] for c in configs}
        for conc in dict.fromkeys(c.conc for c in configs):
            alike = [c for c in configs if c.conc == conc]
            before = stage.probe(conc)
            for i, prompts in enumerate(portions(self.held_out, conc)):
                for config in alike if i % 2 == 0 else alike[::-1]:
                    run = stage.run(self._requests(prompts), conc=conc, mode=config.mode)
                    after = stage.probe(conc)
                    found[config].append(Part(prompts, run, (before, after)))
                    before = after
        return found

    def _outcome(self, config: Config, parts: Sequence[Part], others: float) -> Outcome:
        predicted, accept = self.predict(config, parts)
        plain, _ = self.predict(config, parts, rehearsed=False)
        commits = [n for part in parts for a in part.run.answers for n in a.commits]
        observed_s = sum(part.run.duration_s for part in parts)
        tokens = sum(len(a.output) for part in parts for a in part.run.answers)
        return Outcome(
            config=config,
            predicted_tok_s=predicted,
            profile_tok_s=plain,
            observed_tok_s=tokens / observed_s,
            accept_predicted=accept,
            accept_observed=statistics.fmean(commits) if commits else 1.0,
            drift=statistics.median(part.drift for part in parts),
            slowdown=sum(p.slowdown * p.run.duration_s for p in parts) / observed_s,
            others=others,
        )

    def outcomes(self, configs: Sequence[Config], rounds: int = ROUNDS) -> list[Outcome]:
        """What the rounds say together of each configuration."""
        return together(self.trials(configs, rounds))


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


def _again_and_again(
    seen: Sequence[tuple[int, ...]], rng: np.random.Generator
) -> Iterator[tuple[int, ...]]:
    """All of ``seen`` in random order, and then all of them in another."""
    while True:
        for i in rng.permutation(len(seen)):
            yield seen[i]
