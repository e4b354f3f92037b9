"""Two profiles op by op: measured ones, or the tables of a GPU."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_device
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine
from dflash_sim.profiles.times.machine_profile import (
    FUSED_S,
    MeasuredProfile,
    is_profile,
    load_measured,
)
from dflash_sim.profiles.times.op_tables import Timing
from dflash_sim.profiles.units import US
from dflash_sim.simulator.cost import ops
from dflash_sim.simulator.cost.price import CostModel
from dflash_sim.simulator.setup import find_tables
from dflash_sim.studies.show.narrow_table import FittedTable
from dflash_sim.studies.show.styles import STRONG

_SHOWN = 10
Price = Callable[[ops.Op], Timing | None]


@dataclass(frozen=True)
class Pair:
    """One op in both; seconds of one call [s]."""

    kind: str
    shape: str
    a_s: float
    b_s: float
    evidence: str

    @property
    def ratio(self) -> float:
        """Time in A over time in B."""
        return self.a_s / self.b_s


@dataclass(frozen=True)
class Compared:
    """Every op that both have."""

    a: str
    b: str
    pairs: tuple[Pair, ...]
    only_one: int

    def rows(self) -> list[dict[str, Any]]:
        """Flat rows, one per op."""
        return [
            {
                "op": p.kind,
                "shape": p.shape,
                "a_us": p.a_s / US,
                "b_us": p.b_s / US,
                "ratio": p.ratio,
                "evidence": p.evidence,
            }
            for p in self.pairs
        ]


def compared(a: str, b: str) -> Compared:
    """Both at the shapes that were measured.

    Raises
    ------
    UsageError
        Neither is a measured profile, or they have no op in common.
    """
    measured = next((load_measured(name) for name in (a, b) if is_profile(name)), None)
    if measured is None:
        msg = (
            f"{a} and {b} are both GPUs with tables; give at least one profile that "
            '"dflash-sim calibrate measure" made.'
        )
        raise UsageError(msg)
    in_a, in_b = _price(a), _price(b)
    pairs, missing = [], 0
    for op in _ops(measured):
        first, second = in_a(op), in_b(op)
        if first is None or second is None:
            missing += 1
            continue
        worse = "measured" if {first.evidence, second.evidence} == {"measured"} else "fitted"
        pairs.append(Pair(type(op).__name__, _shape(op), first.seconds, second.seconds, worse))
    if not pairs:
        msg = f"{a} and {b} have no op in common: they are of different models, or ranks."
        raise UsageError(msg)
    return Compared(a, b, tuple(pairs), missing)


def _ops(profile: MeasuredProfile) -> Iterable[ops.Op]:
    """The measured ops as the simulator names them; what was fused into another is left out."""
    for row in profile.ops:
        fields = dict(row.shape)
        if row.kind == "Elementwise" or row.seconds <= FUSED_S:
            continue  # SGLang's tables have no such kernels
        fields.setdefault("name", row.kind)
        if "kv_len" in fields:
            fields["ctx"] = max(0.0, fields.pop("kv_len") - fields["rows"])
        yield getattr(ops, row.kind)(**fields)


def _price(name: str) -> Price:
    if is_profile(name):
        return load_measured(name).timing
    device = load_device(name)
    tables = find_tables(device)
    if tables is None:
        msg = f"there are no operator times for {name}; see: dflash-sim list gpus."
        raise UsageError(msg)
    engine = load_engine(HOME)
    backend = engine.attention.default(device.name)
    return CostModel(device, engine, tables, backend=backend).table_time


def _shape(op: ops.Op) -> str:
    from dflash_sim.profiles.times.machine_profile import AXES

    same, axes = AXES[type(op).__name__]
    return " ".join(
        f"{name}={getattr(op, name):g}"
        if isinstance(getattr(op, name), float)
        else f"{name}={getattr(op, name)}"
        for name in (*same, *axes)
    )


def ratio_page(found: Compared) -> RenderableType:
    """Ratios by kind of op, then the ops furthest from one."""
    table = FittedTable(("op", "shapes", "median", "least", "most"), words=frozenset({"op"}))
    for kind in dict.fromkeys(p.kind for p in found.pairs):
        ratios = [p.ratio for p in found.pairs if p.kind == kind]
        table.add(
            kind,
            str(len(ratios)),
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f}",
            f"{max(ratios):.2f}",
        )
    far = FittedTable(
        ("op", "shape", "A us", "B us", "A/B"), words=frozenset({"op", "shape"}), folded="shape"
    )
    for p in sorted(found.pairs, key=lambda p: -p.ratio)[:_SHOWN]:
        far.add(p.kind, p.shape, f"{p.a_s / US:,.1f}", f"{p.b_s / US:,.1f}", f"{p.ratio:.2f}")
    return Group(
        Text(f"A: {found.a}   B: {found.b}   time in A over time in B", style=STRONG),
        Text(),
        table,
        Text(),
        Text("slowest in A beside B", style=STRONG),
        far,
        Text(f"{found.only_one} measured shapes have no time in the other", style="dim"),
    )
