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
    """Commit lengths and what follows from them.

    Parameters
    ----------
    commits
        ``[requests, cycles]`` tokens committed by each verify cycle.
    before
        ``[requests, cycles + 1]`` tokens committed by earlier cycles.
    cycles
        Verify cycles that finish each request; zero where the prefill token is all.
    shared
        One row for all requests, indexed by the batch's step (SGLang's synthetic acceptance).
    """

    commits: npt.NDArray[np.integer]
    before: npt.NDArray[np.integer]
    cycles: npt.NDArray[np.int64]
    shared: bool = False


def draw_commits(acceptance: Acceptance, workload: Workload, rng: np.random.Generator) -> Draws:
    """Draw commits until every request can finish; the prefill samples the first token."""
    need = workload.osl - 1
    if acceptance.shared_batch_draw:
        # Alone, each request needs at most `need` steps, and one is wasted when it ends.
        row = acceptance.draw(rng, requests=1, cycles=int(need.sum()) + 2 * len(workload))
        return Draws(row, _before(row), np.zeros(len(workload), np.int64), shared=True)
    if acceptance.block == 1:
        longest = int(need.max(initial=0)) + 2
        ones = np.broadcast_to(np.int8(1), (len(workload), longest))
        steps = np.broadcast_to(
            np.arange(longest + 1, dtype=np.int32), (len(workload), longest + 1)
        )
        return Draws(ones, steps, need.astype(np.int64))
    runs = draw_runs(acceptance, rng, need)
    # The row of a finished request runs once more under overlap.
    commits = np.pad(runs.commits, ((0, 0), (0, 2)), constant_values=1)
    return Draws(commits, _before(commits), runs.cycles)


def _before(commits: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    total = np.zeros((commits.shape[0], commits.shape[1] + 1), np.int32)
    np.cumsum(commits, axis=1, out=total[:, 1:])
    return total
