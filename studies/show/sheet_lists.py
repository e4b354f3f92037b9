"""The lists of ``dflash-sim list``: the sheets that can be named, one flat row each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from dflash_sim.profiles.checkpoints import published
from dflash_sim.profiles.errors import MissingProfileError, unknown
from dflash_sim.profiles.formats import formats, runs_as
from dflash_sim.profiles.load import (
    default_drafter,
    default_node,
    load_dataset,
    load_device,
    load_drafter,
    load_eagle3,
    load_model,
    names,
    sheet_names,
)
from dflash_sim.profiles.presets import load_preset, preset_names
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.sheets import Device
from dflash_sim.profiles.times.op_tables import OpTables
from dflash_sim.profiles.units import GIGA, KILO, TERA
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.setup import find_tables
from dflash_sim.studies.show.styles import LABEL

Rows = Iterator[dict[str, Any]]


def rows(kind: str) -> list[dict[str, Any]]:
    """Rows of one of :data:`KINDS`; another is a :class:`UsageError`."""
    if kind not in KINDS:
        raise unknown(kind="kind of list", value=kind, allowed=KINDS)
    return list(KINDS[kind]())


def table(listed: Sequence[Mapping[str, Any]]) -> Table:
    """Return the rows as a table for a terminal."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=LABEL)
    for name, value in listed[0].items() if listed else ():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        shown.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in listed:
        shown.add_row(*(Text(_word(value)) for value in row.values()))
    return shown


def _word(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return "yes" if value else "-"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _gpus() -> Rows:
    for name in names("gpus"):
        gpu = load_device(name)
        yield {
            "name": name,
            "mem_gb": round(gpu.mem_bytes / GIGA, 1),
            "mem_tb_s": round(gpu.mem_bw_byte_s / TERA, 2),
            "bf16_tflop_s": round(gpu.bf16_flop_s / TERA),
            "usd_per_hour": gpu.price.typical or gpu.price.low,
            "node": default_node(name).name,
            "op_times": _op_times(gpu),
            "title": gpu.title,
        }


def _op_times(gpu: Device) -> str:
    tables = find_tables(gpu)
    if tables is None:
        return "roofline"
    return "measured" if tables.device == gpu.name else f"{tables.device}'s, scaled"


def _models() -> Rows:
    for name in names("models"):
        model = load_model(name)
        try:
            drafter = default_drafter(name).name
        except MissingProfileError:
            drafter = None
        yield {
            "name": name,
            "params_b": round(model.params / GIGA, 1),
            "active_b": round(model.active_params / GIGA, 1),
            "layers": len(model.layers),
            "gdn_layers": model.gdn_layers,
            "kv_kb_per_token": round(model.kv_bytes() / KILO, 1),
            "mtp": model.mtp_layer is not None,
            "drafter": drafter,
        }


def _checkpoints() -> Rows:
    for repo in published().values():
        model = load_model(repo.name)
        own = model.quantized
        yield {
            "name": repo.name,
            "model": repo.base,
            "quantization": own.name if own else None,
            "weights": sorted({form for _, form in own.formats}) if own else None,
            "kv_cache": own.kv_cache if own else None,
            "weights_gb": round(model.weight_bytes(1) / GIGA, 1),
        }


def _formats() -> Rows:
    gpus = [load_device(name) for name in names("gpus")]
    every = sorted({gpu.arch for gpu in gpus})
    for name, form in formats().items():
        own = [arch for arch in every if runs_as(name, arch) == name]
        yield {
            "name": name,
            "quantization": list(form.spelled) or None,
            "kv_cache_dtype": form.kv.spelled[0] if form.kv else None,
            "bits": round(form.bits, 3),
            "multiplied_in": form.products,
            "kernels_on": "all" if own == every else own,
            "elsewhere_as": form.otherwise or None,
            "not_on": [gpu.name for gpu in gpus if runs_as(name, gpu.arch) is None] or None,
        }


def _drafters() -> Rows:
    for name in names("drafters"):
        drafter = load_drafter(name)
        yield {
            "name": name,
            "method": drafter.kind,
            "target": drafter.target,
            "block": drafter.width,
            "layers": len(drafter.layers),
            "params_b": round(drafter.params / GIGA, 3),
        }
    for name in names("eagle3"):
        head = load_eagle3(name)
        yield {
            "name": name,
            "method": "eagle3",
            "target": head.target,
            "block": None,
            "layers": head.num_layers,
            "params_b": round(head.params / GIGA, 3),
        }


def _datasets() -> Rows:
    for name in names("datasets"):
        dataset = load_dataset(name)
        yield {
            "name": name,
            "title": dataset.title,
            "prompts": dataset.num_prompts,
            "turns": dataset.turns,
            "isl": [round(turn.mean.si) for turn in dataset.isl],
            "osl_thinking": round(dataset.osl[True].mean.si),
            "osl_plain": round(dataset.osl[False].mean.si),
        }


def _presets() -> Rows:
    for name in preset_names():
        preset = load_preset(name)
        yield {"name": name, "title": preset.title, "source": preset.source}


def _methods() -> Rows:
    for method in METHODS.values():
        width = {"none": "-", "chain": "--steps", "block": "--block"}
        yield {
            "name": method.name,
            "sglang_algorithm": method.algorithm or "-",
            "drafts": {"none": "nothing", "chain": "one by one", "block": "a block"}[method.drafts],
            "width": width[method.drafts],
            "takes": sorted(method.takes),
            "title": method.title.format(block="B", steps="k"),
        }


def _engines() -> Rows:
    for name in sheet_names("engines", ".toml"):
        engine = load_engine(name)
        yield {
            "name": name,
            "title": engine.title,
            "constants": len(engine.constants),
            "attention_backends": list(engine.attention.backends),
        }


def _tables() -> Rows:
    for name in names("gpus"):
        tables = OpTables.load(name)
        if tables is None:
            continue
        yield {
            "gpu": name,
            "digest": tables.digest,
            "origin": tables.meta["origin"],
            "times": sum(f["cells"] for f in tables.meta.values() if _has_cells(f)),
            "files": len(tables.notes["sources"]),
        }


def _has_cells(entry: object) -> bool:
    return isinstance(entry, Mapping) and "cells" in entry


KINDS: Mapping[str, Callable[[], Rows]] = {
    "gpus": _gpus,
    "models": _models,
    "checkpoints": _checkpoints,
    "formats": _formats,
    "drafters": _drafters,
    "datasets": _datasets,
    "presets": _presets,
    "methods": _methods,
    "engines": _engines,
    "tables": _tables,
}
