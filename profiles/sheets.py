"""Contents of a sheet: quantities with unit, source and evidence, and records built on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dflash_sim.profiles import units
from dflash_sim.profiles.errors import UsageError

Evidence = Literal["measured", "fitted", "roofline", "assumed", "datasheet", "published"]
EVIDENCE: tuple[Evidence, ...] = (
    "measured",
    "fitted",
    "roofline",
    "assumed",
    "datasheet",
    "published",
)
UNITS = {
    "1": 1.0,
    "token": 1.0,
    "request": 1.0,
    "turn": 1.0,
    "FLOP/s": 1.0,
    "TFLOP/s": units.TERA,
    "byte/s": 1.0,
    "GB/s": units.GIGA,
    "TB/s": units.TERA,
    "byte": 1.0,
    "MB": units.MEGA,
    "GB": units.GIGA,
    "MiB": units.MiB,
    "GiB": units.GiB,
    "s": 1.0,
    "ms": units.MS,
    "us": units.US,
    "W": 1.0,
    "USD/h": 1.0,
}


# The most that a quantity of a unit may be, in SI; beyond it, it is a slip of the pen.
_MOST_SI = {
    "1": 1e4,
    "token": 1e9,
    "request": 1e7,
    "turn": 1e4,
    "W": 1e6,
    "USD/h": 1e5,
    **dict.fromkeys(("FLOP/s", "TFLOP/s"), 1e18),
    **dict.fromkeys(("byte/s", "GB/s", "TB/s", "byte", "MB", "GB", "MiB", "GiB"), 1e15),
    **dict.fromkeys(("s", "ms", "us"), 1e4),
}
# The least of what multiplies or divides a time, and of what is counted, where nought is none.
_LEAST_SI = {
    "1": 1e-4,
    **dict.fromkeys(("token", "request", "turn", "byte", "MB", "GB", "MiB", "GiB"), 1.0),
    **dict.fromkeys(("FLOP/s", "TFLOP/s"), 1e9),
    **dict.fromkeys(("byte/s", "GB/s", "TB/s"), 1e6),
}
_MOST_REL_ERR = 10.0


def check_quantity(value: float, unit: str, rel_err: float, where: str, *, least: str = "") -> None:
    """Refuse a number that its unit gives no meaning.

    Parameters
    ----------
    where
        File and key, for the message.
    least
        ``above 0`` where nought has no meaning either.

    Raises
    ------
    UsageError
        Names the place, the value and what is allowed.
    """
    most = _MOST_SI[unit] / UNITS[unit]
    fewest = _LEAST_SI.get(unit, 0.0) / UNITS[unit]
    if least and 0 < value < fewest:
        msg = f"{where}: value {value:g} {unit}; it must be from {fewest:g} to {most:g}."
        raise UsageError(msg)
    if not 0 <= value <= most or (least and value == 0):
        allowed = f"{least or '0 or more'}, and at most {most:g}"
        msg = f"{where}: value {value:g} {unit}; it must be {allowed}."
        raise UsageError(msg)
    if not 0 <= rel_err <= _MOST_REL_ERR:
        msg = f"{where}: rel_err {rel_err:g}; it must be from 0 to {_MOST_REL_ERR:g}."
        raise UsageError(msg)


@dataclass(frozen=True)
class Quantity:
    """A number as its source gives it.

    Parameters
    ----------
    value, unit
        As written in the sheet; :attr:`si` converts.
    source
        Where it is from.
    evidence
        One of :data:`EVIDENCE`.
    rel_err
        Relative standard error, 0 when not stated.
    """

    value: float
    unit: str
    source: str
    evidence: str
    rel_err: float = 0.0

    @property
    def si(self) -> float:
        """The value in seconds, bytes, FLOP, tokens, watts or USD per hour."""
        if self.unit not in UNITS:
            msg = f"unknown unit '{self.unit}' ({self.source}); have: {', '.join(UNITS)}"
            raise UsageError(msg)
        return self.value * UNITS[self.unit]


@dataclass(frozen=True)
class PriceRange:
    """Rent of one GPU [USD/h]; None where no price was found."""

    low: float | None
    typical: float | None
    high: float | None
    source: str


@dataclass(frozen=True)
class Device:
    """One GPU.

    Parameters
    ----------
    bf16_flop_s, fp8_flop_s, fp4_flop_s, int8_flop_s
        Dense peak rates [FLOP/s]; None where the hardware has no such products. :meth:`peak`
        finds one by the name that :class:`~dflash_sim.profiles.formats.Format` has for it.
    mem_bytes
        Usable memory [byte].
    mem_bw_byte_s, mem_bw_eff
        Peak memory bandwidth [byte/s], and the fraction of it a kernel reaches [1].
    link_byte_s
        To its peers, one direction [byte/s].
    sm_count
        Streaming multiprocessors, or compute units.
    tdp_w
        Board power [W].
    l2_bytes
        Last-level cache [byte], None if not known.
    arch
        Architecture whose kernels it runs, such as ``hopper``; the vendor where nobody says.
    host
        The kind of its host where that is told from others, such as ``grace``; else nothing.
    tables_from
        The GPU whose operator times stand in where this one has none of its own.
    quantities
        Every number of the sheet with its source.
    """

    name: str
    title: str
    vendor: str
    aliases: tuple[str, ...]
    arch: str
    tables_from: str | None
    bf16_flop_s: float
    fp8_flop_s: float | None
    fp4_flop_s: float | None
    mem_bytes: float
    mem_bw_byte_s: float
    mem_bw_eff: float
    link_byte_s: float
    sm_count: int
    tdp_w: float
    l2_bytes: float | None
    price: PriceRange
    quantities: Mapping[str, Quantity]
    int8_flop_s: float | None = None
    host: str = ""

    @property
    def products(self) -> Mapping[str, float]:
        """Dense peak rates by the format that is multiplied in [FLOP/s]."""
        rates = {
            "bfloat16": self.bf16_flop_s,
            "float16": self.bf16_flop_s,
            "fp8": self.fp8_flop_s,
            "fp4": self.fp4_flop_s,
            "int8": self.int8_flop_s,
        }
        return {name: rate for name, rate in rates.items() if rate is not None}

    def peak(self, dtype: str) -> float:
        """Dense peak rate of products in a format [FLOP/s].

        Raises
        ------
        UsageError
            The hardware has no such products.
        """
        rates = self.products
        if dtype not in rates:
            msg = f"{self.name} multiplies no {dtype}; it has {', '.join(rates)}."
            raise UsageError(msg)
        return rates[dtype]


@dataclass(frozen=True)
class Node:
    """GPUs that one tensor-parallel group may span.

    Parameters
    ----------
    num_gpus
        GPUs in it; their links are in the sheet of the device.
    """

    name: str
    device: str
    num_gpus: int
    quantities: Mapping[str, Quantity]


@dataclass(frozen=True)
class LengthModel:
    """Token lengths, log-normal with these moments [token]."""

    mean: Quantity
    sd: Quantity


@dataclass(frozen=True)
class Dataset:
    """A benchmark workload: how many prompts, how long, and how the answers are.

    Parameters
    ----------
    num_prompts
        Distinct conversations.
    turns
        Generation turns of each conversation.
    isl
        Whole prompt of each turn, earlier turns without their reasoning included [token].
    osl
        Answer length by ``thinking``, before the cap [token].
    max_new_tokens
        Cap on an answer [token].
    min_turns
        Above concurrency 1 the whole workload is repeated until this many turns.
    radix_cache
        True if repeated prompts and earlier turns hit the prefix cache.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    num_prompts: int
    turns: int
    isl: tuple[LengthModel, ...]
    osl: Mapping[bool, LengthModel]
    max_new_tokens: int
    min_turns: int
    radix_cache: bool
    quantities: Mapping[str, Quantity]

    def copies(self, conc: int) -> int:
        """Whole copies of the workload that one run at concurrency ``conc`` serves."""
        if conc == 1:
            return 1
        return -(-self.min_turns // (self.num_prompts * self.turns))


@dataclass(frozen=True)
class AcceptancePoint:
    """A published mean accept length (tokens per verify step, the bonus token included).

    ``block`` is the verify width: k MTP or EAGLE steps are k + 1. ``estimator`` is
    ``request_mean`` (mean over requests or turns) or ``cycle`` (tokens over cycles).
    ``thinking`` and ``temperature`` are None where the source does not say.
    """

    model: str
    drafter: str
    method: str
    block: int
    dataset: str
    thinking: bool | None
    temperature: float | None
    accept_len: float
    estimator: str
    source_id: str
    url: str
    notes: str


@dataclass(frozen=True)
class SurvivalPoint:
    """Published probability that at least ``position`` drafts (1-based) are accepted in a step.

    ``kind`` is how the source gave it: ``survival``, ``histogram``, or ``conditional``
    (multiplied up here).
    """

    model: str
    drafter: str
    method: str
    block: int
    dataset: str
    thinking: bool | None
    position: int
    survival: float
    kind: str
    source_id: str
    url: str


@dataclass(frozen=True)
class PublishedPoint:
    """A published throughput [token/s, all requests and GPUs] with its conditions.

    ``fitted_what`` names the parameters fitted on this row; an accuracy table may not use it.
    """

    source_id: str
    url: str
    model: str
    drafter: str
    method: str
    block: int
    gpu: str
    num_gpus: int
    tp: int
    engine_mode: str
    linear_attn_decode_backend: str
    dataset: str
    conc: int
    max_new_tokens: int
    thinking: bool | None
    output_tok_s: float
    accept_len: float | None
    fitted_what: tuple[str, ...]
    notes: str
