"""A rank's process: it joins the group, reads the weights, and answers until there is no more.

The scheduler is in a process of its own, because a thread would wait for the same interpreter.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from ctypes import Array, c_long
from datetime import timedelta
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any, NoReturn, TypeAlias

import torch
import torch.distributed as dist

from dflash_sim.jobs.stopping import die_with_parent, forked
from dflash_sim.kernels.backend import backend_for
from dflash_sim.kernels.comm import Comm, OneRank
from dflash_sim.kernels.heap import keep_heap
from dflash_sim.kernels.rank import Rank
from dflash_sim.realrun.job.messages import (
    Failure,
    Ready,
)
from dflash_sim.realrun.job.setup import Fitted, Setup
from dflash_sim.realrun.worker.comm import ProcessRank
from dflash_sim.realrun.worker.cores import keep_to
from dflash_sim.realrun.worker.device import Device
from dflash_sim.realrun.worker.executor import Executor, say
from dflash_sim.realrun.worker.worker import Worker

Build: TypeAlias = Callable[[Fitted, int, str, Any], Executor]


def work(
    rank: int,
    fitted: Fitted,
    link: Connection,
    rendezvous: str,
    beats: "Array[c_long]",
    build: Build,
    inherited: Sequence[Connection] = (),
    cores: Set[int] | None = None,
) -> NoReturn:
    """The life of a worker process; an error is told to the scheduler.

    Parameters
    ----------
    rendezvous
        Where the ranks meet, an ``init_method`` of ``torch.distributed``.
    build
        Makes the executor: :func:`build_worker`, or another for the scheduler's own time.
    inherited
        The scheduler's ends of pipes that a fork copied; held open, they would hide its end.
    cores
        Where to run.
    """
    prepare_process(crowded=fitted.setup.device == "cpu" and fitted.setup.tp > 1)
    torch.set_num_threads(1)  # after a fork, more threads than one would wait for ever
    keep_to(cores)
    for end in inherited:
        end.close()
    try:
        with torch.inference_mode():
            executor = build(fitted, rank, rendezvous, beats)
            executor.spins = cores is not None
            say(link, Ready(rank))
            executor.attend(link, rank)
    except EOFError:
        pass  # the scheduler is gone
    except BaseException as error:
        with suppress(OSError):
            trace = traceback.format_exc()
            say(link, Failure(rank, perf_counter(), describe(error), trace))
    finally:
        link.close()
        os._exit(0)  # neither the parent's exit handlers nor a peer's silence may hold it up


def describe(error: BaseException) -> str:
    """One line; running out of memory is called that."""
    line = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    refused = "allocate memory" in line or "not enough memory" in line
    if refused or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"out of memory ({line})"
    return line


def prepare_process(*, crowded: bool) -> None:
    """Ctrl-C is the scheduler's to handle; without it there is no reason to live.

    Ranks that share cores shall not preempt each other inside collectives: ``SCHED_BATCH``.
    """
    forked()
    keep_heap()
    if (parent := parent_process()) and parent.pid:
        die_with_parent(parent.pid)
    if sys.platform == "linux" and crowded:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def build_worker(fitted: Fitted, rank: int, rendezvous: str, beats: "Array[c_long]") -> Worker:
    """Join the group, read the weights, make the pools."""
    setup = fitted.setup
    cuda = setup.device == "cuda"
    device = torch.device("cuda", rank % torch.cuda.device_count()) if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(device)
    comm: OneRank | ProcessRank = OneRank()
    if setup.tp > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            init_method=rendezvous,
            rank=rank,
            world_size=setup.tp,
            timeout=timedelta(seconds=setup.timeout_s),
        )
        comm = ProcessRank(rank, setup.tp, beats)
    here = rank_of(setup, comm, device)
    if cuda:
        from dflash_sim.realrun.worker.gpu import GpuWorker

        return GpuWorker(Device(fitted, here), comm)
    return Worker(Device(fitted, here), comm)


def rank_of(setup: Setup, comm: Comm, device: torch.device | str) -> Rank:
    """Return what layers are built with: Triton kernels on a GPU, few calls of torch on a CPU."""
    backend = backend_for(cuda=setup.device == "cuda")
    return Rank(comm=comm, dtype=getattr(torch, setup.dtype), device=device, backend=backend)
