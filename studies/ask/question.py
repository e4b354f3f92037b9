"""The question: scenario fields from flags, a launch command, a preset and the defaults.

The nearest layer wins, and what a nearer value rules out farther away is dropped: ``--isl`` drops a
preset's data set, ``--gpu`` the attention backend that went with the preset's GPU.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import FOLDERS, find_sheet
from dflash_sim.profiles.presets import load_preset
from dflash_sim.simulator.cost.methods import method_of
from dflash_sim.simulator.scenario import ONLY_SPECULATION, Scenario
from dflash_sim.studies.ask.ranges import (
    MOST,
    data_sets,
    real_numbers,
    shares,
    whole_numbers,
    words,
)

# Fields that take several values, outermost first in a grid.
SWEEPABLE: Mapping[str, Callable[[str, str], list[Any]]] = {
    "gpu": words,
    "tp": whole_numbers,
    "method": words,
    "block": whole_numbers,
    "steps": whole_numbers,
    "engine_mode": words,
    "quantization": words,
    "kv_cache_dtype": words,
    "dataset": data_sets,
    "isl": whole_numbers,
    "osl": whole_numbers,
    "num_prompts": whole_numbers,
    "rate": real_numbers,
    "cache_hit": shares,
    "conc": whole_numbers,
}
# Of a grid the outermost axes are those that the command line takes no list of.
ORDER = (*(name for name in Scenario.model_fields if name not in SWEEPABLE), *SWEEPABLE)
Layer = tuple[str, Mapping[str, Any]]  # where fields are from, and the fields
_NUMBERS = ("num_gpus", "topk", "window", "temperature", "top_p", "top_k", "max_running_requests",
    "mem_fraction_static", "mamba_full_memory_ratio", "max_mamba_cache_size",
    "chunked_prefill_size", "cuda_graph_max_bs", "context_length", "page_size",
    "min_free_slots_delay", "max_new_tokens", "range_ratio", "burstiness", "seed",
    "runs")  # fmt: skip
FLAGS = {name: "--" + name.replace("_", "-") for name in Scenario.model_fields}
_EXCLUDES = {
    "isl": ("dataset",),
    "osl": ("dataset",),
    "dataset": ("isl", "osl"),
    "conc": ("rate",),
    "rate": ("conc",),
    "block": ("steps",),
    "steps": ("block",),
    "tp": ("num_gpus",),
    "num_gpus": ("tp",),
}
# Dropped when their owner, set by the same layer, is replaced.
_BELONGS = {
    "gpu": ("attention_backend",),
    "model": ("draft_model",),
    "method": tuple(ONLY_SPECULATION),
}
# Fields that name a sheet: its folder, and how its file's name ends.
_SHEETS = {
    "gpu": FOLDERS["gpus"],
    "model": FOLDERS["models"],
    "draft_model": ("drafters", ".json"),
    "dataset": FOLDERS["datasets"],
    "engine": ("engines", ".toml"),
}
_PLAIN_WORD = re.compile(r"[A-Za-z][\w./-]*")
_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


@dataclass(frozen=True)
class Given:
    """A value, or a list of values to sweep, and the layer it is from."""

    value: Any
    origin: str


def ask(
    flags: Mapping[str, Any],
    *,
    preset: str | None,
    from_launch: str | None,
    files: Sequence[Layer] = (),
    planned: bool = False,
) -> tuple[dict[str, Given], tuple[str, ...]]:
    """Merge flags over files over the launch command over the preset.

    Also returns what of the launch command is not modelled, with the reasons.

    Parameters
    ----------
    flags
        Entries that are no scenario fields are left alone.
    files
        Layers in between, such as the fields of a study, nearest first.
    planned
        True where a plan asks, which takes the policy of a router.
    """
    fields = {name: value for name, value in flags.items() if name in Scenario.model_fields}
    layers: list[Layer] = [("flag", fields), *files]
    ignored: tuple[str, ...] = ()
    if from_launch is not None:
        from dflash_sim.calibrate.observations.launch_command import scenario_from_launch

        said = flags.get("build") or flags.get("engine")
        launch = scenario_from_launch(from_launch, str(said) if said else None)
        layers.append(("--from-launch", {"build": launch.build, **launch.fields}))
        ignored = launch.remarks_of_plan if planned else launch.remarks
    if preset is not None:
        layers.append((f"preset {preset}", load_preset(preset).scenario))
    return layered(layers), ignored


def layered(layers: Sequence[Layer]) -> dict[str, Given]:
    """Merge layers, nearest first; a field that is None in a layer is not set there."""
    merged: dict[str, Given] = {}
    for origin, raw in reversed(layers):
        fields = {name: _listed(name, value) for name, value in raw.items() if value is not None}
        for name, value in fields.items():
            gone = set(_EXCLUDES.get(name, ()))
            old = merged.get(name)
            if old is not None and old.value != value:
                same = {d for d, given in merged.items() if given.origin == old.origin}
                gone |= same.intersection(_BELONGS.get(name, ()))
            for other in gone - fields.keys():
                merged.pop(other, None)
        merged |= {name: Given(value, origin) for name, value in fields.items()}
    return merged


def _listed(name: str, value: Any) -> Any:
    """A list if there are several values to sweep; text such as ``1,2,4`` is read."""
    if isinstance(value, str) and name in SWEEPABLE:
        value = SWEEPABLE[name](FLAGS[name], value)
    elif isinstance(value, str) and name in _NUMBERS:
        value = _number(value)
    if value == []:
        msg = f"{FLAGS.get(name, name)}: an empty list; give a value, or leave it out."
        raise UsageError(msg)
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _number(text: str) -> int | float | str:
    """The number that ``text`` spells; other text is for the scenario to refuse."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def scenarios(asked: Mapping[str, Given]) -> list[Scenario]:
    """Every combination of the values asked for, as :func:`combinations` has them."""
    fields = {name: given.value for name, given in asked.items()}
    axes = {n: fields.pop(n) for n in ORDER if isinstance(fields.get(n), list)}
    size = 1
    for values in axes.values():
        size *= len(values)
    if size > MOST:
        several = ", ".join(f"{len(v)} x {FLAGS[n]}" for n, v in axes.items())
        msg = f"a grid of {size:,} points ({several}); at most {MOST:,}. Ask for fewer values."
        raise UsageError(msg)
    return [combination(fields, axes, values) for values in combinations(fields, axes)]


def only_scenario(asked: Mapping[str, Given]) -> Scenario:
    """Return the scenario of a question that is about one.

    Raises
    ------
    UsageError
        Several values of a field make several scenarios.
    """
    found = scenarios(asked)
    if len(found) > 1:
        several = [FLAGS[n] for n, given in asked.items() if isinstance(given.value, list)]
        flags = " and ".join(several)
        msg = f"{len(found)} scenarios, of several values of {flags}; one is taken. Give one value."
        raise UsageError(msg)
    return found[0]


def combinations(
    fields: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[Any, ...]]:
    """Values of the axes, the first axis outermost; no scenario comes twice.

    Names that mean one sheet, such as ``b200,B200``, are one value, in its first spelling.
    Each of several methods takes only the fields that apply to it: ``--method none,dflash --block
    8,16`` is three scenarios. A single method refuses what it cannot take. Engine modes are then
    those of the speculative workers, and plain decoding runs in the usual one, as a server without
    an algorithm does; :func:`left_out` says so.
    """
    seen: set[str] = set()
    meant = {n: {v: _meant(n, v) for v in axes[n]} for n in _SHEETS if n in axes}
    for values in product(*axes.values()):
        named = [meant[n][v] if n in meant else v for n, v in zip(axes, values, strict=True)]
        name = combination(fields, axes, named).hash
        if name not in seen:
            seen.add(name)
            yield values


def _meant(field: str, name: Any) -> Any:
    """Return the one name of the sheet that a name means; of another, such as a path, itself."""
    path = find_sheet(_SHEETS[field][0], name, _SHEETS[field][1]) if isinstance(name, str) else None
    return name if path is None else path.stem


def combination(
    fields: Mapping[str, Any], axes: Mapping[str, Sequence[Any]], values: Sequence[Any]
) -> Scenario:
    """The scenario of fixed fields and one value of each axis."""
    point = {**fields, **dict(zip(axes, values, strict=True))}
    return Scenario.parse(**(_applicable(point) if "method" in axes else point))


def left_out(fields: Mapping[str, Any]) -> Iterator[str]:
    """Tell what some scenarios of a grid do without, though it would change their speed.

    Parameters
    ----------
    fields
        A value or a list of values each, names of methods that are known.
    """
    methods = fields.get("method")
    if not isinstance(methods, list) or "engine_mode" not in fields:
        return
    modes = fields["engine_mode"]
    modes = modes if isinstance(modes, list) else [modes]
    server = {name: fields[name] for name in ("engine", "build") if name in fields}
    server = {name: v[0] if isinstance(v, list) else v for name, v in server.items()}
    for name in methods:
        if method_of(name).speculative:
            continue
        usual = Scenario.parse(method=name, **server).engine_mode
        if any(mode != usual for mode in modes):
            yield (
                f"engine_mode {','.join(modes)} is for the methods that draft; beside them method "
                f"{name} runs in {usual}, as a server does by default (asked for alone, it runs in "
                "the mode that is given)"
            )


def _applicable(point: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``point`` that its method takes beside others."""
    method = method_of(point["method"])
    dropped = set(ONLY_SPECULATION - method.takes)
    if not method.speculative:
        dropped.add("engine_mode")
    if method.sequential and "steps" in point and int(point.get("topk", 1)) == 1:
        dropped.add("block")
    unused = {name: value for name, value in point.items() if name in dropped}
    if unused:
        Scenario.refuse(**unused)
    return {name: value for name, value in point.items() if name not in dropped}


def as_yaml(asked: Mapping[str, Given]) -> str:
    """The merged question with the origin of every value; ``--preset FILE.yaml`` reads it back."""
    fixed_lengths = "isl" in asked or "osl" in asked
    rows = []
    for name, field in Scenario.model_fields.items():
        if name in asked:
            rows.append((name, asked[name].value, asked[name].origin))
            continue
        value = None if name == "dataset" and fixed_lengths else field.default
        _, _, otherwise = (field.description or "").partition("default")
        origin = "default" + otherwise if value is None else "default"
        rows.append((name, value, origin))
    lines = [(f"  {name}: {_yaml(value)}", origin) for name, value, origin in rows]
    width = max(len(text) for text, _ in lines)
    body = "".join(f"{text:<{width}}  # {origin}\n" for text, origin in lines)
    return "scenario:\n" + body


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, str) and _PLAIN_WORD.fullmatch(value) and value not in _YAML_WORDS:
        return value
    return json.dumps(value)
