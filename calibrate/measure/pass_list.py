"""The passes to time, each beside its ops: what the simulator calls a phase, in its sizes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dflash_sim.calibrate.measure.clock import Clock
from dflash_sim.calibrate.measure.passes import Network, Runs, cut, timed
from dflash_sim.calibrate.measure.subject import Subject
from dflash_sim.profiles.times.machine_profile import MeasuredProfile
from dflash_sim.simulator.cost.cycle import Cycle
from dflash_sim.simulator.cost.decoder import layers
from dflash_sim.simulator.cost.layers import Rows
from dflash_sim.simulator.cost.methods import METHODS, PLAIN
from dflash_sim.simulator.cost.ops import AnyCall, Collective


@dataclass(frozen=True)
class PassItem:
    """Passes that are timed together: a cycle, a chain, a prefill, or one layer of each kind.

    ``rows`` is the verify width, or the new tokens of each request of a prefill.
    """

    what: str
    requests: int
    rows: int
    ctx: int

    @property
    def key(self) -> str:
        """One word."""
        return f"pass {self.what} {self.requests}x{self.rows}@{self.ctx}"


def pass_items(subject: Subject) -> Iterator[PassItem]:
    """Every pass of a subject."""
    for cycle in subject.cycles:
        for n in subject.sizes.requests:
            for ctx in subject.sizes.ctx:
                if cycle.method.sequential:
                    yield PassItem("chain", n, cycle.block, ctx)
                    if cycle.block not in subject.blocks:
                        yield PassItem("verify", n, cycle.block, ctx)
                else:
                    yield PassItem("cycle", n, cycle.block, ctx)
        if not cycle.method.speculative:
            for n, seq in subject.sizes.prefills:
                yield PassItem("prefill", n, seq, 0)
            widths = (1, *subject.blocks[-1:])
            ends = (subject.sizes.requests[0], subject.sizes.requests[-1])
            for n in dict.fromkeys(ends):
                for rows in widths:
                    yield PassItem("layer", n, rows, subject.sizes.ctx[0])


def timed_item(clock: Clock, network: Network, item: PassItem) -> dict[str, float]:
    """Seconds of each phase of an item."""
    return timed(clock, _runs(network, item))


def _runs(network: Network, item: PassItem) -> Runs:
    match item.what:
        case "chain":
            return network.chain(item.requests, item.rows, item.ctx)
        case "prefill":
            return network.prefill(item.requests, item.rows)
        case "layer":
            return network.single_layers(item.requests, item.rows, item.ctx)
    return network.cycle(item.requests, item.rows, item.ctx, drafting=item.what == "cycle")


def as_rows(
    profile: MeasuredProfile,
    subject: Subject,
    item: PassItem,
    seconds: Mapping[str, float],
    depth: int,
) -> Iterator[dict[str, Any]]:
    """The timed phases of an item as rows of a profile, by the names that the simulator uses."""
    for phase, calls in _calls(subject, item, depth).items():
        if phase not in seconds:
            continue
        ours = [c for c in calls if not isinstance(c.op, Collective) and profile.in_passes(c.op)]
        times = [(profile.timing(c.op), c) for c in ours]
        unmeasured = sum(c.count for t, c in times if t is None)
        local = [(t, c) for t, c in times if t is not None]
        yield {
            "phase": phase,
            "requests": item.requests,
            "rows": item.rows,
            "ctx": float(item.ctx),
            "seconds": seconds[phase],
            "ops_s": sum(t.seconds * c.count for t, c in local),
            "unmeasured": unmeasured,
        }


def _calls(subject: Subject, item: PassItem, depth: int) -> dict[str, Sequence[AnyCall]]:
    """The ops of each phase of an item, of a target of ``depth`` layers."""
    model = cut(subject.model, depth)
    drafter = subject.drafter.shape if subject.drafter is not None else None
    plain = Cycle(PLAIN, model, subject.tp, 1, drafter=drafter)
    n, rows, ctx = item.requests, item.rows, item.ctx
    if item.what == "prefill":
        reads = replace(plain, method=METHODS["dflash"]) if drafter is not None else plain
        phases = reads.prefill(requests=n, seq=rows, prefix=0.0)
        return {"prefill": [call for phase in phases for call in phase.calls]}
    if item.what == "layer":
        return _layers(subject, model, Rows(n, rows, ctx))
    if item.what == "chain":
        found = replace(plain, method=METHODS["mtp"], block=rows).decode(requests=n, ctx=ctx)
        named = {phase.name: phase.calls for phase in found}
        return {"mtp-draft": named["draft"], "mtp-materialise": named["materialise"]}
    method = PLAIN if rows == 1 or drafter is None else METHODS["dflash"]
    found = replace(plain, method=method, block=rows).decode(requests=n, ctx=ctx)
    return {phase.name: phase.calls for phase in found}


def _layers(subject: Subject, model: Any, size: Rows) -> dict[str, Sequence[AnyCall]]:
    first: dict[Any, int] = {}
    for i, layer in enumerate(model.layers):
        first.setdefault(layer, i)
    return {
        f"layer:{i}": layers(layer, hidden=model.hidden, tp=subject.tp, size=size, count=1)
        for layer, i in first.items()
    }
