"""Forecast a run of our own engine from measured passes and host stages.

Acceptance is drawn from what was seen: the commits of one request after the other, each whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dflash_sim.calibrate.realloop.engine_sheet import PAGE, HostStages, real_engine
from dflash_sim.calibrate.realloop.outcomes import Config
from dflash_sim.calibrate.realloop.rehearsal import Rehearsed
from dflash_sim.profiles.times.machine_profile import (
    FUSED_S,
    NOT_IN_PASSES,
    MeasuredPass,
    MeasuredProfile,
)
from dflash_sim.simulator.cost.cycle import Cycle
from dflash_sim.simulator.requests.draws import Draws
from dflash_sim.simulator.requests.workload import Workload
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve
from dflash_sim.simulator.trial import run_engine

PREDICTED_RUNS = 5


@dataclass(frozen=True)
class Forecast:
    """The forecast of runs of one configuration.

    Parameters
    ----------
    model
        What the scenario calls the target.
    config
        What is run.
    profile
        Of this machine and model, its ops and passes.
    rehearsed
        What the engine's workers were seen to take.
    stages
        What the scheduler was.
    commits
        Of each request that was seen, the tokens of every step; none for plain decoding.
    longest_prompt, new_tokens
        Of the requests [tokens].
    host_work_s, host_work_per_request_s
        Other work of the host in each step [s].
    """

    model: str
    config: Config
    profile: MeasuredProfile
    rehearsed: Rehearsed
    stages: HostStages
    commits: Sequence[tuple[int, ...]]
    longest_prompt: int
    new_tokens: int
    host_work_s: float = 0.0
    host_work_per_request_s: float = 0.0
    seed: int = 0

    def of(
        self, portions: Sequence[Sequence[tuple[int, ...]]], *, rehearsed: bool = True
    ) -> "Foreseen":
        """Runs of one portion of prompts after the other.

        With ``rehearsed``, passes are as the engine's workers ran them; without, as the profile
        has them, which was made outside the engine.
        """
        setup = self.simulated(rehearsed=rehearsed)
        rng = np.random.default_rng(self.seed)
        repeats = PREDICTED_RUNS if self.commits else 1
        seconds, committed, steps = [0.0] * len(portions), 0, 0
        for _ in range(repeats):
            source = again_and_again(self.commits, rng)
            for i, prompts in enumerate(portions):
                workload = self._workload(prompts)
                draws = self.draws(len(workload), source)
                run = run_engine(setup, workload, draws, simulator="event")
                seconds[i] += float(run.finish_s.max()) / repeats
                mask = np.arange(draws.commits.shape[1]) < draws.cycles[:, None]
                committed += int(draws.commits[mask].sum())
                steps += int(mask.sum())
        return Foreseen(tuple(seconds), committed / steps)

    def simulated(self, *, rehearsed: bool = True) -> Setup:
        """Return what the simulator is told."""
        config = self.config
        engine = real_engine(self.stages, self.rehearsed.overheads)
        work_s, each_s = self.host_work_s, self.host_work_per_request_s
        engine = engine.with_constants(
            process_batch_result=engine["process_batch_result"] + work_s,
            process_batch_result_per_request=engine["process_batch_result_per_request"] + each_s,
        )
        scenario = Scenario.parse(
            gpu=str(self.profile.path),
            model=self.model,
            tp=1,
            method=config.method,
            block=config.speculation.block(config.rows),
            steps=config.speculation.steps(config.rows),
            engine_mode=config.mode,
            isl=self.longest_prompt,
            osl=self.new_tokens,
            conc=config.conc,
            page_size=PAGE,
            max_running_requests=config.conc,
            chunked_prefill_size=8192,
            radix_cache=False,
            runs=1,
        )
        found = resolve(scenario, engine=engine)
        ours = _of_our_engine(self.profile)
        if rehearsed:
            ours = self._with_passes(ours, found.step.cycle)
        return replace(found, measured=ours)

    def _with_passes(self, profile: MeasuredProfile, cycle: Cycle) -> MeasuredProfile:
        """The profile with the passes as the engine's own workers ran them."""
        rows: dict[tuple[str, int, int, float], float] = {}
        for p in self.rehearsed.of(self.config.mode):
            phase = "verify" if p.phase == "accept" else p.phase  # the head is part of the pass
            key = phase, p.requests, p.rows, p.ctx
            rows[key] = rows.get(key, 0.0) + p.seconds
        passes = []
        for (phase, n, width, ctx), seconds in rows.items():
            ops_s = _ops_s(profile, cycle, phase, n, width, ctx)
            if ops_s > 0:
                name = f"{self.config.method}-{phase}"
                passes.append(MeasuredPass(name, n, width, ctx, seconds, ops_s, 0))
        return replace(profile, passes=tuple(passes), _found={})

    def _workload(self, prompts: Sequence[tuple[int, ...]]) -> Workload:
        n = len(prompts)
        ones = np.ones(n, np.int64)
        return Workload(
            isl=np.array([len(p) for p in prompts]),
            osl=ones * self.new_tokens,
            cached=ones * 0,
            measured=ones.astype(bool),
            follow=-ones,
            conc=self.config.conc,
        )

    def draws(self, requests: int, source: Iterator[tuple[int, ...]]) -> Draws:
        """Commits of each request: those of one that was seen, whole, in random order.

        That keeps what differs by request and what lasts from step to step.
        """
        need = self.new_tokens - 1
        if not self.commits:
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


@dataclass(frozen=True)
class Foreseen:
    """Seconds of each portion on a machine at its quickest, and tokens per verify step [1]."""

    seconds: tuple[float, ...]
    accept_length: float


def _of_our_engine(profile: MeasuredProfile) -> MeasuredProfile:
    """The profile without what SGLang's passes have and ours have not."""
    ops = tuple(
        replace(op, seconds=FUSED_S) if op.shape.get("name") in NOT_IN_PASSES else op
        for op in profile.ops
    )
    return replace(profile, ops=ops, _found={})


def _ops_s(
    profile: MeasuredProfile, cycle: Cycle, phase: str, n: int, rows: int, ctx: float
) -> float:
    """The ops of a phase, as the simulator will sum them [s]."""
    if phase == "prefill":
        phases = cycle.prefill(requests=n, seq=rows, prefix=0.0)
        calls = [c for part in phases for c in part.calls]
    else:
        parts = cycle.decode(requests=n, ctx=ctx)
        calls = [c for part in parts if part.name == phase for c in part.calls]
    ours = [c for c in calls if profile.in_passes(c.op)]
    times = [(profile.timing(c.op), c.count) for c in ours]
    return sum(t.seconds * count for t, count in times if t is not None)


def again_and_again(
    seen: Sequence[tuple[int, ...]], rng: np.random.Generator
) -> Iterator[tuple[int, ...]]:
    """All of ``seen`` in random order, and then all of them in another."""
    while True:
        for i in rng.permutation(len(seen)):
            yield seen[i]
