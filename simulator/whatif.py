"""Hypothetical servers: something about the server of a scenario changed, even as none can be.

A changed server is a setup like any other, so that every engine runs it, and what was priced for
the plain one is not priced again where the change leaves it alone.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np

from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.simulator.cost.cycle import PHASES
from dflash_sim.simulator.cost.step_table import BatchTable, StepModel
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.faster_gpu import FasterCost
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.other_laws import accept_length, with_accept_length
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup
from dflash_sim.simulator.trial import beside

Factor: TypeAlias = float  # times as long, or as many, as predicted [1]
Rate: TypeAlias = Literal["mem_bw_byte_s", "bf16_flop_s", "link_byte_s"]

PRODUCTS = ("bf16_flop_s", "fp8_flop_s", "fp4_flop_s", "int8_flop_s")

_TIMES = ("s", "ms", "us")


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of the server; the default changes nothing.

    Parameters
    ----------
    accept, host, prefill, step
        Accept length, host stages, prefills and decode steps, times those predicted.
    conc, cap, graphs
        Requests in flight, most of them running, largest captured batch.
    unpadded
        True if a CUDA graph is captured for every batch size.
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

    def setup(self, plain: Setup) -> Setup:
        """The server of ``plain`` under this change; its acceptance is :meth:`expectation`'s.

        Raises
        ------
        DflashSimError
            No such server can run, as when more requests are to run than memory holds.
        """
        asked = {
            "conc": self.conc,
            "max_running_requests": self.cap,
            "cuda_graph_max_bs": self.graphs,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        setup = replace(plain, engine=self._engine(plain.engine))
        if given:
            scenario = changed(plain.scenario, **given)
            setup = beside(setup, scenario, expectation=plain.given_expectation)
        own = self.graphs is not None or self.unpadded
        step = setup.step if own else plain.step
        if (self.step, self.prefill, self.host) != (1, 1, 1):
            # It is the host that launches a prefill; prices of its own know that already.
            launches = self.prefill * (1 if own else self.host)
            step = scaled(step, decode=self.step, prefill=self.prefill, launches=launches)
        return with_step(setup, step)

    def _engine(self, engine: EngineSheet) -> EngineSheet:
        if self.host != 1:
            engine = with_host(engine, self.host)
        if self.wait_s:
            away_s = engine["client_turnaround"] + self.wait_s
            engine = engine.with_constants(client_turnaround=away_s)
        if self.unpadded:
            sizes = dict(engine.graph_sizes)
            sizes |= {k: tuple(range(1, max(sizes[k]) + 1)) for k in ("spec", "plain")}
            engine = replace(engine, graph_sizes=sizes)
        return engine

    def expectation(self, plain: Expectation | None) -> Expectation | None:
        """The expected acceptance with another mean, by the same kind of law.

        Raises
        ------
        UsageError
            The law cannot have that mean.
        """
        if plain is None or self.accept == 1:
            return plain
        length = self.accept * accept_length(plain)
        return with_accept_length(plain, min(max(length, 1.0), float(plain.acceptance.block)))


def changed(scenario: Scenario, **fields: Any) -> Scenario:
    """The scenario with other fields."""
    return Scenario.parse(**(scenario.model_dump() | fields))


# ---- the host -----------------------------------------------------------------------------


def host_stages(engine: EngineSheet) -> set[str]:
    """Constants that are times of the scheduler thread, in any engine mode, launches among them."""
    plans = ("attention_plan", "draft_plan")
    host = HostTime.from_sheet(engine.with_constants(), plans=plans)  # whose reads nobody counts
    stages = [stage for v1 in (False, True) for stage in host.stages(v1=v1, sheet=engine)]
    launches = ("eager_launch", "eager_call")
    names = {*launches, *(name for stage in stages for name in stage.constants)}
    return {name for name in names if engine.constants[name].unit in _TIMES}


def with_host(engine: EngineSheet, factor: Factor) -> EngineSheet:
    """The engine with every stage of the scheduler thread, and launch, ``factor`` x as long."""
    stages = {name: factor * engine[name] for name in host_stages(engine)}
    return engine.with_constants(**stages)


# ---- the steps ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Altered(Setup):
    """A setup whose step model is given."""

    given: StepModel = field(kw_only=True)

    @cached_property
    def step(self) -> StepModel:
        """The given step model."""
        return self.given


def with_step(setup: Setup, step: StepModel) -> Setup:
    """The setup with another step model."""
    return Altered(**{f.name: getattr(setup, f.name) for f in fields(Setup)}, given=step)


@dataclass
class AlteredStep(StepModel):
    """A step model whose tables and prefills are altered after they are priced.

    Parameters
    ----------
    of_table
        ``(batch, table) -> table`` alters the table of a batch.
    of_prefill
        ``(shape, parts) -> parts`` alters the parts of a prefill of that shape [s].
    of_launches
        ``(tokens, seconds) -> seconds`` alters the time of launching a prefill.
    """

    of_table: Callable[[int, BatchTable], BatchTable] = field(kw_only=True)
    of_prefill: Callable[[dict[str, Any], np.ndarray], np.ndarray] = field(kw_only=True)
    of_launches: Callable[[int, float], float] = field(kw_only=True)
    _altered: dict[int, tuple[BatchTable, BatchTable]] = field(
        default_factory=dict, init=False, repr=False
    )

    @classmethod
    def of(cls, plain: StepModel, **how: Any) -> "AlteredStep":
        """``plain`` altered; what either prices is priced for both."""
        parts = {f.name: getattr(plain, f.name) for f in fields(StepModel)}
        return cls(**parts | {"_prefill_s": {}}, **how)

    def table(self, batch: int) -> BatchTable:
        """The table of ``batch`` running requests."""
        plain = super().table(batch)
        known = self._altered.get(batch)
        if known is None or known[0] is not plain:
            known = self._altered[batch] = plain, self.of_table(batch, plain)
        return known[1]

    def prefill_parts(self, *, requests: int, tokens: int, prefix: float) -> np.ndarray:
        """Parts of one prefill batch [s]."""
        shape: dict[str, Any] = {"requests": requests, "tokens": tokens, "prefix": prefix}
        return self.of_prefill(shape, super().prefill_parts(**shape))

    def prefill_launch_s(self, tokens: int) -> float:
        """Host seconds of launching a prefill."""
        return self.of_launches(tokens, super().prefill_launch_s(tokens))


def scaled(
    plain: StepModel, *, decode: Factor, prefill: Factor, launches: Factor | None = None
) -> StepModel:
    """A step model whose decode steps and prefills take a multiple of their time.

    ``launches`` is that of launching a prefill; left out, it is the prefill's.
    """
    slower = prefill if launches is None else launches

    def of_table(_batch: int, table: BatchTable) -> BatchTable:
        times = {n: decode * getattr(table, n) for n in ("parts", "total", "draft", "tail")}
        return replace(table, **times)

    return AlteredStep.of(
        plain,
        of_table=of_table,
        of_prefill=lambda _, parts: prefill * parts,
        of_launches=lambda _, seconds: slower * seconds,
    )


def mixed(own: StepModel, other: StepModel, *, phases: Set[str], prefill: bool) -> StepModel:
    """A step model that takes some phases from another one, and perhaps its prefills."""

    def of_table(batch: int, table: BatchTable) -> BatchTable:
        other.reach(int(table.ctx[-1]))
        theirs, parts = other.table(batch), table.parts.copy()
        for name in phases:
            p = PHASES.index(name)
            parts[p] = theirs.parts[p, :, : len(table.ctx)]  # both grids double from one start
        return BatchTable.of(table.padded, table.ctx, parts)

    def of_prefill(shape: dict[str, Any], parts: np.ndarray) -> np.ndarray:
        return other.prefill_parts(**shape) if prefill else parts

    def of_launches(tokens: int, seconds: float) -> float:
        return other.prefill_launch_s(tokens) if prefill else seconds

    return AlteredStep.of(own, of_table=of_table, of_prefill=of_prefill, of_launches=of_launches)


# ---- the GPU ------------------------------------------------------------------------------


def with_faster_gpu(setup: Setup, rate: Rate, factor: Factor) -> Setup:
    """The setup with one peak rate of its GPU multiplied; all products go with those in bf16."""
    step = setup.step
    rates = PRODUCTS if rate == "bf16_flop_s" else (rate,)
    now = {name: getattr(setup.device, name) for name in rates}
    fast = replace(setup.device, **{k: factor * v for k, v in now.items() if v is not None})
    parts = {f.name: getattr(step, f.name) for f in fields(StepModel) if f.name[0] != "_"}
    return with_step(setup, StepModel(**(parts | {"cost": FasterCost.of(step.cost, fast)})))
