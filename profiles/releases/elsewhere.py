"""Where an engine's kernels and hosts differ from those that its constants were fitted on.

An engine sheet says under ``[elsewhere.<architecture>]`` which constants have another value there,
and what passes of several rows per request take: no operator table has kernels for those.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.sheets import EVIDENCE, UNITS, Quantity, check_quantity

KERNELS = ("decode", "serial")


@dataclass(frozen=True)
class Constant:
    """A constant as a sheet has it."""

    value: float
    unit: str
    evidence: str
    rel_err: float
    source: str
    doc: str = ""

    @property
    def quantity(self) -> Quantity:
        """The same as a quantity, which converts it."""
        return Quantity(self.value, self.unit, self.source, self.evidence, self.rel_err)


@dataclass(frozen=True)
class AttentionRows:
    """Attention of several rows per request, by one backend.

    Parameters
    ----------
    kernel
        ``decode``: the decode kernel takes all rows of a group of heads at once, and ``factor``
        as long [1]. ``serial``: one block of threads per head and request walks along the cached
        tokens, ``launch`` and then ``token`` each [s], in as many waves as the GPU needs.
    tile_rows
        Rows of a request that such a block takes.
    """

    kernel: str
    factor: Constant | None = None
    launch: Constant | None = None
    token: Constant | None = None
    tile_rows: int = 64


@dataclass(frozen=True)
class RowKernels:
    """Times of kernels with several rows per request; every field is a constant of the sheet.

    Parameters
    ----------
    gdn_verify_launch, gdn_verify_row, gdn_verify_share
        The gated delta rule: fixed time, time per row [s], share of memory bandwidth [1].
    gdn_conv_launch, gdn_conv_row, gdn_conv_share, gdn_conv_spread
        Its convolution, and how its traffic slows with each row [1].
    gated_norm
        Of the norm behind it, times the root of rows and the fourth root of traffic in MiB [s].
    l2_rate
        Of kernels that read what the product before them left in the cache [byte/s].
    """

    gdn_verify_launch: Constant
    gdn_verify_row: Constant
    gdn_verify_share: Constant
    gdn_conv_launch: Constant
    gdn_conv_row: Constant
    gdn_conv_share: Constant
    gdn_conv_spread: Constant
    gated_norm: Constant
    l2_rate: Constant

    def __getitem__(self, name: str) -> float:
        constant: Constant = getattr(self, name)
        return constant.quantity.si


@dataclass(frozen=True)
class Elsewhere:
    """What an architecture, or a kind of host, has of its own.

    Parameters
    ----------
    like
        Another entry whose kernels and attention it shares, or none.
    constants
        Engine constants with the value that they have there.
    kernels, attention
        Passes of several rows per request; attention by backend.
    """

    like: str = ""
    constants: Mapping[str, Constant] = field(default_factory=dict)
    kernels: RowKernels | None = None
    attention: Mapping[str, AttentionRows] = field(default_factory=dict)


@dataclass(frozen=True)
class WideKernels:
    """Kernels of passes with several rows per request on one architecture."""

    arch: str
    kernels: RowKernels
    attention: Mapping[str, AttentionRows]


def wide_kernels(entries: Mapping[str, Elsewhere], arch: str) -> WideKernels | None:
    """Return the kernels of an architecture; None where the engine's constants hold."""
    own = entries.get(arch)
    if own is None:
        return None
    lent = entries[own.like] if own.like else own
    kernels = own.kernels or lent.kernels
    if kernels is None:
        return None
    return WideKernels(arch, kernels, {**lent.attention, **own.attention})


def check_elsewhere(entries: Mapping[str, Elsewhere], known: Mapping[str, object], at: str) -> None:
    """Refuse entries that name what is not there, or numbers that no kernel takes.

    Raises
    ------
    UsageError
        Names the file, the key, the value and what is allowed.
    """
    for arch, entry in entries.items():
        where = f"{at}, [elsewhere.{arch}]"
        if entry.like and entry.like not in entries:
            raise unknown(kind=f"like of {where}", value=entry.like, allowed=entries)
        for name, constant in entry.constants.items():
            if name not in known:
                raise unknown(kind=f"constant of {where}", value=name, allowed=known)
            check_constant(constant, f"{where}, {name}")
        for item in fields(entry.kernels) if entry.kernels else ():
            check_constant(getattr(entry.kernels, item.name), f"{where}, {item.name}")
        for backend, rows in entry.attention.items():
            _check_attention(rows, f"{where}, attention.{backend}")


def _check_attention(rows: AttentionRows, where: str) -> None:
    if rows.kernel not in KERNELS:
        raise unknown(kind=f"kernel of {where}", value=rows.kernel, allowed=KERNELS)
    needed = ("factor",) if rows.kernel == "decode" else ("launch", "token")
    for name in needed:
        constant = getattr(rows, name)
        if constant is None:
            msg = f"{where} lacks '{name}'; a {rows.kernel} kernel has {' and '.join(needed)}."
            raise UsageError(msg)
        check_constant(constant, f"{where}, {name}")


def check_constant(constant: Constant, where: str, *, least: str = "above 0") -> None:
    """Refuse a constant whose unit, evidence, value or error is none.

    Raises
    ------
    UsageError
        Names the place, the value and what is allowed.
    """
    if constant.unit not in UNITS:
        raise unknown(kind=f"unit of {where}", value=constant.unit, allowed=UNITS)
    if constant.evidence not in EVIDENCE:
        raise unknown(kind=f"evidence of {where}", value=constant.evidence, allowed=EVIDENCE)
    check_quantity(constant.value, constant.unit, constant.rel_err, where, least=least)
