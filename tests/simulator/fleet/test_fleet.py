"""A fleet is its replicas and its router: the same answers as event engines behind a real one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from direct_fleets import assert_same, directly, quickly
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SyntheticStep, System, acceptances, hosts

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.fleet.fleet import ROUTERS, Service, serve
from dflash_sim.simulator.fleet.replica import Tally
from dflash_sim.simulator.requests.draws import draw_commits
from dflash_sim.simulator.requests.laws import NoSpeculation
from dflash_sim.simulator.requests.workload import given_requests
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve


@st.composite
def fleets(draw: st.DrawFn, kv: bool = False) -> tuple[System, int]:
    """A few servers and a burst or a stream of requests for them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    replicas = draw(st.integers(1, 4))
    n = draw(st.integers(1, 30))
    block = draw(st.sampled_from([1, 4, 16]))
    step_s = 1e-3 * rng.uniform(1, 10)
    osl = rng.integers(1, draw(st.sampled_from([5, 60, 300])) + 1, n)
    gap_s = step_s * osl.mean() * rng.choice([0.02, 0.2, 1.0])
    work = given_requests(
        arrival_s=np.cumsum(rng.exponential(gap_s, n)), isl=rng.integers(1, 400, n), osl=osl
    )
    step = SyntheticStep.around(step_s, rng)
    limited: dict[str, Any] = {"max_running_requests": int(rng.choice([64, 3, 1]))}
    limited |= {"chunked_prefill_size": int(rng.choice([64, 4096]))}
    limited |= {"recv_interval": int(rng.choice([1, 1, 5, 30]))}
    if kv:
        page = int(rng.choice([1, 16]))
        limited |= {"kv_tight": True, "page_size": page}
        limited |= {"kv_tokens": int((720 + 2 * block + page) * rng.uniform(1, 4))}
        limited |= {"max_new_tokens": 300, "clip_max_new_tokens": 300}
        limited |= {"new_token_ratio_init": float(rng.choice([0.1, 0.7]))}
        limited |= {"new_token_ratio_min": 0.05}
    system = System.of(
        work,
        step,
        acceptance=None if block == 1 else draw(acceptances(block)),
        seed=int(rng.integers(2**31)),
        host=draw(hosts(0.1 * step_s)),
        mode=draw(st.sampled_from(["v1", "v2-sync", "v2", "v2"])),
        **limited,
    )
    return system, replicas


@pytest.mark.parametrize("router", ROUTERS)
@settings(max_examples=20)
@given(fleet=fleets())
def test_a_fleet_is_event_engines_behind_a_router(router: str, fleet: tuple[System, int]) -> None:
    system, replicas = fleet
    assert_same(quickly(system, replicas, router), directly(system, replicas, router))


@pytest.mark.parametrize("router", ROUTERS)
@settings(max_examples=20)
@given(fleet=fleets(kv=True))
def test_tight_kv_is_decided_alike(router: str, fleet: tuple[System, int]) -> None:
    """Admission step by step as the event engine does it, and the first retraction is seen."""
    system, replicas = fleet
    found = quickly(system, replicas, router)
    expected = directly(system, replicas, router)
    assert found.kv_ran_out == (expected.retractions > 0)
    if not found.kv_ran_out:
        assert_same(found, expected)


def test_what_a_fleet_cannot_serve_is_refused() -> None:
    setup = resolve(Scenario.parse(model="qwen3-8b", gpu="h200", method="none", isl=9, osl=9))
    work = given_requests(
        arrival_s=np.array([0.0, 1.0]), isl=np.array([9, 9]), osl=np.array([9, 9])
    )
    draws = draw_commits(NoSpeculation(), work, np.random.default_rng(0))

    def ask(**changed: Any) -> Service:
        about: dict[str, Any] = {"workload": work, "draws": draws, "router": "round-robin"}
        return serve(setup, **about | changed, replicas=2, tally=Tally({}))

    assert np.isfinite(ask().finish_s).all()
    with pytest.raises(UsageError, match="did you mean round-robin"):
        ask(router="round")
    with pytest.raises(UsageError, match="in order"):
        ask(workload=replace(work, arrival_s=np.array([1.0, 0.0])))
    with pytest.raises(UsageError, match="in order"):
        ask(workload=replace(work, arrival_s=None))
    with pytest.raises(UsageError, match="do not depend on its batches"):
        ask(draws=replace(draws, shared=True))


def test_a_hopeless_run_stops_early() -> None:
    """One request may be late; the simulation ends with the second that is."""
    setup = resolve(Scenario.parse(model="qwen3-8b", gpu="h200", method="none", isl=9, osl=9))
    n = 500
    work = given_requests(arrival_s=np.zeros(n), isl=np.full(n, 9), osl=np.full(n, 50))
    draws = draw_commits(NoSpeculation(), work, np.random.default_rng(0))
    tally = Tally({"tpot": 1e-6}, budget=1)
    found = serve(setup, work, draws, replicas=4, router="round-robin", tally=tally)
    assert found.stopped
    assert tally.late["tpot"] < n
    assert not np.isfinite(found.finish_s).all()
