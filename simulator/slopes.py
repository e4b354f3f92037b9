"""The slopes of an answer in engine constants and acceptance.

A fit needs this for hundreds of observations, an interval for one prediction. The same requests
and the same latent acceptance are run again (common random numbers), on a short workload where
only the slope is wanted: slopes hardly depend on how many requests there are.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.releases.calibration import Parameter, cell
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.releases.server_levels import FACTORS, level_of, together
from dflash_sim.simulator.engine.metrics import median_gap_s, quantiles, served
from dflash_sim.simulator.engine.records import Run, without_times
from dflash_sim.simulator.requests.draws import Draws, draw_commits
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.laws import NoSpeculation
from dflash_sim.simulator.requests.workload import Workload, shortened
from dflash_sim.simulator.setup import Setup
from dflash_sim.simulator.trial import build_workload, run_again, run_engine, with_engine

METRICS = (
    "output_throughput",
    "accept_length",
    "mean_tpot_ms",
    "mean_ttft_ms",
    "mean_e2e_latency_ms",
    "median_tpot_ms",
    "median_ttft_ms",
    "median_itl_ms",
)

Floats = npt.NDArray[np.float64]
# How far a slope looks, on the parameter's unbounded scale: in prior sds, or as it is. A shorter
# step meets single batches that the scheduler forms otherwise.
_STEP_SDS = 0.3
_STEPS = {"correlation": 0.3, "rejection": 0.1, "decay": 0.05}
_FACTOR_STEPS = {
    "time": 0.05, "host": 0.1, "prefill": 0.1, "wide": 0.05, "kernel": 0.3, "experts": 0.1,
}  # fmt: skip
# What was run, by requests and by how they are accepted.
_Key: TypeAlias = tuple[int, tuple[float, float, float]]
Runs: TypeAlias = dict[_Key, tuple[Draws, Run]]
_KEPT_ITERATIONS = 2**17  # of a run that is kept to be walked again: some megabytes
WHOLE = ("correlation",)  # needs the whole workload: with few requests the slope is noise


def slope_steps(parameters: Sequence[Parameter]) -> Floats:
    """Return how far to look for the slope of each parameter."""
    steps = [(_STEPS | _FACTOR_STEPS).get(p.kind, _STEP_SDS * p.sd) for p in parameters]
    return np.array(steps, dtype=float)


@dataclass(frozen=True)
class Requests:
    """One run's requests and the stream that its acceptance is drawn from."""

    workload: Workload
    stream: np.random.SeedSequence

    def draws(self, expectation: Expectation | None) -> Draws:
        law = expectation.acceptance if expectation else NoSpeculation()
        return draw_commits(law, self.workload, np.random.default_rng(self.stream))

    def first(self, turns: int) -> "Requests":
        return replace(self, workload=shortened(self.workload, turns))


def requests_of(setup: Setup, run: int) -> Requests:
    """The requests of run number ``run``, as :func:`predict.simulate` draws them."""
    lengths, arrivals, acceptance = np.random.SeedSequence([setup.scenario.seed, run]).spawn(3)
    work = build_workload(setup, np.random.default_rng(lengths), np.random.default_rng(arrivals))
    return Requests(work, acceptance)


def log_metrics(run: Run, workload: Workload) -> Floats:
    """Logarithms of ``METRICS`` over the measured requests, in SI."""
    seen = served(run, workload)
    cycles = run.cycles[seen.done]
    verified = cycles > 0
    tiny = np.finfo(float).tiny
    means = (
        seen.osl.sum() / seen.duration_s,
        (seen.osl[verified] / cycles[verified]).mean() if verified.any() else 1.0,
        seen.tpot.mean() if seen.tpot.size else tiny,
        seen.ttft.mean(),
        seen.e2e.mean(),
        quantiles(seen.tpot, [1 / 2])[0] if seen.tpot.size else tiny,
        quantiles(seen.ttft, [1 / 2])[0],
        median_gap_s(run, seen.done),
    )
    logs: Floats = np.log(np.maximum(np.array(means, dtype=float), tiny))
    return logs


class Response:
    """One scenario, answered for other constants and other acceptance.

    Parameters
    ----------
    setup
        The scenario, resolved with the engine sheet that the parameters start from.
    waves
        Turns per client in the short workload that slopes are taken on.
    owner
        Whose server it is, where rows of several are looked at together.
    first
        Run number 0 of the scenario, where it is known: it need not be run again.
    """

    def __init__(
        self, setup: Setup, *, waves: int, owner: str = "", first: Run | None = None
    ) -> None:
        self.setup = self._priced = setup  # the latter has prices to share
        self._first = first
        self._answered: dict[int, Runs] = {}  # by run, the latest
        self.dataset = setup.dataset.name if setup.dataset else None
        self.expectation = setup.uncalibrated
        self._waves = waves
        self.server = setup.server.owned_by(owner)
        self._server = self.server.keys

    @property
    def cell(self) -> str | None:
        """The acceptance cell; none without speculation, or where a certain acceptance is given."""
        s = self.setup.scenario
        if self.expectation is None or (s.acceptance is not None and not self.expectation.rel_err):
            return None
        return cell(self.setup.model.behaves_as, s.method, self.dataset, s.thinking)

    def own_parameters(self) -> list[Parameter]:
        """Return what is unknown about this scenario's server and acceptance, with its priors."""
        engine = self.setup.engine
        priors = engine.fit.priors
        found = self.server_parameters()
        if self.expectation is None:
            return found
        if self.dataset is not None:
            tied = Parameter("correlation", self.dataset, "atanh", 0.0, priors.correlation)
            found.append(tied)
        if self.cell is None:
            return found
        # A cell is as free as the relative error of its accept length says.
        h = priors.decay
        bent = self.expectation.adjusted(rejection=h)
        lengths = [e.acceptance.survival().mean_accept_length for e in (self.expectation, bent)]
        slope = abs(math.log(lengths[1] / lengths[0])) / h
        spread = self.expectation.rel_err / max(slope, h)
        published = self.expectation.evidence == "published"
        decay = priors.decay if published else priors.decay_borrowed
        return [
            *found,
            Parameter("rejection", self.cell, "linear", 0.0, spread),
            Parameter("decay", self.cell, "linear", 0.0, decay),
        ]

    def server_parameters(self) -> list[Parameter]:
        """Return the factors that tell this server from home, level by level."""
        sds = self.setup.engine.fit.priors.levels
        return [
            Parameter(name, key, factor.scale, 0.0, sds[name][level_of(key)])
            for name, factor in FACTORS.items()
            for key in self._server
            if level_of(key) in factor.levels
        ]

    @cached_property
    def _whole(self) -> Requests:
        return requests_of(self.setup, 0)

    @cached_property
    def _short(self) -> Requests:
        return self._whole.first(self._waves * max(self._whole.workload.conc, 2))

    def answer(self, values: Mapping[str, float], *, runs: int) -> Floats:
        """Logarithms of ``METRICS`` on the full workload, the mean over runs."""
        each = []
        for run in range(runs):
            requests, before = requests_of(self.setup, run), self._answered.get(run, {})
            each.append(self._run(requests, values, before))
            key = self._key(requests, values)
            draws, record = before[key]
            few = len(record.kind) <= _KEPT_ITERATIONS
            self._answered[run] = {key: (draws, without_times(record))} if few else {}
        mean: Floats = np.mean(each, axis=0)
        return mean

    def slopes(
        self,
        parameters: Sequence[Parameter],
        at: Floats,
        steps: Floats,
        *,
        whole: Collection[str] = (),
        fixed: Mapping[str, float] | None = None,
    ) -> npt.NDArray[np.float64]:
        """d log metric / d parameter, shape [metrics, parameters], by differences.

        Parameters
        ----------
        at, steps
            Where, and how far, on the parameters' unbounded scales.
        whole
            Kinds of parameters whose slopes are taken on the full workload.
        fixed
            Values of parameters that are not looked at.
        """
        values = {
            **(fixed or {}),
            **{p.name: p.value(x) for p, x in zip(parameters, at.tolist(), strict=True)},
        }
        runs = dict(self._answered.get(0, {}))
        bases = {False: self._run(self._short, values, runs)}
        out = np.zeros((len(METRICS), len(parameters)))
        levels: dict[str, Floats] = {}  # all levels of a factor have one slope
        for i, (p, x, h) in enumerate(zip(parameters, at.tolist(), steps.tolist(), strict=True)):
            if self._concerns(p):
                if p.kind in levels:
                    out[:, i] = levels[p.kind]
                    continue
                full = p.kind in whole
                requests = self._whole if full else self._short
                if full not in bases:
                    bases[full] = self._run(requests, values, runs)
                there = self._run(requests, values | {p.name: p.value(x + h)}, runs)
                out[:, i] = (there - bases[full]) / h
                if p.kind in FACTORS:
                    levels[p.kind] = out[:, i]
        return out

    def _concerns(self, p: Parameter) -> bool:
        if p.kind == "constant":
            return p.key in self._read and p.key not in self.setup.engine.own
        if p.kind in FACTORS:
            return p.key in self._server and FACTORS[p.kind].constant in self._read
        if p.kind == "correlation":
            return self.expectation is not None and p.key == self.dataset
        return p.key == self.cell

    def _run(
        self, requests: Requests, values: Mapping[str, float], runs: Runs | None = None
    ) -> Floats:
        """Logarithms of ``METRICS``; what was run with the same acceptance is walked again."""
        setup = with_engine(self._priced, self.engine(values))
        key = self._key(requests, values)
        before = runs.get(key) if runs is not None else None
        if before is not None:
            draws, known = before
            record = run_again(setup, known, requests.workload, draws)
        else:
            expectation = self.expected(values)
            draws = requests.draws(expectation)
            if self._first is not None and requests is self._whole and self._as_asked(expectation):
                record = run_again(setup, self._first, requests.workload, draws)
            else:
                record = run_engine(setup, requests.workload, draws)
            self._read, self._priced = setup.engine.read, setup
            if runs is not None:
                runs[key] = draws, record
        return log_metrics(record, requests.workload)

    def _key(self, requests: Requests, values: Mapping[str, float]) -> _Key:
        return len(requests.workload), self._accepts(values)

    def _as_asked(self, expectation: Expectation | None) -> bool:
        """Return True if this is the acceptance that the scenario itself is answered with."""
        asked = self.setup.expectation
        if expectation is None or asked is None:
            return expectation is asked
        return expectation.acceptance == asked.acceptance

    def engine(self, values: Mapping[str, float]) -> EngineSheet:
        """The engine sheet with the constants among ``values``."""
        found = {
            name.removeprefix("constant:"): v
            for name, v in values.items()
            if name.startswith("constant:")
        }
        for name in self.setup.engine.own:  # an architecture's own, which home's do not move
            found.pop(name, None)
        own = self.setup.engine.si
        for name, factor in FACTORS.items():
            here = together(name, (values.get(f"{name}:{key}", 1.0) for key in self._server))
            if here != 1:
                found[factor.constant] = found.get(factor.constant, own[factor.constant]) * here
        return self.setup.engine.with_constants(**found)

    def expected(self, values: Mapping[str, float]) -> Expectation | None:
        """The acceptance with the parameters among ``values``."""
        if self.expectation is None:
            return None
        rejection, decay, correlation = self._accepts(values)
        return self.expectation.adjusted(rejection=rejection, decay=decay, correlation=correlation)

    def _accepts(self, values: Mapping[str, float]) -> tuple[float, float, float]:
        """The rejection, decay and correlation among ``values``."""
        where = self.cell
        return (
            values.get(f"rejection:{where}", 0.0),
            values.get(f"decay:{where}", 0.0),
            values.get(f"correlation:{self.dataset}", 0.0),
        )
