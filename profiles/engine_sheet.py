"""Engine sheets: host stages, per-kernel costs and the defaults of one engine version."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from dflash_sim.profiles import units
from dflash_sim.profiles.errors import unknown
from dflash_sim.profiles.load import find_sheet, sheet_names
from dflash_sim.profiles.sheets import UNITS, Quantity


@dataclass(frozen=True)
class EngineSheet:
    """One engine version.

    ``engine["graph_node_gap"]`` is a constant in SI units; ``engine.constants`` holds value,
    unit, source and error as written in the sheet. ``read`` are the constants looked up so far:
    what an answer rests on.
    """

    name: str
    title: str
    constants: Mapping[str, Quantity]
    defaults: Mapping[str, Any]
    graph_sizes: Mapping[str, tuple[int, ...]]
    attention: Mapping[str, Any]
    fit: Mapping[str, Any]
    read: set[str] = field(default_factory=set, compare=False, repr=False)

    @cached_property
    def si(self) -> dict[str, float]:
        """Constants in seconds, bytes or pure numbers."""
        return {name: q.si for name, q in self.constants.items()}

    def __getitem__(self, name: str) -> float:
        self.read.add(name)
        return self.si[name]

    def with_constants(self, **si_values: float) -> "EngineSheet":
        """A copy with constants replaced, in SI units (what fits and tests need)."""
        return self._replaced(si_values, evidence=None)

    def fitted(self, si_values: Mapping[str, float]) -> "EngineSheet":
        """The same for constants that a fit found, which are evidence of another kind."""
        return self._replaced(si_values, evidence="fitted")

    def is_home(self, build: str | None) -> bool:
        """Whether the constants are of this build: named by its date or by its version."""
        return build in (None, self.fit["generation"], self.name.rpartition("-")[2])

    def _replaced(self, si_values: Mapping[str, float], *, evidence: str | None) -> "EngineSheet":
        changed = dict(self.constants)
        for name, value in si_values.items():
            if name not in changed:
                raise unknown(kind="engine constant", value=name, allowed=changed)
            old = changed[name]
            value /= UNITS[old.unit]
            changed[name] = replace(old, value=value, evidence=evidence or old.evidence)
        return replace(self, constants=changed, read=set())

    def memory_class(self, mem_bytes: float) -> Mapping[str, Any]:
        """Defaults that SGLang picks by GPU memory (chunked prefill, graph sizes)."""
        for row in self.defaults["by_memory"]:
            if mem_bytes / units.GiB < row["below_gib"]:
                return dict(row)
        return dict(self.defaults["by_memory"][-1])


def _sizes(rows: list[list[int]]) -> tuple[int, ...]:
    return tuple(b for start, stop, step in rows for b in range(start, stop + 1, step))


def load_engine(name: str) -> EngineSheet:
    """The engine sheet called ``name``, such as ``sglang-0.5.13``."""
    path = find_sheet("engines", name, ".toml")
    if path is None:
        raise unknown(kind="engine", value=name, allowed=sheet_names("engines", ".toml"))
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    constants = {}
    for key, q in raw["constants"].items():
        constants[key] = Quantity(
            float(q["value"]), q["unit"], q["source"], q["evidence"], float(q["rel_err"])
        )
    return EngineSheet(
        name=raw["name"],
        title=raw["title"],
        constants=constants,
        defaults=raw["defaults"],
        graph_sizes={k: _sizes(raw["graph_sizes"][k]) for k in ("spec", "plain")},
        attention=raw["attention"],
        fit=raw["fit"],
    )
