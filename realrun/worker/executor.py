"""Executors: they stand at the other end of a scheduler's pipe."""

import pickle
import select
from abc import ABC, abstractmethod
from multiprocessing.connection import Connection

from dflash_sim.realrun.job.messages import Command, Result, Stop
from dflash_sim.realrun.worker.cores import spin


class Executor(ABC):
    """Answers commands, one after the other; ``spins`` if its core is its own."""

    spins = False

    @abstractmethod
    def run(self, command: Command) -> Result:
        """Do what is asked."""

    def attend(self, link: Connection, rank: int) -> None:
        """Do what is asked until there is no more; rank 0 answers."""
        waiting = select.poll()
        waiting.register(link.fileno(), select.POLLIN)
        while True:
            if self.spins:
                spin(waiting)
            if isinstance(command := hear(link), Stop):
                return
            result = self.run(command)
            if rank == 0:
                say(link, result)


def hear(link: Connection) -> Command:
    """The next command."""
    command: Command = pickle.loads(link.recv_bytes())
    return command


def say(link: Connection, message: object) -> None:
    """Send a message, faster than ``Connection.send``."""
    link.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
