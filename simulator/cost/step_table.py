"""GPU time of whole steps, tabulated once per batch size so that a step costs a table look-up.

Attention is the only op whose time depends on the context, and nearly linearly; so each padded
batch size is priced on a grid of contexts and interpolated in between. Both engines read the
same table, the leap engine for thousands of steps at once.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.simulator.cost.cycle import PHASES, Cycle, Phase
from dflash_sim.simulator.cost.ops import AnyCall, AttentionCall, Call, split_attention
from dflash_sim.simulator.cost.parts import (
    ASSUMED,
    PARTS,
    ROOFLINE,
    Priced,
    add_idle,
    by_evidence,
    seconds_of,
)
from dflash_sim.simulator.cost.price import CostModel

_FIRST_CTX = 2**7
_KEPT = 2**3  # step models of this process whose prices others may share
# A phase's row, its cost without attention, and the measured part of that.
Pass: TypeAlias = tuple[int, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class BatchTable:
    """One padded batch size: seconds on a grid of mean contexts.

    ``parts[phase, component, node]`` adds up to ``total[node]`` over the four evidences;
    ``head`` is the part before the verified lengths are known, ``tail`` the rest.
    """

    padded: int
    ctx: np.ndarray
    parts: np.ndarray
    total: np.ndarray
    draft: np.ndarray
    tail: np.ndarray

    @classmethod
    def of(cls, padded: int, ctx: np.ndarray, parts: np.ndarray) -> "BatchTable":
        """The table of these parts."""
        by_phase = np.array([seconds_of(phase) for phase in parts])
        draft, tail = (by_phase[PHASES.index(name)] for name in ("draft", "materialise"))
        return cls(padded, ctx, parts, by_phase.sum(axis=0), draft, tail)

    def __post_init__(self) -> None:
        # The event engine looks up one step at a time: plain lists are faster than arrays there.
        object.__setattr__(self, "_nodes", self.ctx.tolist())
        object.__setattr__(self, "_seconds", self.total.tolist())

    def seconds(self, ctx: float) -> float:
        """GPU seconds of one step at mean context ``ctx`` [token]."""
        nodes: list[float] = self._nodes  # type: ignore[attr-defined]
        y: list[float] = self._seconds  # type: ignore[attr-defined]
        i = bisect_left(nodes, ctx)
        if i == 0:
            return y[0]
        if i == len(nodes):
            return y[-1]
        x0 = nodes[i - 1]
        return y[i - 1] + (y[i] - y[i - 1]) / (nodes[i] - x0) * (ctx - x0)

    def line(self, batch: int, low: int, high: int) -> tuple[float, float] | None:
        """Seconds of a step of ``batch`` requests without tokens, and of each token that they hold.

        None where ``low`` to ``high`` tokens do not lie between the same two nodes.
        """
        nodes: list[float] = self._nodes  # type: ignore[attr-defined]
        y: list[float] = self._seconds  # type: ignore[attr-defined]
        i = bisect_left(nodes, low / batch)
        if not 0 < i < len(nodes) or high > nodes[i] * batch:
            return None
        slope = (y[i] - y[i - 1]) / (nodes[i] - nodes[i - 1])
        return y[i - 1] - slope * nodes[i - 1], slope / batch

    def seconds_each(self, batch: int, kv_tokens: list[int]) -> list[float]:
        """:meth:`seconds` of steps of one batch, which hold ever more tokens."""
        line = self.line(batch, kv_tokens[0], kv_tokens[-1])
        if line is None:
            return [self.seconds(tokens / batch) for tokens in kv_tokens]
        fixed_s, each_s = line
        return [fixed_s + each_s * tokens for tokens in kv_tokens]


_PRICED: deque["StepModel"] = deque(maxlen=_KEPT)  # the latest first


def padded_size(sizes: tuple[int, ...], batch: int, max_bs: int) -> int:
    """The captured graph size that runs ``batch`` requests; ``batch`` itself beyond the largest."""
    i = bisect_left(sizes, batch)
    return sizes[i] if i < len(sizes) and sizes[i] <= max_bs else batch


@dataclass
class StepModel:
    """GPU seconds of decode cycles and prefills of one scenario.

    Parameters
    ----------
    graph_sizes, graph_max_bs
        Captured batch sizes; a batch is padded up to the next one.
    max_ctx
        Longest context that can occur [token]; the grid ends there.
    v1
        The V1 worker: eager argmax and unfused accept on top.
    prefill_sizes
        Tokens of the graphs that prefills replay between their mixers, and are padded to; nothing
        where every kernel is launched.
    """

    cycle: Cycle
    cost: CostModel
    graph_sizes: tuple[int, ...]
    graph_max_bs: int
    max_ctx: int
    v1: bool = False
    prefill_sizes: tuple[int, ...] = ()
    _tables: dict[int, BatchTable] = field(default_factory=dict, repr=False)
    _prefill_s: dict[tuple[int, int, float], float] = field(default_factory=dict, repr=False)
    _prefill_parts: dict[tuple[int, int, float], np.ndarray] = field(
        default_factory=dict, repr=False
    )
    _prefill_launch_s: dict[bool, float] = field(default_factory=dict, repr=False)
    _known: Priced = field(default_factory=Priced, repr=False)

    @property
    def engine(self) -> EngineSheet:
        return self.cost.engine

    def at(self, engine: EngineSheet) -> "StepModel":
        """Return the same steps with other constants; prices that rest on none stay."""
        changed = engine.changed(self.engine)
        known = self.cost._known.with_changed(changed)
        return replace(
            self,
            cost=replace(self.cost, engine=engine, _known=known),
            _tables={},
            _prefill_s={},
            _prefill_parts={},
            _prefill_launch_s={},
            _known=self._known.with_changed(changed),
        )

    def with_known_prices(self) -> "StepModel":
        """Return these steps with what others of this process, that price the same, have priced."""
        found = self
        for twin in _PRICED:
            if self._prices_as(twin):
                cost = replace(self.cost, _known=twin.cost._known)
                found = replace(self, cost=cost, _known=twin._known)
                _PRICED.remove(twin)
                break
        _PRICED.appendleft(found)
        return found

    def _prices_as(self, other: "StepModel") -> bool:
        """Return True if every price is the other's too: the same sheets, tables and constants."""
        mine, theirs = self.cost, other.cost
        if mine.tables is not theirs.tables or mine.measured is not theirs.measured:
            return False
        return all(
            getattr(one, name) == getattr(two, name)
            for one, two, names in (
                (self, other, ("cycle", "graph_sizes", "graph_max_bs", "v1", "prefill_sizes")),
                (mine, theirs, ("device", "lender", "backend")),
                (mine.engine, theirs.engine, ("si", "wide", "prefill")),
            )
            for name in names
        )

    def reach(self, ctx: int) -> None:
        """Extend the tables to contexts of ``ctx`` tokens, if they end before."""
        if ctx > self.max_ctx:
            self.max_ctx = ctx
            self._tables.clear()

    def forget(self, most: int) -> None:
        """Drop what is remembered of prefills when it is more than ``most`` of them."""
        if len(self._prefill_s) > most:
            here = (self._prefill_s, self._prefill_parts)
            for prices in (*here, self._known.known, self.cost._known.known):
                prices.clear()

    def table(self, batch: int) -> BatchTable:
        """The table of ``batch`` running requests (priced on first use)."""
        found = self._tables.get(batch)
        if found is None:
            key = ("table", batch, self.max_ctx)
            found = self._known.get(key, self.engine, lambda: self._build(batch))
            self._tables[batch] = found
        return found

    def _build(self, batch: int) -> BatchTable:
        padded = padded_size(self.graph_sizes, batch, self.graph_max_bs)
        nodes = [0, _FIRST_CTX]
        while nodes[-1] < self.max_ctx:
            nodes.append(2 * nodes[-1])
        key = ("kernels", batch, len(nodes))
        parts = self._known.get(key, self.engine, lambda: self._kernels(batch, padded, nodes))
        parts = parts.copy()
        for name in self.factors("verify"):
            parts[PHASES.index("verify")] *= self.engine[name]
        self._add_eager(parts, batch, padded)
        parts *= self.engine["time_factor"]
        return BatchTable.of(padded, np.array(nodes, float), parts)

    def _kernels(self, batch: int, padded: int, nodes: Sequence[int]) -> np.ndarray:
        """What runs inside the graphs, on a grid of mean contexts."""
        parts = np.zeros((len(PHASES), len(PARTS), len(nodes)))
        # Padded rows compute but point at an empty slot: they hold no context.
        means = [ctx * batch / padded for ctx in nodes]
        key = ("attention", batch, len(nodes))
        seen = self._known.get(key, self.engine, lambda: self._attention(padded, means))
        for (row, fixed, own), attention in zip(self._passes(padded)[0], seen, strict=True):
            parts[row] += fixed[:, None]
            for j, calls in enumerate(attention):
                between = self._between(
                    PHASES[row], requests=padded, rows=self.cycle.block, ctx=means[j]
                )
                parts[row, :, j] += self.cost.calls(calls, between).as_array()
                if between != 1.0:
                    parts[row, :, j] += (between - 1.0) * own
        return parts

    def untimed(self, batch: int) -> float:
        """Return the share of a cycle that is a roofline estimate, at the context where it is most.

        All of it is on a GPU without tables, gaps and small kernels too.
        """
        if self.cost.tables is None and self.cost.measured is None:
            return 1.0
        table = self.table(batch)
        return float((table.parts[:, ROOFLINE].sum(axis=0) / table.total).max())

    def untimed_ops(self, batch: int) -> list[str]:
        """Return the names of what is priced by roofline in a cycle, the longest first."""
        spent: dict[str, float] = {}
        for phase in self.cycle.decode(requests=batch, ctx=0.0):
            for call in phase.calls:
                seconds = call.count * self.cost.op(call.op).by_evidence[ROOFLINE]
                spent[call.op.name] = spent.get(call.op.name, 0.0) + seconds
        return sorted((name for name in spent if spent[name]), key=spent.__getitem__, reverse=True)

    def _attention(self, padded: int, means: list[float]) -> list[list[list[AttentionCall]]]:
        """By phase and mean context, the calls that depend on the context."""
        over = [split_attention(phase.calls)[0] for phase in self._phases(padded)]
        return [[[Call(c.op.at(mean), c.count) for c in calls] for mean in means] for calls in over]

    def factors(self, phase: str) -> tuple[str, ...]:
        """Return the constants that multiply a pass of this phase, besides the build's factor."""
        wide = phase == "verify" and self.cycle.block > 1
        return ("wide_verify_factor",) if wide else ()

    def _between(self, phase: str, *, requests: int, rows: int, ctx: float) -> float:
        """Time of a measured pass over the sum of its ops; 1 where none was measured."""
        own, c = self.cost.measured, self.cycle
        if own is None or not own.covers(model=c.model.name, tp=c.tp):
            return 1.0
        names = [f"{c.method.name}-{phase}"]
        # Steps of a chain have a factor of their own; no other method's draft stands in for them.
        if not c.method.sequential or phase in ("verify", "commit", "prefill"):
            names.append(phase)
        return own.pass_factor(*names, requests=requests, rows=rows, ctx=ctx)

    def _passes(self, padded: int) -> tuple[list[Pass], int]:
        """The passes of a cycle without attention, and the kernels that they launch."""
        return self._known.get(("passes", padded), self.engine, lambda: self._fixed(padded))

    def _fixed(self, padded: int) -> tuple[list[Pass], int]:
        rows, launches = [], 0
        for phase in self._phases(padded):
            rest = split_attention(phase.calls)[1]
            fixed = self.cost.calls(rest).as_array()
            own = self.cost.calls([c for c in rest if self.cost.has_own(c.op)]).as_array()
            add_idle(fixed, phase.graphs * self.engine["graph_launch_gap"])
            add_idle(fixed, phase.steps * self.engine["chain_step_gap"])
            launches += phase.launches
            rows.append((PHASES.index(phase.name), fixed, own))
        return rows, launches

    def _phases(self, padded: int) -> tuple[Phase, ...]:
        """The phases of a cycle, which rest on no constant."""
        key = ("phases", padded)
        decode = self.cycle.decode
        return self._known.get(key, self.engine, lambda: decode(requests=padded, ctx=0))

    def _eager_s(self, batch: int) -> tuple[float, float]:
        """``(work, idle)`` outside the graphs: sampling, accept, bookkeeping; the residue."""
        e = self.engine
        residue = e["cycle_residue"] + batch * e["cycle_residue_per_request"]
        if not self.cycle.method.speculative:
            return e["step_eager_plain"], residue
        work = e["step_eager_spec"] + batch * e["step_eager_spec_per_request"]
        if self.cycle.method.sequential:
            work += batch * e["chain_extend_per_request"]
        return work + (e["v1_eager_extra"] if self.v1 else 0.0), residue

    def _add_eager(self, parts: np.ndarray, batch: int, padded: int) -> None:
        """Add what runs outside the graphs; without one, no step is shorter than its launches."""
        other = parts[PHASES.index("other")]
        work, idle = self._eager_s(batch)
        other[ASSUMED] += work
        add_idle(other, idle)
        if padded not in self.graph_sizes or padded > self.graph_max_bs:
            floor = self._passes(padded)[1] * self.engine["eager_launch"]
            spent = sum(seconds_of(phase) for phase in parts)
            add_idle(other, np.maximum(0.0, floor - spent))

    def decode_s(self, batch: int, kv_tokens: float) -> float:
        """GPU seconds of one cycle of ``batch`` requests holding ``kv_tokens`` in all."""
        return self.table(batch).seconds(kv_tokens / batch)

    def decode_array(self, batch: int, kv_tokens: np.ndarray) -> np.ndarray:
        """:meth:`decode_s` for many steps of one batch."""
        t = self.table(batch)
        seconds: np.ndarray = np.interp(kv_tokens / batch, t.ctx, t.total)
        return seconds

    def tail_s(self, batch: int, kv_tokens: float) -> float:
        """GPU seconds after the accepted lengths are published: materialisation, draft-extend."""
        t = self.table(batch)
        return float(np.interp(kv_tokens / batch, t.ctx, t.tail))

    def tail_array(self, batch: int, kv_tokens: np.ndarray) -> np.ndarray:
        """:meth:`tail_s` for many steps of one batch."""
        t = self.table(batch)
        seconds: np.ndarray = np.interp(kv_tokens / batch, t.ctx, t.tail)
        return seconds

    def draft_s(self, batch: int, kv_tokens: float) -> float:
        """GPU seconds of the draft phase."""
        t = self.table(batch)
        return float(np.interp(kv_tokens / batch, t.ctx, t.draft))

    def prefill_parts(self, *, requests: int, tokens: int, prefix: float) -> np.ndarray:
        """Seconds of one prefill batch along :data:`PARTS`.

        Priced at the next power of two of requests, linear in tokens between powers of two.
        """
        key = (requests, tokens, prefix)
        found = self._prefill_parts.get(key)
        if found is None:
            captured = self._bucket(tokens)
            tokens, graphs = captured or tokens, captured is not None
            power = 1 << (max(1, requests) - 1).bit_length()
            seq = max(1.0, tokens / power)
            low = 1 << (int(seq).bit_length() - 1)
            found = self._price_prefill(power, low, prefix, graphs)
            if low < seq:
                high = self._price_prefill(power, 2 * low, prefix, graphs)
                found = found + (high - found) * (seq / low - 1)
            self._prefill_parts[key] = found
        return found

    def prefill_s(self, *, requests: int, tokens: int, prefix: float = 0.0) -> float:
        """GPU seconds of a prefill batch of ``tokens`` new tokens in all."""
        key = (requests, tokens, prefix)
        if key not in self._prefill_s:
            parts = self.prefill_parts(requests=requests, tokens=tokens, prefix=prefix)
            self._prefill_s[key] = sum(by_evidence(parts).tolist())
        return self._prefill_s[key]

    def prefill_launch_s(self, tokens: int) -> float:
        """Host seconds of launching a prefill of ``tokens`` new tokens, any number of requests."""
        e, graphs = self.engine, self._bucket(tokens) is not None
        if graphs not in self._prefill_launch_s:
            each_s = e["eager_launch"] * e["time_factor"] * e["host_factor"]
            self._prefill_launch_s[graphs] = each_s * self._count_launches(graphs=graphs)
        return self._prefill_launch_s[graphs]

    def _count_launches(self, *, graphs: bool) -> float:
        """Kernels that a prefill launches one by one, with pieces of graphs in that unit [1]."""
        sheet = self.engine.prefill
        target, filled = self.cycle.prefill(requests=1, seq=1, prefix=0.0)
        alone = [c for c in target.calls if not graphs or c.op.name in sheet.eager]
        alone += filled.calls  # the drafter's cache is filled behind the graphs
        pieces = [c.count for c in target.calls if graphs and c.op.name in sheet.mixers]
        launched = sum(c.count * sheet.launches.get(c.op.name, 1) for c in alone)
        return launched + sheet.piece * sum(pieces) + sheet.around

    def _bucket(self, tokens: int) -> int | None:
        """Tokens of the graphs that a prefill replays; None where every kernel is launched."""
        i = bisect_left(self.prefill_sizes, tokens)
        return self.prefill_sizes[i] if i < len(self.prefill_sizes) else None

    def _price_prefill(self, requests: int, seq: int, prefix: float, graphs: bool) -> np.ndarray:
        what = (requests, seq, prefix, graphs)

        def calls() -> list[AnyCall]:
            size = {"requests": requests, "seq": seq}
            phases = self.cycle.prefill(**size, prefix=prefix, captured=graphs)
            return [call for phase in phases for call in phase.calls]

        def price() -> np.ndarray:
            ready = self._known.get(("prefill calls", *what), self.engine, calls)
            between = self._between("prefill", requests=requests, rows=seq, ctx=prefix)
            cost = self.cost.calls(ready, between).as_array()
            cost[ASSUMED] += self.engine["step_eager_plain"]
            return cost * self.engine["prefill_factor"] * self.engine["time_factor"]

        return self._known.get(("prefill", *what), self.engine, price)
