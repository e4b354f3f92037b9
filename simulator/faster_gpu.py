"""Prices on a GPU that is like a real one, with peak rates multiplied."""

from dataclasses import dataclass, field, fields
from typing import Any

from dflash_sim.profiles.sheets import Device
from dflash_sim.simulator.cost.ops import Collective, Op
from dflash_sim.simulator.cost.parts import EVIDENCE, Cost, Priced
from dflash_sim.simulator.cost.price import CostModel

_TIMED = ("measured", "fitted")


@dataclass
class FasterCost(CostModel):
    """Prices on a device whose peak rates are multiplied.

    What a table holds was timed on the real one: its time beyond a kernel's launch is divided by
    the factor of the ceiling it is nearest to.
    """

    real: Device = field(kw_only=True)
    _faster: dict[Op, Cost] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, cost: CostModel, device: Device) -> "FasterCost":
        """The prices of ``cost`` on ``device``."""
        parts = {f.name: getattr(cost, f.name) for f in fields(CostModel) if f.init}
        fresh: dict[str, Any] = {"device": device, "_known": Priced()}
        return cls(**(parts | fresh), real=cost.device)

    def op(self, op: Op) -> Cost:
        """The cost of one launch, the gap to the next kernel included."""
        if op not in self._faster:
            cost = super().op(op)
            timed = sum(cost.by_evidence[EVIDENCE.index(name)] for name in _TIMED)
            self._faster[op] = self._divided(op, cost, timed) if timed else cost
        return self._faster[op]

    def _divided(self, op: Op, cost: Cost, timed_s: float) -> Cost:
        factor = self._factor(op)
        launch = min(timed_s, self.engine["roofline_launch"])
        k = (launch + (timed_s - launch) / factor) / timed_s
        measured, fitted, roofline, assumed = cost.by_evidence
        return Cost((k * measured, k * fitted, roofline, assumed), k * cost.comm_s, cost.idle_s)

    def _factor(self, op: Op) -> float:
        real, fast = self.real, self.device
        if isinstance(op, Collective):
            return fast.link_byte_s / real.link_byte_s
        matmul = self.products(op)
        if self.nbytes(op) / real.mem_bw_byte_s >= op.flops / real.peak(matmul):
            return fast.mem_bw_byte_s / real.mem_bw_byte_s
        return fast.peak(matmul) / real.peak(matmul)
