"""One rank's process: it takes commands from a pipe, and rank 0 answers them.

The scheduler is in a process of its own, because a thread would wait for the same interpreter.
"""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from ctypes import Array, c_long
from datetime import timedelta
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any, NoReturn, TypeAlias

import torch
import torch.distributed as dist

from dflash_sim.kernels.backends import backend_for
from dflash_sim.kernels.comm import Comm, OneRank
from dflash_sim.kernels.cycle import Verified, greedy
from dflash_sim.kernels.heap import keep_heap
from dflash_sim.kernels.rank import Rank
from dflash_sim.kernels.ref_accept import assemble
from dflash_sim.realrun.comm import ProcessRank
from dflash_sim.realrun.cores import keep_to
from dflash_sim.realrun.device import Device
from dflash_sim.realrun.executor import Executor, say
from dflash_sim.realrun.messages import (
    Command,
    Commit,
    Decode,
    Draft,
    Failure,
    Prefill,
    Ready,
    Result,
    Verify,
)
from dflash_sim.realrun.setup import Fitted, Setup

PR_SET_PDEATHSIG = 1


Build: TypeAlias = Callable[[Fitted, int, str, Any], Executor]


class Worker(Executor):
    """The executor of one rank; results are read on the host before the next command."""

    def __init__(self, device: Device, comm: OneRank | ProcessRank) -> None:
        self.device, self.comm = device, comm
        self._verified: Verified | None = None

    def run(self, command: Command) -> Result:
        """Do what is asked, and read what came of it."""
        before = getattr(self.comm, "spent_s", 0.0)
        tokens, lens, draft = self._answer(command)
        spent = getattr(self.comm, "spent_s", 0.0) - before
        return Result(tokens, lens, draft, self.device.spans.read(), spent)

    def _answer(self, command: Command) -> tuple[list[list[int]], list[int], list[list[int]]]:
        device = self.device
        match command:
            case Prefill(rows, joins, pages):
                device.join(joins)
                device.map_pages(pages)
                return device.prefill(rows)[:, None].tolist(), [1] * len(rows), []
            case Decode(slots, pages):
                device.map_pages(pages)
                device.begin()
                accepted = device.cycle(device.slots_of(slots))
                return accepted.tokens.tolist(), accepted.commit_len.tolist(), []
            case Draft(slots, pages):
                device.map_pages(pages)
                device.begin()
                self._draft = device.draft(device.slots_of(slots))
                return [], [], self._draft.tolist()
            case Verify():
                return self._verify()
            case Commit(commit_len, bonus):
                self._commit(commit_len, bonus)
        return [], [], []

    def _verify(self) -> tuple[list[list[int]], list[int], list[list[int]]]:
        """V1: the host finds what a greedy verify accepts; other verdicts are told to it."""
        device = self.device
        device.spans.begin()
        self._verified = verified = device.verify(self._draft)
        draft = verified.draft.tolist()
        if device.method.judge is greedy:
            answer = device.method.target.argmax(verified.out.final).view_as(verified.draft)
            return answer.tolist(), [], draft
        accepted = device.judge(verified)
        return accepted.tokens.tolist(), accepted.commit_len.tolist(), draft

    def _commit(self, commit_len: tuple[int, ...], bonus: tuple[int, ...]) -> None:
        assert self._verified is not None
        self.device.spans.begin()
        draft = self._verified.draft
        kept, last = (torch.tensor(x, device=draft.device) for x in (commit_len, bonus))
        self.device.commit(self._verified, assemble(draft, kept - 1, last))


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
    torch.set_num_threads(1)  # first: after a fork, more threads than one would wait for ever
    prepare_process(crowded=fitted.setup.device == "cpu" and fitted.setup.tp > 1)
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_heap()
    if sys.platform == "linux":
        with suppress(OSError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if crowded:
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
        from dflash_sim.realrun.gpu import GpuWorker

        return GpuWorker(Device(fitted, here), comm)
    return Worker(Device(fitted, here), comm)


def rank_of(setup: Setup, comm: Comm, device: torch.device | str) -> Rank:
    """What layers are built with: Triton kernels on a GPU, few calls of torch on a CPU."""
    backend = backend_for(cuda=setup.device == "cuda")
    return Rank(comm=comm, dtype=getattr(torch, setup.dtype), device=device, backend=backend)
