"""The records that a run leaves: one row per request, and one per engine iteration."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dflash_sim.simulator.requests.workload import Workload

DECODE, PREFILL = 0, 1
NOBODY = -1

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Loops:
    """What the scheduler decided in a run, without its times: by request, and when it paused.

    Parameters
    ----------
    received, missed
        The loop that received a request, and the one before it that looked and did not.
    after
        The request whose answer sent it.
    first, last
        The iterations with whose results came the first token and the last.
    pauses
        Of loops that launched nothing: iterations launched before, and the request that was waited
        for; ``NOBODY`` where a result was processed instead.
    launched
        ``kind, batch, kv_tokens, prefix`` of iterations as in :class:`Run`, the last one's too
        where its result came after the end.
    looked
        The last loop that looked for requests.
    """

    received: list[int]
    missed: list[int]
    after: list[int]
    first: list[int]
    last: list[int]
    pauses: Sequence[tuple[int, int]] = ()
    launched: tuple[Ints, Ints, Ints, Floats] | None = None
    looked: int = NOBODY

    @cached_property
    def prefills(self) -> tuple[Ints, list[tuple[int, int, float]]]:
        """The prefills among what was launched, and ``requests, tokens, prefix`` of each."""
        assert self.launched is not None
        kind, batch, kv, prefix = self.launched
        rows = np.flatnonzero(kind == PREFILL)
        return rows, list(zip(*(c[rows].tolist() for c in (batch, kv, prefix)), strict=True))

    @cached_property
    def decodes(self) -> list[tuple[int, Ints, Floats]]:
        """By batch: the decode steps among what was launched, and the mean context in each."""
        assert self.launched is not None
        kind, batch, kv, _ = self.launched
        rows = np.flatnonzero(kind != PREFILL)
        rows = rows[np.argsort(batch[rows])]
        changes = np.flatnonzero(np.diff(batch[rows])) + 1
        alike = np.split(rows, changes) if len(rows) else []
        return [(size := int(batch[at[0]]), at, kv[at] / size) for at in alike]

    def __getstate__(self) -> dict[str, object]:
        """Leave out what is worked out again when another process asks."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of(cls, requests: int) -> "Loops":
        """Return those of a run in which nothing was decided yet."""
        none = [NOBODY] * requests
        return cls(none[:], none[:], none[:], none[:], none[:])


@dataclass(frozen=True)
class Run:
    """The outcome of one run of an engine; times in seconds from its start.

    Parameters
    ----------
    arrival_s, first_token_s, finish_s
        By request; ``nan`` where it never happened.
    cycles, committed
        By request: verify steps, and tokens they committed before the last was cut at the end.
    kind, batch, kv_tokens, prefix
        By iteration in launch order: DECODE or PREFILL, requests, tokens cached on the GPU
        (prefill: new tokens), mean cached prefix of a prefill.
    gpu_s, gpu_start_s, gpu_end_s
        By iteration: work, and when it ran.
    emit_s
        By iteration: when its tokens left the scheduler.
    after_idle
        By iteration: launched after the engine had nothing to do.
    cached
        By request: prompt tokens found in the prefix cache.
    client_s
        What a client sees on top of a latency: from its request to the scheduler, and from the
        scheduler to its answer [s].
    loops
        What was decided, to walk the run again at other prices; None of engines that cannot.
    """

    arrival_s: Floats
    first_token_s: Floats
    finish_s: Floats
    cycles: Ints
    committed: Ints
    kind: Ints
    batch: Ints
    kv_tokens: Ints
    prefix: Floats
    gpu_s: Floats
    gpu_start_s: Floats
    gpu_end_s: Floats
    emit_s: Floats
    after_idle: npt.NDArray[np.bool_]
    cached: Ints
    retractions: int
    engine: str
    client_s: float
    loops: Loops | None = field(default=None, kw_only=True, compare=False, repr=False)


def without_times(run: Run) -> Run:
    """Return what a run is walked again by: its decisions, and no time of an iteration."""
    none = np.zeros(0)
    return replace(run, gpu_s=none, gpu_start_s=none, gpu_end_s=none, emit_s=none)


@dataclass(frozen=True)
class AdaptiveRun(Run):
    """A run whose verify widths a policy chose.

    Parameters
    ----------
    rows, drafted
        By iteration: tokens verified, and the width drafted before; 0 in a prefill.
    commits
        By request and cycle: tokens committed, up to the end of its ``cycles``.
    """

    rows: Ints
    drafted: Ints
    commits: Ints


class RunLog:
    """A :class:`Run` being written by the event engine."""

    def __init__(self, workload: Workload) -> None:
        n = len(workload)
        nan = float("nan")
        self.arrival_s = [nan] * n
        if workload.arrival_s is not None:
            self.arrival_s = workload.arrival_s.tolist()
        self.first_token_s = [nan] * n
        self.finish_s = [nan] * n
        self.cached = [0] * n
        self.cycles = [0] * n
        self.committed = [0] * n
        self.iterations: list[tuple[int, int, int, float, float, bool]] = []
        self.kv_tokens: list[int] = []
        self.gpu_start_s: list[float] = []
        self.gpu_end_s: list[float] = []
        self.emit_s: list[float] = []
        self._after_idle = True

    @property
    def launched(self) -> int:
        """Iterations launched so far."""
        return len(self.kv_tokens)

    def idle(self) -> None:
        """The next launch follows a pause."""
        self._after_idle = True

    def launch(self, kind: int, batch: int, kv: int, prefix: float, gpu_s: float) -> int:
        """Note a launched iteration; returns its index."""
        self.iterations.append((kind, batch, kv, prefix, gpu_s, self._after_idle))
        self._after_idle = False
        self.kv_tokens.append(kv)
        self.gpu_start_s.append(0.0)
        self.gpu_end_s.append(0.0)
        self.emit_s.append(float("nan"))
        return len(self.kv_tokens) - 1

    def gpu(self, index: int, start_s: float, end_s: float) -> None:
        """Note when an iteration ran on the GPU."""
        self.gpu_start_s[index] = start_s
        self.gpu_end_s[index] = end_s

    def emit(self, index: int, now_s: float) -> None:
        """Note when an iteration's tokens left the scheduler."""
        self.emit_s[index] = now_s

    def first_token(self, rid: int, now_s: float, *, cached: int) -> None:
        """Note a request's first token, and how much of its prompt was found."""
        self.first_token_s[rid] = now_s
        self.cached[rid] = cached

    def finish(self, rid: int, now_s: float, *, cycles: int, committed: int) -> None:
        """Note an answered request."""
        self.finish_s[rid] = now_s
        self.cycles[rid] = cycles
        self.committed[rid] = committed

    def run(self, retractions: int, engine: str, *, client_s: float) -> Run:
        """The finished record; an iteration still on the GPU when the run ended is dropped."""
        keep = np.isfinite(self.emit_s)
        columns = list(zip(*self.iterations, strict=True)) or [()] * 6
        kind, batch, kv, prefix, gpu_s, idle = (np.array(c)[keep] for c in columns)
        return Run(
            arrival_s=np.array(self.arrival_s),
            first_token_s=np.array(self.first_token_s),
            finish_s=np.array(self.finish_s),
            cycles=np.array(self.cycles),
            committed=np.array(self.committed),
            kind=kind,
            batch=batch,
            kv_tokens=kv,
            prefix=prefix,
            gpu_s=gpu_s,
            gpu_start_s=np.array(self.gpu_start_s)[keep],
            gpu_end_s=np.array(self.gpu_end_s)[keep],
            emit_s=np.array(self.emit_s)[keep],
            after_idle=idle,
            cached=np.array(self.cached, np.int64),
            retractions=retractions,
            engine=engine,
            client_s=client_s,
        )
