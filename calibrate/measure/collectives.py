"""Sums and gathers over ranks, timed by processes of this machine: nccl on GPUs, gloo on a CPU."""

import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from dflash_sim.calibrate.measure.clock import Sample
from dflash_sim.jobs.pool import Pool
from dflash_sim.jobs.scratch import scratch_folder
from dflash_sim.profiles.errors import InfeasibleError
from dflash_sim.simulator.cost.ops import Collective

PATIENCE_S = 300
ROUNDS, EACH = 9, 20


def can_time(device: str, ranks: int) -> bool:
    """Return True if this machine has a device for every rank."""
    return device == "cpu" or torch.cuda.device_count() >= ranks


def time_collectives(ops: Sequence[Collective], *, device: str, dtype: torch.dtype) -> list[Sample]:
    """Wall time of each op; all are of the same number of ranks.

    Raises
    ------
    InfeasibleError
        A rank failed; the message is the first line of its error.
    """
    ranks = ops[0].gpus
    asked = [(op.kind, op.nbytes) for op in ops]
    with scratch_folder() as folder, Pool(max(2, ranks)) as pool:
        # None is done before all have met, so that each worker has one rank.
        tasks = [(rank, ranks, str(folder), device, dtype, asked) for rank in range(ranks)]
        rows, *_ = pool.map(_rank, tasks)
    return [Sample.of(row) for row in rows]


def _rank(
    rank: int,
    ranks: int,
    folder: str,
    device: str,
    dtype: torch.dtype,
    ops: Sequence[tuple[str, float]],
) -> list[list[float]]:
    try:
        return _timed(rank, ranks, folder, device, dtype, ops)
    except Exception as error:
        first = (str(error).strip() or repr(error)).splitlines()[0]
        msg = f"rank {rank} of the collectives failed: {first}"
        raise InfeasibleError(msg) from error


def _timed(
    rank: int,
    ranks: int,
    folder: str,
    device: str,
    dtype: torch.dtype,
    ops: Sequence[tuple[str, float]],
) -> list[list[float]]:
    if device == "cpu":
        torch.set_num_threads(1)
        if sys.platform == "linux":  # gloo's threads on few cores: five times faster
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    else:
        torch.cuda.set_device(rank)
    backend = "gloo" if device == "cpu" else "nccl"
    dist.init_process_group(
        backend,
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=PATIENCE_S),
    )
    # The simulator counts bfloat16.
    rows = [_times(kind, max(1, round(n / 2)), ranks, dtype, device) for kind, n in ops]
    dist.barrier()
    dist.destroy_process_group()
    return rows


def _times(kind: str, count: int, ranks: int, dtype: torch.dtype, device: str) -> list[float]:
    whole = torch.zeros(count, dtype=dtype, device=device)
    part = torch.zeros(-(-count // ranks), dtype=dtype, device=device)
    parts = [torch.empty_like(part) for _ in range(ranks)]

    def run() -> None:
        if kind == "all_reduce":
            dist.all_reduce(whole)
        else:
            dist.all_gather(parts, part)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        run()
    found = []
    for _ in range(ROUNDS):
        dist.barrier()
        wait()
        begin = time.perf_counter()
        for _ in range(EACH):
            run()
        wait()
        found.append((time.perf_counter() - begin) / EACH)
    return found
