"""The number formats of an op: those that its time depends on, and ops that can stand in for it."""

from collections.abc import Iterator
from dataclasses import replace

from dflash_sim.profiles.formats import PLAIN, format_of
from dflash_sim.profiles.precision import BF16, Precision
from dflash_sim.simulator.cost.latent_ops import LatentOp
from dflash_sim.simulator.cost.ops import (
    Attention,
    Collective,
    Elementwise,
    GdnRecurrent,
    Gemm,
    Moe,
    Op,
    PrefillAttention,
    Quantize,
)


def precision_of(op: Op) -> Precision:
    """The number formats of an op; those without products have the bytes alone."""
    return BF16 if isinstance(op, Elementwise | Collective) else op.precision


def formats_of(op: Op) -> Precision:
    """The formats that bear on the time of an op, but for experts: profiles are kept by theirs."""
    p = precision_of(op)
    if isinstance(op, LatentOp):
        return Precision(activations=p.activations, kv_cache=p.kv_cache)
    match op:
        case Gemm() | Quantize():
            return Precision(weights=p.weights, activations=p.activations)
        case Attention() | PrefillAttention():
            return Precision(activations=p.activations, kv_cache=p.kv_cache)
        case GdnRecurrent():
            return Precision(activations=p.activations, state=p.state)
    return Precision(activations=p.activations)


def table_name(form: str) -> str:
    """The name of a format in the operator tables."""
    return format_of(form).table or form


def twins(op: Op) -> Iterator[tuple[str, Op]]:
    """The same op in formats that stand in for its own, the nearest first, and their names."""
    if isinstance(op, Gemm | Moe) and op.precision.weights != PLAIN:
        for form in (*format_of(op.precision.weights).like, PLAIN):
            yield form, replace(op, precision=replace(op.precision, weights=form))
    elif isinstance(op, Attention | PrefillAttention | LatentOp) and op.precision.kv_cache != PLAIN:
        kv = format_of(op.precision.kv_cache).kv
        for form in (*(kv.like if kv else ()), PLAIN):
            yield form, replace(op, precision=replace(op.precision, kv_cache=form))
