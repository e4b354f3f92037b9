"""A decode step taken apart: its phases, their ops, and how far each op is from the roofline."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from dflash_sim.profiles.sheets import Device
from dflash_sim.simulator.cost.cycle import PHASES
from dflash_sim.simulator.cost.ops import AnyCall, Call, Collective, Op, OverContext
from dflash_sim.simulator.cost.origin import origin
from dflash_sim.simulator.cost.parts import COMM, EVIDENCE, Cost, by_evidence, seconds_of
from dflash_sim.simulator.cost.price import CostModel
from dflash_sim.simulator.engine.records import DECODE, Run
from dflash_sim.simulator.setup import Setup

BETWEEN = "between kernels"  # what a phase takes beyond its kernels, and gaps among them
OUTSIDE = "outside graphs"


@dataclass(frozen=True)
class OpTime:
    """One kind of op in a phase of one step, on one GPU.

    Parameters
    ----------
    launches
        Kernels of this kind; 0 for what is no kernel.
    seconds
        In the step, all launches; an op that is hidden beside another counts by what shows.
    evidence
        What its time rests on.
    nbytes, flops
        Sum over all launches: memory traffic or bytes over the link.
    bound
        The ceiling it is nearest to: ``memory``, ``compute``, ``link``, or ``latency`` where even
        the ceiling would take less than a kernel's fixed time.
    memory_share, compute_share, link_share
        Shares of the peaks of the device sheet, while it runs [1].
    origin
        Where the price is from: a table and its row, constants, or the roofline, and the factors
        that are applied to it.
    """

    phase: str
    op: str
    launches: int
    seconds: float
    evidence: str
    nbytes: float = 0.0
    flops: float = 0.0
    bound: str = ""
    memory_share: float = 0.0
    compute_share: float = 0.0
    link_share: float = 0.0
    origin: str = ""


@dataclass(frozen=True)
class Phase:
    """One phase of the step: seconds, in all and by evidence."""

    name: str
    seconds: float
    by_evidence: tuple[float, ...]
    comm_s: float


@dataclass(frozen=True)
class Anatomy:
    """A typical step: ``requests`` of them at ``ctx`` cached tokens each."""

    requests: int
    ctx: float
    phases: tuple[Phase, ...]
    ops: tuple[OpTime, ...]

    @property
    def seconds(self) -> float:
        return sum(p.seconds for p in self.phases)


def typical_step(record: Run) -> tuple[int, float]:
    """The most frequent batch of a run's decode steps, and its mean context [token]."""
    decode = record.kind == DECODE
    sizes, counts = np.unique(record.batch[decode], return_counts=True)
    batch = int(sizes[counts.argmax()])
    same = decode & (record.batch == batch)
    return batch, float(record.kv_tokens[same].mean() / batch)


def anatomy(setup: Setup, *, requests: int, ctx: float) -> Anatomy:
    """A step of ``requests`` at ``ctx`` cached tokens each, as the engines price it."""
    table = setup.step.table(requests)
    parts = np.array([[np.interp(ctx, table.ctx, y) for y in phase] for phase in table.parts])
    phases, ops = [], []
    built = {p.name: p for p in setup.step.cycle.decode(requests=table.padded, ctx=0)}
    for name, spent in zip(PHASES, parts, strict=True):
        seconds = float(seconds_of(spent))
        if not seconds:
            continue
        by = tuple(float(x) for x in by_evidence(spent))
        phases.append(Phase(name, seconds, by, float(spent[COMM])))
        calls = built[name].calls if name in built else []
        found = list(_ops(setup, name, calls, ctx * requests / table.padded))
        rest = seconds - sum(op.seconds for op in found)
        known = "measured" if found and setup.measured else "assumed"
        left = BETWEEN if found and name != "other" else OUTSIDE
        ops += [*found, OpTime(name, left, 0, rest, known)]
    return Anatomy(requests, ctx, tuple(phases), tuple(ops))


def _ops(setup: Setup, phase: str, calls: list[AnyCall], ctx: float) -> Iterator[OpTime]:
    """Calls of a phase by op, in their order; gaps after kernels are left out."""
    groups: dict[str, list[AnyCall]] = {}
    for call in calls:
        op = call.op.at(ctx) if isinstance(call.op, OverContext) else call.op
        if setup.measured is not None and setup.measured.fuses(op):
            continue
        if not _working_s(setup.step.cost.op(op)):
            continue  # its time is in that of another one
        groups.setdefault(op.name, []).append(Call(op, call.count, call.exposed))
    for name, same in groups.items():
        yield _one(setup, phase, name, same)


def _one(setup: Setup, phase: str, name: str, calls: list[AnyCall]) -> OpTime:
    cost, device = setup.step.cost, setup.device
    whole = (*setup.step.factors(phase), "time_factor")
    slow = prod(setup.engine[name] for name in whole)
    shown = [cost.calls([call]) for call in calls]
    alone = [(call, cost.op(call.op)) for call in calls]
    busy = sum(call.count * slow * _working_s(one) for call, one in alone)
    memory, compute, link = (
        sum(
            call.count * at_peak[i]
            for call in calls
            for at_peak in [_at_peak_s(call.op, device, cost)]
        )
        for i in range(3)
    )
    ideal = max(memory, compute, link)
    launches = sum(call.count for call in calls)
    bound = ("memory", "compute", "link")[(memory, compute, link).index(ideal)]
    if ideal < launches * setup.engine["roofline_launch"]:
        bound = "latency"
    return OpTime(
        phase=phase,
        op=name,
        launches=launches,
        seconds=slow * sum(_working_s(c) for c in shown),
        evidence=_rests_on(shown),
        nbytes=sum(call.count * cost.nbytes(call.op) for call in calls),
        flops=sum(call.count * call.op.flops for call in calls),
        bound=bound,
        memory_share=memory / busy,
        compute_share=compute / busy,
        link_share=link / busy,
        origin="; ".join(dict.fromkeys(origin(cost, call, *whole) for call in calls)),
    )


def _working_s(cost: Cost) -> float:
    """Without the gap to the next kernel."""
    return cost.seconds - cost.idle_s


def _rests_on(costs: list[Cost]) -> str:
    by = [sum(c.by_evidence[i] for c in costs) for i in range(len(EVIDENCE))]
    by[EVIDENCE.index("assumed")] -= sum(c.idle_s for c in costs)
    return EVIDENCE[int(np.argmax(by))]


def _at_peak_s(op: Op, device: Device, cost: CostModel) -> tuple[float, float, float]:
    """Seconds at the peak memory, compute and link rates of the sheet."""
    nbytes = cost.nbytes(op)
    if isinstance(op, Collective):
        passes = 2 if op.kind == "all_reduce" else 1  # as a ring sends it
        sent = passes * nbytes * (op.gpus - 1) / op.gpus
        return 0.0, 0.0, sent / device.link_byte_s
    return nbytes / device.mem_bw_byte_s, op.flops / device.peak(cost.products(op)), 0.0
