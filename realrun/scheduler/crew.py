"""The scheduler's end of its workers: commands out, results in, and what can go wrong between."""

import pickle
import select
import signal
import warnings
from collections.abc import Set
from contextlib import ExitStack, suppress
from ctypes import c_long
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from shutil import rmtree
from time import monotonic
from types import TracebackType
from typing import Any, NoReturn

from dflash_sim.jobs.scratch import scratch_folder
from dflash_sim.jobs.stopping import forking, held_back
from dflash_sim.jobs.worker import with_parent
from dflash_sim.realrun.job.faults import WorkerLostError
from dflash_sim.realrun.job.messages import Command, Failure, Ready, Result, Stop
from dflash_sim.realrun.job.setup import Fitted
from dflash_sim.realrun.scheduler.torchrun import Torchrun
from dflash_sim.realrun.worker.cores import apart, keep_to, spin
from dflash_sim.realrun.worker.null_worker import build_null
from dflash_sim.realrun.worker.process import Build, build_worker, work

GRACE_S = 0.5  # in which the cause of a failure may show after its effects on other ranks
GOODBYE_S = 2.0  # for a worker to stop by itself
START_S = 600.0  # for weights to be read


class Crew:
    """Worker processes, one per rank, for the time of a ``with`` block.

    On a CPU they are forked; on GPUs spawned, because CUDA does not survive a fork. Under
    ``torchrun`` only rank 0's is ours; the others call in.

    Parameters
    ----------
    shares
        This process has other work beside its scheduler: nobody keeps to a core of his own.
    """

    def __init__(self, fitted: Fitted, *, shares: bool = False) -> None:
        self.fitted, self.shares = fitted, shares
        self.processes: dict[int, BaseProcess] = {}
        self.links: list[Connection] = []
        self._poll = select.poll()
        self._failed = False
        self._spins = False
        self._before: Set[int] | None = None

    def __enter__(self) -> "Crew":
        self._folder = ExitStack()
        self._meeting = self._folder.enter_context(scratch_folder()) / "meeting"
        try:
            self._start()
            for _ in self.links:
                self._hear(Ready, START_S)
            if self.fitted.setup.device == "cpu":  # all have met; nothing is left if we are killed
                self._folder.close()
        except BaseException:
            self._failed = True
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._failed = self._failed or error is not None
        self.close()

    def _start(self) -> None:
        fitted, setup, torchrun = self.fitted, self.fitted.setup, Torchrun.of_environment()
        forks = setup.device == "cpu"
        context: Any = get_context("fork" if forks else "spawn")
        self.beats = context.RawArray(c_long, setup.tp)
        meeting = self._meeting.as_uri()
        callers: list[Connection] = []
        cores = apart(setup.tp) if forks and not self.shares else None
        if torchrun is not None:
            meeting, callers = torchrun.meeting, torchrun.callers()
        for rank in range(setup.tp - len(callers)):
            ours, theirs = context.Pipe()
            self.links.append(ours)
            call = partial(work, rank, fitted, rendezvous=meeting, build=builder(fitted))
            if forks:
                own = {"inherited": [*self.links, *callers], "cores": cores and cores[1]}
                target: Any = partial(call, **own)
            else:  # torch takes seconds to be loaded, in which the scheduler may end
                target = partial(with_parent, pickle.dumps(call))
            process = context.Process(
                target=target,
                kwargs={"link": theirs, "beats": self.beats},
                name=f"dflash-sim-rank-{rank}",
                daemon=True,
            )
            with warnings.catch_warnings(), forking():
                # Python 3.12 warns of forks beside threads; the workers take that into account.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
                self.processes[rank] = process
            theirs.close()
            self._poll.register(process.sentinel, select.POLLIN)
        self._before = keep_to(cores and cores[0])
        self._spins = cores is not None
        self.links += callers
        for link in self.links:
            self._poll.register(link.fileno(), select.POLLIN)

    def send(self, command: Command) -> None:
        """Tell every rank."""
        message = pickle.dumps(command, pickle.HIGHEST_PROTOCOL)
        try:
            for link in self.links:
                link.send_bytes(message)
        except OSError:
            self._lost()

    def receive(self) -> Result:
        """The answer to the oldest command not yet answered; waits for it."""
        result: Result = self._hear(Result, self.fitted.setup.timeout_s)
        return result

    def _hear(self, kind: type, patience_s: float) -> Any:
        until = monotonic() + patience_s
        while True:
            ready = {fd for fd, _ in self._await(until)}
            if not ready:
                self._silent(patience_s)
            for link in self.links:
                if link.fileno() not in ready:
                    continue
                with suppress(EOFError, OSError):
                    message = pickle.loads(link.recv_bytes())
                    if isinstance(message, kind):
                        return message
                    self._lost(message)
            self._lost()

    def _await(self, until: float) -> list[tuple[int, int]]:
        """Return what there is to hear; nothing if there is nothing until then."""
        if self._spins:
            found = spin(self._poll)
            if found:
                return found
        return self._poll.poll(1000 * max(0.0, until - monotonic()))

    def _lost(self, first: object = None) -> None:
        """Find who failed: one that died without a word before one that complains of others."""
        complaints = [first] if isinstance(first, Failure) else []
        until = monotonic() + GRACE_S
        while monotonic() < until and not self._dead():
            complaints += self._complaints()
            select.select([], [], [], GRACE_S / 10)
        complaints += self._complaints()
        told = {c.rank for c in complaints}
        for rank, code in self._dead().items():
            if rank not in told:
                msg = f"rank {rank}: {_ending(code)}"
                raise WorkerLostError(msg)
        if complaints:
            cause = min(complaints, key=lambda c: c.at_s)
            msg = f"rank {cause.rank}: {cause.message}"
            raise WorkerLostError(msg) from RuntimeError(cause.trace)
        msg = f"rank {self._hung_up()}: it is gone"
        raise WorkerLostError(msg)

    def _complaints(self) -> list[Failure]:
        heard = []
        for link in self.links:
            with suppress(EOFError, OSError):
                while link.poll(0):
                    message = pickle.loads(link.recv_bytes())
                    heard += [message] if isinstance(message, Failure) else []
        return heard

    def _hung_up(self) -> int:
        """The first rank whose pipe has no other end."""
        waiting = select.poll()
        for link in self.links:
            waiting.register(link.fileno(), select.POLLHUP)
        gone = {fd for fd, event in waiting.poll(0) if event & select.POLLHUP}
        return next((r for r, link in enumerate(self.links) if link.fileno() in gone), 0)

    def _dead(self) -> dict[int, int]:
        """Exit codes by rank of processes that ended."""
        codes = {rank: p.exitcode for rank, p in self.processes.items()}
        return {rank: code for rank, code in codes.items() if code is not None}

    def _silent(self, patience_s: float) -> None:
        """Nobody answers: the rank that began the fewest collectives is where it hangs.

        Ranks that somebody else started count for themselves, so there it cannot be told.
        """
        counts, foreign = list(self.beats), len(self.processes) < len(self.links)
        who = "a rank" if foreign else f"rank {counts.index(min(counts))}"
        msg = f"{who}: no answer within {patience_s:g} s"
        raise WorkerLostError(msg)

    def close(self) -> None:
        """Stop all workers; kill those that do not."""
        if not self._failed:
            with suppress(WorkerLostError, OSError):
                self.send(Stop())
            for process in self.processes.values():
                process.join(GOODBYE_S)
        with held_back():  # a second Ctrl-C
            for process in self.processes.values():
                if process.is_alive():
                    process.kill()
                process.join()
                process.close()
            for link in self.links:
                link.close()
            self.processes, self.links = {}, []
        keep_to(self._before)
        self._folder.close()
        torchrun = Torchrun.of_environment()
        if torchrun is not None:
            rmtree(torchrun.folder, ignore_errors=True)


def builder(fitted: Fitted) -> Build:
    """Return what makes the executors of this run."""
    return build_null if fitted.setup.null else build_worker


def enlist(fitted: Fitted, torchrun: Torchrun) -> NoReturn:
    """Be a worker of another process's scheduler until that is done."""
    beats = (c_long * torchrun.size)()
    work(torchrun.rank, fitted, torchrun.call(), torchrun.meeting, beats, builder(fitted))


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = ", as the kernel does when memory runs out" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"
