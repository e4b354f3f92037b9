"""Every commit of a run, drawn before it starts.

With a fixed verify width a request's commits do not depend on the schedule, so the two engines
share one set of draws, and scenarios with one seed share the latent acceptance (common random
numbers). Where a policy chooses the width of each cycle, the run that the widest would commit is
drawn, and the width cuts it: all policies share it too.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.requests.laws import (
    GROUP,
    Acceptance,
    Commits,
    ParametricAcceptance,
    dtype_of,
)
from dflash_sim.simulator.requests.mixtures import MixedAcceptance
from dflash_sim.simulator.requests.survival import Survival
from dflash_sim.simulator.requests.workload import Workload

Floats32 = npt.NDArray[np.float32]
_SUMMED, _SUMS = 2**4, 2**3  # requests whose commits are summed at once; sums that are kept


@dataclass(frozen=True, eq=False)
class Runs:
    """Commits of requests, each until its tokens are out.

    ``commits[r, :cycles[r]]`` sum to at least the tokens request r needs, and would not without
    the last; what follows in the row is past the end of the request. Of a whole run (``whole``)
    there is a cycle for every token: a width that is chosen later commits less of each.
    """

    commits: Commits
    cycles: npt.NDArray[np.int64]


def draw_runs(
    acceptance: Acceptance,
    rng: np.random.Generator,
    tokens: npt.ArrayLike,
    *,
    whole: bool = False,
    part: npt.NDArray[np.int64] | None = None,
) -> Runs:
    """Draw every commit of requests that need ``tokens`` from verify cycles [token].

    The prefill token is not among them. One seed gives nested runs for different blocks; with
    ``whole`` each goes on until a commit of one token per cycle would be enough. ``part`` says
    which law of a mixture each request has; None deals them out.
    """
    if isinstance(acceptance, MixedAcceptance):
        return _draw_parts(acceptance, rng, np.asarray(tokens, np.int64), part, whole=whole)
    if acceptance.shared_batch_draw:
        msg = f"{acceptance.name} draws per step, not per request"
        raise ValueError(msg)
    need = np.asarray(tokens, dtype=np.int64)
    groups = [need[i : i + GROUP] for i in range(0, need.size, GROUP)]
    mean = acceptance.survival().mean_accept_length
    drawn: list[Commits] = []
    counts: list[npt.NDArray[np.int64]] = []
    seeds = rng.integers(np.iinfo(np.int64).max, size=len(groups)).tolist()
    for group, seed in zip(groups, seeds, strict=True):
        width = math.ceil(group.max() / mean) + 1
        while True:
            width = max(1, int(group.max())) if whole else width + math.ceil(width / 2)
            commits = acceptance.draw(
                np.random.default_rng(seed), requests=group.size, cycles=width
            )
            if isinstance(acceptance, ParametricAcceptance) and acceptance.by_length:
                commits = commits[acceptance.rows_by_length(seed, group)]
            done = np.cumsum(commits, axis=1, dtype=np.int32)
            if np.all(done[:, -1] >= group):
                break
        drawn.append(commits)
        cut = np.where(group > 0, 1 + (done < group[:, None]).sum(axis=1), 0)
        counts.append(group if whole else cut)
    width = max((int(c.max()) for c in counts), default=0)
    padded = np.ones((need.size, width), dtype=dtype_of(acceptance.block))
    for i, commits in enumerate(drawn):
        padded[i * GROUP : i * GROUP + len(commits), : commits.shape[1]] = commits[:, :width]
    return Runs(commits=padded, cycles=np.concatenate([np.zeros(0, dtype=np.int64), *counts]))


def _draw_parts(
    mix: MixedAcceptance,
    rng: np.random.Generator,
    need: npt.NDArray[np.int64],
    part: npt.NDArray[np.int64] | None,
    *,
    whole: bool,
) -> Runs:
    """Draw each part of a mixture by its own law, from a stream of its own."""
    seeds = rng.integers(np.iinfo(np.int64).max, size=1 + len(mix.parts)).tolist()
    deal, *streams = (np.random.default_rng(seed) for seed in seeds)
    of = mix.deal(deal, need.size) if part is None else part
    mine = [np.flatnonzero(of == i) for i in range(len(mix.parts))]
    runs = [
        draw_runs(law, stream, need[rows], whole=whole)
        for law, stream, rows in zip(mix.parts, streams, mine, strict=True)
    ]
    width = max((r.commits.shape[1] for r in runs), default=0)
    commits = np.ones((need.size, width), dtype=dtype_of(mix.block))
    cycles = np.zeros(need.size, np.int64)
    for rows, run in zip(mine, runs, strict=True):
        commits[rows, : run.commits.shape[1]] = run.commits
        cycles[rows] = run.cycles
    return Runs(commits=commits, cycles=cycles)


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
    latent
        ``commits`` are those of the widest verify, ``cycles`` as many as tokens are needed: a
        policy cuts them.
    head
        What a confidence head sees of the latent run; None where nobody asks.
    """

    commits: npt.NDArray[np.integer]
    cycles: npt.NDArray[np.int64]
    shared: bool = False
    latent: bool = False
    head: "ConfidenceHead | None" = None
    _ramp: list[npt.NDArray[np.int64]] = field(default_factory=list, repr=False, compare=False)
    _sums: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict, repr=False, compare=False)

    def of(self, rows: npt.NDArray[np.int64]) -> "Draws":
        """Return those of some requests; one number for all cycles stays one."""
        if self.commits.strides == (0, 0):
            shape = len(rows), self.commits.shape[1]
            return Draws(np.broadcast_to(self.commits[0, 0], shape), self.cycles[rows])
        return Draws(self.commits[rows], self.cycles[rows])

    def before(self, rid: int) -> npt.NDArray[np.int64]:
        """Tokens committed before each cycle of a request, and after its last; all share them."""
        n = int(self.cycles[rid])
        if self.commits.strides == (0, 0):  # one number for all cycles
            if not len(self._ramp):
                most = int(self.cycles.max(initial=0)) + 1
                self._ramp.append(int(self.commits[0, 0]) * np.arange(most))
            return self._ramp[0][: n + 1]
        group, row = divmod(rid, _SUMMED)
        sums = self._sums.get(group)
        if sums is None:
            sums = self._summed(slice(group * _SUMMED, (group + 1) * _SUMMED))
            while len(self._sums) >= _SUMS:
                del self._sums[next(iter(self._sums))]
            self._sums[group] = sums
        return sums[row, : n + 1]

    def _summed(self, rows: slice) -> npt.NDArray[np.int64]:
        commits = self.commits[rows, : int(self.cycles[rows].max())]
        sums = np.zeros((commits.shape[0], commits.shape[1] + 1), np.int64)
        commits.cumsum(axis=1, out=sums[:, 1:])
        return sums


@dataclass(frozen=True)
class ConfidenceHead:
    """The knowledge of a calibrated confidence head about each cycle before it is verified.

    Each cycle has a factor V on the hazard of rejection, with gamma law of mean one, and given V
    the drafts survive with ``exp(-V g_k)``. ``g_k = (S_k^-spread - 1) / spread`` makes the mean
    over V the given survival S, so what is verified does not depend on whether anyone looks.

    Parameters
    ----------
    factor
        V of every request and cycle [1].
    hazards
        ``g_k``, k = 1.. [1].
    """

    factor: Floats32
    hazards: npt.NDArray[np.float64]

    @classmethod
    def beside(
        cls,
        commits: npt.NDArray[np.integer],
        survival: Survival,
        *,
        spread: float,
        rng: np.random.Generator,
    ) -> "ConfidenceHead":
        """Draw what was seen of runs that are drawn already: V given how far each run went.

        A run that ends between two positions has an exponential clock E between their hazards; of
        V given E the law is gamma, with shape ``1 / spread + 1`` and mean falling as
        ``exp(-spread E)``.

        Parameters
        ----------
        spread : variance of V; 0 sees nothing of a cycle, without bound sees all of it [1]
        """
        s = np.maximum(survival.s, np.finfo(np.float32).tiny)
        if spread == 0:
            return cls(np.ones(commits.shape, np.float32), -np.log(s))
        edges = np.concatenate([np.ones(1), s, np.zeros(1)])
        upper, lower = edges[commits - 1], edges[commits]
        left = upper - rng.random(commits.shape) * (upper - lower)  # exp(-E)
        shape = 1 / spread + 1
        factor = spread * left**spread * rng.standard_gamma(shape, commits.shape)
        return cls(factor.astype(np.float32), np.expm1(-spread * np.log(s)) / spread)

    def survival(
        self, rows: npt.NDArray[np.int64], cycles: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """``[requests, k]``: survival of each draft of a cycle, as the head has it."""
        return np.exp(-np.multiply.outer(self.factor[rows, cycles], self.hazards))


def draw_latent(
    acceptance: Acceptance,
    workload: Workload,
    rng: np.random.Generator,
    *,
    spread: float | None = None,
) -> Draws:
    """Draw what the widest verify would commit, for policies to cut.

    It reads the same stream as :func:`draw_commits`: a policy that never cuts commits the same.

    Parameters
    ----------
    spread : of the confidences, drawn from a stream of their own; None draws none [1]
    """
    if acceptance.shared_batch_draw:
        msg = (
            f"acceptance {acceptance.name} is drawn once for a whole batch; a policy of verify "
            "widths needs a run of each request. Try --acceptance al:4.5, or --policy fixed."
        )
        raise UsageError(msg)
    aside = rng.spawn(1)[0]
    need = workload.osl - 1
    runs = draw_runs(acceptance, rng, need, whole=True, part=workload.part)
    # Rows of finished requests run once more under overlap.
    commits = np.pad(runs.commits, ((0, 0), (0, 2)), constant_values=1)
    drawn = Draws(commits, need.astype(np.int64), latent=True)
    if spread is None:
        return drawn
    law = acceptance.survival()
    return replace(drawn, head=ConfidenceHead.beside(commits, law, spread=spread, rng=aside))


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
    runs = draw_runs(acceptance, rng, need, part=workload.part)
    # The row of a finished request runs once more under overlap.
    return Draws(np.pad(runs.commits, ((0, 0), (0, 2)), constant_values=1), runs.cycles)
