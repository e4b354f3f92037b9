"""Workers of a Ray cluster: one actor for each CPU, driven as the processes of one machine are."""

import logging
import os
import re
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from dflash_sim.jobs.crew import NoWorkerError
from dflash_sim.jobs.worker import OUT_OF_MEMORY, Lost, Word, attempted
from dflash_sim.profiles.errors import UsageError, to_install
from dflash_sim.profiles.find import ENV, users_folders
from dflash_sim.studies.sweep.fingerprint import fingerprint
from dflash_sim.studies.sweep.workers import How, Worker

_PATIENCE_S = 5.0  # for an address to answer at all
# Of HTTP/2: what a client sends first, and what tells a server's answer.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_FRAME_HEADER, _FRAME_TYPE, _SETTINGS = 9, 3, b"\4"
_ADDRESS = re.compile(r"(?:ray://)?(\[[^\]]+\]|[^:/\[\]]+):(\d{1,5})")


class RayWorker:
    """A :class:`Worker` on another machine, which must have the same program and sheets."""

    def __init__(self, how: How, profiles: str, folder: str) -> None:
        os.environ[ENV] = profiles
        with suppress(OSError):  # files of the study are named from where the sweep was started
            os.chdir(folder)
        self.worker = Worker(how)

    def hello(self, files: Sequence[Path]) -> tuple[str, str, str]:
        """Node, host name and fingerprint."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        return node, socket.gethostname(), fingerprint(path for path in files if path.is_file())

    def word(self, work: Callable[..., Any], *arguments: Any) -> Word:
        """Do a task, and return the word about it."""
        try:
            return attempted(partial(work, self.worker, *arguments))
        except MemoryError:
            os._exit(OUT_OF_MEMORY)


class RayCluster:
    """A crew of actors of a cluster.

    Parameters
    ----------
    ray
        The module, connected.
    jobs
        Actors at most; None for one on each CPU.
    files
        What the study names, which every machine must have.
    say
        Told what was found.
    """

    def __init__(
        self,
        how: How,
        *,
        ray: Any,
        jobs: int | None,
        files: Sequence[Path],
        say: Callable[[str], None],
    ) -> None:
        self.how, self.ray, self.jobs = how, ray, jobs
        self.files, self.say = list(files), say
        self.program = fingerprint(files)
        self.workers: dict[int, Any] = {}
        self.refs: dict[Any, int] = {}
        self.nodes: dict[int, tuple[str, str]] = {}
        self.hired, self.why = 0, ""

    def reach(self, count: int) -> None:
        """Begin actors for so many points; raises :class:`UsageError` if there is no CPU."""
        cpus = int(self.ray.cluster_resources().get("CPU", 0))
        if not cpus:
            msg = "the Ray cluster has no CPU for workers; add a machine, or leave --cluster out."
            raise UsageError(msg)
        while self.hired < min(self.jobs or cpus, cpus, count):
            self._hire()

    def _hire(self) -> None:
        number = self.hired
        self.hired += 1
        profiles = os.pathsep.join(str(path.absolute()) for path in users_folders())
        actor = self.ray.remote(num_cpus=1, max_restarts=0)(RayWorker)
        worker = actor.remote(self.how, profiles, str(Path.cwd()))
        self.workers[number] = worker
        self.refs[worker.hello.remote(self.files)] = number

    def close(self) -> None:
        """End the actors, and leave the cluster."""
        for worker in self.workers.values():
            with suppress(Exception):
                self.ray.kill(worker)
        self.ray.shutdown()

    def give(self, worker: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Send a task."""
        self.refs[self.workers[worker].word.remote(work, *arguments)] = worker

    def heard(self) -> tuple[int, Word]:
        """Wait for the next word of any actor; a new one is asked for its program first.

        Raises
        ------
        NoWorkerError
            All are lost.
        UsageError
            A machine has another program.
        """
        if not self.refs:
            raise NoWorkerError(self.why)
        (ref, *_), _ = self.ray.wait(list(self.refs), num_returns=1)
        number = self.refs.pop(ref)
        try:
            said = self.ray.get(ref)
        except self.ray.exceptions.RayActorError as error:
            self.workers.pop(number)
            self.why = " ".join(str(error).split())[:200]
            if not self.workers and number in self.nodes:
                self._hire()
            return number, Lost(self.why)
        if number not in self.nodes:
            self._welcome(number, *said)
            return number, None
        word: Word = said
        return number, word

    def _welcome(self, number: int, node: str, host: str, program: str) -> None:
        if program != self.program:
            msg = (
                f"{host} has dflash-sim {program}, and this machine {self.program}: another "
                "version, other sheets, or files of the study that differ or are missing. "
                "Install the same on every machine."
            )
            raise UsageError(msg)
        self.nodes[number] = (node, host)
        if len(self.nodes) == len(self.workers):
            count = len({node for node, _ in self.nodes.values()})
            self.say(f"{len(self.nodes)} workers on {count} Ray node{'s' if count > 1 else ''}")


def connect(address: str | None) -> Any:
    """The ``ray`` module, connected; an address that does not answer is found out in seconds.

    Parameters
    ----------
    address
        ``ray://host:10001`` from outside of a cluster, ``host:6379`` from within, or None for the
        cluster of this machine, which is begun if there is none.
    """
    try:
        import ray
    except ImportError as error:
        msg = f"--cluster ray needs Ray: {to_install('cluster')}"
        raise UsageError(msg) from error
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        _knock(address)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except Exception as error:  # Ray raises many kinds, down to plain RuntimeError
        why = " ".join(str(error).split())[:300]
        msg = f"no Ray cluster at {address or 'this machine'}: {why}"
        raise UsageError(msg) from error
    return ray


def _knock(address: str) -> None:
    """Find out whether gRPC is spoken there; Ray itself tries for minutes, and logs all the while.

    A gRPC server greets with a SETTINGS frame, whoever asks (RFC 9113, section 3.4).
    """
    if address in ("auto", "local"):
        return
    found = _ADDRESS.fullmatch(address)
    if found is None:
        msg = f"Ray address {address}: not HOST:PORT or ray://HOST:PORT, such as ray://head:10001."
        raise UsageError(msg)
    host, port = found[1].strip("[]"), int(found[2])
    try:
        with socket.create_connection((host, port), timeout=_PATIENCE_S) as line:
            line.sendall(_GREETING)
            heard = line.recv(_FRAME_HEADER)
    except (OSError, OverflowError) as error:
        why = str(error)
    else:
        if heard[_FRAME_TYPE : _FRAME_TYPE + 1] == _SETTINGS or "RAY_USE_TLS" in os.environ:
            return
        why = "what listens there is something else"
    msg = (
        f"no Ray cluster answers at {address}: {why}. Start one with "
        '"ray start --head", or leave --cluster out for this machine alone.'
    )
    raise UsageError(msg)
