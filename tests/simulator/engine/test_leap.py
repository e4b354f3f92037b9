"""The leap engine is the event engine: every time of every run, to 1e-9."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, find, given, settings
from hypothesis import strategies as st
from strategies import (
    NO_HOST,
    SyntheticStep,
    System,
    closed,
    crowded,
    on_a_grid,
    systems,
)

from dflash_sim.simulator.engine.records import Run
from dflash_sim.simulator.predict import simulate
from dflash_sim.simulator.requests.expected import expected_acceptance
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

EXACT = ("kind", "batch", "kv_tokens", "cycles", "committed", "after_idle")


def assert_same(leap: Run, event: Run) -> None:
    """Counts equal, times equal to 1e-9 relative."""
    for f in fields(Run):
        if f.name in ("engine", "retractions", "client_s", "loops"):
            continue
        a, b = getattr(leap, f.name), getattr(event, f.name)
        assert a.shape == b.shape, f.name
        if f.name in EXACT:
            np.testing.assert_array_equal(a, b, f.name)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-15, err_msg=f.name)


def tied(system: System) -> bool:
    """Whether an arrival and a look for arrivals are the same but for rounding: either may win.

    The engines add the same times in another order, so where the event engine has both at one
    moment, the other may have the look a bit before. Only a request that is sent the moment an
    answer is there has the time of the engine itself, whichever it is.
    """
    at_once = system.workload.arrival_s is None and not system.turnaround_s
    engine = system.engine(lambda lane, name, start_s, end_s, index: look(name, end_s))
    ties = []

    def look(name: str, now: float) -> None:
        if name == "recv_requests":
            ties.extend(
                at
                for at, _ in engine.arrivals
                if abs(at - now) < 1e-12 * at and not (at_once and at == now)
            )

    engine.run()
    return bool(ties)


def same(system: System) -> None:
    leap, event = system.leap(), system.event()
    try:
        assert_same(leap, event)
    except AssertionError:
        assume(not tied(system))
        raise


@settings(max_examples=150)
@given(systems())
def test_leap_is_the_event_engine(system: System) -> None:
    same(system)


@pytest.mark.slow
@settings(max_examples=20)
@given(systems(mode="v2", long=True))
def test_long_leaps_are_the_event_engine(system: System) -> None:
    """Hundreds of steps at once, cut by arrivals, bound by the GPU or by the host."""
    same(system)


@settings(max_examples=20)
@given(systems(mode="v2-sync", long=True))
def test_long_chains_are_the_event_engine(system: System) -> None:
    same(system)


@settings(max_examples=60)
@given(crowded(), st.sampled_from([1.0, 2.0, 4.0]), st.booleans())
def test_tight_memory_is_decided_alike(system: System, room: float, opened: bool) -> None:
    """Admission as the event engine decides it, until a request would be retracted."""
    lim = system.limits
    system = system.but(limits=replace(lim, kv_tokens=int(room * lim.kv_tokens)))
    if opened:
        gaps_s = np.random.default_rng(0).exponential(2e-2, len(system.workload))
        system = system.but(workload=replace(system.workload, arrival_s=np.cumsum(gaps_s)))
    leap, event = system.leap_to_the_end(), system.event()
    assert (leap is None) == (event.retractions > 0)
    if leap is not None:
        assert_same(leap, event)


@settings(max_examples=40)
@given(on_a_grid())
def test_what_happens_at_one_moment_is_decided_alike(system: System) -> None:
    """Nothing is rounded here, so that no tie is an excuse."""
    assert_same(system.leap(), system.event())


def test_a_tie_that_rounding_decides() -> None:
    """A request that comes when the event engine has just nothing to do, to the last bit.

    Each engine is right by its own clock: one receives it, the other waits for it no time at all.
    """
    decided = set()
    for seed in range(12):
        step = SyntheticStep.around(3e-3, np.random.default_rng(seed))
        one = System.of(closed(40, conc=1), step, host=NO_HOST, mode="v2-sync")
        over_s = float(one.event().emit_s[-1])
        both = replace(closed([40, 3], conc=1), arrival_s=np.array([0.0, over_s]))
        system = one.but(workload=both, draws=System.of(both, step).draws)
        leap, event = system.leap(), system.event()
        assert tied(system)
        np.testing.assert_allclose(leap.emit_s, event.emit_s, rtol=1e-9)
        decided.add((int(leap.after_idle.sum()), int(event.after_idle.sum())))
    assert {(1, 1), (2, 1)} <= decided


def host(system: System, **changed: float) -> System:
    return system.but(host=replace(system.host, **changed))


def one_slot(system: System) -> System:
    return system.but(limits=replace(system.limits, max_running_requests=1))


MISTAKES: dict[str, Callable[[System], System]] = {
    "a client a microsecond slower": lambda s: s.but(turnaround_s=s.turnaround_s + 1e-6),
    "launches are free": lambda s: host(s, rest_launch_s=0.0),
    "launches of a prefill are free": lambda s: s.but(step=replace(s.step, prefill_launches_s=0.0)),
    "every loop looks for requests": lambda s: s.but(limits=replace(s.limits, recv_interval=1)),
    "the oldest request first": lambda s: s.but(limits=replace(s.limits, sorted_up_to=0)),
    "copies are free": lambda s: host(s, d2h_s=0.0),
    "lengths are not awaited": lambda s: s.but(host_length_sync=False),
    "one request at a time": one_slot,
    "one more cycle each": lambda s: s.but(draws=replace(s.draws, cycles=s.draws.cycles + 1)),
    "no overlap": lambda s: s.but(mode="v2-sync"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_engine_is_found(mistake: str) -> None:
    """Negative control: the comparison sees each of these mistakes (``find`` raises if not)."""

    def differs(system: System) -> bool:
        try:
            assert_same(MISTAKES[mistake](system).leap(), system.event())
        except AssertionError:
            return True
        return False

    patience = settings(
        max_examples=300,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    assert differs(find(systems(mode="v2", longest=90), differs, settings=patience))


LAUNCHES: list[dict[str, Any]] = [
    {"method": "dflash", "conc": 4},
    {"method": "dflash", "conc": 3, "block": 5, "engine_mode": "v1"},
    {"method": "dflash", "conc": 3, "attention_backend": "flashinfer"},
    {"method": "eagle3", "conc": 2, "steps": 3, "engine_mode": "v2-sync"},
    {"method": "none", "conc": 5},
    {"method": "dflash", "rate": 8.0, "max_running_requests": 3},
    {"model": "qwen3.5-4b", "method": "mtp", "conc": 4, "steps": 3, "dataset": "mt-bench"},
]


@pytest.mark.parametrize("launch", LAUNCHES, ids=str)
def test_leap_is_the_event_engine_with_real_prices(launch: dict[str, Any]) -> None:
    base = {"gpu": "h200", "model": "qwen3-8b", "tp": 1, "max_new_tokens": 300, "num_prompts": 10}
    setup = resolve(Scenario.parse(**(base | launch)))
    law = None
    if setup.speculative:
        law = expected_acceptance(
            model=setup.model.name,
            method=setup.scenario.method,
            law=setup.method.law,
            block=setup.block,
            dataset=setup.scenario.dataset,
            thinking=True,
            text="weibull:q=0.8,beta=1.1,theta=0.05",
        )
    leap, event = (simulate(setup, law, run=1, simulator=e) for e in ("leap", "event"))
    assert_same(leap[1], event[1])
    for name, value in event[0].values.items():
        assert leap[0].values[name] == pytest.approx(value, rel=1e-9), name


@pytest.mark.slow
@pytest.mark.parametrize("long", [False, True])
@settings(max_examples=150)
@given(data=st.data())
def test_leap_is_the_event_engine_everywhere(data: st.DataObject, long: bool) -> None:
    same(data.draw(systems(long=long)))
