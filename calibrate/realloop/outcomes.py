"""Predicted beside real runs of our own engine: the grid, the outcomes, what they say together."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dflash_sim.simulator.cost.cycle import Method
from dflash_sim.simulator.cost.methods import PLAIN, method_of

DRIFT, OTHERS = 0.05, 0.05  # of passes, of the processors: beyond it a run says little


@dataclass(frozen=True)
class Config:
    """One point of the grid; ``rows`` is the verify width."""

    method: str
    rows: int
    conc: int
    mode: str

    @property
    def speculation(self) -> Method:
        """Return the method's row in the table of methods."""
        return method_of(self.method)

    @property
    def plain(self) -> bool:
        """Return True if nothing is drafted."""
        return not self.speculation.speculative

    @property
    def drafting(self) -> tuple[str, int]:
        """Return what decides acceptance and passes."""
        return self.method, self.rows

    @property
    def name(self) -> str:
        """In words."""
        if self.plain:
            return "plain"
        steps = self.speculation.steps(self.rows)
        return f"{self.method} {self.rows}" if steps is None else f"{self.method.upper()} {steps}"


@dataclass(frozen=True)
class Outcome:
    """One configuration, predicted and run; throughput in [token/s], the machine at its quickest.

    Parameters
    ----------
    predicted_tok_s, profile_tok_s : from passes that the workers rehearsed, and from the profile's
    accept_predicted, accept_observed : tokens per verify step, the bonus included [1]
    drift : how far a probe after a run differs from the one before it, the median [1]
    others : share of the processors that others took meanwhile [1]
    slowdown : how much longer probes took meanwhile than the quickest [1]
    measured_tok_s : as it ran, with nothing left out and nothing taken off
    runs, kept : how often portions of the prompts were run, and how many runs count
    spread : standard error of observed over predicted time [1]
    """

    config: Config
    predicted_tok_s: float
    profile_tok_s: float
    observed_tok_s: float
    accept_predicted: float
    accept_observed: float
    drift: float
    others: float = 0.0
    slowdown: float = 1.0
    measured_tok_s: float = math.nan
    runs: int = 1
    kept: int = 1
    spread: float = 0.0

    @property
    def steady(self) -> bool:
        """Return True if the machine was ours, and the same, while it ran."""
        return self.drift <= DRIFT and self.others <= OTHERS

    @property
    def error(self) -> float:
        """Return the error of the predicted throughput [1]."""
        return self.predicted_tok_s / self.observed_tok_s - 1


def grid(
    *,
    blocks: Sequence[int],
    steps: Sequence[int],
    concs: Sequence[int],
    modes: Sequence[str],
) -> list[Config]:
    """Plain decoding, DFlash and MTP at every concurrency and mode."""
    widths = [(PLAIN.name, 1), *(("dflash", b) for b in blocks), *(("mtp", k + 1) for k in steps)]
    return [Config(m, rows, c, mode) for m, rows in widths for c in concs for mode in modes]


def machine_scalar(outcomes: Sequence[Outcome]) -> float:
    """Observed over predicted throughput of plain decoding of one request: one number fitted.

    From the profile's passes, as :func:`scaled` uses it.
    """
    alone = [o for o in outcomes if is_fitted(o, outcomes)]
    ratios = [o.observed_tok_s / o.profile_tok_s for o in alone]
    return statistics.geometric_mean(ratios)


def is_fitted(o: Outcome, outcomes: Sequence[Outcome]) -> bool:
    """Return True if the scalar was fitted on this outcome, so that it proves nothing of it."""
    least = min(x.config.conc for x in outcomes if x.config.plain)
    return o.config.plain and o.config.conc == least


def as_row(o: Outcome) -> dict[str, Any]:
    """Flat, for files."""
    return {
        "method": o.config.method,
        "rows": o.config.rows,
        "conc": o.config.conc,
        "engine_mode": o.config.mode,
        "predicted_output_throughput": o.predicted_tok_s,
        "profile_output_throughput": o.profile_tok_s,
        "observed_output_throughput": o.observed_tok_s,
        "error": o.error,
        "accept_length_predicted": o.accept_predicted,
        "accept_length_observed": o.accept_observed,
        "drift": o.drift,
        "others_share": o.others,
        "slowdown": o.slowdown,
        "measured_output_throughput": o.measured_tok_s,
        "runs": o.runs,
        "runs_kept": o.kept,
        "standard_error": o.spread,
    }
