"""Random systems for the two engines: small enough to run in milliseconds, odd in every way."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from dflash_sim.simulator.cost.cycle import PHASES
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.cost.parts import PARTS
from dflash_sim.simulator.cost.step_table import BatchTable
from dflash_sim.simulator.engine.events import EventEngine, Interval
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.engine.leap import LeapEngine
from dflash_sim.simulator.engine.records import Run
from dflash_sim.simulator.engine.scheduler import Limits
from dflash_sim.simulator.requests.draws import Draws, draw_commits
from dflash_sim.simulator.requests.laws import (
    Acceptance,
    FixedAcceptance,
    MinVarianceAcceptance,
    NoSpeculation,
    ParametricAcceptance,
)
from dflash_sim.simulator.requests.survival import FrailtyWeibull
from dflash_sim.simulator.requests.workload import Workload

# Share of a cycle before verification and after the lengths are published.
SHARES = {"none": (0.0, 0.0), "mtp": (0.4, 0.2), "eagle3": (0.3, 0.1), "dflash": (0.15, 0.02)}


@dataclass(frozen=True)
class SyntheticStep:
    """A step model of four numbers: ``fixed + per_request b + per_token sum(ctx)`` seconds."""

    fixed_s: float = 0.0
    per_request_s: float = 0.0
    per_token_s: float = 0.0
    prefill_fixed_s: float = 0.0
    prefill_per_token_s: float = 0.0
    prefill_launches_s: float = 0.0
    draft_share: float = 0.0
    tail_share: float = 0.0
    v1: bool = False
    block: int = 1
    nodes: tuple[float, ...] = (0.0, 64.0, 1e6)
    _tables: dict[int, BatchTable] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def around(cls, step_s: float, rng: np.random.Generator) -> "SyntheticStep":
        """A step of about ``step_s`` with a few requests, its parts drawn."""
        return cls(
            fixed_s=step_s,
            per_request_s=step_s * rng.uniform(0, 0.3),
            per_token_s=step_s * rng.uniform(0, 1e-3),
            prefill_fixed_s=step_s * rng.uniform(0, 2),
            prefill_per_token_s=step_s * rng.uniform(0, 0.02),
            prefill_launches_s=step_s * rng.choice([0.0, 6.0]),
            draft_share=0.1,
            tail_share=0.05,
        )

    @property
    def cycle(self) -> SimpleNamespace:
        """What a summary asks of a cycle."""
        return SimpleNamespace(
            block=self.block, method=METHODS["dflash" if self.block > 1 else "none"]
        )

    def table(self, batch: int) -> BatchTable:
        if batch not in self._tables:
            ctx = np.array(self.nodes)
            total = self.fixed_s + self.per_request_s * batch + self.per_token_s * batch * ctx
            parts = np.zeros((len(PHASES), len(PARTS), ctx.size))
            shares = {"draft": self.draft_share, "materialise": self.tail_share}
            shares["verify"] = 1 - sum(shares.values())
            for name, share in shares.items():
                parts[PHASES.index(name), 3] = share * total
            draft, tail = self.draft_share * total, self.tail_share * total
            self._tables[batch] = BatchTable(batch, ctx, parts, total, draft, tail)
        return self._tables[batch]

    def decode_s(self, batch: int, kv_tokens: float) -> float:
        return self.table(batch).seconds(kv_tokens / batch)

    def decode_array(self, batch: int, kv_tokens: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        t = self.table(batch)
        return np.interp(kv_tokens / batch, t.ctx, t.total)

    def tail_s(self, batch: int, kv_tokens: float) -> float:
        return self.tail_share * self.decode_s(batch, kv_tokens)

    def tail_array(self, batch: int, kv_tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return self.tail_share * self.decode_array(batch, kv_tokens)

    def draft_s(self, batch: int, kv_tokens: float) -> float:
        return self.draft_share * self.decode_s(batch, kv_tokens)

    def prefill_parts(
        self, *, requests: int, tokens: int, prefix: float
    ) -> npt.NDArray[np.float64]:
        rows = tokens + prefix * requests / 8
        seconds = self.prefill_fixed_s + self.prefill_per_token_s * rows
        return np.array([0.0, 0.0, 0.0, seconds, 0.0, 0.0])

    def prefill_launch_s(self, tokens: int) -> float:
        return self.prefill_launches_s * (1 + tokens % 3)

    def prefill_s(self, *, requests: int, tokens: int, prefix: float = 0.0) -> float:
        return float(self.prefill_parts(requests=requests, tokens=tokens, prefix=prefix)[3])


HOST_STAGES = tuple(HostTime.__dataclass_fields__)
TICK_S = 2.0**-17  # a power of two: whole numbers of it are added without rounding
NO_HOST = HostTime(**dict.fromkeys(HOST_STAGES, 0.0))


def limits(**changed: Any) -> Limits:
    """Limits that bind nowhere, but for what is changed."""
    open_wide: dict[str, Any] = {
        "max_running_requests": 64,
        "max_prefill_tokens": 2**14,
        "chunked_prefill_size": 2**14,
        "kv_tokens": 2**40,
        "page_size": 1,
        "block": 1,
        "speculative": False,
        "max_new_tokens": 4096,
        "clip_max_new_tokens": 4096,
        "min_free_slots_delay": 0,
        "new_token_ratio_init": 0.7,
        "new_token_ratio_min": 0.098,
        "new_token_ratio_decay": 0.001,
        "retract_decode_steps": 20,
        "kv_tight": False,
    }
    return Limits(**(open_wide | changed))


def closed(
    osl: npt.ArrayLike, *, conc: int, isl: npt.ArrayLike = 8, measured: int | None = None
) -> Workload:
    """A closed loop of ``conc`` clients over single-turn requests; the first ``measured`` count."""
    osl = np.atleast_1d(np.asarray(osl, np.int64))
    n = osl.size
    return Workload(
        isl=np.broadcast_to(np.asarray(isl, np.int64), n).copy(),
        osl=osl,
        cached=np.zeros(n, np.int64),
        measured=np.arange(n) < (n if measured is None else measured),
        follow=np.full(n, -1),
        conc=conc,
    )


@dataclass(frozen=True)
class System:
    """Everything either engine needs."""

    step: SyntheticStep
    host: HostTime
    limits: Limits
    workload: Workload
    draws: Draws
    mode: str = "v2"
    host_length_sync: bool = False
    turnaround_s: float = 0.0

    @classmethod
    def of(
        cls,
        workload: Workload,
        step: SyntheticStep,
        *,
        acceptance: Acceptance | None = None,
        seed: int = 0,
        host: HostTime = NO_HOST,
        mode: str = "v2",
        host_length_sync: bool = False,
        turnaround_s: float = 0.0,
        **limited: Any,
    ) -> "System":
        law = acceptance or NoSpeculation()
        draws = draw_commits(law, workload, np.random.default_rng(seed))
        limited = {"speculative": acceptance is not None, "block": law.block} | limited
        return cls(
            step, host, limits(**limited), workload, draws, mode, host_length_sync, turnaround_s
        )

    def but(self, **changed: Any) -> "System":
        return replace(self, **changed)

    @property
    def parts(self) -> dict[str, Any]:
        """Keyword arguments of an engine."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def engine(self, on_interval: Interval | None = None) -> EventEngine:
        return EventEngine(**self.parts, on_interval=on_interval)

    def event(self, on_interval: Interval | None = None) -> Run:
        return self.engine(on_interval).run()

    def leap(self) -> Run:
        run = self.leap_to_the_end()
        assert run is not None, "the KV cache ran out"
        return run

    def leap_to_the_end(self) -> Run | None:
        """The leap engine's run; None where the KV cache runs out."""
        return LeapEngine(**self.parts).run()


def hosts(scale_s: float) -> st.SearchStrategy[HostTime]:
    """Host stages around ``scale_s`` each, some of them free."""
    stage = st.one_of(st.just(0.0), st.floats(0.05, 1.0))
    stages = st.fixed_dictionaries(dict.fromkeys(HOST_STAGES, stage))

    def build(drawn: dict[str, float], jitter: int) -> HostTime:
        # Incommensurable times: no decision may hang on the last bit of a sum.
        odd = np.random.default_rng(jitter).uniform(0.9, 1.1, len(HOST_STAGES))
        parts = {n: drawn[n] * scale_s * x for n, x in zip(HOST_STAGES, odd, strict=True)}
        parts |= {n: x / 8 for n, x in parts.items() if n.endswith("per_request_s")}
        return HostTime(**parts)

    return st.builds(build, stages, st.integers(0, 2**16))


def near(host: HostTime, *, loop_s: float) -> HostTime:
    """The same stages, scaled so that one overlapped loop of the host takes ``loop_s``."""
    launch_s = host.first_launch_s + host.rest_launch_s
    now_s = host.recv_s + host.get_next_batch(1) + launch_s + host.process(1)
    k = loop_s / now_s if now_s else 1.0
    return HostTime(**{n: k * getattr(host, n) for n in HOST_STAGES})


@st.composite
def workloads(draw: st.DrawFn, conc: int, step_s: float, longest: int) -> Workload:
    """Closed loops of conversations with warm-down, and open loops with bursts.

    Most choices hang on one drawn seed: hypothesis by itself prefers few and plain ones.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples = draw(st.integers(3, 8)) if longest > 90 else draw(st.integers(1, 4 * conc))
    turns = int(rng.choice([1, 1, 2, 3]))
    n = samples * turns
    osl = rng.integers(1, longest + 1, n)
    if draw(st.booleans()):
        osl[rng.random(n) < 0.3] = 1
    isl = 1 + rng.permutation(max(n, int(rng.choice([2, 40, 400]))))[:n]
    cached = rng.integers(0, isl) * rng.integers(0, 2, n)
    follow = np.full(n, -1)
    arrival_s = None
    measured = np.ones(n, bool)
    kind = rng.choice(["closed", "closed", "poisson", "poisson", "bursts", "at once"])
    if kind == "closed":
        ids = np.arange(n).reshape(samples, turns)
        follow = np.concatenate([ids[:, 1:], np.full((samples, 1), -1)], axis=1).ravel()
        if samples > 1:
            measured[ids[draw(st.integers(1, samples)) :].ravel()] = False
    elif kind == "at once":
        arrival_s = np.full(n, rng.choice([0.0, 3 * step_s]))
    else:
        gap_s = step_s * longest * rng.choice([0.03, 0.3, 3.0])
        arrival_s = np.cumsum(rng.exponential(gap_s, n))
        if kind == "bursts":
            arrival_s = arrival_s[np.arange(n) // 3 * 3]
    return Workload(isl, osl, cached, measured, follow, conc, arrival_s)


@st.composite
def acceptances(draw: st.DrawFn, block: int) -> Acceptance:
    kind = draw(st.sampled_from(["frailty", "frailty", "fixed", "floor or ceil"]))
    if kind == "fixed":
        return FixedAcceptance(draw(st.integers(1, block)), block)
    if kind == "floor or ceil":
        return MinVarianceAcceptance(draw(st.floats(1, block)), block)
    lam, beta = draw(st.floats(0.01, 2.0)), draw(st.floats(0.7, 1.6))
    return ParametricAcceptance(FrailtyWeibull(lam, beta, draw(st.sampled_from([0.0, 0.3]))), block)


@st.composite
def systems(
    draw: st.DrawFn, mode: str | None = None, long: bool = False, longest: int = 300
) -> System:
    """Any configuration that both engines accept; ``long``: hundreds of steps at a time."""
    method = draw(st.sampled_from(list(SHARES)))
    block = 1 if method == "none" else draw(st.integers(2, 4 if long else 16))
    conc = draw(st.integers(1, 3 if long else 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    step_s = 1e-3 * rng.uniform(1, 10)
    draft, tail = SHARES[method]
    step = SyntheticStep(
        fixed_s=step_s,
        per_request_s=step_s * rng.uniform(0, 0.3),
        per_token_s=step_s * rng.uniform(0, 1e-3),
        prefill_fixed_s=step_s * rng.uniform(0, 2),
        prefill_per_token_s=step_s * rng.uniform(0, 0.02),
        prefill_launches_s=step_s * rng.choice([0.0, 1.0, 8.0]) * rng.uniform(0.9, 1.1),
        draft_share=draft,
        tail_share=tail,
    )
    host = draw(st.sampled_from([0.0, 0.02, 0.3, 2.0]).flatmap(lambda x: hosts(x * step_s)))
    if long and rng.random() < 0.5:
        host = near(host, loop_s=step_s * rng.uniform(0.9, 1.3))
    page = int(rng.choice([1, 1, 16]))
    osl = [300, 2000] if long else [n for n in (1, 3, 12, 40, 90, 300) if n <= longest]
    workload = draw(workloads(conc, step_s, draw(st.sampled_from(osl))))
    acceptance = None if method == "none" else draw(acceptances(block))
    return System.of(
        workload,
        step,
        acceptance=acceptance,
        seed=int(rng.integers(2**31)),
        host=host,
        mode=mode or draw(st.sampled_from(["v1", "v2-sync", "v2", "v2"])),
        host_length_sync=not long and draw(st.booleans()),
        turnaround_s=rng.choice([0.0, 0.7, 40.0]) * step_s * rng.uniform(0.9, 1.1),
        max_running_requests=int(rng.choice([64, 4] if long else [64, conc, 1 + conc // 3])),
        min_free_slots_delay=int(rng.choice([0, 2] if long else [0, 0, 1, 2, 3, 4])),
        chunked_prefill_size=page * int(rng.choice([1, 5, 64, 4096])),
        max_prefill_tokens=int(rng.choice([2, 100, 16384])),
        page_size=page,
        recv_interval=int(rng.choice([1, 1, 2, 7, 30])),
        sorted_up_to=int(rng.choice([0, 0, 2, 128])),
    )


@st.composite
def on_a_grid(draw: st.DrawFn) -> System:
    """Systems whose times are whole ticks, so that no sum is rounded and much happens at once."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    block, conc = draw(st.sampled_from([1, 1, 4])), draw(st.integers(1, 5))
    n, longest = draw(st.integers(1, 12)), draw(st.sampled_from([1, 3, 12]))
    step = draw(st.sampled_from([1, 8, 64]))
    times = {name: TICK_S * int(rng.choice([0, 0, 0, 1, step, 3])) for name in HOST_STAGES}
    workload = closed(rng.integers(1, longest + 1, n), conc=conc, isl=rng.integers(1, 40, n))
    if draw(st.booleans()):
        at = np.sort(rng.integers(0, step * longest * draw(st.sampled_from([1, 4])) + 2, n))
        workload = replace(workload, arrival_s=TICK_S * at)
    return System.of(
        workload,
        SyntheticStep(
            fixed_s=TICK_S * step,
            per_request_s=TICK_S * int(rng.choice([0, 1, 2])),
            prefill_fixed_s=TICK_S * int(rng.choice([0, 1, step, 2 * step])),
            prefill_launches_s=TICK_S * int(rng.choice([0, 1, 8])),
            draft_share=0.25,
            tail_share=float(rng.choice([0, 0.125])),
        ),
        acceptance=None if block == 1 else FixedAcceptance(draw(st.integers(1, block)), block),
        host=HostTime(**times),
        mode=draw(st.sampled_from(["v1", "v2-sync", "v2", "v2"])),
        host_length_sync=draw(st.booleans()),
        turnaround_s=TICK_S * int(rng.choice([0, 0, 1, step, 40])),
        max_running_requests=int(rng.choice([64, conc, 1 + conc // 3])),
        min_free_slots_delay=int(rng.choice([0, 0, 1, 2])),
        chunked_prefill_size=int(rng.choice([5, 64])),
        recv_interval=int(rng.choice([1, 1, 2, 7])),
    )


@st.composite
def crowded(draw: st.DrawFn) -> System:
    """More requests than the KV cache holds at once."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    conc = draw(st.integers(2, 8))
    osl = rng.integers(1, draw(st.sampled_from([80, 20])) + 1, draw(st.integers(conc, 3 * conc)))
    isl = rng.integers(1, 60, osl.size)
    block = draw(st.sampled_from([4, 1, 8]))
    page = draw(st.sampled_from([1, 16]))
    longest = 60 + 80 + 2 * block + page
    law = None if block == 1 else ParametricAcceptance(FrailtyWeibull(0.4, 1.1, 0.1), block)
    return System.of(
        replace(closed(osl, conc=conc), isl=isl),
        SyntheticStep(
            fixed_s=4e-3 * rng.uniform(0.5, 1),
            prefill_per_token_s=1e-5,
            tail_share=0.05,
            draft_share=0.1,
        ),
        acceptance=law,
        seed=int(rng.integers(2**31)),
        host=draw(hosts(1e-3)),
        mode=draw(st.sampled_from(["v2", "v2-sync", "v1"])),
        host_length_sync=draw(st.booleans()),
        kv_tight=True,
        kv_tokens=int(longest * draw(st.floats(1.0, 3.0))),
        page_size=page,
        chunked_prefill_size=draw(st.sampled_from([4096, 64])),
        max_running_requests=draw(st.sampled_from([64, 3])),
        max_new_tokens=80,
        clip_max_new_tokens=80,
        new_token_ratio_init=draw(st.sampled_from([0.1, 0.7])),
        new_token_ratio_min=0.05,
    )
