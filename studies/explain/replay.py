"""Replay the requests of a scenario on a hypothetical server, even an impossible one.

All replays draw the same lengths, arrivals and latent acceptance, so that the difference between
two of them is not noise (common random numbers).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dflash_sim.profiles.units import MS
from dflash_sim.simulator.engine.records import Run
from dflash_sim.simulator.engine.scheduler import Limits
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.requests.draws import Draws
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.setup import Setup
from dflash_sim.simulator.slopes import METRICS, Requests, log_metrics, requests_of
from dflash_sim.simulator.trial import run_again, run_engine


@dataclass(frozen=True)
class Known:
    """A replay that others are walked after: same acceptance, limits and order of the loop."""

    law: Expectation | None
    limits: Limits
    mode: str
    draws: Draws
    run: Run


class Replay:
    """Speeds of one scenario's requests on other setups and with other acceptance.

    The speed of a closed loop is the throughput of all its requests, that of an open loop the
    reciprocal of the mean time per output token: its throughput is the load.

    Parameters
    ----------
    setup
        The scenario whose requests are replayed.
    on_run
        Called with the number of each finished run.
    waves
        Requests of each client at most; None is all of them.
    """

    def __init__(
        self,
        setup: Setup,
        on_run: Callable[[int], None] | None = None,
        *,
        waves: int | None = None,
    ) -> None:
        self.setup = setup
        self.on_run = on_run or (lambda _: None)
        self.waves = waves
        self._requests: dict[int, Requests] = {}
        self._known: dict[tuple[int, int], Known] = {}

    def know(self, result: Result) -> None:
        """Walk after what was simulated for a result, where the replay is of the same requests."""
        setup, law = result.setup, result.expectation
        for run, record in enumerate(result.runs):
            draws = self.requests(run).draws(law)
            mode = setup.scenario.engine_mode
            self._known[run, id(law)] = Known(law, setup.limits, mode, draws, record)

    def shorter(self, waves: int) -> "Replay":
        """Return a replay with fewer requests, which are enough for a slope."""
        return Replay(self.setup, self.on_run, waves=waves)

    @property
    def open_loop(self) -> bool:
        """Return True if requests arrive by a rate."""
        return self.setup.scenario.rate is not None

    def speed(self, setup: Setup, expectation: Expectation | None, *, runs: int = 1) -> float:
        """Tokens per second, the mean over runs."""
        found = [self._once(setup, expectation, run) for run in range(runs)]
        return 1 / float(np.mean(found)) if self.open_loop else float(np.mean(found))

    def of(self, result: Result) -> float:
        """The speed that a result found."""
        if self.open_loop:
            return 1 / (result.values["mean_tpot_ms"] * MS)
        return result.values["output_throughput"]

    def requests(self, run: int) -> Requests:
        """Return the requests that run number ``run`` serves."""
        if run not in self._requests:
            whole = requests_of(self.setup, run)
            clients = max(2, whole.workload.conc)
            few = whole.first(self.waves * clients) if self.waves else whole
            self._requests[run] = few
        return self._requests[run]

    def _once(self, setup: Setup, law: Expectation | None, run: int) -> float:
        requests = self.requests(run)
        found = log_metrics(self._record(setup, law, run), requests.workload)
        self.on_run(run)
        metric = "mean_tpot_ms" if self.open_loop else "output_throughput"
        return float(np.exp(found[METRICS.index(metric)]))

    def _record(self, setup: Setup, law: Expectation | None, run: int) -> Run:
        workload, key = self.requests(run).workload, (run, id(law))
        before, mode = self._known.get(key), setup.scenario.engine_mode
        if before is not None and (before.limits, before.mode) == (setup.limits, mode):
            return run_again(setup, before.run, workload, before.draws)
        draws = before.draws if before else self.requests(run).draws(law)
        record = run_engine(setup, workload, draws)
        self._known[key] = Known(law, setup.limits, mode, draws, record)  # keeps the law's id
        return record
