"""A run walked again at other prices: what the scheduler decided stays, its times move.

The iterations of a run that is known are put on the clock with other prices. Where a request would
be received in another loop there is no run, and an engine has to be asked.
"""

import numpy as np

from dflash_sim.simulator.cost.step_table import StepModel
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.engine.records import Loops, Run
from dflash_sim.simulator.engine.walk import InTurn, Prices, Walk
from dflash_sim.simulator.engine.walk_overlapped import Overlapped


def priced(loops: Loops, step: StepModel, host: HostTime, *, syncs: bool) -> Prices:
    """Price the iterations of a run."""
    assert loops.launched is not None
    n = len(loops.launched[0])
    gpu_s = np.empty(n)
    tail_s = np.zeros(n) if syncs else None
    launch_s = np.full(n, host.rest_launch_s)
    rows, shapes = loops.prefills
    if shapes:  # many are alike
        times = {
            (requests, tokens, prefix): (
                step.prefill_s(requests=requests, tokens=tokens, prefix=prefix),
                max(host.rest_launch_s, step.prefill_launch_s(tokens)),
            )
            for requests, tokens, prefix in set(shapes)
        }
        gpu_s[rows], launch_s[rows] = zip(*map(times.__getitem__, shapes), strict=True)
    for batch, rows, ctx in loops.decodes:
        table = step.table(batch)
        gpu_s[rows] = np.interp(ctx, table.ctx, table.total)
        if tail_s is not None:
            tail_s[rows] = np.interp(ctx, table.ctx, table.tail)
    return Prices(gpu_s, launch_s, tail_s)


def walked_again(
    run: Run,
    step: StepModel,
    host: HostTime,
    *,
    mode: str,
    speculative: bool,
    syncs: bool,
    turnaround_s: float,
) -> Run | None:
    """Return a run at other prices; None where the scheduler would decide otherwise.

    Parameters
    ----------
    run
        What the leap engine answered, with the same requests, draws, limits and mode.
    speculative
        A decode step drafts and verifies.
    syncs
        An overlapped step waits for the lengths of the one before.
    """
    loops = run.loops
    if loops is None or loops.launched is None:
        return None
    prices = priced(loops, step, host, syncs=syncs and mode == "v2")
    walk: Walk
    if mode == "v2":
        walk = Overlapped(run, prices, host, turnaround_s)
    else:
        walk = InTurn(run, prices, host, turnaround_s, v1=mode == "v1" and speculative)
    walk.walk()
    return walk.run()
