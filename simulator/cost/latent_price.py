"""What the tables say of latent attention, and of a whole layer of its sparse form."""

from dataclasses import replace

from dflash_sim.profiles.precision import BF16, bytes_of
from dflash_sim.profiles.times.op_tables import OpTables, Timing
from dflash_sim.profiles.units import GDN_HEAD_DIM, LATENT_HEADS
from dflash_sim.simulator.cost.latent_ops import (
    Kda,
    LatentOp,
    MlaBmm,
    MlaDecode,
    MlaPrefill,
    SparseModule,
    StreamMix,
)
from dflash_sim.simulator.cost.op_formats import table_name

TIMED_SITES = len(("mixer", "mlp"))
# Formats of projections whose module was timed under another one, of as many bytes.
_TIMED_AS = {"fp8": "fp8_block"}


def latent_timing(t: OpTables, op: LatentOp, products_flop_s: float) -> Timing | None:
    """Time of an op by the tables; None where nothing like it was timed.

    ``products_flop_s`` is the rate at which more of the same products are done [FLOP/s].
    """
    match op:
        case MlaBmm():
            dtype = op.precision.activations
            return t.mla_bmm(tokens=op.tokens, heads=op.heads, phase=op.phase, dtype=dtype)
        case MlaDecode():
            return _decode(t, op)
        case MlaPrefill():
            return _prefill(t, op, products_flop_s)
        case SparseModule():
            return _module(t, op)
        case Kda():
            return _kda(t, op)
        case StreamMix():
            return _streams(t, op)
    return None


def _kda(t: OpTables, op: Kda) -> Timing | None:
    """Time of Kimi delta attention, its convolution included; as of a GDN at equal states.

    It was timed with states in float32: states of half the bytes are half as many requests.
    """
    if op.head_dim != GDN_HEAD_DIM:
        return None
    narrower = 1.0 if op.prefill else bytes_of(op.precision.state) / bytes_of(BF16.state)
    batch = max(1.0, op.requests * narrower)
    timing = t.kda(phase=op.phase, batch=batch, rows=op.rows, heads=op.heads)
    return timing if timing is None or narrower == 1 else timing.changed(timing.seconds, "fitted")


def _streams(t: OpTables, op: StreamMix) -> Timing | None:
    """The kernels of both parts of a layer, which were timed together."""
    timing = t.streams(step=op.step, count=op.count, hidden=op.hidden, tokens=op.tokens)
    if timing is None or op.sites == TIMED_SITES:
        return timing
    return timing.changed(timing.seconds * op.sites / TIMED_SITES, "fitted")


def _decode(t: OpTables, op: MlaDecode) -> Timing | None:
    """The decode kernel: several rows of a request are more heads, as all read one cache."""
    rows = op.rows * op.heads
    heads = min(rows, LATENT_HEADS)
    timing = t.mla_decode(
        batch=op.requests, kv_len=op.kv_len, heads=heads, kv_dtype=table_name(op.precision.kv_cache)
    )
    if timing is None or op.rows == 1:
        return timing
    return timing.changed(timing.seconds * max(1.0, rows / LATENT_HEADS), "fitted")


def _prefill(t: OpTables, op: MlaPrefill, products_flop_s: float) -> Timing | None:
    """The context kernel of the new tokens; those of a prefix come on top by their FLOPs."""
    timing = t.mla_prefill(
        batch=op.requests,
        seq=max(1, round(op.seq)),
        heads=op.heads,
        kv_dtype=table_name(op.precision.kv_cache),
    )
    if timing is None or not op.prefix:
        return timing
    more = (op.flops - replace(op, prefix=0.0).flops) / products_flop_s
    return timing.changed(timing.seconds + more, "fitted")


def _module(t: OpTables, op: SparseModule) -> Timing | None:
    """The layer as it was timed; rows of a verification choose tokens of their own each."""
    if op.shared or not op.like:
        return None
    dtype = _TIMED_AS.get(op.precision.weights, op.precision.weights)
    if op.prefill:
        return t.module_prefill(
            table=op.table,
            batch=op.requests,
            seq=max(1, op.rows),
            prefix=round(op.ctx),
            heads=op.heads,
            model=op.like,
            kv_dtype=table_name(op.precision.kv_cache),
            dtype=dtype,
        )
    timing = t.module_decode(
        table=op.table,
        batch=op.tokens,
        kv_len=op.ctx + op.rows,
        heads=op.heads,
        model=op.like,
        kv_dtype=table_name(op.precision.kv_cache),
        dtype=dtype,
    )
    if timing is None or op.rows == 1:
        return timing
    return timing.changed(timing.seconds, "fitted")
