"""Observations a fit can use, and what is unknown in them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.servers import TEST, role_of
from dflash_sim.profiles.calibration import KINDS, Parameter, constant_prior
from dflash_sim.profiles.engine_sheet import EngineSheet
from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.profiles.sheets import Dataset
from dflash_sim.profiles.times.op_tables import OpTables
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.simulator.slopes import METRICS, Response, requests_of

THROUGHPUT, ACCEPT_LENGTH = METRICS.index("output_throughput"), METRICS.index("accept_length")
WAVES = 4  # turns per client where only a slope is wanted
_PER_STEP_ERROR = 0.05  # error of a per-step accept length that is used as a per-request one

Floats = npt.NDArray[np.float64]
TablesByGpu = dict[str, OpTables]  # they take longer to read than a short run


@dataclass(frozen=True)
class Row:
    """One observation with a throughput, as the fit sees it.

    Parameters
    ----------
    scenario
        The observation's scenario, to be answered with other constants.
    logs, errors
        By metric of ``METRICS``: the log of what was measured, nan where it was not, and its
        relative standard error.
    width
        Tokens verified a step; 1 without speculation.
    own
        What is unknown about its acceptance and build.
    dataset
        A changed data set in place of the one that the scenario names.
    """

    observation: Observation
    scenario: Scenario
    logs: Floats
    errors: Floats
    width: int = 1
    own: tuple[Parameter, ...] = ()
    dataset: Dataset | None = None

    @property
    def name(self) -> str:
        """The row in words: where it is, and its scenario."""
        s, f = self.scenario, self.factors
        size = "" if s.method == "none" else f" {self.width}"
        tp = f" tp {s.tp}" if s.tp else ""
        mode = f" {s.engine_mode}" if s.engine_mode != "v2" else ""
        build = f" build {s.build}" if s.build else ""
        load = f"c={s.conc}" if s.conc else f["concurrency"]
        return (
            f"{self.observation.row}: {s.model} {s.method}{size} {f['data set']} {load}"
            f" {s.gpu}{tp}{mode}{build}"
        )

    @property
    def setting(self) -> tuple[object, ...]:
        """Rows of one setting share what the model gets wrong, whatever the prompts."""
        s = self.scenario
        load = s.conc, s.rate
        return s.gpu, s.tp, s.model, s.method, self.width, *load, s.engine_mode, s.build

    @property
    def question(self) -> tuple[object, ...]:
        """Rows of one question differ in method, block and engine mode alone."""
        s = self.scenario
        what = s.dataset, s.isl, s.osl, s.thinking, s.max_new_tokens
        return s.model, s.gpu, s.tp, s.conc, s.rate, s.build, *what

    @property
    def factors(self) -> dict[str, str]:
        """Return what rows are grouped by, and the row's group."""
        s = self.scenario
        return {
            "method": s.method,
            "block": "none" if s.method == "none" else str(self.width),
            "concurrency": str(s.conc) if s.conc else f"{s.rate:g}/s",
            "model": s.model,
            "data set": s.dataset or f"{s.isl}/{s.osl}",
            "mode": s.engine_mode,
            "GPU": s.gpu,
            "source": self.observation.source,
        }

    def response(self, engine: EngineSheet, read: TablesByGpu) -> Response:
        """The scenario's answers as functions of the unknowns; ``read`` grows."""
        return _response(self.scenario, engine, read)


def rows_of(
    observations: Sequence[Observation], engine: EngineSheet
) -> tuple[list[Row], list[tuple[str, str]]]:
    """``(rows, refused)``: a row needs a throughput and a scenario that can be simulated."""
    rows: list[Row] = []
    refused: list[tuple[str, str]] = []
    read: TablesByGpu = {}
    for observation in observations:
        if "output_throughput" not in observation.metrics:
            refused.append((observation.row, "no output_throughput: nothing to fit"))
            continue
        try:
            rows.append(_row(observation, engine, read))
        except DflashSimError as error:
            refused.append((observation.row, str(error)))
    return rows, refused


def refuse_tests(rows: Sequence[Row]) -> None:
    """Refuse rows that only test: a fit that read one would prove nothing on it.

    Raises
    ------
    UsageError
        Naming the first of them.
    """
    tests = [row.observation for row in rows if role_of(row.observation) == TEST]
    if tests:
        msg = (
            f"{len(tests)} of {len(rows)} rows to fit have the role test, such as {tests[0].row} "
            f"({tests[0].source}); leave them out with --fit-on."
        )
        raise UsageError(msg)


def _response(scenario: Scenario, engine: EngineSheet, read: TablesByGpu) -> Response:
    setup = resolve(scenario, engine=engine, tables=read.get(scenario.gpu))
    if setup.tables is not None:
        read[scenario.gpu] = setup.tables
    return Response(setup, waves=WAVES)


def _row(observation: Observation, engine: EngineSheet, read: TablesByGpu) -> Row:
    build = observation.build
    fields = dict(observation.fields) | {"runs": 1, "calibration": "none"}
    scenario = Scenario.parse(**fields, build=None if engine.is_home(build) else build)
    response = _response(scenario, engine, read)
    requests_of(response.setup, 0)  # an endless workload is refused here, with the row's name
    least = {
        THROUGHPUT: engine.fit.observation_rel_err,
        ACCEPT_LENGTH: load_acceptance_priors().accept_length_error,
    }
    known = [THROUGHPUT]
    # An accept length that is the prior already would count twice.
    if response.expectation and response.expectation.source != f"published: {observation.source}":
        known.append(ACCEPT_LENGTH)
    logs, errors = np.full(len(METRICS), math.nan), np.full(len(METRICS), math.nan)
    for i in known:
        value = observation.metrics.get(METRICS[i])
        if value is not None and value > 0:
            logs[i] = math.log(value)
            errors[i] = max(least[i], observation.rel_err.get(METRICS[i], 0.0))
    per_step = observation.metrics.get("accept_length_cycle", 0.0)
    if ACCEPT_LENGTH in known and math.isnan(logs[ACCEPT_LENGTH]) and per_step > 0:
        logs[ACCEPT_LENGTH], errors[ACCEPT_LENGTH] = math.log(per_step), _PER_STEP_ERROR
    own = tuple(response.own_parameters())
    return Row(observation, scenario, logs, errors, response.setup.block, own)


def unknowns(rows: Sequence[Row], engine: EngineSheet) -> tuple[Parameter, ...]:
    """Return what the rows speak about: constants, data sets, acceptance cells, other builds."""
    found = {p.name: p for p in (constant_prior(engine, name) for name in engine.fit.free)}
    # The largest block of a cell says most about how free its acceptance is.
    for row in sorted(rows, key=lambda row: -row.width):
        for p in row.own:
            found.setdefault(p.name, p)
    order = {kind: i for i, kind in enumerate(KINDS)}
    names = sorted(found, key=lambda n: (order[found[n].kind], found[n].kind != "constant" and n))
    return tuple(found[name] for name in names)
