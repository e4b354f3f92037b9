"""Ranks that ``torchrun`` started: rank 0's process schedules, the others call it.

One node. Each process runs the same command; those of rank 1 and up become workers and never return
from it. They meet in a folder that only this user can enter.
"""

import os
import socket
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic, sleep

from dflash_sim.profiles.errors import DflashSimError, UsageError

RETRY_S = 0.05
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Torchrun:
    """The place that ``torchrun`` gave this process: its rank of ``size``, and where to meet."""

    rank: int
    size: int
    folder: Path

    @classmethod
    def of_environment(cls) -> "Torchrun | None":
        """None where the process was not started so."""
        env = os.environ
        if "RANK" not in env or "WORLD_SIZE" not in env:
            return None
        if env.get("LOCAL_WORLD_SIZE", env["WORLD_SIZE"]) != env["WORLD_SIZE"]:
            msg = f"torchrun started {env['WORLD_SIZE']} ranks on several nodes; one node is run"
            raise UsageError(msg)
        run = f"{env.get('TORCHELASTIC_RUN_ID', 'none')}-{env.get('MASTER_PORT', '0')}"
        folder = Path(tempfile.gettempdir()) / f"dflash-sim-{os.getuid()}-{run}"
        return cls(int(env["RANK"]), int(env["WORLD_SIZE"]), folder)

    @property
    def meeting(self) -> str:
        """Return where the ranks find each other, for ``torch.distributed``."""
        return (self.folder / "meeting").as_uri()

    def callers(self) -> list[Connection]:
        """Rank 0: pipes to ranks 1 and up, in this order."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if self.folder.stat().st_uid != os.getuid():
            msg = f"{self.folder} belongs to somebody else"
            raise UsageError(msg)
        at = self.folder / "scheduler"
        for stale in (at, self.folder / "meeting"):
            stale.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(at))
            door.listen(self.size)
            door.settimeout(PATIENCE_S)
            links: dict[int, Connection] = {}
            try:
                while len(links) < self.size - 1:
                    link = Connection(door.accept()[0].detach())
                    links[int.from_bytes(link.recv_bytes(), "big")] = link
            except TimeoutError:
                raise self._alone(set(links)) from None
        at.unlink()
        return [links[rank] for rank in sorted(links)]

    def _alone(self, called: set[int]) -> DflashSimError:
        """Say that not all ranks have called."""
        missing = ", ".join(str(rank) for rank in range(1, self.size) if rank not in called)
        msg = (
            f"rank 0 waited {PATIENCE_S:g} s in {self.folder} for ranks that torchrun started; "
            f"not heard from: {missing}. See whether they ended with an error of their own, and "
            "whether all have the same TMPDIR and command line"
        )
        return DflashSimError(msg)

    def call(self) -> Connection:
        """Rank 1 and up: a pipe to the scheduler."""
        until = monotonic() + PATIENCE_S
        while True:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(str(self.folder / "scheduler"))
            except OSError:
                line.close()
                if monotonic() > until:
                    msg = f"rank {self.rank}: no scheduler answers in {self.folder}"
                    raise UsageError(msg) from None
                sleep(RETRY_S)
                continue
            link = Connection(line.detach())
            link.send_bytes(self.rank.to_bytes(2, "big"))
            return link
