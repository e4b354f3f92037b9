"""What a price is made of, in words: the row of a table, and every factor that is applied to it."""

import re
from collections.abc import Iterator

from dflash_sim.profiles.formats import PLAIN
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.profiles.times.op_tables import Timing
from dflash_sim.simulator.cost.latent_ops import SparseModule
from dflash_sim.simulator.cost.ops import (
    Attention,
    Call,
    Collective,
    Elementwise,
    GdnRecurrent,
    Gemm,
    Moe,
    Op,
    PrefillAttention,
    Quantize,
)
from dflash_sim.simulator.cost.price import CostModel
from dflash_sim.simulator.cost.untabled_kernels import (
    SEARCHES,
    attention_rows,
    busy_share,
    cached_s,
    op_rows,
    unpacked_values,
    wide_words,
)

CONSTANT = re.compile(r"(\w+) \d+\.\d\d \(\w+\)")  # as _said writes one


def origin(cost: CostModel, call: Call[Op], *whole: str) -> str:
    """Say where the price of a call is from: a row of a table, constants, or the roofline.

    ``whole`` are the names of factors of the pass and of the step that it is part of.

    Constants of the engine that multiply it follow with value and evidence, such as
    ``x verify_attention_factor 1.30 (assumed)``; those that are 1 change nothing and are left out.
    """
    own = cost.own_time(call.op)
    if own is not None:
        exposed = "" if cost.has_own(call.op) else call.exposed  # a timed pass has its overlap
        return _joined([own.origin, *_times(cost.engine, exposed, *whole)])
    source, *factors = _source(cost, call.op)
    return _joined([source, *_times(cost.engine, *factors, call.exposed, *whole)])


def _joined(parts: list[str]) -> str:
    return " ".join(parts)


def _times(engine: EngineSheet, *names: str) -> Iterator[str]:
    """The factors among constants, with what they rest on."""
    for name in filter(None, names):
        if engine.constants[name].si != 1:
            yield f"x {_said(engine, name)}"


def _said(engine: EngineSheet, name: str) -> str:
    constant = engine.constants[name]
    return f"{name} {constant.si:.2f} ({constant.evidence})"


def _source(cost: CostModel, op: Op) -> tuple[str, ...]:
    """Return where the time of an op is read, and the constants that multiply it."""
    engine = cost.engine
    if engine.wide is not None and cost.wide_s(op) is not None:
        return (wide_words(op, engine.wide, cost.backend),)
    if isinstance(op, Elementwise) and op.kind == "pool_cast":
        each = engine.constants["pool_cast"]
        return (f"the whole pool at pool_cast {each.value:.0f} {each.unit} ({each.evidence})",)
    if isinstance(op, Elementwise):
        if op.kind in SEARCHES:
            searched = engine.constants[SEARCHES[op.kind].rate]
            return (f"search at {searched.value:.1f} {searched.unit} an SM ({searched.evidence})",)
        if cached_s(op, engine.wide, cost.device)[0]:
            return (f"{op.kind} kernel, bytes from the L2 cache (fitted)",)
        rate = "weight_stream_bw_eff" if op.kind == "stream" else "elementwise_bw_eff"
        alone = busy_share(op, cost.device)
        on = f" on {op.blocks} of {cost.device.sm_count} SMs" if alone < 1 else ""
        return (f"{op.kind} kernel, bytes at {_said(engine, rate)}{on}",)
    if isinstance(op, Quantize):
        if cost.quantises(op.product):
            return ("in the time of its product",)
        return (f"small kernel, bytes at {_said(engine, 'elementwise_bw_eff')}",)
    timing = cost.table_time(op)
    if timing is None and isinstance(op, SparseModule):
        return (f"the sum of its parts: {', '.join(part.name for part in op.parts)}",)
    if timing is None:
        return (_roofline(cost, op),)
    where = _where(cost, op, timing)
    own = attention_rows(op, cost.engine.wide, cost.backend)
    if own is not None and own.factor is not None:
        where += f" x {own.factor.value:.2f} for {op_rows(op)} rows ({own.factor.evidence})"
    where += _unpacked(cost, op)
    if cost.lender is not None and cost.measured is None:
        where += f", scaled from {cost.lender.name}"
    return (where, *_factors(cost, op, timing))


def _roofline(cost: CostModel, op: Op) -> str:
    at = [_said(cost.engine, "weight_stream_bw_eff")]
    if isinstance(op, Collective):
        return f"roofline at {at[0]}"
    at.append(_said(cost.engine, "matmul_flop_eff"))
    return f"roofline{_in_formats(cost, op)} at {' and '.join(at)}{_unpacked(cost, op)}"


def _unpacked(cost: CostModel, op: Op) -> str:
    """Say what it takes to make bf16 of cached values where no instruction does."""
    if not unpacked_values(op, cost.device):
        return ""
    constant = cost.engine.constants["kv_unpack"]
    return f", with kv_unpack {constant.value:.2f} ({constant.evidence})"


def _in_formats(cost: CostModel, op: Op) -> str:
    """Say what is stored and multiplied in another format than bf16."""
    if isinstance(op, Gemm | Moe) and op.precision.weights != PLAIN:
        return f" of {op.precision.weights} weights, multiplied in {cost.products(op)}"
    if isinstance(op, Attention | PrefillAttention) and op.precision.kv_cache != PLAIN:
        return f" of {op.precision.kv_cache} KV, multiplied in {cost.products(op)}"
    return ""


def _where(cost: CostModel, op: Op, timing: Timing) -> str:
    """Return the row of the table; of experts, what their number rests on."""
    if isinstance(op, Moe):
        at = " and ".join(_said(cost.engine, name) for name in ("expert_skew", "expert_overlap"))
        most = f", {cost.busiest(op).touched:.2f} of the mean on the busiest rank (assumed)"
        where = f"{timing.origin} at {cost.touched(op):.1f} experts, by {at}"
        return where + (most if op.ep > 1 else "")
    return timing.origin


def _factors(cost: CostModel, op: Op, timing: Timing) -> Iterator[str]:
    """Constants that multiply what a table says, in the order in which they are applied."""
    if isinstance(op, Collective):
        yield "collective_factor"
        return
    wide = isinstance(op, Attention) and op.rows > 1 and timing.seconds > cost.products_s(op)
    if wide and attention_rows(op, cost.engine.wide, cost.backend) is None:
        yield "verify_attention_factor"
    yield "table_factor"
    if isinstance(op, GdnRecurrent) and op.rows > 1:
        yield "gdn_verify_factor"
