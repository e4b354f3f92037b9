"""One prediction over and over, each time with something else about the server changed.

A run shares its random draws with the first run of the original, so one tells the ratio.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from dflash_sim.calibrate.observations.values import THROUGHPUTS
from dflash_sim.profiles.engine_sheet import EngineSheet
from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.profiles.units import MS
from dflash_sim.simulator.cost.step_table import BatchTable, StepModel
from dflash_sim.simulator.predict import Result, simulate
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.parse import ParametricAcceptance
from dflash_sim.simulator.requests.survival import fit_one
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve

Factor: TypeAlias = float  # times as long, or as many, as predicted [1]

_HOST = ("recv_requests", "get_next_batch", "get_next_batch_per_request", "run_batch_first",
    "run_batch_rest", "process_batch_result", "process_batch_result_per_request", "d2h_sync",
    "v1_prepare_draft", "v1_prepare_verify", "v1_accept", "v1_accept_per_request")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is different; the default is nothing.

    Parameters
    ----------
    accept, host, prefill, step
        Accept length, host stages, prefills and decode steps, times those predicted.
    conc, cap, graphs
        Requests in flight, most of them running, largest captured batch.
    unpadded
        Whether a CUDA graph is captured for every batch size.
    wait_s
        Time of a request between its client and the scheduler [s].
    """

    accept: Factor = 1.0
    host: Factor = 1.0
    prefill: Factor = 1.0
    step: Factor = 1.0
    conc: int | None = None
    cap: int | None = None
    graphs: int | None = None
    unpadded: bool = False
    wait_s: float = 0.0


@dataclass
class ScaledStep(StepModel):
    """A step model whose decode steps and prefills take a multiple of their time."""

    decode: Factor = 1.0
    prefill: Factor = 1.0
    _scaled: dict[int, tuple[BatchTable, BatchTable]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, plain: StepModel, *, decode: Factor, prefill: Factor) -> "ScaledStep":
        """``plain`` with factors; what it has priced is priced for both."""
        parts = {f.name: getattr(plain, f.name) for f in fields(StepModel)}
        return cls(**parts | {"_prefill_s": {}}, decode=decode, prefill=prefill)

    def table(self, batch: int) -> BatchTable:
        """The table of ``batch`` running requests."""
        plain = super().table(batch)
        found = self._scaled.get(batch)
        if found is None or found[0] is not plain:
            k = self.decode
            times = {n: k * getattr(plain, n) for n in ("parts", "total", "draft", "tail")}
            found = self._scaled[batch] = (plain, replace(plain, **times))
        return found[1]

    def prefill_parts(self, *, requests: int, tokens: int, prefix: float) -> np.ndarray:
        """Parts of one prefill batch [s]."""
        parts = super().prefill_parts(requests=requests, tokens=tokens, prefix=prefix)
        return self.prefill * parts


@dataclass(frozen=True, kw_only=True)
class Altered(Setup):
    """A setup whose step model is given."""

    given: StepModel

    @cached_property
    def step(self) -> StepModel:
        """The given step model."""
        return self.given


class Trials:
    """Predictions of one scenario under changes, each made once.

    Parameters
    ----------
    result
        The prediction without a change; ratios to it carry over to its values.
    """

    def __init__(self, result: Result) -> None:
        self.result = result
        self._made: dict[Change, Mapping[str, float] | None] = {}
        self._plain: Mapping[str, float] | None = None

    def values(self, change: Change) -> Mapping[str, float] | None:
        """Values of a result row under ``change``; None where that cannot run."""
        if change == Change():
            return self.result.values
        if change not in self._made:
            self._made[change] = self._ratios(change)
        return self._made[change]

    def _ratios(self, change: Change) -> Mapping[str, float] | None:
        if self._plain is None:
            self._plain = self._run(Change())
        try:
            changed = self._run(change)
        except DflashSimError:  # such as more running requests than memory holds
            return None
        before = self.result.values
        return {
            name: value * changed[name] / self._plain[name] if self._plain[name] else changed[name]
            for name, value in before.items()
            if name in changed
        }

    def _run(self, change: Change) -> Mapping[str, float]:
        setup, law = self._setup(change), self._expected(change)
        values = simulate(setup, law, run=0)[0].values
        return _waited(values, change.wait_s) if change.wait_s else values

    def host_stage_s(self, change: Change) -> float:
        """Host seconds per generated token in the stages that never wait for the GPU.

        ``recv_requests``, ``get_next_batch_to_run`` and ``run_batch`` of every iteration.
        """
        setup = self._setup(change)
        _, run = simulate(setup, self._expected(change), run=0)
        host = setup.host
        fixed_s = host.recv_s + host.schedule_s + host.first_launch_s + host.rest_launch_s
        total_s = len(run.batch) * fixed_s + host.schedule_per_request_s * float(run.batch.sum())
        tokens = float((run.committed + 1)[np.isfinite(run.finish_s)].sum())
        return total_s / tokens

    def _setup(self, change: Change) -> Setup:
        plain = self.result.setup
        given: dict[str, Any] = {}
        if change.conc is not None:
            given["conc"] = change.conc
        if change.cap is not None:
            given["max_running_requests"] = change.cap
        if change.graphs is not None:
            given["cuda_graph_max_bs"] = change.graphs
        setup = replace(plain, engine=_engine(plain.engine, change))
        if given:
            scenario = Scenario.parse(**plain.scenario.model_dump() | given)
            setup = resolve(scenario, engine=setup.engine, tables=plain.tables)
        own = change.graphs is not None or change.unpadded
        step = setup.step if own else plain.step
        if change.step != 1 or change.prefill != 1:
            step = ScaledStep.of(step, decode=change.step, prefill=change.prefill)
        parts = {f.name: getattr(setup, f.name) for f in fields(Setup)}
        return Altered(**parts, given=step)

    def _expected(self, change: Change) -> Expectation | None:
        """The expected acceptance with another mean, of the same shape where it has one."""
        expected = self.result.expectation
        if expected is None or change.accept == 1:
            return expected
        law, block = expected.acceptance, self.result.setup.block
        length = change.accept * (1 + float(law.survival().s.sum()))
        length = min(max(length, 1.0), float(block))
        if isinstance(law, ParametricAcceptance):
            shape = {"beta": law.params.beta, "theta": law.params.theta}
            changed = replace(law, params=fit_one(length, block, **shape))
        else:
            priors = load_acceptance_priors()
            beta = priors.beta_of("dflash").mean
            changed = ParametricAcceptance(
                fit_one(length, block, beta=beta, theta=priors.theta), block
            )
        return replace(expected, acceptance=changed)


def _engine(engine: EngineSheet, change: Change) -> EngineSheet:
    if change.host != 1:
        longer = {name: change.host * engine[name] for name in _HOST}
        engine = engine.with_constants(**longer)
    if change.wait_s:
        away_s = engine["client_turnaround"] + change.wait_s
        engine = engine.with_constants(client_turnaround=away_s)
    if change.unpadded:
        all_sizes = {k: tuple(range(1, max(v) + 1)) for k, v in engine.graph_sizes.items()}
        engine = replace(engine, graph_sizes=all_sizes)
    return engine


def _waited(values: Mapping[str, float], wait_s: float) -> dict[str, float]:
    """Values as clients see them whose requests are under way for longer than the server knows."""
    out = dict(values)
    for name in values:
        if name.endswith(("_ttft_ms", "_e2e_latency_ms")) and not name.startswith("std_"):
            out[name] += wait_s / MS
    longer = 1 + wait_s / values["duration"]
    out["duration"] *= longer
    for name in THROUGHPUTS:
        out[name] /= longer
    out["concurrency"] = out["request_throughput"] * out["mean_e2e_latency_ms"] * MS
    return out
