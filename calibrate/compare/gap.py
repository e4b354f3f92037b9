"""A measurement beside the prediction of the same scenario, and beside what-ifs of it."""

from collections.abc import Callable
from math import hypot, log, sqrt
from operator import itemgetter
from typing import TypeAlias

import numpy as np

from dflash_sim.calibrate.compare.common_definitions import (
    AcceptLength,
    Values,
    accept_length,
    as_measured,
    in_flight,
)
from dflash_sim.calibrate.compare.trials import Trials
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.whatif import Change

Quantity: TypeAlias = Callable[[Values], float | None]

# Latencies and the error, one sigma, that no change can be blamed for. The throughput follows the
# mean TPOT; the others tell one change from another.
_LATENCIES = {
    "mean_tpot_ms": 0.01,
    "mean_ttft_ms": 0.03,
    "p99_ttft_ms": 0.03,
    "step_ms": 0.02,
    "mean_itl_ms": 0.03,
    "median_itl_ms": 0.03,
}
_LOAD_ERROR = 0.01  # the same of the requests in flight
_SIGMAS = 3.0  # of run-to-run spread: less is chance
_AGREES = 0.06  # of a logarithm: a quantity this near is explained
_WORSE = 1.1  # by so much may an error grow under a cause that is named all the same
_LEAST = 0.01  # relative difference that is asked about


class Gap:
    """A measurement, its prediction, and how far apart they are.

    Parameters
    ----------
    seen
        Measured values by our definitions (``common_definitions.measured``).
    """

    def __init__(self, result: Result, row: Observation, seen: Values) -> None:
        self.result, self.row, self.seen = result, row, seen
        self.trials = Trials(result)
        speculative = result.setup.speculative
        self.accept: AcceptLength | None = (
            accept_length(seen, result.setup.block) if speculative else None
        )
        exact = "mean_ttft_ms" in seen
        self.told = [n for n in _LATENCIES if n in seen and not (exact and n == "p99_ttft_ms")]
        self._runs = [as_measured(values, row) for values in result.per_run]
        self._asked: list[tuple[Quantity, float]] = [
            (itemgetter(name), hypot(_LATENCIES[name], self._chance(name))) for name in self.told
        ]
        if self.told and result.scenario.conc and in_flight(seen):
            self._asked.append((in_flight, hypot(_LOAD_ERROR, self.noise(in_flight))))

    def values(self, change: Change) -> Values | None:
        """Predicted values by the file's definitions; None if the change cannot run."""
        found = self.trials.values(change)
        return None if found is None else as_measured(found, self.row)

    def predicted(self, name: str, change: Change) -> float:
        """One predicted value; not-a-number if the change cannot run or has none."""
        return (self.values(change) or {}).get(name, float("nan"))

    def noise(self, quantity: Quantity) -> float:
        """Relative spread between the prediction and one more run of it [1]."""
        sample = [value for run in self._runs if (value := quantity(run)) is not None]
        if len(sample) < 2 or not np.mean(sample):
            return 0.0
        spread = float(np.std(sample, ddof=1) / np.mean(sample))
        return spread * sqrt(1 + 1 / len(sample))

    def _chance(self, name: str) -> float:
        """Spread of a latency; a known accept length leaves that of the time per step."""
        accept = self.accept
        if accept is None or name != "mean_tpot_ms":
            return self.noise(itemgetter(name))
        return self.noise(lambda values: values[name] * accept.of(values))

    def by_chance(self, quantity: Quantity) -> bool:
        """Return True if another run could have given what was measured."""
        ours, theirs = quantity(as_measured(self.result.values, self.row)), quantity(self.seen)
        if not ours or not theirs:
            return True
        return abs(log(theirs / ours)) < max(_LEAST, _SIGMAS * self.noise(quantity))

    def agrees(self, before: Change, after: Change) -> bool:
        """Return True if no mean latency, nor the throughput, speaks against the change.

        Each must come nearer to what was measured, or stay about where it was; and what overshoots
        explains more than there is to explain.
        """
        old, new = self.values(before), self.values(after)
        if old is None or new is None:
            return False
        means = [name for name in self.told if name.startswith("mean_")]  # medians may jump
        for name in (*means, "output_throughput"):
            if not all(values.get(name) for values in (old, new, self.seen)):
                continue
            was, now = (log(values[name] / self.seen[name]) for values in (old, new))
            overshoots = was * now < 0 and abs(now) > max(_AGREES, abs(was) / 2)
            if overshoots or abs(now) > max(abs(was) * _WORSE, _AGREES):
                return False
        return True

    def above(self, change: Change) -> float:
        """Log of the predicted over the measured throughput; 0 where none tells, as at a rate."""
        name = "output_throughput"
        ours, theirs = self.predicted(name, change), self.seen.get(name)
        if self.result.scenario.rate is not None or not theirs or not ours > 0:
            return 0.0
        return log(ours / theirs)

    def side(self, change: Change) -> float:
        """Return 1 where more throughput is predicted than measured, else -1."""
        return 1.0 if self.above(change) >= 0 else -1.0

    def median_speaks_against(self, before: Change, after: Change) -> bool:
        """Return True if the median gap between tokens moves away under longer or shorter steps."""
        name = "median_itl_ms"
        if name not in self.told:
            return False
        was, now = (log(self.predicted(name, c) / self.seen[name]) for c in (before, after))
        return abs(now) > max(abs(was) * _WORSE, _AGREES)

    def misses(self, change: Change) -> np.ndarray | None:
        """Errors of latencies and load, in sigmas; None if the change cannot run."""
        values = self.values(change)
        if values is None:
            return None
        errors = []
        for of, sigma in self._asked:
            ours, theirs = of(values), of(self.seen)
            if not ours or not theirs:
                return None
            errors.append(log(ours / theirs) / sigma)
        return np.array(errors)
