"""Op -> Cost: the measured table first, then its fitted curve, then the roofline.

An op in another format than bf16 has a table of that format, or the time of its twin in a format
that stands in for it (bf16 is the last), by the ratio of their rooflines.

:mod:`dflash_sim.simulator.cost.origin` says in words what a price is made of: whoever changes a
price here changes its words there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from dflash_sim.profiles.formats import PLAIN, format_of
from dflash_sim.profiles.precision import BF16, bytes_of
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.sheets import Device
from dflash_sim.profiles.times.machine_profile import MeasuredProfile
from dflash_sim.profiles.times.op_tables import OpTables, Timing
from dflash_sim.profiles.units import GDN_HEAD_DIM
from dflash_sim.simulator.cost.expert_ranks import Busiest, busiest_rank
from dflash_sim.simulator.cost.latent_ops import (
    CompressedAttention,
    IndexerScores,
    LatentOp,
    MlaBmm,
    MlaDecode,
    MlaPrefill,
    SparseAttention,
    SparseModule,
)
from dflash_sim.simulator.cost.latent_price import latent_timing
from dflash_sim.simulator.cost.op_formats import formats_of, precision_of, table_name, twins
from dflash_sim.simulator.cost.ops import (
    Attention,
    Call,
    Collective,
    Elementwise,
    GdnConv,
    GdnPrefill,
    GdnRecurrent,
    Gemm,
    Moe,
    Op,
    PrefillAttention,
    Quantize,
    experts_touched,
)
from dflash_sim.simulator.cost.parts import Cost, Priced
from dflash_sim.simulator.cost.untabled_kernels import elementwise, rows_factor, unpack_s, wide_s

BALANCED = "balanced"
_CACHED = Attention | PrefillAttention | MlaDecode | SparseAttention | CompressedAttention


@dataclass
class CostModel:
    """Prices ops on one device with one engine version.

    Parameters
    ----------
    device, engine, tables
        The sheets; ``tables`` is None where nothing was measured, and everything is roofline.
    lender
        The GPU that ``tables`` were measured on, where that is another one: a time is multiplied
        by the ratio of its op's rooflines on the two, and counts as fitted.
    measured
        Times of this machine's own kernels, where they were taken: they come before the tables,
        and need no constant of the engine.
    """

    device: Device
    engine: EngineSheet
    tables: OpTables | None
    backend: str | None = None
    lender: Device | None = None
    measured: MeasuredProfile | None = None
    _known: Priced = field(default_factory=Priced, repr=False)

    @property
    def _gap(self) -> Cost:
        e = self.engine
        return self._known.get("gap", e, lambda: Cost.of(e["graph_node_gap"], "assumed", idle=True))

    def op(self, op: Op) -> Cost:
        """The cost of one launch, the gap to the next kernel included."""
        return self._known.get(op, self.engine, lambda: self._price(op))

    def calls(self, calls: Sequence[Call[Op]], between: float = 1.0) -> Cost:
        """The cost of a pass: launches in sequence; a hidden call counts by its exposed share.

        ``between`` is the time of a measured pass over the sum of its ops [1], which
        already includes what overlaps.
        """
        m = f = r = a = comm_s = idle_s = 0.0
        for call in calls:
            own = self.has_own(call.op)  # a measured pass includes its overlap: no exposed share
            share = between if own else self.engine[call.exposed] if call.exposed else 1.0
            cost, n = self.op(call.op), call.count * share
            by_m, by_f, by_r, by_a = cost.by_evidence
            m, f, r, a = m + n * by_m, f + n * by_f, r + n * by_r, a + n * by_a
            comm_s, idle_s = comm_s + n * cost.comm_s, idle_s + n * cost.idle_s
        return Cost((m, f, r, a), comm_s, idle_s)

    def table_time(self, op: Op) -> Timing | None:
        """Return what the tables say of ``op``, before any constant of the engine, or None."""
        if isinstance(op, Collective) and self.tables is not None:
            look = self.tables.all_reduce if op.kind == "all_reduce" else self.tables.all_gather
            return look(nbytes=op.nbytes, gpus=op.gpus)
        return self._lookup(op)

    def nbytes(self, op: Op) -> float:
        """Bytes that the price of ``op`` is made of; experts by what the texts touch."""
        return op.nbytes_of(self.touched(op)) if isinstance(op, Moe) else op.nbytes

    def has_own(self, op: Op) -> bool:
        """Return True if this machine's own kernel was timed, and is part of a timed pass."""
        own = self.measured
        if own is None or isinstance(op, Collective) or not own.in_passes(op):
            return False
        if isinstance(op, Moe) and op.ep > 1:
            return False  # one rank was timed, with a part of every expert
        if formats_of(op) != BF16:
            return False
        return own.timing(op) is not None

    def own_time(self, op: Op) -> Timing | None:
        """This machine's own time; of experts, at the tokens that touch as many by chance."""
        measured = self.measured if self.measured and formats_of(op) == BF16 else None
        if measured is None or not isinstance(op, Moe):
            return None if measured is None else measured.timing(op)
        if op.ep > 1:
            return None
        share = min(self.touched(op) / op.experts, 1 - 1 / op.experts)
        missed = np.log1p(-op.top_k / op.experts)  # log of the chance that a token misses an expert
        reached = float(np.log1p(-share) / missed)
        whole = float(np.log(1 / op.experts) / missed)  # tokens until all are used
        sizes = (reached, op.tokens, min(op.tokens, max(reached, whole)))
        times = [measured.timing(replace(op, tokens=tokens)) for tokens in sizes]  # type: ignore[arg-type]
        at, rows, hot = times
        if at is None or rows is None or hot is None:
            return None
        seconds = at.seconds + max(0.0, rows.seconds - hot.seconds)
        return at.changed(seconds, at.evidence if op.rows == 1 else "fitted")

    def _price(self, op: Op) -> Cost:
        own = self.own_time(op)
        if own is not None:
            return Cost.of(own.seconds, own.evidence, comm=isinstance(op, Collective))
        wide_s = self.wide_s(op)
        if wide_s is not None:
            return Cost.of(wide_s, "fitted") + self._gap
        if isinstance(op, Elementwise):
            return elementwise(op, self.engine, self.device) + self._gap
        if isinstance(op, Collective):
            return self._collective(op)
        if isinstance(op, Quantize):
            if self.quantises(op.product):
                return Cost()
            small = Elementwise(op.name, op.nbytes)
            return elementwise(small, self.engine, self.device) + self._gap
        timing = self._lookup(op)
        if timing is None and isinstance(op, SparseModule):
            return sum((self.op(part) for part in op.parts), Cost())  # type: ignore[arg-type]
        if timing is None:
            return Cost.of(self._roofline_s(op, self.device), "roofline") + self._gap
        if self.lender is not None:
            ratio = self._roofline_s(op, self.device) / self._roofline_s(op, self.lender)
            timing = timing.changed(ratio * timing.seconds, "fitted")
        factor = self.engine["table_factor"]
        if isinstance(op, GdnRecurrent) and op.rows > 1:
            factor *= self.engine["gdn_verify_factor"]
        return Cost.of(factor * timing.seconds, timing.evidence) + self._gap

    def quantises(self, op: Gemm) -> bool:
        """Return True if the time of a product has that of its activations' quantisation.

        The tables time both as one.
        """
        if self.tables is None:
            return False
        for form, twin in ((op.precision.weights, op), *twins(op)):
            if self._read(self.tables, twin) is not None:
                return bool(format_of(form).quantises)
        return False

    def wide_s(self, op: Op) -> float | None:
        """Seconds of an op with several rows per request that has a law of its own, or None."""
        wide = self.engine.wide
        return None if wide is None else wide_s(op, wide, self.device, self.backend)

    @property
    def _timed_on(self) -> Device:
        return self.lender or self.device

    def _roofline_s(self, op: Op, device: Device) -> float:
        move = self.nbytes(op) / (device.mem_bw_byte_s * self.engine["weight_stream_bw_eff"])
        compute = op.flops / self._products_flop_s(op, device)
        launch = self.engine["roofline_launch"]
        if isinstance(op, Moe):
            compute *= self.busiest(op).load
            launch += self.engine["router_kernel"]  # the tables time top-k choice with experts
        return launch + max(move, compute) + unpack_s(op, self.engine, device)

    def _products_flop_s(self, op: Op, device: Device) -> float:
        """Rate of products in the formats of ``op`` [FLOP/s]."""
        return device.peak(self.products(op)) * self.engine["matmul_flop_eff"]

    def products(self, op: Op) -> str:
        """The format that tensor cores multiply in for ``op``; attention's is the backend's choice.

        A GPU without such tensor cores takes keys and values apart first.
        """
        if isinstance(op, MlaBmm | MlaPrefill):
            return PLAIN
        if isinstance(op, IndexerScores):
            own = precision_of(op).matmul
            return own if own in self.device.products else PLAIN
        if not isinstance(op, _CACHED):
            return precision_of(op).matmul
        cached = format_of(op.precision.kv_cache)
        reads = cached.kv is not None and self.backend in cached.kv.multiplied_by
        return cached.products if reads and cached.products in self.device.products else PLAIN

    def _collective(self, op: Collective) -> Cost:
        timing = self.table_time(op)
        here_s = self._exchange_s(op, self.device)
        if timing is None:
            return Cost.of(here_s, "roofline", comm=True) + self._gap
        if self.lender is not None:
            ratio = here_s / self._exchange_s(op, self.lender)
            timing = timing.changed(ratio * timing.seconds, "fitted")
        seconds = self.engine["collective_factor"] * timing.seconds
        return Cost.of(seconds, timing.evidence, comm=True) + self._gap

    def _exchange_s(self, op: Collective, device: Device) -> float:
        # Ring or direct exchange: each rank sends (n-1)/n of the data, twice for an all-reduce.
        passes = 2 if op.kind == "all_reduce" else 1
        sent = passes * op.nbytes * (op.gpus - 1) / op.gpus
        wire = sent / (device.link_byte_s * self.engine["weight_stream_bw_eff"])
        return 2 * self.engine["roofline_launch"] + wire

    def _lookup(self, op: Op) -> Timing | None:
        """What the tables have: of ``op`` itself, or of a twin whose format stands in."""
        if self.tables is None or precision_of(op).activations != PLAIN:
            return None
        return self._known.get(("timed", op), self.engine, lambda: self._looked_up(op))

    def _looked_up(self, op: Op) -> Timing | None:
        assert self.tables is not None
        found = self._read(self.tables, op)
        if found is not None:
            return found
        for form, twin in twins(op):
            timing = self._read(self.tables, twin)
            if timing is not None:
                own_s, twin_s = (self._roofline_s(x, self._timed_on) for x in (op, twin))
                scaled = timing.changed(timing.seconds * own_s / twin_s, "fitted")
                return replace(scaled, row=(*timing.row, f"in {form}, scaled by rooflines"))
        return None

    def _read(self, t: OpTables, op: Op) -> Timing | None:
        """What the tables have of ``op`` in its own formats."""
        if isinstance(op, LatentOp):
            return latent_timing(t, op, self._products_flop_s(op, self._timed_on))
        match op:
            case Gemm(m=m, n=n, k=k):
                return t.gemm(m=m, n=n, k=k, dtype=table_name(op.precision.weights))
            case Moe():
                return self._moe(t, op)
            case Attention():
                return self._attention(t, op)
            case PrefillAttention():
                return self._prefill_attention(t, op)
            case GdnConv() | GdnPrefill() | GdnRecurrent() if not _timed_heads(op):
                return None
            case GdnConv():
                return t.gdn_conv(tokens=op.tokens, v_heads=op.v_heads, k_heads=op.k_heads)
            case GdnRecurrent():
                return self._recurrent(t, op)
            case GdnPrefill():
                return _both(
                    t.gdn_prefill(
                        batch=op.requests, seq=op.seq, v_heads=op.v_heads, k_heads=op.k_heads
                    ),
                    t.gdn_prefill_conv(
                        batch=op.requests, seq=op.seq, v_heads=op.v_heads, k_heads=op.k_heads
                    ),
                )
        return None

    def _recurrent(self, t: OpTables, op: GdnRecurrent) -> Timing | None:
        """The decode kernel at equal traffic: states of half the bytes are half as many requests.

        It was timed with states in float32.
        """
        narrower = bytes_of(op.precision.state) / bytes_of(BF16.state)
        batch = max(1.0, op.state_traffic * narrower)
        timing = t.gdn_decode(batch=batch, v_heads=op.v_heads, k_heads=op.k_heads)
        same = op.rows == 1 and op.precision.state == BF16.state
        return timing if timing is None or same else timing.changed(timing.seconds, "fitted")

    def _moe(self, t: OpTables, op: Moe) -> Timing | None:
        """The balanced table, read at the token count that touches as many experts.

        It spreads T tokens over min(E, kT) experts, more than routing by popularity touches; the
        work of further rows once all experts are in use comes on top.
        """
        tokens = op.tokens * self.busiest(op).load
        reached = self._moe_table(t, op, self.touched(op) / op.top_k)
        rows = self._moe_table(t, op, tokens)
        hot = self._moe_table(t, op, min(float(tokens), op.experts / op.top_k))
        if reached is None or rows is None or hot is None:
            return None
        seconds = reached.seconds + max(0.0, rows.seconds - hot.seconds)
        as_timed = op.tokens == 1 and op.ep == 1
        return reached.changed(seconds, reached.evidence if as_timed else "fitted")

    def touched(self, op: Moe) -> float:
        """Distinct experts of the tokens of ``op``, by popularity and by what a text repeats.

        Where ranks hold whole experts, as many as if each had what the busiest has.
        """
        unrelated = op.independent(self.engine["expert_overlap"])
        skew = self.engine["expert_skew"]
        touched = experts_touched(op.experts, op.top_k, tokens=unrelated, skew=skew)
        return touched * self.busiest(op).touched

    def busiest(self, op: Moe) -> Busiest:
        """What the rank with most to do has over the mean; even where all have every expert."""
        return busiest_rank(
            op.experts,
            op.top_k,
            tokens=op.independent(self.engine["expert_overlap"]),
            skew=self.engine["expert_skew"],
            ep=op.ep,
        )

    def _moe_table(self, t: OpTables, op: Moe, tokens: float) -> Timing | None:
        """A rank's share of evenly spread experts.

        Where whole ones were not timed, as much as where it has a part of each.
        """
        look = partial(
            t.moe,
            tokens=tokens,
            experts=op.experts,
            top_k=op.top_k,
            hidden=op.hidden,
            inter=op.gated_inter,
            distribution=BALANCED,
            dtype=table_name(op.dtype),
        )
        found = look(tp=op.tp, ep=op.ep)
        if found is not None or op.ep == 1:
            return found
        found = look(tp=op.ranks)
        if found is None:
            return None
        parts = replace(found, row=(*found.row, "as parts of every expert"))
        return parts.changed(parts.seconds, "fitted")

    def _attention(self, t: OpTables, op: Attention) -> Timing | None:
        """The decode kernel at equal KV; several query rows cost a factor, or their FLOPs."""
        timing = t.decode_attention(
            batch=op.requests,
            kv_len=op.kv_len,
            heads=op.heads,
            kv_heads=op.kv_heads,
            head_dim=op.head_dim,
            window=op.window,
            backend=self.backend,
            kv_dtype=table_name(op.precision.kv_cache),
        )
        if timing is None or op.rows == 1:
            return timing
        wide = max(timing.seconds * rows_factor(op, self.engine, self.backend), self.products_s(op))
        return timing.changed(wide, "fitted")

    def products_s(self, op: Op) -> float:
        """Seconds of the products of an op alone, on the GPU that tables were timed on [s]."""
        return op.flops / self._products_flop_s(op, self._timed_on)

    def _prefill_attention(self, t: OpTables, op: PrefillAttention) -> Timing | None:
        """The context kernel of the new tokens, scaled by FLOPs where a prefix is attended too."""
        timing = t.prefill_attention(
            batch=op.requests,
            seq=max(1, round(op.seq)),
            heads=op.heads,
            kv_heads=op.kv_heads,
            head_dim=op.head_dim,
            window=op.window,
            kv_dtype=table_name(op.precision.kv_cache),
        )
        if timing is None or not op.prefix:
            return timing
        extra = op.flops - replace(op, prefix=0.0).flops
        more = extra / self._products_flop_s(op, self._timed_on)
        return timing.changed(timing.seconds + more, "fitted")


def _timed_heads(op: GdnConv | GdnPrefill | GdnRecurrent) -> bool:
    """Return True if heads are as wide as those that tables were timed with: a GDN's."""
    if isinstance(op, GdnConv):
        return op.conv_dim == (op.v_heads + 2 * op.k_heads) * GDN_HEAD_DIM
    return op.head_k_dim == op.head_v_dim == GDN_HEAD_DIM


def _both(a: Timing | None, b: Timing | None) -> Timing | None:
    if a is None or b is None:
        return None
    evidence = a.evidence if a.evidence == b.evidence else "fitted"
    return replace(a.changed(a.seconds + b.seconds, evidence), rel_err=max(a.rel_err, b.rel_err))
