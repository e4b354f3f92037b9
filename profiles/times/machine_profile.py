"""A profile that ``dflash-sim calibrate measure`` wrote: one machine's times of ops and passes.

One JSON file. ``ops`` are times by shape, ``passes`` whole passes beside the sum of their ops,
which tells the time between the ops; ``machine`` says on what it ran, ``skipped`` what did not run
and why.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import sub
from pathlib import Path
from typing import Any

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import Dirs
from dflash_sim.profiles.load import load_device
from dflash_sim.profiles.sheets import Device, Node, PriceRange, Quantity
from dflash_sim.profiles.times.op_tables import Timing
from dflash_sim.profiles.times.profile_ranges import check_profile
from dflash_sim.profiles.ways_in import (
    UnreadableError,
    is_there,
    named_path,
    parse_json,
    read_bytes,
)

FORMAT, VERSION = "dflash-sim profile", 1
SUFFIX = ".profile"
FUSED_S = 1e-9  # what stands for the time of an op that is done inside another one
FAR = 4.0  # more work than this many times the nearest point's is not read off it
OUTSIDE = 2.0  # an extrapolated time is trusted this much less
# Ops of SGLang's passes that ours do not have: no part of what a pass takes beyond its ops.
NOT_IN_PASSES = {"logits_cast", "draft_softmax", "draft_rows"}

# Kind of op -> the fields that must agree, and those between which times are interpolated.
AXES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Gemm": (("n", "k"), ("m",)),
    "Moe": (("experts", "top_k", "hidden", "inter", "tp", "dtype"), ("tokens",)),
    "Attention": (("heads", "kv_heads", "head_dim", "window"), ("rows", "requests", "kv_len")),
    "PrefillAttention": (
        ("heads", "kv_heads", "head_dim", "window"),
        ("requests", "seq", "prefix"),
    ),
    "GdnRecurrent": (("v_heads", "k_heads", "head_k_dim", "head_v_dim"), ("rows", "requests")),
    "GdnConv": (("v_heads", "k_heads", "conv_dim", "conv_kernel"), ("tokens",)),
    "GdnPrefill": (
        ("v_heads", "k_heads", "head_k_dim", "head_v_dim", "conv_dim"),
        ("requests", "seq"),
    ),
    "MlaBmm": (("heads", "k", "n", "phase"), ("tokens",)),
    "MlaDecode": (("heads", "latent", "rope"), ("rows", "requests", "kv_len")),
    "MlaPrefill": (("heads", "qk_dim", "v_dim"), ("requests", "seq", "prefix")),
    "IndexerScores": (("heads", "head_dim"), ("rows", "requests", "ctx")),
    "SparseAttention": (("heads", "latent", "rope", "topk"), ("rows", "requests", "ctx")),
    "SparseModule": (("heads", "like", "prefill", "shared"), ("rows", "requests", "ctx")),
    "CompressedAttention": (
        ("heads", "head_dim", "window", "ratio", "topk"),
        ("rows", "requests", "ctx"),
    ),
    "Kda": (("heads", "head_dim", "conv_kernel", "prefill"), ("rows", "requests")),
    "StreamMix": (("step", "count", "hidden", "sites"), ("tokens",)),
    "Quantize": (("into",), ("nbytes",)),
    "Elementwise": (("name",), ("nbytes",)),
    "Collective": (("kind", "gpus"), ("nbytes",)),
}
Point = tuple[float, ...]
Key = tuple[str, ...]


class Grid:
    """Times at points of one to three axes, linear in between, axis by axis."""

    def __init__(self, times: Mapping[Point, float]) -> None:
        self.at: list[float] = sorted({point[0] for point in times})
        self.seconds: list[float] = []
        self.below: list[Grid] = []
        for x in self.at:
            rest = {point[1:]: s for point, s in times.items() if point[0] == x}
            if rest.keys() == {()}:
                self.seconds.append(rest[()])
            else:
                self.below.append(Grid(rest))

    def value(self, point: Point) -> float:
        """Interpolate between the measured points; beyond them, take the nearest."""
        x, rest = min(max(point[0], self.at[0]), self.at[-1]), point[1:]
        i = bisect_left(self.at, x)
        if x == self.at[i]:
            return self._value(i, rest)
        low, high = self._value(i - 1, rest), self._value(i, rest)
        x0, x1 = self.at[i - 1], self.at[i]
        return low + (high - low) * (x - x0) / (x1 - x0)

    def nearest(self, point: Point) -> Point:
        """The point itself between measured ones, else the nearest of them."""
        x = min(max(point[0], self.at[0]), self.at[-1])
        if not point[1:]:
            return (x,)
        i = bisect_left(self.at, x)
        grids = self.below[i : i + 1] if x == self.at[i] else self.below[i - 1 : i + 1]
        ends = [grid.nearest(point[1:]) for grid in grids]
        return (x, *min(ends, key=lambda end: sum(map(abs, map(sub, end, point[1:])))))

    def _value(self, i: int, rest: Point) -> float:
        return self.below[i].value(rest) if rest else self.seconds[i]


@dataclass(frozen=True)
class MeasuredOp:
    """One timed op.

    Parameters
    ----------
    kind, shape : the class of :mod:`dflash_sim.simulator.cost.ops` and its fields
    seconds, mean_s : median and mean of one call [s]
    spread : half the distance of the quartiles over the median [1]
    nbytes, flops : what it must move and compute [byte], [FLOP]
    """

    kind: str
    shape: Mapping[str, Any]
    seconds: float
    mean_s: float
    spread: float
    nbytes: float
    flops: float

    @property
    def key(self) -> Key:
        """Return what must agree for a time to be of this op."""
        return (self.kind, *(str(self.shape[name]) for name in AXES[self.kind][0]))

    @property
    def point(self) -> Point:
        """Return where on its axes it was measured."""
        return tuple(float(self.shape[name]) for name in AXES[self.kind][1])


@dataclass(frozen=True)
class MeasuredPass:
    """One timed pass of a network, or a layer of it.

    Parameters
    ----------
    phase : ``draft``, ``verify``, ``commit``, ``materialise``, ``prefill`` or ``layer:<kind>``
    requests, rows, ctx : its size; ``rows`` per request, ``ctx`` cached tokens of each
    seconds : of the pass [s]
    ops_s : sum of its ops' times from the same profile [s]
    unmeasured : launches of it that have no time of their own
    """

    phase: str
    requests: int
    rows: int
    ctx: float
    seconds: float
    ops_s: float
    unmeasured: int


def _work(op: Any, near: Mapping[str, float]) -> float:
    """Bytes or FLOPs of ``op``, whichever grew more, over those at the ``near`` sizes [1]."""
    sizes = {name: type(getattr(op, name))(value) for name, value in near.items()}
    if "kv_len" in sizes:
        sizes["ctx"] = max(0.0, sizes.pop("kv_len") - sizes["rows"])
    there = replace(op, **sizes)
    ratios = [(op.nbytes, there.nbytes), (op.flops, there.flops)]
    return float(max(here / then for here, then in ratios if then > 0))


@dataclass(frozen=True, eq=False)
class MeasuredProfile:
    """A parsed profile."""

    path: Path
    machine: Mapping[str, Any]
    device: Mapping[str, Any]
    scope: Mapping[str, Any]
    made: Mapping[str, Any]
    ops: tuple[MeasuredOp, ...]
    passes: tuple[MeasuredPass, ...]
    skipped: tuple[Mapping[str, Any], ...]
    digest: str
    _found: dict[Any, Timing | None] = field(default_factory=dict, repr=False)

    @cached_property
    def _grids(self) -> dict[Key, Grid]:
        points: dict[Key, dict[Point, float]] = {}
        for op in self.ops:
            points.setdefault(op.key, {})[op.point] = op.seconds
        return {key: Grid(times) for key, times in points.items()}

    @cached_property
    def rel_err(self) -> float:
        """Typical relative error of one time: the median spread of its repetitions."""
        spreads = sorted(op.spread for op in self.ops)
        return spreads[len(spreads) // 2] if spreads else 0.0

    def timing(self, op: Any) -> Timing | None:
        """Time of an op of ``cost.ops``; None where no such kernel was timed."""
        if op not in self._found:
            self._found[op] = self._look_up(op)
        return self._found[op]

    def fuses(self, op: Any) -> bool:
        """Return True if the machine's kernels do ``op`` inside another one."""
        found = self.timing(op)
        return found is not None and found.seconds <= FUSED_S

    def _look_up(self, op: Any) -> Timing | None:
        kind = type(op).__name__
        same, axes = AXES[kind]
        grid = self._grids.get((kind, *(str(getattr(op, name)) for name in same)))
        if grid is None:
            return None
        asked = tuple(float(getattr(op, name)) for name in axes)
        near = grid.nearest(asked)
        seconds = grid.value(near)
        if near == asked:
            return Timing(seconds, "measured", self.rel_err, self.path.name, (kind,))
        more = _work(op, dict(zip(axes, near, strict=True)))
        if more > FAR:
            return None
        # Nothing gets cheaper than the smallest that was timed: launches do not shrink.
        seconds *= max(1.0, more)
        return Timing(seconds, "fitted", OUTSIDE * self.rel_err, self.path.name, (kind,))

    def in_passes(self, op: Any) -> bool:
        """Return True if the passes that were timed have this op."""
        if op.name == "argmax" and self.scope["tp"] > 1:
            return False  # of gathered logits; ours takes each rank's own
        return op.name not in NOT_IN_PASSES

    def covers(self, *, model: str, tp: int) -> bool:
        """Return True if its passes are of this network on so many ranks."""
        return self.scope.get("model") == model and self.scope.get("tp") == tp

    def pass_factor(self, *phases: str, requests: int, rows: int, ctx: float) -> float:
        """Time of a pass over the sum of its ops: what lies between them, and warmer caches.

        Ratio of the first of ``phases`` that was measured; 1 where none was.
        """
        grid = next((self._factors[name] for name in phases if name in self._factors), None)
        return grid.value((rows, requests, ctx)) if grid is not None else 1.0

    @cached_property
    def _factors(self) -> dict[str, Grid]:
        points: dict[str, dict[Point, float]] = {}
        for p in self.passes:
            if p.ops_s > 0 and not p.phase.startswith("layer:"):
                points.setdefault(p.phase, {})[p.rows, p.requests, p.ctx] = p.seconds / p.ops_s
        return {phase: Grid(times) for phase, times in points.items()}

    def as_device(self, profiles_dirs: Dirs = ()) -> Device:
        """The GPU it was made on: its sheet where we have one, else what was measured."""
        base = self.device.get("sheet")
        if base:
            return replace(load_device(str(base), profiles_dirs), title=str(self.device["title"]))
        rate, copy = (float(self.device[name]) for name in ("matmul_flop_s", "copy_byte_s"))
        return Device(
            name=self.path.stem,
            title=str(self.device["title"]),
            vendor=str(self.device.get("vendor", "")),
            aliases=(),
            arch="",
            tables_from=None,
            bf16_flop_s=rate,
            fp8_flop_s=None,
            fp4_flop_s=None,
            mem_bytes=float(self.device["mem_bytes"]),
            mem_bw_byte_s=copy,
            mem_bw_eff=1.0,
            link_byte_s=copy,
            sm_count=int(self.device.get("sm_count") or 1),
            tdp_w=0.0,
            l2_bytes=self.device.get("l2_bytes"),
            price=PriceRange(None, None, None, ""),
            quantities={
                "bf16": self._quantity(rate, "FLOP/s"),
                "mem_bw": self._quantity(copy, "byte/s"),
                "link": Quantity(copy, "byte/s", "assumed: that of its memory", "assumed", 1.0),
            },
        )

    def _quantity(self, value: float, unit: str) -> Quantity:
        return Quantity(value, unit, f"measured in {self.path.name}", "measured", self.rel_err)

    def as_node(self, device: Device) -> Node:
        """A node of as many of them as the profile was made for."""
        return Node(
            name=f"{device.name}x{self.scope['tp']}",
            device=device.name,
            num_gpus=int(self.scope["tp"]),
            quantities={},
        )


def is_profile(name: str) -> bool:
    """Return True if a GPU is named by a profile's path rather than by its sheet."""
    return name.endswith(SUFFIX) or ("/" in name and is_there(name) and Path(name).is_file())


def load_measured(name: str | Path) -> MeasuredProfile:
    """Read and check a profile.

    Raises
    ------
    UsageError
        It is missing, is none, is of another version, or a value in it is not one.
    """
    path = named_path(name)
    try:
        raw = read_bytes(path)
    except UnreadableError as error:
        msg = (
            f"cannot read the profile {path}: {error}; "
            f'make one with "dflash-sim calibrate measure -o {path.name}".'
        )
        raise UsageError(msg) from error
    try:
        data = parse_json(raw.decode())
    except ValueError as error:  # also of bytes that are no text
        msg = f"{path} is no profile: {error}; profiles are made by dflash-sim calibrate measure."
        raise UsageError(msg) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        msg = f"{path} is no profile of dflash-sim calibrate measure."
        raise UsageError(msg)
    if data.get("version") != VERSION:
        msg = (
            f"{path} is a profile of version {data.get('version')!r}; this dflash-sim reads "
            f"version {VERSION}. Measure again, or install the dflash-sim that made it."
        )
        raise UsageError(msg)
    try:
        return parsed(path, data, hashlib.sha256(raw).hexdigest()[:12])
    except (KeyError, TypeError, ValueError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else error
        msg = f"{path}: a profile with a missing or wrong value: {why}. Measure again."
        raise UsageError(msg) from error


def parsed(path: Path, data: Mapping[str, Any], digest: str) -> MeasuredProfile:
    """The profile that a document describes; KeyError, TypeError or ValueError if it is none."""
    check_profile(data)
    ops = tuple(MeasuredOp(**row) for row in data["ops"])
    for op in ops:
        if not all(x >= 0 for x in op.point):
            msg = f"{op.kind} has sizes {op.point}; they must be 0 or more"
            raise ValueError(msg)
        _ = op.key
    return MeasuredProfile(
        path=path,
        machine=dict(data["machine"]),
        device=dict(data["device"]),
        scope=dict(data["scope"]),
        made=dict(data["made"]),
        ops=ops,
        passes=tuple(MeasuredPass(**row) for row in data["passes"]),
        skipped=tuple(data["skipped"]),
        digest=digest,
    )
