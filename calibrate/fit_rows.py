"""Observations a fit can use, and what is unknown in them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.observations import Observation
from dflash_sim.profiles.calibration import KINDS, Parameter, constant_prior
from dflash_sim.profiles.enginesheet import EngineSheet
from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.simulator.response import METRICS, Response
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

THROUGHPUT, ACCEPT_LENGTH = METRICS.index("output_throughput"), METRICS.index("accept_length")
WAVES = 4  # turns per client where only a slope is wanted

Floats = npt.NDArray[np.float64]


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
    """

    observation: Observation
    scenario: Scenario
    logs: Floats
    errors: Floats

    @property
    def name(self) -> str:
        """The row in words: where it is, and its scenario."""
        s = self.scenario
        size = "" if s.method == "none" else f" {s.block or (s.steps or 0) + 1}"
        what = s.dataset or f"{s.isl}/{s.osl}"
        mode = f" {s.engine_mode}" if s.engine_mode != "v2" else ""
        build = f" build {s.generation}" if s.generation else ""
        return (
            f"{self.observation.row}: {s.model} {s.method}{size} {what} c={s.conc}"
            f" {s.gpu} tp {s.tp}{mode}{build}"
        )

    @property
    def setting(self) -> tuple[object, ...]:
        """Rows of one setting share what the model gets wrong, whatever the prompts."""
        s = self.scenario
        block = s.block or (s.steps or 0) + 1
        return s.gpu, s.tp, s.model, s.method, block, s.conc, s.rate, s.engine_mode, s.generation

    def response(self, engine: EngineSheet) -> Response:
        """The scenario's answers as functions of the unknowns."""
        return Response(resolve(self.scenario, engine=engine), waves=WAVES)


def rows_of(
    observations: Sequence[Observation], engine: EngineSheet
) -> tuple[list[Row], list[tuple[str, str]]]:
    """``(rows, refused)``: a row needs a throughput and a scenario that can be simulated."""
    rows: list[Row] = []
    refused: list[tuple[str, str]] = []
    for observation in observations:
        if "output_throughput" not in observation.metrics:
            refused.append((observation.row, "no output_throughput: nothing to fit"))
            continue
        try:
            rows.append(_row(observation, engine))
        except DflashSimError as error:
            refused.append((observation.row, str(error)))
    return rows, refused


def _row(observation: Observation, engine: EngineSheet) -> Row:
    build = observation.generation
    home = build is None or build == engine.fit["generation"]
    fields = dict(observation.fields) | {"runs": 1, "calibration": "none"}
    scenario = Scenario.parse(**fields, generation=None if home else build)
    response = Response(resolve(scenario, engine=engine), waves=WAVES)
    least = {
        THROUGHPUT: engine.fit["observation_rel_err"],
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
    return Row(observation, scenario, logs, errors)


def unknowns(rows: Sequence[Row], engine: EngineSheet) -> tuple[Parameter, ...]:
    """What the rows can speak about: constants, data sets, acceptance cells, other builds."""
    responses = [row.response(engine) for row in rows]
    found = {p.name: p for p in (constant_prior(engine, name) for name in engine.fit["free"])}
    # The largest block of a cell says most about how free its acceptance is.
    for r in sorted(responses, key=lambda r: -r.setup.block):
        for p in r.own_parameters():
            found.setdefault(p.name, p)
    order = {kind: i for i, kind in enumerate(KINDS)}
    names = sorted(found, key=lambda n: (order[found[n].kind], found[n].kind != "constant" and n))
    return tuple(found[name] for name in names)
