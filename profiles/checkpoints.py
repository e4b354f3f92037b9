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

_SHEET = Path(__file__).parent / "checkpoints.toml"
# What a suffix of a name usually means, the first that fits it; of experts where a model has some.
_CONVENTIONS = (
    (r"FP8[-_]DYNAMIC", "fp8-channel", "fp8-channel"),
    (r"MXFP8", "mxfp8", "mxfp8"),
    (r"FP8", "fp8-block", "fp8-block"),
    (r"NVFP4A16", "nvfp4-w4a16", "nvfp4-w4a16"),
    (r"NVFP4|FP4", "nvfp4", "nvfp4-experts"),
    (r"AWQ", "awq", "awq"),
    (r"GPTQ[-_]INT8", "gptq-int8", "gptq-int8"),
    (r"GPTQ|INT4|4BIT|W4A16\w*|AUTO-?ROUND", "gptq-int4", "gptq-int4"),
    (r"W8A8\w*|INT8", "w8a8", "w8a8"),
)
# What FP8 means in names of those who do not publish blocks.
_FP8_OF = {
    "nvidia": "fp8-tensor",
    "redhatai": "fp8-static",
    "meta-llama": "fp8-channel",
}
_OLD_NAMES = {"neuralmagic": "redhatai"}
_IN_WORDS = {
    "fp8-static": "FP8 with one scale for each tensor, as RedHatAI publishes it",
    "fp8-channel": "FP8 with a scale for each channel and token",
    "mxfp8": "MXFP8",
    "fp8-block": "FP8 in blocks of 128 x 128, as Qwen and DeepSeek publish it",
    "fp8-tensor": "FP8 with one scale for each tensor and an FP8 KV cache, as NVIDIA publishes it",
    "nvfp4": "NVFP4 in every linear layer and an FP8 KV cache",
    "nvfp4-experts": "NVFP4 in the routed experts and an FP8 KV cache, as NVIDIA publishes it",
    "nvfp4-w4a16": "NVFP4 weights under bf16 activations",
    "awq": "AWQ in groups of 128",
    "gptq-int8": "GPTQ of eight bits in groups of 128",
    "gptq-int4": "four-bit integers in groups of 128",
    "w8a8": "INT8 weights and activations",
}


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
    wanted = f"{_OLD_NAMES.get(owner, owner)}{slash}{rest}"
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
    if found is None or not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)*/?", name):  # such as two names
        return None
    form, bare = found
    base = find_sheet("models", bare, ".json", profiles_dirs) or find_sheet(
        "models", bare.rpartition("/")[2], ".json", profiles_dirs
    )
    if base is None:
        return None
    suffix = name.rstrip("/")[len(bare) :].lstrip("-_.").lower().removeprefix("quantized.")
    scheme = _scheme(name, suffix.upper(), experts=_has_experts(base))
    if scheme is None:
        known = ", ".join(x.name for x in published().values() if x.base == base.stem)
        msg = (
            f"'{name}' is quantised to {form}, by its name, whose kernels are in no table. "
            f"Of {base.stem} there is {known or f'{base.stem}-fp8'}, or {base.stem} itself."
        )
        raise UsageError(msg)
    words = _IN_WORDS[scheme]
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
    )


def _scheme(name: str, suffix: str, *, experts: bool) -> str | None:
    """The scheme of :data:`_SHEET` that a suffix usually means; None if it is not priced."""
    for pattern, dense, moe in _CONVENTIONS:
        if re.match(rf"(?:{pattern})(?![A-Z0-9])", suffix):
            owner = name.lower().partition("/")[0]
            if dense == "fp8-block":
                return _FP8_OF.get(_OLD_NAMES.get(owner, owner), dense)
            return moe if experts else dense
    return None


def _has_experts(base: Path) -> bool:
    return (
        re.search(r'"(?:num|num_local|n_routed)_experts"', base.read_text(encoding="utf-8"))
        is not None
    )


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()
