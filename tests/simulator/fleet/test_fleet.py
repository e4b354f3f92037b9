"""A fleet is its replicas and its router: the same answers as event engines behind a real one."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SyntheticStep, System, acceptances, hosts

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.engine.events import EventEngine, Steps
from dflash_sim.simulator.fleet.fleet import ROUTERS, Service, serve, serve_with
from dflash_sim.simulator.fleet.replica import Tally
from dflash_sim.simulator.requests.draws import draw_commits
from dflash_sim.simulator.requests.laws import NoSpeculation
from dflash_sim.simulator.requests.workload import given_requests
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve


class Server(EventEngine):
    """An event engine that is sent requests while it runs."""

    def __init__(self, env: simpy.Environment, system: System) -> None:
        super().__init__(**system.parts | {"workload": system.workload}, env=env)
        self.wake = env.event()
        self.in_flight = 0
        self.arrivals.clear()

    def start(self) -> None:
        """Serve for ever."""
        self.env.process(self._gpu())
        self.env.process(self._copy())
        loop = self.event_loop_overlap if self.mode == "v2" else self.event_loop_normal
        self.env.process(loop())

    def take(self, rid: int) -> None:
        """A request arrives now."""
        self.arrivals.append((self.env.now, rid))
        self.in_flight += 1
        if not self.wake.triggered:
            self.wake.succeed()

    @property
    def _unfinished(self) -> bool:
        return True

    def _finish(self, r: Any, now: float) -> None:
        super()._finish(r, now)
        self.in_flight -= 1

    def _idle(self) -> Steps:
        self.log.idle()
        self.scheduler.idle()
        if not self.arrivals:
            self.wake = self.env.event()
            yield self.wake


class Direct(NamedTuple):
    """What event engines and a router make of every request."""

    replica: Any
    first_token_s: Any
    finish_s: Any
    retractions: int


def directly(system: System, replicas: int, router: str) -> Direct:
    """The same fleet, its engines and its router as processes of one simulation."""
    env = simpy.Environment()
    servers = [Server(env, system) for _ in range(replicas)]
    at = system.workload.arrival_s
    assert at is not None
    chosen: list[int] = []

    def route() -> Steps:
        for rid, when in enumerate(at.tolist()):
            yield env.timeout(when - env.now)
            loads = [s.in_flight for s in servers]
            k = rid % replicas if router == "round-robin" else loads.index(min(loads))
            chosen.append(k)
            servers[k].take(rid)

    for server in servers:
        server.start()
    env.process(route())
    n = len(at)
    while sum(np.isfinite(s.log.finish_s).sum() for s in servers) < n:
        env.step()
    rows = np.arange(n)
    first = np.array([s.log.first_token_s for s in servers])[chosen, rows]
    finish = np.array([s.log.finish_s for s in servers])[chosen, rows]
    return Direct(np.array(chosen), first, finish, sum(s.scheduler.retractions for s in servers))


def quickly(system: System, replicas: int, router: str, tally: Tally | None = None) -> Service:
    made_of = {k: v for k, v in system.parts.items() if k not in ("workload", "draws")}
    made_of.pop("turnaround_s")
    tally = tally or Tally({})
    return serve_with(made_of, system.workload, system.draws, replicas, router, tally)


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
    step = SyntheticStep(
        fixed_s=step_s,
        per_request_s=step_s * rng.uniform(0, 0.3),
        per_token_s=step_s * rng.uniform(0, 1e-3),
        prefill_fixed_s=step_s * rng.uniform(0, 2),
        prefill_per_token_s=step_s * rng.uniform(0, 0.02),
        prefill_launches_s=step_s * rng.choice([0.0, 6.0]),
        draft_share=0.1,
        tail_share=0.05,
    )
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


def assert_same(found: Service, expected: Direct) -> None:
    np.testing.assert_array_equal(found.replica, expected.replica)
    np.testing.assert_allclose(found.first_token_s, expected.first_token_s, rtol=1e-9)
    np.testing.assert_allclose(found.finish_s, expected.finish_s, rtol=1e-9)


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
