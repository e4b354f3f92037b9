"""Ends of a run that are not its end; each carries what had been completed."""

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.realrun.job.journal import Run

SIGINT_EXIT_CODE = 130


class RunFailedError(DflashSimError):
    """A worker died, raised an error or did not answer; ``run`` holds what was done before."""

    def __init__(self, message: str, run: Run | None = None) -> None:
        super().__init__(message)
        self.run = run


class InterruptedRunError(RunFailedError):
    """The user stopped the run."""

    exit_code = SIGINT_EXIT_CODE


class WorkerLostError(Exception):
    """A worker cannot go on: its rank and why, for the scheduler."""
