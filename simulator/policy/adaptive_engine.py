"""The event engine under a policy: every step asks it how wide to verify."""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from dflash_sim.simulator.engine.events import Batch, EventEngine
from dflash_sim.simulator.engine.records import AdaptiveRun, Run
from dflash_sim.simulator.engine.scheduler import PrefillBatch, Req
from dflash_sim.simulator.policy.interface import Plan, Policy, Prices


@dataclass
class AdaptiveEngine(EventEngine):
    """One run under a policy.

    Parameters
    ----------
    widths
        Prices of all widths; ``step`` is the widest of them.
    policy
        What chooses; ``draws`` are of the latent run, which the widths cut.
    """

    widths: Prices | None = None
    policy: Policy | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.widths is not None
        assert self.policy is not None
        assert self.draws.latent
        self._prices = self.widths
        self._chooser = self.policy.start(self.widths, self.draws)
        self._plan = Plan((), 1)
        self._planned: list[tuple[int, int]] = []  # by iteration: rows verified, width drafted
        self._committed: dict[int, list[int]] = {}

    def run(self) -> AdaptiveRun:
        """Run until the last measured request has been answered."""
        run = super().run()
        kept = np.isfinite(self.log.emit_s)
        planned = np.array(self._planned, np.int64).reshape(-1, 2)[kept]
        return AdaptiveRun(
            **{f.name: getattr(run, f.name) for f in fields(Run)},
            rows=planned[:, 0],
            drafted=planned[:, 1],
            commits=self._commits(run.cycles),
        )

    def _commits(self, cycles: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        commits = np.ones((len(cycles), int(cycles.max(initial=0))), np.int64)
        for rid, made in self._committed.items():
            commits[rid, : len(made)] = made
        return commits

    def _advance(self, reqs: tuple[Req, ...]) -> int:
        """Let the policy choose, and launch one cycle of every row."""
        total = sum(r.kv for r in reqs)
        self._plan = self._chooser.plan(reqs, total)
        latent = self.draws.commits
        for r, width in zip(reqs, self._plan.widths, strict=True):
            commit = min(int(latent[r.rid, r.launched]), width)
            r.commits[r.launched :] = [commit]  # what a retracted step drew is void
            r.kv += commit
            r.launched += 1
        self.decode_steps += 1
        return total

    def _batch(
        self, reqs: tuple[Req, ...], prefill: PrefillBatch | None, gpu_s: float, kv: int
    ) -> Batch:
        plan = self._plan
        decoding = prefill is None
        self._planned.append((sum(plan.widths), plan.drafted) if decoding else (0, 0))
        return super()._batch(reqs, prefill, gpu_s, kv)

    def _decode_s(self, batch: int, kv: int) -> float:
        rows = sum(self._plan.widths)
        return self._prices.decode_s(batch, kv, rows=rows, drafted=self._plan.drafted)

    def _tail_s(self, batch: int, kv: int) -> float:
        return self._prices.tail_s(batch, kv, rows=sum(self._plan.widths))

    def _draft_s(self, batch: int, kv: int) -> float:
        return self._prices.draft_s(batch, kv, drafted=self._plan.drafted)

    def _verified(self, batch: Batch) -> None:
        super()._verified(batch)
        self._chooser.processed(len(batch), self._accepted(batch))

    def _finish(self, r: Req, now: float) -> None:
        self._committed[r.rid] = r.commits[: r.seen]
        super()._finish(r, now)
