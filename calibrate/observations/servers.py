"""Rows of one server share what makes it faster or slower than another."""

from typing import NamedTuple

from dflash_sim.calibrate.observations.observation import Observation

OPEN, TEST = "open", "test"


class MeasuredServer(NamedTuple):
    """One party's machine with one model and one build of the engine.

    Parameters
    ----------
    build
        As the source writes it; None where it is the build of the engine sheet or not stated.
    """

    source: str
    gpu: str
    tp: int | None
    model: str
    build: str | None

    def __str__(self) -> str:
        """Return the server in words, such as ``SGL_COOKBOOK_Q3: qwen3-235b-a22b, 8 b200, 0.5.6``.

        Examples
        --------
        >>> str(MeasuredServer("SGL_COOKBOOK_Q3", "b200", 8, "qwen3-235b-a22b", "0.5.6"))
        'SGL_COOKBOOK_Q3: qwen3-235b-a22b, 8 b200, 0.5.6'
        """
        build = f", {self.build}" if self.build else ""
        return f"{self.source}: {self.model}, {self.tp or '?'} {self.gpu}{build}"


def measured_on(row: Observation) -> MeasuredServer:
    """Return the server that a row was measured on."""
    f = row.fields
    return MeasuredServer(row.source, f["gpu"], f.get("tp"), f["model"], row.build)


def role_of(row: Observation) -> str:
    """Return ``test`` for a row that no fit may read, else ``open``."""
    return str(row.about.get("role", OPEN))
