"""Presets: whole scenarios by name, with the page that published them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.find import Dirs, sheet_names, sheets
from dflash_sim.profiles.ways_in import UnreadableError, named_path, parse_yaml, read_text

FOLDER, SUFFIX = "presets", ".yaml"
KEYS = ("title", "source", "scenario", "plan")  # the last is for `plan` alone


@dataclass(frozen=True)
class Preset:
    """A named scenario.

    Parameters
    ----------
    title, source
        What it is, and where its conditions are published.
    scenario
        Scenario fields; a list is a grid.
    """

    name: str
    title: str
    source: str
    scenario: Mapping[str, Any]


def preset_names(profiles_dirs: Dirs = ()) -> list[str]:
    """Presets that can be loaded, sorted."""
    return sheet_names(FOLDER, SUFFIX, profiles_dirs)


def load_preset(name: str, profiles_dirs: Dirs = ()) -> Preset:
    """The preset called ``name``, or a ``.yaml`` file such as ``--print-config`` writes."""
    if name.endswith((".yaml", ".yml")):
        return _read(named_path(name))
    for path in sheets(FOLDER, SUFFIX, profiles_dirs):
        if path.stem.lower() == name.lower():
            return _read(path)
    raise unknown(kind="preset", value=name, allowed=preset_names(profiles_dirs))


def _read(path: Path) -> Preset:
    try:
        raw = parse_yaml(read_text(path))
    except UnreadableError as error:
        msg = f"cannot read preset {path}: {error}"
        raise UsageError(msg) from error
    fields = raw.get("scenario") if isinstance(raw, dict) else None
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        msg = f"preset {path}: no 'scenario:' with fields below it, such as 'gpu: b200'"
        raise UsageError(msg)
    refuse_other_keys(f"preset {path}", raw)
    title, source = raw.get("title", path.stem), raw.get("source", str(path))
    return Preset(path.stem, str(title), str(source), fields)


def refuse_other_keys(where: str, raw: Mapping[Any, Any]) -> None:
    """Refuse what stands beside ``scenario`` and would be passed over.

    Raises
    ------
    UsageError
        There is a key that no preset has; a grid is told where it is answered.
    """
    others = [str(key) for key in raw if key not in KEYS]
    if "grid" in others:
        msg = (
            f"{where}: 'grid' is for studies; write one to a file, and ask ds.sweep('study.yaml') "
            "or 'dflash-sim sweep study.yaml'."
        )
        raise UsageError(msg)
    if others:
        msg = (
            f"{where}: unknown key {', '.join(map(repr, others))} beside 'scenario'. "
            f"Have: {', '.join(KEYS)}; fields go below 'scenario'."
        )
        raise UsageError(msg)
