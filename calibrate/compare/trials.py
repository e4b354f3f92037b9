"""One prediction over and over, each time with something else about the server changed.

A run shares its random draws with the first run of the original, so one tells the ratio.
"""

from collections.abc import Mapping

import numpy as np

from dflash_sim.profiles.errors import DflashSimError
from dflash_sim.simulator.engine.records import PREFILL
from dflash_sim.simulator.predict import Result, simulate
from dflash_sim.simulator.whatif import Change


class Trials:
    """Predictions of one scenario under changes, each made once.

    Parameters
    ----------
    result
        The prediction without a change; ratios to it carry over to its values.
    """

    def __init__(self, result: Result) -> None:
        self.result = result
        self._made: dict[Change, Mapping[str, float] | None] = {}
        self._plain: Mapping[str, float] | None = None

    def values(self, change: Change) -> Mapping[str, float] | None:
        """Values of a result row under ``change``; None where that cannot run."""
        if change == Change():
            return self.result.values
        if change not in self._made:
            self._made[change] = self._ratios(change)
        return self._made[change]

    def _ratios(self, change: Change) -> Mapping[str, float] | None:
        if self._plain is None:
            self._plain = self._run(Change())
        try:
            changed = self._run(change)
        except DflashSimError:  # such as more running requests than memory holds
            return None
        before = self.result.values
        return {
            name: value * changed[name] / self._plain[name] if self._plain[name] else changed[name]
            for name, value in before.items()
            if name in changed
        }

    def _run(self, change: Change) -> Mapping[str, float]:
        setup, law = change.setup(self.result.setup), change.expectation(self.result.expectation)
        return simulate(setup, law, run=0)[0].values

    def host_stage_s(self, change: Change) -> float:
        """Host seconds per generated token in the stages that never wait for the GPU.

        ``recv_requests``, ``get_next_batch_to_run`` and ``run_batch`` of every iteration.
        """
        setup = change.setup(self.result.setup)
        _, run = simulate(setup, change.expectation(self.result.expectation), run=0)
        host = setup.host
        fixed_s = host.recv_s + host.schedule_s + host.first_launch_s + host.rest_launch_s
        total_s = len(run.batch) * fixed_s + host.schedule_per_request_s * float(run.batch.sum())
        for tokens in run.kv_tokens[run.kind == PREFILL].tolist():
            total_s += max(0.0, setup.step.prefill_launch_s(tokens) - host.rest_launch_s)
        tokens = float((run.committed + 1)[np.isfinite(run.finish_s)].sum())
        return total_s / tokens
