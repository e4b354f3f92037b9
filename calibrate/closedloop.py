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
from dflash_sim.calibrate.rehearsal import Rehearsed, Size, rehearse
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
QUARTERS, ENOUGH = 4, 16  # steps of a quarter, to say what its median is


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

    def calibrate(self, configs: Sequence[Config]) -> None:
        """All that is measured to predict configurations of one method and width."""
        first, batches = configs[0], self._batches(configs)
        key = first.drafting
        self._rehearsed[key] = self.rehearse(configs)
        if first.method != "none" and key not in self._commits:
            setup = replace(self.setup(first), mode="v2")
            run = serve(setup, self._requests(self.seen), conc=max(batches))
            self._commits[key] = [answer.commits for answer in run.answers if answer.commits]
        for config in configs:
            staged = (config.method, config.mode, config.rows)
            if staged not in self._stages:
                asked = self._requests(self.seen)[: 2 * max(batches)]
                null = replace(self.setup(config), null=True)
                self._stages[staged] = host_stages([serve(null, asked, conc=n) for n in batches])

    def rehearse(self, configs: Sequence[Config]) -> Rehearsed:
        """The passes of configurations that differ in concurrency and mode."""
        batches = self._batches(configs)
        sizes = [Size(n, length) for n in batches for length in self._lengths()]
        setup = replace(self.setup(configs[0]), mode="v2", max_running_requests=max(batches))
        return rehearse(setup, sizes)

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

    def predict(self, config: Config, *, rehearsed: bool = True) -> tuple[float, float]:
        """Throughput [token/s] and accept length of the held-out prompts.

        With ``rehearsed``, passes are as the engine's workers ran them just now; without, as
        the profile has them, which was made before and outside the engine.
        """
        setup = self._simulated(config, rehearsed=rehearsed)
        workload = self._workload(config)
        rng = np.random.default_rng(self.seed)
        rates, lengths = [], []
        for _ in range(PREDICTED_RUNS if config.method != "none" else 1):
            draws = self._draws(config, len(workload), rng)
            run = run_engine(setup, workload, draws, engine="event")
            rates.append(float(workload.osl.sum()) / float(run.finish_s.max()))
            taken = draws.commits[:, : draws.cycles.max()]
            mask = np.arange(taken.shape[1]) < draws.cycles[:, None]
            lengths.append(float(taken[mask].mean()))
        return statistics.fmean(rates), statistics.fmean(lengths)

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

    def _workload(self, config: Config) -> Workload:
        n = len(self.held_out)
        ones = np.ones(n, np.int64)
        return Workload(
            isl=np.array([len(p) for p in self.held_out]),
            osl=ones * self.new_tokens,
            cached=ones * 0,
            measured=ones.astype(bool),
            follow=-ones,
            conc=config.conc,
        )

    def _draws(self, config: Config, requests: int, rng: np.random.Generator) -> Draws:
        """Commits of each request: those of one that was seen, whole, in random order.

        That keeps what differs by request and what lasts from step to step.
        """
        need = self.new_tokens - 1
        if config.method == "none":
            ones = np.ones((requests, need + 2), np.int8)
            return Draws(ones, np.full(requests, need, np.int64))
        seen = self._commits[config.drafting]
        source = _again_and_again(seen, rng)
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
        """One method at one width: measured, predicted, run, and measured again."""
        self.calibrate(configs)
        found = [self._run(config) for config in configs]
        moved = drifted(self._rehearsed[configs[0].drafting], self.rehearse(configs))
        for outcome in found:
            yield replace(outcome, drift=max(moved, outcome.drift))

    def _run(self, config: Config) -> Outcome:
        predicted, accept = self.predict(config)
        plain, _ = self.predict(config, rehearsed=False)
        with Neighbours() as neighbours:
            run = serve(self.setup(config), self._requests(self.held_out), conc=config.conc)
        return Outcome(
            config=config,
            predicted_tok_s=predicted,
            profile_tok_s=plain,
            observed_tok_s=run.output_tok_s,
            accept_predicted=accept,
            accept_observed=run.accept_length,
            drift=unsteady(run),
            others=neighbours.share or 0.0,
        )

    def outcomes(self, configs: Sequence[Config], rounds: int = ROUNDS) -> list[Outcome]:
        """What the rounds say together of each configuration."""
        return together(self.trials(configs, rounds))


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


def drifted(before: Rehearsed, after: Rehearsed) -> float:
    """How far passes have become slower or faster: the median of decode phases [1]."""
    again = {(p.phase, p.requests, round(p.ctx)): p.seconds for p in after.passes}
    ratios = [
        again[key] / p.seconds
        for p in before.passes
        if p.phase != "prefill" and (key := (p.phase, p.requests, round(p.ctx))) in again
    ]
    return abs(statistics.median(ratios) - 1) if ratios else 0.0


def unsteady(run: Run) -> float:
    """How far the steps of the quarters of a run differ, at its most frequent batch [1].

    A machine that is slow for a while and fast again shows neither before the run nor after it.
    """
    sizes = [step.batch for step in run.decodes]
    if not sizes:
        return 0.0
    usual = [s for s in run.decodes if s.batch == statistics.mode(sizes)]
    times = [step.gpu_end_s - step.gpu_start_s for step in usual]
    each = len(times) // QUARTERS
    if each < ENOUGH:
        return 0.0
    middles = [statistics.median(times[i * each : (i + 1) * each]) for i in range(QUARTERS)]
    # Contexts grow and start anew within each quarter: half of a difference is that of steps.
    return (max(middles) / min(middles) - 1) / 2
