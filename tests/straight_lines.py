"""Answers that are straight lines, for fits of which everything is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.fit.rows import THROUGHPUT
from dflash_sim.simulator.slopes import METRICS

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lines:
    """Logs of throughputs that are ``matrix`` [rows, parameters] times the parameters."""

    matrix: Floats

    def answers(self, x: Floats) -> Floats:
        out = np.full((len(self.matrix), len(METRICS)), np.nan)
        out[:, THROUGHPUT] = self.matrix @ x
        return out

    def slopes(self, x: Floats, of: Sequence[int] | None = None) -> Floats:
        out = np.zeros((len(self.matrix), len(METRICS), len(x)))
        out[:, THROUGHPUT] = self.matrix
        return out if of is None else out[:, :, list(of)]
