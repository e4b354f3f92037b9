"""The same requests on a server that is otherwise, even as no server can be.

All replays draw the same lengths, arrivals and latent acceptance, so that the difference between
two of them is not noise (common random numbers).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from dflash_sim.profiles.engine_sheet import EngineSheet
from dflash_sim.profiles.units import MS
from dflash_sim.simulator.cost.cycle import PHASES
from dflash_sim.simulator.cost.step_table import BatchTable, StepModel
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup
from dflash_sim.simulator.slopes import METRICS, Requests, log_metrics, requests_of
from dflash_sim.simulator.trial import run_engine

_TIMES = ("s", "ms", "us")


class Replay:
    """Speeds of one scenario's requests on other setups and with other acceptance.

    The speed of a closed loop is the throughput of all its requests, that of an open loop the
    reciprocal of the mean time per output token: its throughput is the load.

    Parameters
    ----------
    setup
        The scenario whose requests are replayed.
    on_run
        Called with the number of each finished run.
    waves
        Requests of each client at most; None is all of them.
    """

    def __init__(
        self,
        setup: Setup,
        on_run: Callable[[int], None] | None = None,
        *,
        waves: int | None = None,
    ) -> None:
        self.setup = setup
        self.on_run = on_run or (lambda _: None)
        self.waves = waves
        self._requests: dict[int, Requests] = {}

    def shorter(self, waves: int) -> "Replay":
        """The same with few requests, for differences that so many tell."""
        return Replay(self.setup, self.on_run, waves=waves)

    @property
    def open_loop(self) -> bool:
        """Whether requests arrive by a rate."""
        return self.setup.scenario.rate is not None

    def speed(self, setup: Setup, expectation: Expectation | None, *, runs: int = 1) -> float:
        """Tokens per second, the mean over runs."""
        found = [self._once(setup, expectation, run) for run in range(runs)]
        return 1 / float(np.mean(found)) if self.open_loop else float(np.mean(found))

    def of(self, result: Result) -> float:
        """The speed that a result found."""
        if self.open_loop:
            return 1 / (result.values["mean_tpot_ms"] * MS)
        return result.values["output_throughput"]

    def requests(self, run: int) -> Requests:
        """What run number ``run`` serves."""
        if run not in self._requests:
            whole = requests_of(self.setup, run)
            clients = max(2, whole.workload.conc)
            few = whole.first(self.waves * clients) if self.waves else whole
            self._requests[run] = few
        return self._requests[run]

    def _once(self, setup: Setup, expectation: Expectation | None, run: int) -> float:
        requests = self.requests(run)
        record = run_engine(setup, requests.workload, requests.draws(expectation))
        found = log_metrics(record, requests.workload)
        self.on_run(run)
        metric = "mean_tpot_ms" if self.open_loop else "output_throughput"
        return float(np.exp(found[METRICS.index(metric)]))


@dataclass(frozen=True)
class Altered(Setup):
    """A setup whose step model is given."""

    given: StepModel = field(kw_only=True)

    @classmethod
    def of(cls, setup: Setup, step: StepModel) -> "Altered":
        return cls(**{f.name: getattr(setup, f.name) for f in fields(Setup)}, given=step)

    @cached_property
    def step(self) -> StepModel:
        """The given step model."""
        return self.given


@dataclass
class MixedStep(StepModel):
    """A step model that takes some of its phases from another one."""

    other: StepModel = field(kw_only=True)
    borrowed: frozenset[str] = field(kw_only=True)
    borrows_prefill: bool = field(kw_only=True)
    _mixed: dict[int, BatchTable] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, own: StepModel, other: StepModel, **how: Any) -> "MixedStep":
        parts = {f.name: getattr(own, f.name) for f in fields(StepModel)}
        return cls(**(parts | {"_prefill_s": {}}), other=other, **how)

    def reach(self, ctx: int) -> None:
        """Extend both models' tables."""
        if ctx > self.max_ctx:
            self._mixed.clear()
        super().reach(ctx)
        self.other.reach(self.max_ctx)

    def table(self, batch: int) -> BatchTable:
        """The table of ``batch`` running requests."""
        if batch not in self._mixed:
            own, other = super().table(batch), self.other.table(batch)
            parts = own.parts.copy()
            for name in self.borrowed:
                p = PHASES.index(name)
                parts[p] = other.parts[p, :, : len(own.ctx)]  # both grids double from one start
            by_phase = parts[:, :4].sum(axis=1)
            self._mixed[batch] = replace(
                own,
                parts=parts,
                total=by_phase.sum(axis=0),
                draft=by_phase[PHASES.index("draft")],
                tail=by_phase[PHASES.index("materialise")],
            )
        return self._mixed[batch]

    def prefill_parts(self, *, requests: int, tokens: int, prefix: float) -> np.ndarray:
        """Parts of one prefill batch [s]."""
        shape: dict[str, Any] = {"requests": requests, "tokens": tokens, "prefix": prefix}
        if self.borrows_prefill:
            return self.other.prefill_parts(**shape)
        return super().prefill_parts(**shape)


def host_stages(engine: EngineSheet) -> set[str]:
    """Constants that are times of the scheduler thread."""
    watched = engine.with_constants()
    HostTime.from_sheet(watched)
    return {name for name in watched.read if engine.constants[name].unit in _TIMES}


def with_host(engine: EngineSheet, factor: float) -> EngineSheet:
    """The engine with every stage of the scheduler thread ``factor`` times as long."""
    stages = {name: factor * engine[name] for name in host_stages(engine)}
    return engine.with_constants(**stages)


def changed(scenario: Scenario, **fields: Any) -> Scenario:
    """The scenario with other fields."""
    return Scenario.parse(**(scenario.model_dump() | fields))
