"""Every commit of a run, drawn before it starts.

With a fixed verify width a request's commits do not depend on the schedule, so the two engines
share one set of draws, and scenarios with one seed share the latent acceptance (common random
numbers).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dflash_sim.simulator.commits import Acceptance, draw_runs
from dflash_sim.simulator.workload import Workload


@dataclass(frozen=True)
class Draws:
    """Commit lengths of every request.

    Parameters
    ----------
    commits
        ``[requests, cycles]`` tokens committed by each verify cycle.
    cycles
        Verify cycles that finish each request; zero where the prefill token is all.
    shared
        One row for all requests, indexed by the batch's step (SGLang's synthetic acceptance).
    """

    commits: npt.NDArray[np.integer]
    cycles: npt.NDArray[np.int64]
    shared: bool = False

    def before(self, rid: int) -> npt.NDArray[np.int64]:
        """Tokens committed before each cycle of a request, and after its last."""
        n = int(self.cycles[rid])
        total = np.zeros(n + 1, np.int64)
        np.cumsum(self.commits[rid, :n], out=total[1:])
        return total


def draw_commits(acceptance: Acceptance, workload: Workload, rng: np.random.Generator) -> Draws:
    """Draw commits until every request can finish; the prefill samples the first token."""
    need = workload.osl - 1
    if acceptance.shared_batch_draw:
        # Alone, each request needs at most `need` steps, and one is wasted when it ends.
        row = acceptance.draw(rng, requests=1, cycles=int(need.sum()) + 2 * len(workload))
        return Draws(row, np.zeros(len(workload), np.int64), shared=True)
    if acceptance.block == 1:
        ones = np.broadcast_to(np.int8(1), (len(workload), int(need.max(initial=0)) + 2))
        return Draws(ones, need.astype(np.int64))
    runs = draw_runs(acceptance, rng, need)
    # The row of a finished request runs once more under overlap.
    return Draws(np.pad(runs.commits, ((0, 0), (0, 2)), constant_values=1), runs.cycles)
