"""The live engine is the event engine, told of its requests one at a time."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SyntheticStep, System, closed, systems

from dflash_sim.simulator.engine.live import KEPT, Call, LiveEngine
from dflash_sim.simulator.requests.workload import given_requests


@dataclass
class Heard:
    """When each request has said what."""

    engine: LiveEngine
    tokens: dict[int, list[int]] = field(default_factory=dict)
    first_s: dict[int, float] = field(default_factory=dict)
    end_s: dict[int, float] = field(default_factory=dict)

    def call(self, isl: int, osl: int, commits: list[int], cached: int = 0) -> Call:
        return Call(isl, osl, commits, self.told, self.ended, cached)

    def told(self, call: Call, tokens: int) -> None:
        self.first_s.setdefault(call.rid, self.engine.now_s)
        self.tokens.setdefault(call.rid, []).append(tokens)

    def ended(self, call: Call) -> None:
        self.end_s[call.rid] = self.engine.now_s


def live(system: System) -> tuple[LiveEngine, Heard]:
    parts = {k: v for k, v in system.parts.items() if k not in ("workload", "draws")}
    engine = LiveEngine(**parts)
    return engine, Heard(engine)


def arriving(system: System, gap_s: float) -> System:
    """The same requests as an open loop: none shares a moment with a stage of the host."""
    n = len(system.workload)
    at = np.cumsum(np.random.default_rng(n).exponential(gap_s, n))
    given = given_requests(
        arrival_s=at,
        isl=system.workload.isl,
        osl=system.workload.osl,
        cached=system.workload.cached,
    )
    return replace(system, workload=given, turnaround_s=0.0)


def played(system: System, steps: int) -> Heard:
    """Submit every request at its time, letting time pass in up to ``steps`` steps between."""
    engine, heard = live(system)
    w, draws = system.workload, system.draws
    assert w.arrival_s is not None
    for rid, at in enumerate(w.arrival_s.tolist()):
        begin = engine.now_s
        for k in range(1, steps + 1):
            engine.advance(begin + (at - begin) * k / (steps + 1))
        n = int(draws.cycles[rid]) + 1
        call = heard.call(
            int(w.isl[rid]), int(w.osl[rid]), draws.commits[rid, :n].tolist(), int(w.cached[rid])
        )
        engine.submit(call, at)
    while engine.next_s < np.inf:
        engine.advance(engine.next_s)
    return heard


@settings(max_examples=60)
@given(systems(), st.integers(0, 5), st.floats(1e-4, 1.0))
def test_requests_that_are_told_late_end_when_those_known_before_do(
    system: System, steps: int, gap_s: float
) -> None:
    if system.draws.shared:
        return
    system = arriving(system, gap_s)
    run = system.event()
    heard = played(system, steps)
    n = len(system.workload)
    np.testing.assert_allclose([heard.end_s[i] for i in range(n)], run.finish_s, rtol=1e-9)
    np.testing.assert_allclose([heard.first_s[i] for i in range(n)], run.first_token_s, rtol=1e-9)
    for i in range(n):
        assert heard.tokens[i] == sorted(heard.tokens[i])
        assert heard.tokens[i][-1] == system.workload.osl[i]


@settings(max_examples=30)
@given(systems(), st.floats(1e-4, 1.0))
def test_seconds_of_the_scheduler_are_those_of_its_stages(system: System, gap_s: float) -> None:
    if system.draws.shared:
        return
    system = arriving(system, gap_s)
    engine = played(system, 2).engine
    stages, host = engine.stages(), system.parts["host"]
    assert sum(stages.values()) == pytest.approx(engine.now_s)
    assert stages["recv_requests"] >= engine.totals.iterations * host.recv_s * (1 - 1e-9)
    batches = stages["process_batch_result"] - engine.totals.iterations * host.process_s
    assert batches >= -1e-9
    launched = engine.totals.iterations * host.schedule_s
    assert stages["get_next_batch_to_run"] >= launched * (1 - 1e-9)


def plain(**limited: object) -> System:
    step = SyntheticStep(fixed_s=0.01, prefill_fixed_s=0.02)
    return System.of(closed([20], conc=1), step, **limited)


def test_a_request_that_is_taken_back_makes_room_for_the_next() -> None:
    engine, heard = live(plain(max_running_requests=1))
    first, second = heard.call(8, 100, [1] * 101), heard.call(8, 5, [1] * 6)
    engine.submit(first, 0.0)
    engine.submit(second, 0.0)
    engine.advance(0.1)
    assert first.rid in heard.tokens
    assert second.rid not in heard.tokens
    engine.abort(first)
    engine.advance(0.3)
    assert second.rid in heard.end_s
    assert first.rid not in heard.end_s
    assert max(heard.tokens[first.rid]) < 100
    assert (engine.totals.finished, engine.totals.aborted) == (1, 1)


def test_a_request_that_waits_is_taken_back_without_a_token() -> None:
    engine, heard = live(plain(max_running_requests=1))
    calls = [heard.call(8, 10, [1] * 11) for _ in range(3)]
    for call in calls:
        engine.submit(call, 0.0)
    engine.abort(calls[2])  # before the engine has seen it
    engine.advance(0.05)
    engine.abort(calls[1])
    engine.abort(calls[1])  # once more does nothing
    engine.advance(10.0)
    assert set(heard.end_s) == {calls[0].rid}
    assert engine.totals.aborted == 2


@pytest.mark.parametrize("mode", ["v1", "v2-sync", "v2"])
def test_what_is_over_is_forgotten(mode: str) -> None:
    engine, heard = live(plain().but(mode=mode))
    for i in range(300):
        engine.submit(heard.call(8, 4, [1] * 5), engine.now_s)
        if i % 7 == 0:
            engine.abort(engine.calls[max(engine.calls)])
        engine.advance(engine.now_s + 0.05)
    engine.advance(engine.now_s + 100.0)
    assert engine.totals.finished + engine.totals.aborted == 300
    assert not engine.calls
    assert not engine.texts.asked
    assert len(engine.log.kv_tokens) <= KEPT
    assert engine.scheduler.running == [] or all(r.done for r in engine.scheduler.running)
    assert engine.next_s == np.inf  # asleep
