"""Replicas behind a router: who gets which request, and when every answer is there.

Round robin needs no state: each replica is simulated by itself. Least loaded needs to know how
many requests every replica holds at each arrival, so all are advanced together, each only as far
as an answer might have left it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.simulator.engine.records import Ints
from dflash_sim.simulator.fleet.replica import Replica, Tally
from dflash_sim.simulator.requests.draws import Draws
from dflash_sim.simulator.requests.workload import Workload
from dflash_sim.simulator.setup import Setup

ROUTERS = ("round-robin", "least-loaded")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Service:
    """The record of a fleet that served a list of requests.

    Parameters
    ----------
    arrival_s, first_token_s, finish_s
        By request; ``nan`` where the simulation stopped before.
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
    longest = int(workload.isl.max())
    return {
        "step": setup.step,
        "host": setup.host,
        "limits": setup.limits.for_workload(longest_prompt=longest, conc=len(workload)),
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
    if router == "round-robin" or replicas == 1:
        return _in_turn(made_of, workload, draws, replicas, tally)
    return _least_loaded(made_of, workload, draws, replicas, tally)


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
    )


def _in_turn(
    made_of: dict[str, Any], workload: Workload, draws: Draws, replicas: int, tally: Tally
) -> Service:
    """Request i goes to replica i modulo their number."""
    n = len(workload)
    assert workload.arrival_s is not None
    first, finish = np.full(n, np.nan), np.full(n, np.nan)
    replica = np.full(n, -1)
    engines = []
    for k in range(min(replicas, n)):
        rows = np.arange(k, n, replicas)
        own = subset(workload, rows)
        drawn = Draws(draws.commits[rows], draws.cycles[rows])
        engine = Replica(**made_of, workload=own, draws=drawn, tally=tally)
        engine.serve_all()
        engines.append(engine)
        first[rows], finish[rows] = engine.first_token_s, engine.finish_s
        replica[rows] = k
        if engine.stopped:
            break
    ran_out = any(e.kv_ran_out for e in engines)
    return Service(workload.arrival_s, first, finish, replica, tally, ran_out, engines)


def _least_loaded(
    made_of: dict[str, Any], workload: Workload, draws: Draws, replicas: int, tally: Tally
) -> Service:
    """To the replica with the fewest requests in flight, the first of equals."""
    n = len(workload)
    assert workload.arrival_s is not None
    head = Replica(**made_of, workload=workload, draws=draws, tally=tally)
    engines = [head, *(head.beside() for _ in range(min(replicas, n) - 1))]
    quiet_s = [engine.quiet_until_s for engine in engines]
    replica = np.full(n, -1)
    for rid, now in enumerate(workload.arrival_s.tolist()):
        loads = []
        for k, engine in enumerate(engines):
            if quiet_s[k] <= now:
                engine.advance(now)
                quiet_s[k] = engine.quiet_until_s
            loads.append(engine.in_flight(now))
        chosen = loads.index(min(loads))
        engines[chosen].advance(now)
        engines[chosen].take(rid, now)
        quiet_s[chosen] = now
        replica[rid] = chosen
        if engines[chosen].stopped:
            break
    else:
        for engine in engines:
            engine.drain()
    return Service(
        workload.arrival_s,
        np.array(head.first_token_s),
        np.array(head.finish_s),
        replica,
        tally,
        any(engine.kv_ran_out for engine in engines),
        engines,
    )
