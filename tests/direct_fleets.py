"""A fleet as event engines and a router in one simulation, beside the one of the simulator."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, NamedTuple

import numpy as np
import simpy
from strategies import System

from dflash_sim.simulator.engine.events import EventEngine, Steps
from dflash_sim.simulator.fleet.fleet import Service, serve_with
from dflash_sim.simulator.fleet.replica import Tally
from dflash_sim.simulator.fleet.routers import router_of


class Server(EventEngine):
    """An event engine that is sent requests while it runs."""

    sends_on: Callable[[int, float], None]

    def __init__(self, env: simpy.Environment, system: System) -> None:
        super().__init__(**system.parts | {"workload": system.workload}, env=env)
        self.wake = env.event()
        self.in_flight = 0
        self.arrivals.clear()

    def take(self, rid: int) -> None:
        """A request arrives now."""
        self.arrivals.append((self.env.now, rid))
        self.in_flight += 1
        if not self.wake.triggered:
            self.wake.succeed()

    @property
    def _unfinished(self) -> bool:
        return True

    def _arrive(self, rid: int, at: float) -> None:
        self.sends_on(rid, at)

    def _finish(self, r: Any, now: float) -> None:
        super()._finish(r, now)
        self.in_flight -= 1

    def _nothing_comes(self) -> simpy.Event:
        self.wake = self.env.event()
        return self.wake


class Direct(NamedTuple):
    """What event engines and a router make of every request."""

    replica: Any
    first_token_s: Any
    finish_s: Any
    cached: Any
    retractions: int


def directly(system: System, replicas: int, router: str) -> Direct:
    """The same fleet as event engines and a router in one simulation."""
    env = simpy.Environment()
    work = system.workload
    servers = [Server(env, system) for _ in range(replicas)]
    chooser = router_of(router, work.prompts, replicas)
    assert work.arrival_s is not None
    due: list[tuple[float, int]] = []
    n = len(work)
    chosen = np.full(n, -1)
    called = [env.event()]

    def send_on(rid: int, at: float) -> None:
        heappush(due, (at, rid))
        if not called[0].triggered:
            called[0].succeed()

    for rid in work.heads:
        heappush(due, (float(work.arrival_s[rid]), rid))

    def route() -> Steps:
        while True:
            called[0] = env.event()
            if not due:
                yield called[0]
            elif due[0][0] > env.now:
                yield env.timeout(due[0][0] - env.now) | called[0]
            else:
                _, rid = heappop(due)
                k = chooser.choose(rid, [s.in_flight for s in servers])
                chosen[rid] = k
                servers[k].take(rid)

    for server in servers:
        server.sends_on = send_on
        server.begin()
    env.process(route())
    while sum(np.isfinite(s.log.finish_s).sum() for s in servers) < n:
        env.step()
    rows = np.arange(n)
    first = np.array([s.log.first_token_s for s in servers])[chosen, rows]
    finish = np.array([s.log.finish_s for s in servers])[chosen, rows]
    cached = np.array([s.log.cached for s in servers])[chosen, rows]
    return Direct(chosen, first, finish, cached, sum(s.scheduler.retractions for s in servers))


def quickly(system: System, replicas: int, router: str, tally: Tally | None = None) -> Service:
    made_of = {k: v for k, v in system.parts.items() if k not in ("workload", "draws")}
    made_of.pop("turnaround_s")
    tally = tally or Tally({})
    return serve_with(made_of, system.workload, system.draws, replicas, router, tally)


def assert_same(found: Service, expected: Direct) -> None:
    np.testing.assert_array_equal(found.replica, expected.replica)
    np.testing.assert_allclose(found.first_token_s, expected.first_token_s, rtol=1e-9)
    np.testing.assert_allclose(found.finish_s, expected.finish_s, rtol=1e-9)
    np.testing.assert_array_equal(found.cached, expected.cached)
