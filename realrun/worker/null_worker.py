"""A worker that computes nothing: what is left of a run's time is the scheduler's own."""

from ctypes import Array, c_long
from random import Random
from time import perf_counter

from dflash_sim.realrun.job.messages import Command, Commit, Decode, Draft, Prefill, Result, Verify
from dflash_sim.realrun.job.setup import Fitted
from dflash_sim.realrun.worker.executor import Executor


class NullWorker(Executor):
    """Answers at once, with random tokens and commit lengths."""

    def __init__(self, fitted: Fitted) -> None:
        self.rows, self.vocab = fitted.rows, fitted.target.shape.vocab
        self.random = Random(fitted.setup.seed)
        self._batch = 0

    def run(self, command: Command) -> Result:
        """Tokens of the right number."""
        now = perf_counter()
        tokens: list[list[int]] = []
        lens: list[int] = []
        draft: list[list[int]] = []
        match command:
            case Prefill(rows, _, _):
                tokens, lens = self._tokens(len(rows), 1), [1] * len(rows)
            case Decode(slots, _):
                tokens, lens = self._tokens(len(slots), self.rows), self._lens(len(slots))
            case Draft(slots, _):
                self._batch = len(slots)
                draft = self._tokens(self._batch, self.rows)
            case Verify():
                draft = tokens = self._tokens(self._batch, self.rows)
                lens = self._lens(self._batch)
            case Commit():
                pass
        return Result(tokens, lens, draft, [("null", now, perf_counter())], 0.0)

    def _tokens(self, requests: int, rows: int) -> list[list[int]]:
        token = self.random.randrange(self.vocab)
        return [[token] * rows for _ in range(requests)]

    def _lens(self, requests: int) -> list[int]:
        return [self.random.randint(1, self.rows) for _ in range(requests)]


def build_null(fitted: Fitted, rank: int, rendezvous: str, beats: "Array[c_long]") -> NullWorker:
    """A null worker of any rank."""
    return NullWorker(fitted)
