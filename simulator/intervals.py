"""90 % intervals of a prediction, from what is uncertain.

In log space, to first order: the slopes of a metric with respect to every uncertain parameter,
their covariance after a fit (or their priors, where none speaks for them), the discrepancy that
fits leave, the scatter between runs, and more where nothing was ever compared: another build of
the engine, a GPU without measurements.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.releases.calibration import Calibration, Parameter, constant_prior
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.releases.server_levels import FACTORS, bend
from dflash_sim.simulator.caveats import in_flight
from dflash_sim.simulator.engine.records import Run
from dflash_sim.simulator.setup import Setup
from dflash_sim.simulator.slopes import METRICS, WHOLE, Response, slope_steps

_Z90 = 1.645  # two-sided 90 % point of the normal law
_WAVES = 4
_FIRST = "median_ttft_ms"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sensitivity:
    """Slopes of one scenario's log metrics, by parameter name, and the covariance behind them.

    Parameters
    ----------
    slopes
        By metric of ``METRICS``: ``{parameter: d log metric / d parameter}``.
    parameters, covariance
        What is uncertain, on unbounded scales.
    """

    slopes: tuple[Mapping[str, float], ...]
    parameters: tuple[Parameter, ...]
    covariance: Floats

    def vector(self, metric: str) -> Floats:
        found = self.slopes[METRICS.index(metric)]
        return np.array([found.get(p.name, 0.0) for p in self.parameters])

    def variance(self, metric: str) -> float:
        """Variance of the log of a metric from the parameters."""
        g = self.vector(metric)
        return float(g @ self.covariance @ g)

    def ratio_variance(self, metric: str, other: "Sensitivity") -> float:
        """Return the variance of the ratio to another scenario, which shares parameters."""
        there = other.slopes[METRICS.index(metric)]
        g = self.vector(metric) - np.array([there.get(p.name, 0.0) for p in self.parameters])
        return float(g @ self.covariance @ g)


def sensitivity(setup: Setup, first: Run | None = None) -> Sensitivity:
    """The sensitivity of a resolved scenario, by a few dozen short runs.

    Parameters
    ----------
    first
        Its run number 0, where it is known.
    """
    response = Response(setup, waves=_WAVES, first=first)
    parameters, mean, covariance = uncertain(response, setup.engine, setup.calibration)
    slopes = response.slopes(parameters, mean, slope_steps(parameters), whole=WHOLE)
    if setup.calibration is not None:  # factors are looked at from where they are
        flatter = {f: bend(f, _reached(setup.calibration, f, setup.server.keys)) for f in FACTORS}
        slopes *= [flatter.get(p.kind, 1.0) for p in parameters]
    names = [p.name for p in parameters]
    by_metric = tuple(dict(zip(names, row, strict=True)) for row in slopes.tolist())
    return Sensitivity(by_metric, tuple(parameters), covariance)


def _reached(calibration: Calibration, factor: str, keys: Collection[str]) -> float:
    """Where the levels of a server put a factor, on its unbounded scale."""
    at = zip(calibration.parameters, calibration.mean.tolist(), strict=True)
    return float(sum(x for p, x in at if p.kind == factor and p.key in keys))


def uncertain(
    response: Response, engine: EngineSheet, calibration: Calibration | None
) -> tuple[list[Parameter], Floats, Floats]:
    """``(parameters, means, covariance)``: the fit's where it speaks, priors elsewhere."""
    fitted: list[Parameter] = []
    mean: list[float] = []
    covariance = np.zeros((0, 0))
    mine = response.own_parameters()
    if not response.setup.server.elsewhere:  # what servers at home differ in is the discrepancy
        fitted_too = calibration.known_levels if calibration else frozenset()
        mine = [p for p in mine if p.kind not in FACTORS or p.key in fitted_too]
    own = {p.name for p in mine}
    if calibration is not None:
        keep = [
            i for i, p in enumerate(calibration.parameters) if p.kind == "constant" or p.name in own
        ]
        fitted = [calibration.parameters[i] for i in keep]
        # The engine sheet has the factors of its server already: they are looked at from there.
        mean = [
            0.0 if p.kind in FACTORS else float(calibration.mean[i])
            for i, p in zip(keep, fitted, strict=True)
        ]
        covariance = calibration.covariance[np.ix_(keep, keep)]
    known = {p.name for p in fitted}
    names = engine.fit.free + engine.fit.uncertain
    rest = [constant_prior(engine, name) for name in names] + mine
    rest = [p for p in rest if p.name not in known]
    sizes = len(fitted), len(fitted) + len(rest)
    whole = np.zeros((sizes[1], sizes[1]))
    whole[: sizes[0], : sizes[0]] = covariance
    whole[range(*sizes), range(*sizes)] = [p.sd**2 for p in rest]
    return [*fitted, *rest], np.array([*mean, *(p.prior for p in rest)]), whole


def unmodelled(setup: Setup, metric: str = METRICS[0]) -> float:
    """Variance of the log of a metric that no parameter explains."""
    first = setup.engine.fit.ttft_rel_err if "_ttft_" in metric else 0.0
    return float(misfit(setup) + untimed_sd(setup) ** 2 + first**2)


def untimed_sd(setup: Setup) -> float:
    """Sd of the log of a metric from kernels that no table has: of all, or of some of a step."""
    return setup.engine.fit.priors.roofline_gpu * setup.step.untimed(batch_of(setup))


def batch_of(setup: Setup) -> int:
    """Return how many requests run at once; one where they come at a rate."""
    return min(setup.memory.max_running_requests, in_flight(setup.scenario) or 1)


def misfit(setup: Setup) -> float:
    """The part of it that each setting has of its own: discrepancy and error of measurement."""
    fit, calibration = setup.engine.fit, setup.calibration
    parts = calibration.discrepancy if calibration else fit.discrepancy
    return float(sum(p**2 for p in (*parts, fit.observation_rel_err)))


def ratio_error(setup: Setup) -> float:
    """Return how far the ratio of two settings may be off at the least, at 90 % [1].

    As the interval of ``speedup`` has it, but for the parameters that the two differ in.
    """
    return math.expm1(_Z90 * math.sqrt(unmodelled(setup) + misfit(setup)))


def intervals(
    setup: Setup,
    own: Sensitivity,
    runs: Sequence[Mapping[str, float]],
    *,
    plain: Sensitivity | None = None,
    plain_runs: Sequence[Mapping[str, float]] = (),
) -> dict[str, tuple[float, float]]:
    """90 % intervals by metric name, of what one run of a benchmark would show.

    Parameters
    ----------
    own
        Sensitivity of the scenario.
    runs
        Metrics of each simulated run.
    plain
        Uncertain parameters of plain decoding too: adds the interval of ``speedup``.
    """
    out = {}
    for metric in METRICS:
        if metric == "accept_length" and not setup.speculative:
            continue
        beyond = 0.0 if metric == "accept_length" else unmodelled(setup, metric)
        if metric == _FIRST:
            beyond += _unsure_median(runs)
        variance = own.variance(metric) + beyond + _scatter(runs, metric)
        low, high = _around(float(np.mean([r[metric] for r in runs])), variance)
        if metric == "accept_length":
            low, high = max(low, 1.0), min(high, float(setup.most_tokens))
        out[metric] = low, high
    if plain is not None:
        mine, theirs = Side(setup, own, runs), Side(setup, plain, plain_runs)
        out["speedup"] = ratio_interval(mine, theirs)
    return out


@dataclass(frozen=True)
class Side:
    """One side of a ratio: a setting, how it moves with what is uncertain, and its runs."""

    setup: Setup
    sensitivity: Sensitivity
    runs: Sequence[Mapping[str, float]]


def ratio_variance(one: Setup, ours: Sensitivity, other: Setup, theirs: Sensitivity) -> float:
    """Variance of the log of the ratio of two throughputs.

    Both hang on the same constants; what no constant explains each is off by on its own, but for
    the error of a GPU that they share.
    """
    together = one.device.name == other.device.name
    rest = unmodelled(one) + (misfit(other) if together else unmodelled(other))
    return ours.ratio_variance(METRICS[0], theirs) + rest


def ratio_interval(one: Side, other: Side) -> tuple[float, float]:
    """90 % interval of the throughput of one setting over that of another [1]."""
    throughput = METRICS[0]
    variance = ratio_variance(one.setup, one.sensitivity, other.setup, other.sensitivity)
    variance += _scatter(one.runs, throughput) + _scatter(other.runs, throughput)
    means = [np.mean([r[throughput] for r in each.runs]) for each in (one, other)]
    return _around(float(means[0] / means[1]), variance)


def _unsure_median(runs: Sequence[Mapping[str, float]]) -> float:
    """Variance of the log of a median first token that lies on one side by how many wait."""
    means, medians = (
        np.mean([run[name] for run in runs]) for name in (_FIRST.replace("median", "mean"), _FIRST)
    )
    return math.log(means / medians) ** 2


def _scatter(runs: Sequence[Mapping[str, float]], metric: str) -> float:
    """Variance of the log between runs; 0 with one run, where nothing shows it."""
    sample = [math.log(r[metric]) for r in runs if r[metric] > 0]
    return float(np.var(sample, ddof=1)) if len(sample) > 1 else 0.0


def _around(middle: float, variance: float) -> tuple[float, float]:
    half = _Z90 * math.sqrt(variance)
    return middle * math.exp(-half), middle * math.exp(half)
