"""Engine sheets: host stages, per-kernel costs and the defaults of one engine version."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from dflash_sim.profiles import units
from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.find import read_sheet
from dflash_sim.profiles.load import find_sheet, sheet_names
from dflash_sim.profiles.releases.elsewhere import (
    Constant,
    Elsewhere,
    WideKernels,
    check_constant,
    check_elsewhere,
    wide_kernels,
)
from dflash_sim.profiles.releases.engine_records import (
    AttentionBackends,
    Defaults,
    FitSheet,
    GraphSizes,
    MemoryClass,
    Modes,
    PrefillSheet,
)
from dflash_sim.profiles.releases.memory_rules import check_memory, check_words
from dflash_sim.profiles.releases.server_levels import FACTORS
from dflash_sim.profiles.sheets import UNITS, Quantity
from dflash_sim.profiles.typed_table import read_table

HOME = "sglang-0.5.14"  # the sheet whose constants were fitted; it has every constant
REFERENCE = f"{HOME}.toml"
_DIVISORS = ("_eff", "_factor")  # of constants that something is divided by
_ROUNDING = 1e-13  # of a value that went to its unbounded scale and back
_MAY_BE_ZERO = {"min_free_slots_delay", "retract_decode_steps"}


@dataclass(frozen=True)
class EngineSheet:
    """One engine version.

    ``engine["graph_node_gap"]`` is a constant in SI units; ``engine.constants`` holds value,
    unit, source and error as written in the sheet. ``read`` are the constants looked up so far:
    what an answer rests on. ``elsewhere`` says what other architectures and hosts have of their
    own; once :meth:`on` one, ``own`` names the constants that are its own, which no fit at home
    moves, and ``wide`` its kernels of several rows per request.
    """

    name: str
    title: str
    version: str
    modes: Modes
    constants: Mapping[str, Quantity]
    defaults: Defaults
    graph_sizes: Mapping[str, tuple[int, ...]]
    attention: AttentionBackends
    prefill: PrefillSheet
    fit: FitSheet
    elsewhere: Mapping[str, Elsewhere] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    wide: WideKernels | None = None
    read: set[str] = field(default_factory=set, compare=False, repr=False)

    @cached_property
    def si(self) -> dict[str, float]:
        """Constants in seconds, bytes or pure numbers."""
        return {name: q.si for name, q in self.constants.items()}

    def __getitem__(self, name: str) -> float:
        self.read.add(name)
        return self.si[name]

    def changed(self, other: "EngineSheet") -> frozenset[str]:
        """Names of the constants that differ from another sheet's by more than rounding."""
        theirs = other.si
        return frozenset(
            name
            for name, value in self.si.items()
            if name not in theirs or not math.isclose(value, theirs[name], rel_tol=_ROUNDING)
        )

    def with_constants(self, **si_values: float) -> "EngineSheet":
        """A copy with constants replaced, in SI units (what fits and tests need)."""
        return self._replaced(si_values, evidence=None)

    def fitted(self, si_values: Mapping[str, float]) -> "EngineSheet":
        """Return a copy with constants that a fit found, which are evidence of another kind."""
        return self._replaced(si_values, evidence="fitted")

    @property
    def is_on(self) -> bool:
        """True if it is that of an architecture or host with constants of its own."""
        return bool(self.own) or self.wide is not None

    def on(self, arch: str, *more: str) -> "EngineSheet":
        """Return the sheet of an architecture, a GPU and a kind of host: their constants count."""
        entries = [self.elsewhere[name] for name in (arch, *more) if name in self.elsewhere]
        own = {name: c.quantity for entry in entries for name, c in entry.constants.items()}
        wide = wide_kernels(self.elsewhere, arch)
        if not own and wide is None:
            return self
        return replace(
            self, constants={**self.constants, **own}, own=frozenset(own), wide=wide, read=set()
        )

    def is_home(self, build: str | None) -> bool:
        """Return True if the constants are of this build, named by its date or by its version."""
        return build in (None, self.fit.build, self.version)

    @property
    def own_build(self) -> str:
        """The build that it is of when none is named: home's by its date, others by version."""
        return self.fit.build if self.name == self.fit.home.get("release") else self.version

    def _replaced(self, si_values: Mapping[str, float], *, evidence: str | None) -> "EngineSheet":
        changed = dict(self.constants)
        for name, value in si_values.items():
            if name not in changed:
                raise unknown(kind="engine constant", value=name, allowed=changed)
            old = changed[name]
            value /= UNITS[old.unit]
            changed[name] = replace(old, value=value, evidence=evidence or old.evidence)
        return replace(self, constants=changed, read=set())

    def memory_class(self, mem_bytes: float) -> MemoryClass:
        """Defaults that SGLang picks by GPU memory (chunked prefill, graph sizes)."""
        rows = self.defaults.by_memory
        return next((r for r in rows if mem_bytes / units.GiB < r.below_gib), rows[-1])


def _sizes(rows: tuple[tuple[int, int, int], ...]) -> tuple[int, ...]:
    return tuple(b for start, stop, step in rows for b in range(start, stop + 1, step))


@dataclass(frozen=True)
class _Sheet:
    """An engine sheet as it is written."""

    name: str
    title: str
    version: str
    modes: Modes
    constants: Mapping[str, Constant]
    defaults: Defaults
    graph_sizes: GraphSizes
    attention: AttentionBackends
    prefill: PrefillSheet
    fit: FitSheet
    elsewhere: Mapping[str, Elsewhere] = field(default_factory=dict)
    docker: str = ""
    extends: str = ""
    aliases: tuple[str, ...] = ()


def load_engine(name: str) -> EngineSheet:
    """The engine sheet called ``name``, such as ``sglang-0.5.14``, or a version or date near it."""
    path = find_sheet("engines", name, ".toml")
    if path is None:
        raise unknown(kind="engine", value=name, allowed=sheet_names("engines", ".toml"))
    sheet = read_table(_Sheet, written(path), str(path), least=0.0)
    _check_constants(sheet, path)
    _check_rest(sheet, path)
    return EngineSheet(
        name=sheet.name,
        title=sheet.title,
        version=sheet.version,
        modes=sheet.modes,
        constants={name: c.quantity for name, c in sheet.constants.items()},
        defaults=sheet.defaults,
        graph_sizes={
            "spec": _sizes(sheet.graph_sizes.spec),
            "plain": _sizes(sheet.graph_sizes.plain),
            "prefill": _sizes(sheet.graph_sizes.prefill),
        },
        attention=sheet.attention,
        prefill=sheet.prefill,
        fit=sheet.fit,
        elsewhere=sheet.elsewhere,
    )


def written(path: Path, below: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a sheet over the one that it extends: a few lines say what a release changed.

    Raises
    ------
    UsageError
        It extends a sheet that is not there, or itself.
    """
    own = read_sheet(path)
    base = own.get("extends")
    if not base:
        return own
    if base in below or base == path.stem:
        msg = f"{path} extends {base}, which extends it again; name another sheet."
        raise UsageError(msg)
    found = find_sheet("engines", str(base), ".toml")
    if found is None:
        sheets = sheet_names("engines", ".toml")
        raise unknown(kind=f"sheet that {path} extends", value=str(base), allowed=sheets)
    return _over(written(found, (*below, path.stem)), own)


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key; everything else replaces what was there."""
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _over(base[key], value) if both else value
    return merged


def _check_constants(sheet: _Sheet, path: Path) -> None:
    """Compare with the shipped sheet: it has every constant that the model reads."""
    shipped = Path(str(files("dflash_sim.profiles"))) / "engines"
    if path.parent != shipped:
        known = written(shipped / REFERENCE)["constants"]
        for name in sheet.constants:
            if name not in known:
                raise unknown(kind=f"constant of {path}", value=name, allowed=known)
        if lacking := [name for name in known if name not in sheet.constants]:
            msg = f"{path} lacks [constants.{lacking[0]}]; copy it from {REFERENCE}."
            raise UsageError(msg)
    check_elsewhere(sheet.elsewhere, sheet.constants, str(path))
    named = (*sheet.fit.free, *sheet.fit.shares, *sheet.fit.uncertain)
    for name in named:
        if name not in sheet.constants:
            raise unknown(kind=f"constant of {path}, [fit]", value=name, allowed=sheet.constants)
    for name, constant in sheet.constants.items():
        where = f"{path}, [constants.{name}]"
        least = "above 0" if name.endswith(_DIVISORS) else ""
        check_constant(constant, where, least=least)


def _check_rest(sheet: _Sheet, path: Path) -> None:
    """Refuse defaults that nothing can run with, and backends that the sheet does not have."""
    defaults, attention = sheet.defaults, sheet.attention
    for entry in fields(defaults):
        value = getattr(defaults, entry.name)
        least = 0 if entry.name in _MAY_BE_ZERO else sys.float_info.min
        if isinstance(value, int | float) and value < least:
            msg = f"{path}, defaults, {entry.name} is {value:g}; it must be above 0."
            raise UsageError(msg)
    sizes = [
        (row.chunked_prefill_size, row.cuda_graph_max_bs, row.cuda_graph_max_bs_tp4)
        for row in defaults.by_memory
    ]
    if not sizes or min(map(min, sizes)) < 1:
        msg = f"{path}, defaults.by_memory: give classes of GPU memory, each size 1 or more."
        raise UsageError(msg)
    if min(defaults.page_size_by_backend.values(), default=1) < 1:
        msg = f"{path}, defaults.page_size_by_backend: a page holds 1 token or more."
        raise UsageError(msg)
    check_words((defaults.memory, defaults.state_pool, defaults.chains), str(path))
    check_memory(
        defaults.memory, defaults.state_pool, defaults.outside_static, defaults.vision, str(path)
    )
    for kind in ("spec", "plain", "prefill"):
        rows = getattr(sheet.graph_sizes, kind)
        if not rows or any(start < 1 or stop < start or step < 1 for start, stop, step in rows):
            msg = (
                f"{path}, graph_sizes.{kind}: give [start, stop, step] rows of 1 or more, such as "
                "[1, 8, 1]."
            )
            raise UsageError(msg)
    for name, factor in FACTORS.items():
        sds = sheet.fit.priors.levels.get(name, {})
        if lacking := [level for level in factor.levels if not sds.get(level, 0.0) > 0]:
            msg = f"{path}, fit.priors.levels.{name} lacks '{lacking[0]}'; add it, above 0."
            raise UsageError(msg)
    sync = attention.host_length_sync
    latent = attention.latent
    named = [
        attention.other,
        *attention.plans_on_host,
        *attention.by_gpu.values(),
        *defaults.page_size_by_backend,
    ]
    named += [latent.other, latent.sparse, latent.compressed, *latent.by_arch.values()]
    known = dict.fromkeys((*attention.backends, *latent.backends))
    named += attention.runs_on
    for backend in (*named, *sync.none, *sync.block, *sync.chain):
        if backend not in known:
            raise unknown(kind=f"attention backend of {path}", value=backend, allowed=known)
