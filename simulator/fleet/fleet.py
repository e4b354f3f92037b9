"""Replicas behind a router: who gets which request, and when every answer is there.

Round robin needs no state: each replica is simulated by itself. Other routers need to know how
many requests every replica holds at each arrival, so all are advanced together, each only as far
as an answer might have left it. Where a request comes behind an answer, no replica is advanced
beyond the first one that might come.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.simulator.engine.leap_clock import FOREVER
from dflash_sim.simulator.engine.records import Ints
from dflash_sim.simulator.fleet.replica import Replica, Tally
from dflash_sim.simulator.fleet.routers import ROUTERS, Router, router_of
from dflash_sim.simulator.requests.draws import Draws
from dflash_sim.simulator.requests.workload import Workload
from dflash_sim.simulator.setup import Setup

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Service:
    """The record of a fleet that served a list of requests.

    Parameters
    ----------
    arrival_s, first_token_s, finish_s
        By request; ``nan`` where the simulation stopped before.
    cached
        Prompt tokens found in the prefix cache, by request.
    replica
        Who got it; -1 where the simulation stopped before.
    tally
        What was late.
    kv_ran_out
        A replica would have thrown out running requests for want of KV cache.
    engines
        The replicas as they ended.
    """

    arrival_s: Floats
    first_token_s: Floats
    finish_s: Floats
    cached: Ints
    replica: Ints
    tally: Tally
    kv_ran_out: bool
    engines: Sequence[Replica]

    @property
    def stopped(self) -> bool:
        """Return True if it failed before the end."""
        return self.tally.over or self.kv_ran_out


def serve(
    setup: Setup,
    workload: Workload,
    draws: Draws,
    *,
    replicas: int,
    router: str,
    tally: Tally,
) -> Service:
    """Run an open-loop workload on a fleet of equal servers.

    Parameters
    ----------
    tally
        Limits of latency, and how many requests may break each before there is no use in going on.

    Raises
    ------
    UsageError
        The router is unknown, the workload has no arrival times or they run backwards, or
        commits depend on batches.
    """
    if router not in ROUTERS:
        raise unknown(kind="--router", value=router, allowed=ROUTERS)
    arrival_s = workload.arrival_s
    if arrival_s is None or (np.diff(arrival_s) < 0).any():
        msg = "a fleet serves requests with arrival times, in order."
        raise UsageError(msg)
    if draws.shared or draws.latent:
        msg = (
            "a fleet needs commits that do not depend on its batches: an acceptance per request, "
            "such as al:4.5, and a fixed verify width."
        )
        raise UsageError(msg)
    setup.step.reach(int(workload.isl.max()) + setup.limits.max_new_tokens + setup.block)
    return serve_with(parts(setup, workload), workload, draws, replicas, router, tally)


def parts(setup: Setup, workload: Workload) -> dict[str, Any]:
    """Return what every replica is made of."""
    return {
        "step": setup.step,
        "host": setup.host,
        "limits": setup.limits.for_workload(workload),
        "mode": setup.scenario.engine_mode,
        "host_length_sync": setup.host_length_sync,
    }


def serve_with(
    made_of: dict[str, Any],
    workload: Workload,
    draws: Draws,
    replicas: int,
    router: str,
    tally: Tally,
) -> Service:
    """:func:`serve` with the parts of an engine at hand."""
    if workload.answers_first:
        chooser = router_of(router, workload.prompts, replicas)
        return _answers_first(made_of, workload, draws, replicas, chooser, tally)
    if router == "round-robin" or replicas == 1:
        return _in_turn(made_of, workload, draws, replicas, tally)
    chooser = router_of(router, workload.prompts, replicas)
    return _chosen(made_of, workload, draws, replicas, chooser, tally)


def subset(workload: Workload, rows: npt.NDArray[np.int64]) -> Workload:
    """Some of the requests of an open loop, in order."""
    assert workload.arrival_s is not None
    return replace(
        workload,
        isl=workload.isl[rows],
        osl=workload.osl[rows],
        cached=workload.cached[rows],
        measured=workload.measured[rows],
        follow=np.full(len(rows), -1),
        conc=len(rows),
        arrival_s=workload.arrival_s[rows],
        prompts=None if workload.prompts is None else workload.prompts.rows(rows.tolist()),
        delay_s=None,
    )


def _in_turn(
    made_of: dict[str, Any], workload: Workload, draws: Draws, replicas: int, tally: Tally
) -> Service:
    """Request i goes to replica i modulo their number."""
    n = len(workload)
    assert workload.arrival_s is not None
    first, finish = np.full(n, np.nan), np.full(n, np.nan)
    replica, cached = np.full(n, -1), np.zeros(n, np.int64)
    engines = []
    for k in range(min(replicas, n)):
        rows = np.arange(k, n, replicas)
        own = subset(workload, rows)
        drawn = draws.of(rows)
        engine = Replica(**made_of, workload=own, draws=drawn, tally=tally)
        engine.serve_all()
        engines.append(engine)
        first[rows], finish[rows] = engine.first_token_s, engine.finish_s
        replica[rows], cached[rows] = k, engine.cached
        if engine.stopped:
            break
    ran_out = any(e.kv_ran_out for e in engines)
    return Service(workload.arrival_s, first, finish, cached, replica, tally, ran_out, engines)


def _chosen(
    made_of: dict[str, Any],
    workload: Workload,
    draws: Draws,
    replicas: int,
    router: Router,
    tally: Tally,
) -> Service:
    """As a router chooses that sees how many requests each replica has in flight."""
    n = len(workload)
    assert workload.arrival_s is not None
    engines = _engines(made_of, workload, draws, min(replicas, n), tally)
    quiet_s = [engine.quiet_until_s for engine in engines]
    replica = np.full(n, -1)
    for rid, now in enumerate(workload.arrival_s.tolist()):
        loads = []
        for k, engine in enumerate(engines):
            if quiet_s[k] <= now:
                engine.advance(now)
                quiet_s[k] = engine.quiet_until_s
            loads.append(engine.in_flight(now))
        chosen = router.choose(rid, loads)
        engines[chosen].advance(now)
        engines[chosen].take(rid, now)
        quiet_s[chosen] = now
        replica[rid] = chosen
        if engines[chosen].stopped:
            break
    else:
        for engine in engines:
            engine.drain()
    return _service(workload, engines, replica, tally)


def _answers_first(
    made_of: dict[str, Any],
    workload: Workload,
    draws: Draws,
    replicas: int,
    router: Router,
    tally: Tally,
) -> Service:
    """Requests of which some come a while after the answer to another, from any replica."""
    n = len(workload)
    assert workload.arrival_s is not None
    engines = _engines(made_of, workload, draws, min(replicas, n), tally)
    due = [(float(workload.arrival_s[rid]), rid) for rid in workload.heads]
    heapify(due)
    for engine in engines:
        engine.sends_on = lambda rid, at_s: heappush(due, (at_s, rid))
    later = workload.follow[workload.follow >= 0].tolist()
    soonest_s = min(workload.pause_s(rid) for rid in later)
    replica = np.full(n, -1)
    while not any(engine.stopped for engine in engines):
        next_s = due[0][0] if due else FOREVER
        behind = [e for e in engines if e.busy and e.decides_s < next_s]
        if behind:
            first = min(behind, key=lambda e: e.decides_s)
            quiet_s = min((e.quiet_until_s for e in engines if e is not first), default=FOREVER)
            first.pass_loops(min(next_s, quiet_s + soonest_s))
            continue
        if not due:
            break
        now, rid = heappop(due)
        chosen = router.choose(rid, [engine.in_flight(now) for engine in engines])
        engines[chosen].take(rid, now)
        replica[rid] = chosen
    return _service(workload, engines, replica, tally)


def _engines(
    made_of: dict[str, Any], workload: Workload, draws: Draws, replicas: int, tally: Tally
) -> list[Replica]:
    head = Replica(**made_of, workload=workload, draws=draws, tally=tally)
    return [head, *(head.beside() for _ in range(replicas - 1))]


def _service(
    workload: Workload, engines: Sequence[Replica], replica: Ints, tally: Tally
) -> Service:
    head = engines[0]
    assert workload.arrival_s is not None
    arrival_s = np.where(replica >= 0, np.array(head.arrival_s), workload.arrival_s)
    return Service(
        arrival_s,
        np.array(head.first_token_s),
        np.array(head.finish_s),
        np.array(head.cached, np.int64),
        replica,
        tally,
        any(engine.kv_ran_out for engine in engines),
        engines,
    )
