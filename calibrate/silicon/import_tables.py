"""aiconfigurator-core's measured operator times -> our compact tables.

The package is NVIDIA's, Apache-2.0; see NOTICE. Only its parquet files are read.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dflash_sim.calibrate.silicon import families
from dflash_sim.calibrate.silicon.caches import attention_fp8, attention_more
from dflash_sim.calibrate.silicon.experts import FORMATS as EXPERT_FORMATS
from dflash_sim.calibrate.silicon.experts import experts, moe
from dflash_sim.calibrate.silicon.gemm_curve import (
    Miss,
    curve_misses,
    edge_miss,
    fit_curve,
    grid_miss,
    line_miss,
    rounded,
)
from dflash_sim.calibrate.silicon.latent import MODULES, mla, mla_bmm
from dflash_sim.calibrate.silicon.products import FORMATS as PRODUCT_FORMATS
from dflash_sim.calibrate.silicon.products import products
from dflash_sim.calibrate.silicon.source import Library, open_library
from dflash_sim.calibrate.silicon.table import Table
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.times.interpolation import GemmCurve, Line

HEADER = (
    "# Derived from NVIDIA aiconfigurator-core (Apache-2.0); see NOTICE.\n"
    '# Written by "dflash-sim calibrate import-silicon"; times in the CSV files are microseconds.\n'
)


@dataclass(frozen=True)
class ImportReport:
    """The record of an import.

    Parameters
    ----------
    gpu, system : our name and the package's
    folder : where the files are
    files : name to size [byte]
    cells : family to number of times kept
    curve : the fitted GEMM curve
    held_out : kind of operator to error of interpolation on points it had not seen
    notes : family to what the cleaning did
    """

    gpu: str
    system: str
    folder: Path
    files: Mapping[str, int]
    cells: Mapping[str, int]
    curve: GemmCurve
    held_out: Mapping[str, Miss]
    notes: Mapping[str, Mapping[str, object]]


def import_silicon(
    system: str,
    out_dir: str | Path,
    data_dir: str | Path | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> ImportReport:
    """Write ``out_dir/ops/<gpu>/`` from the tables of ``system``; same input, same bytes.

    Parameters
    ----------
    system : a folder of the package, such as ``b200_sxm``, or our GPU name
    out_dir : a profiles directory
    data_dir : holds one folder per system; default: the installed aiconfigurator-core
    on_progress : called with one line per family
    """
    tell = on_progress or (lambda line: None)
    library = open_library(system, data_dir)
    tell(f"{library.system}: gemm")
    gemm, cells = families.gemm(library)
    curve = fit_curve(cells)
    tables = [gemm]
    for read in (moe, families.attention, families.gdn, families.comm):
        tell(f"{library.system}: {read.__name__}")
        tables.append(read(library))
    for what, formats in ((products, PRODUCT_FORMATS), (experts, EXPERT_FORMATS)):
        tell(f"{library.system}: {what.__name__} in {', '.join(formats)}")
        tables += [found for dtype in formats if (found := what(library, dtype)) is not None]
    for further in (attention_more, attention_fp8, families.kda, families.streams, mla, mla_bmm):
        tell(f"{library.system}: {further.__name__}")
        one = further(library)
        tables += [] if one is None else [one]
    for modules in MODULES:
        tell(f"{library.system}: {modules.family}")
        one = modules(library)
        tables += [] if one is None else [one]
    curve_miss = curve_misses(curve, cells)
    held_out = _held_out(tables, curve)
    files = {f"{table.family}.csv": table.csv() for table in tables}
    files["notes.toml"] = _notes(tables, curve_miss, held_out)
    files["meta.toml"] = _meta(library, tables, curve, held_out)
    folder = Path(out_dir) / "ops" / library.gpu
    _write(folder, files)
    tell(f"{library.system}: wrote {folder}")
    return ImportReport(
        gpu=library.gpu,
        system=library.system,
        folder=folder,
        files={name: len(text) for name, text in files.items()},
        cells={table.family: table.cells for table in tables},
        curve=curve,
        held_out=held_out,
        notes={table.family: table.notes for table in tables},
    )


def _held_out(tables: Sequence[Table], curve: GemmCurve) -> dict[str, Miss]:
    """Interpolation error by kind of operator, such as ``attention.decode``."""
    found: dict[str, Miss] = {}
    for table in tables:
        axis = table.axis
        if table.misses:
            found.update(table.misses)
            continue
        if table.family == "gemm":
            grid = {(n, k): [row.get(m) for m in axis] for (n, k), row in table.times.items()}
            found["gemm"] = grid_miss(axis, grid, curve)
            found["gemm.past_edge"] = edge_miss(axis, grid, curve)
            continue
        kinds: dict[str, list[Line]] = defaultdict(list)
        for key, row in table.times.items():
            kind = table.family if table.family == "moe" else f"{table.family}.{key[0]}"
            kinds[kind].append(Line(axis, [row.get(x) for x in axis]))
        for kind in sorted(kinds):
            found[kind] = line_miss(kinds[kind], power=kind == "attention.prefill")
    return found


def _meta(
    library: Library,
    tables: Sequence[Table],
    curve: GemmCurve,
    held_out: Mapping[str, Miss],
) -> str:
    """Return what a lookup needs: cells that files must hold, curves, errors."""
    text = HEADER + _toml(
        {"format": 1, "gpu": library.gpu, "system": library.system, "origin": library.origin}
    )
    for table in tables:
        text += _section(table.family, {"cells": table.cells})
    # Bytes of a value are bf16's where none are named.
    text += _section("gemm.curve", {k: v for k, v in asdict(curve).items() if "_bytes" not in k})
    for table in tables:
        if table.curve is not None:
            text += _section(f"{table.family}.curve", asdict(table.curve))
    text += "\n# What a lookup reports: between points, and past them or on a nearby shape.\n"
    return text + _section("rel_err", _rel_err(tables[0], held_out))


def _notes(
    tables: Sequence[Table], curve_miss: Mapping[str, Miss], held_out: Mapping[str, Miss]
) -> str:
    """Return where the numbers came from and what was changed, for readers."""
    text = HEADER
    for table in tables:
        text += _section(table.family, table.notes)
    text += _section("gemm.curve_error", {name: asdict(m) for name, m in curve_miss.items()})
    for table in tables:
        if table.curve is not None:
            errors = {name: asdict(m) for name, m in table.curve_error.items()}
            text += _section(f"{table.family}.curve_error", errors)
    text += "\n# How far lookups miss points held out of the table.\n"
    text += _section("held_out", {f'"{kind}"': asdict(m) for kind, m in held_out.items()})
    for table in tables:
        for source in table.sources:
            text += "\n[[sources]]\n" + _toml({"family": table.family, **asdict(source)})
    return text


def _rel_err(gemm: Table, held_out: Mapping[str, Miss]) -> dict[str, object]:
    """On a measured shape, and off it.

    A measured product in bf16 is as sure as two frameworks agree, in another format as sure as
    the row counts between those that are kept.
    """
    agree = rounded(float(str(gemm.notes["second_fastest_median_ratio"])) - 1, 3)
    told = {}
    for kind, miss in held_out.items():
        on, off = miss.median, miss.p90
        family = kind.partition(".")[0]
        if family.startswith("gemm"):
            rows = held_out.get(f"{family}.rows")
            on = agree if rows is None else rows.median
            off = max(on, miss.median)
        told[f'"{kind}"'] = {"measured": on, "fitted": off}
    return dict(told)


def _section(name: str, values: Mapping[str, object]) -> str:
    return f"\n[{name}]\n{_toml(values)}"


def _toml(values: Mapping[str, object]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in values.items())


def _value(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + "".join(f'\n    "{item}",' for item in value) + ("\n]" if value else "]")
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {item}" for key, item in value.items()) + " }"
    return str(value)


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Put all files in place, or leave everything as it was."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            for name, text in files.items():
                (Path(scratch) / name).write_text(text, encoding="utf-8", newline="\n")
            folder.mkdir(exist_ok=True)
            for name in files:
                (Path(scratch) / name).replace(folder / name)
    except OSError as error:
        msg = f"cannot write {folder}: {error}"
        raise UsageError(msg) from error
