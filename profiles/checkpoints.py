"""Quantised checkpoints by name: each is a row over the sheet of the model it was made of."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import Dirs, find_sheet
from dflash_sim.profiles.precision import quantised_name
from dflash_sim.profiles.quantization.suffixes import OLD_NAMES, scheme_of

_SHEET = Path(__file__).parent / "checkpoints.toml"
_WHOLE = re.compile(r"(?P<model>[\w.-]+(?:/[\w.-]+)*)[-_.](?:bf16|bfloat16)", re.IGNORECASE)


@dataclass(frozen=True)
class Checkpoint:
    """A quantised checkpoint of a model that has a sheet.

    Parameters
    ----------
    name
        What to call it, such as ``qwen3-8b-fp8``.
    base
        The sheet of its model.
    quantization
        As its ``config.json`` would say it.
    source
        Where its quantisation was read, or what it was taken from.
    assumed
        What was taken for granted from its name alone, in words; None if it was read.
    context
        Longest request that it takes [token]; None if that is as of its model.
    """

    name: str
    base: str
    quantization: Mapping[str, Any]
    source: str
    assumed: str | None = None
    context: int | None = None


@cache
def published() -> Mapping[str, Checkpoint]:
    """The checkpoints that are listed, by repository in lower case."""
    raw = _sheet()
    found: dict[str, Checkpoint] = {}
    taken = set()
    for row in raw["checkpoints"]:
        repo = str(row["repo"])
        name = repo.lower() if _last(repo) in taken else _last(repo)
        taken.add(name)
        found[repo.lower()] = Checkpoint(
            name=name,
            base=row["base"],
            quantization=raw["schemes"][row["scheme"]],
            source=f"https://huggingface.co/{repo}: {row['source']}",
            context=row.get("context"),
        )
    return found


@cache
def published_sizes() -> Mapping[str, float]:
    """Bytes of all tensors of published repositories, by name."""
    return {name: float(row["bytes"]) for name, row in _sheet()["sizes"].items()}


@cache
def _sheet() -> Mapping[str, Any]:
    return tomllib.loads(_SHEET.read_text(encoding="utf-8"))


def find_checkpoint(name: str, profiles_dirs: Dirs = ()) -> Checkpoint | None:
    """The checkpoint called ``name``: a listed one, else what its name says of a known model.

    Raises
    ------
    UsageError
        Its name says that it is quantised to what is not priced; in words that name what is.
    """
    owner, slash, rest = name.lower().rstrip("/").rpartition("/")
    wanted = f"{OLD_NAMES.get(owner, owner)}{slash}{rest}"
    listed = published()
    if wanted in listed:
        return listed[wanted]
    if "/" not in wanted:
        return next((x for x in listed.values() if x.name == wanted), None) or _by_convention(
            name, profiles_dirs
        )
    return _by_convention(name, profiles_dirs)


def _by_convention(name: str, profiles_dirs: Dirs) -> Checkpoint | None:
    found = quantised_name(name)
    if found is None and (whole := _WHOLE.fullmatch(name.rstrip("/"))):
        return _in_bf16(name, whole["model"], profiles_dirs)
    if found is None or not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)*/?", name):  # such as two names
        return None
    form, bare = found
    held = _listed(bare)
    last = held.base if held else bare.rpartition("/")[2]
    base = find_sheet("models", bare, ".json", profiles_dirs) or find_sheet(
        "models", last, ".json", profiles_dirs
    )
    if base is None:
        return None
    suffix = name.rstrip("/")[len(bare) :].lstrip("-_.").lower()
    suffix = suffix.removeprefix("quantized").lstrip("-_.")
    meant = scheme_of(name, suffix, experts=_has_experts(base))
    if meant is None:
        known = ", ".join(x.name for x in published().values() if x.base == base.stem)
        msg = (
            f"'{name}' is quantised to {suffix.upper() or form}, by its name, whose kernels are in "
            f"no table. Of {base.stem} there is {known or f'{base.stem}-fp8'}, or {base.stem} "
            "itself."
        )
        raise UsageError(msg)
    scheme, words = meant
    taken = any(x.name == _last(name) for x in published().values())
    return Checkpoint(
        name=name.lower() if taken else _last(name),
        base=base.stem,
        quantization=_sheet()["schemes"][scheme],
        source=f"the name '{name}'",
        assumed=(
            f"{name} is in no list of checkpoints: its name is taken to say {words}; give the "
            "folder of its config.json to be sure"
        ),
        context=held.context if held else None,
    )


def _in_bf16(name: str, model: str, profiles_dirs: Dirs) -> Checkpoint | None:
    """A checkpoint whose name says that nothing in it is quantised, whatever its model's is."""
    last = model.rpartition("/")[2]
    base = find_sheet("models", model, ".json", profiles_dirs) or find_sheet(
        "models", last, ".json", profiles_dirs
    )
    if base is None:
        return None
    return Checkpoint(_last(name), base.stem, {}, source=f"the name '{name}'")


def _listed(bare: str) -> Checkpoint | None:
    """The listed checkpoint that a model without a sheet of its own is published as."""
    return next((x for x in published().values() if x.name == _last(bare)), None)


def _has_experts(base: Path) -> bool:
    return (
        re.search(r'"(?:num|num_local|n_routed)_experts"', base.read_text(encoding="utf-8"))
        is not None
    )


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()
