"""Observations a fit can use, and what is unknown in them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.servers import TEST, role_of
from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.profiles.one_look import one_look
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.profiles.releases.calibration import KINDS, Parameter, constant_prior
from dflash_sim.profiles.releases.engine_sheet import HOME, EngineSheet, load_engine
from dflash_sim.profiles.releases.server_levels import FACTORS, OWN, level_of
from dflash_sim.profiles.sheets import Dataset
from dflash_sim.profiles.times.op_tables import OpTables
from dflash_sim.profiles.units import MS
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.simulator.slopes import METRICS, Response, requests_of

THROUGHPUT, ACCEPT_LENGTH = METRICS.index("output_throughput"), METRICS.index("accept_length")
# Of a time one of mean and median is fitted. A mean of first tokens is that of the first burst,
# which hangs on what a run before left in the prefix cache and on how requests are sent.
TPOT = tuple(METRICS.index(f"{s}_tpot_ms") for s in ("mean", "median"))
TTFT = tuple(METRICS.index(f"{s}_ttft_ms") for s in ("median", "mean"))
# A decode step without the prefills between; with drafts it also holds how many are accepted.
_ITL = METRICS.index("median_itl_ms")
FITTED = (THROUGHPUT, *TPOT, _ITL, ACCEPT_LENGTH, *TTFT)
# How a metric follows the deviation of its row: a time per token is the inverse of a throughput;
# first tokens wait for prefills and polls, of which the decode speed of a row says nothing.
SIGN = {
    THROUGHPUT: 1.0,
    **dict.fromkeys((*TPOT, _ITL), -1.0),
    ACCEPT_LENGTH: 0.0,
    **dict.fromkeys(TTFT, 0.0),
}
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
    owner
        Whose server it is, where rows of several are fitted together.
    """

    observation: Observation
    scenario: Scenario
    logs: Floats
    errors: Floats
    width: int = 1
    own: tuple[Parameter, ...] = ()
    dataset: Dataset | None = None
    owner: str = ""

    @property
    def speed(self) -> int:
        """The metric that says how fast it was: the throughput, else the time per token."""
        return next(m for m in (THROUGHPUT, *TPOT) if np.isfinite(self.logs[m]))

    @property
    def name(self) -> str:
        """The row in words: where it is, and its scenario."""
        s, f = self.scenario, self.factors
        size = f" {self.width}" if s.speculation.speculative else ""
        tp = f" tp {s.tp}" if s.tp else ""
        mode = f" {s.engine_mode}" if s.engine_mode != "v2" else ""
        build = f" build {s.build}" if s.build else ""
        load = f"c={s.conc}" if s.conc else f["concurrency"]
        return (
            f"{self.observation.row}: {s.model} {s.method}{size} {f['data set']} {load}"
            f" {s.gpu}{tp}{mode}{build}"
        )

    @property
    def elsewhere(self) -> bool:
        """Return True if it was measured anywhere but at the home of the constants."""
        return any(p.kind in FACTORS and level_of(p.key) not in OWN for p in self.own)

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
        drawn = s.temperature, s.top_p, s.top_k
        return s.model, s.gpu, s.tp, s.conc, s.rate, s.build, *what, *drawn

    @property
    def factors(self) -> dict[str, str]:
        """Return what rows are grouped by, and the row's group."""
        s = self.scenario
        return {
            "method": s.method,
            "block": str(self.width) if s.speculation.speculative else "none",
            "concurrency": str(s.conc) if s.conc else f"{s.rate:g}/s",
            "model": s.model,
            "data set": s.dataset or f"{s.isl}/{s.osl}",
            "mode": s.engine_mode,
            "GPU": s.gpu,
            "source": self.observation.source,
        }

    def sheet(self, engine: EngineSheet) -> EngineSheet:
        """The engine sheet of the row's own release; ``engine`` where it is of no other."""
        return _sheet(self.scenario, engine)

    def response(self, engine: EngineSheet, read: TablesByGpu) -> Response:
        """The scenario's answers as functions of the unknowns; ``read`` grows."""
        return _response(self.scenario, engine, read, self.owner)


def rows_of(
    observations: Sequence[Observation], engine: EngineSheet, *, owners: bool = False
) -> tuple[list[Row], list[tuple[str, str]]]:
    """``(rows, refused)``: a row needs a speed and a scenario that can be simulated.

    Parameters
    ----------
    owners
        True if each source has servers of its own; else all rows are of one owner's.
    """
    rows: list[Row] = []
    refused: list[tuple[str, str]] = []
    read: TablesByGpu = {}
    with one_look():
        for seen in observations:
            if not any(METRICS[m] in seen.metrics for m in (THROUGHPUT, *TPOT)):
                refused.append((seen.row, "no output_throughput and no tpot: nothing to fit"))
                continue
            try:
                rows.append(_row(seen, engine, read, seen.source if owners else ""))
            except DflashSimError as error:
                refused.append((seen.row, str(error)))
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


def _sheet(scenario: Scenario, engine: EngineSheet) -> EngineSheet:
    return engine if scenario.engine in (engine.name, HOME) else load_engine(scenario.engine)


def _response(scenario: Scenario, engine: EngineSheet, read: TablesByGpu, owner: str) -> Response:
    setup = resolve(scenario, engine=_sheet(scenario, engine), tables=read.get(scenario.gpu))
    if setup.tables is not None:
        read[scenario.gpu] = setup.tables
    return Response(setup, waves=WAVES, owner=owner)


def _row(observation: Observation, engine: EngineSheet, read: TablesByGpu, owner: str) -> Row:
    build = observation.build
    fields = dict(observation.fields) | {"runs": 1, "calibration": "none"}
    scenario = Scenario.parse(**fields, build=None if engine.is_home(build) else build)
    response = _response(scenario, engine, read, owner)
    requests_of(response.setup, 0)  # an endless workload is refused here, with the row's name
    fit = engine.fit
    timed = _first(TPOT, observation)
    arrive = scenario.rate is not None
    whole = METRICS[THROUGHPUT] in observation.metrics and not arrive
    least = {
        **dict.fromkeys((THROUGHPUT, _ITL), fit.observation_rel_err),
        **dict.fromkeys(TPOT, fit.tpot_rel_err if whole else fit.observation_rel_err),
        **dict.fromkeys(TTFT, fit.ttft_rel_err),
        ACCEPT_LENGTH: load_acceptance_priors().accept_length_error,
    }
    if arrive:  # a throughput is that of the clients, who came faster or slower than on average
        least[THROUGHPUT] = math.hypot(least[THROUGHPUT], (scenario.num_prompts or 1) ** -0.5)
    known = [*timed, *_first(TTFT, observation)]
    if not (arrive and timed):
        known.insert(0, THROUGHPUT)
    if not scenario.speculation.speculative and scenario.stream_interval == 1:
        known.append(_ITL)
    # An accept length that is the prior already would count twice.
    if response.expectation and response.expectation.source != f"published: {observation.source}":
        known.append(ACCEPT_LENGTH)
    logs, errors = np.full(len(METRICS), math.nan), np.full(len(METRICS), math.nan)
    for i in known:
        value = observation.metrics.get(METRICS[i])
        if value is not None and value > 0:
            logs[i] = math.log(value * (MS if METRICS[i].endswith("_ms") else 1.0))
            errors[i] = max(least[i], observation.rel_err.get(METRICS[i], 0.0))
    per_step = observation.metrics.get("accept_length_cycle", 0.0)
    if ACCEPT_LENGTH in known and math.isnan(logs[ACCEPT_LENGTH]) and per_step > 0:
        logs[ACCEPT_LENGTH], errors[ACCEPT_LENGTH] = math.log(per_step), _PER_STEP_ERROR
    own = tuple(response.own_parameters())
    return Row(observation, scenario, logs, errors, response.setup.block, own, owner=owner)


def _first(of: tuple[int, ...], observation: Observation) -> tuple[int, ...]:
    """The first of some metrics that was measured."""
    return tuple(m for m in of if observation.metrics.get(METRICS[m], 0.0) > 0)[:1]


def unknowns(
    rows: Sequence[Row], engine: EngineSheet, *, at_home: bool = True
) -> tuple[Parameter, ...]:
    """Return what the rows speak about: constants, servers, data sets, acceptance cells.

    Parameters
    ----------
    at_home
        True if servers at the home of the constants may differ from it too.
    """
    found = {p.name: p for p in (constant_prior(engine, name) for name in engine.fit.free)}
    # The largest block of a cell says most about how free its acceptance is.
    for row in sorted(rows, key=lambda row: -row.width):
        for p in row.own:
            if at_home or row.elsewhere or p.kind not in FACTORS:
                found.setdefault(p.name, p)
    order = {kind: i for i, kind in enumerate(KINDS)}
    names = sorted(found, key=lambda n: (order[found[n].kind], found[n].kind != "constant" and n))
    return tuple(found[name] for name in names)
