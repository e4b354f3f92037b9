"""aiconfigurator-core's measured operator times -> our compact tables.

The package is NVIDIA's, Apache-2.0; see NOTICE. Only its parquet files are read.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dflash_sim.calibrate import silicon_tables as tables
from dflash_sim.calibrate.silicon_fit import (
    Miss,
    curve_misses,
    fit_curve,
    gemm_misses,
    line_misses,
    rounded,
)
from dflash_sim.calibrate.silicon_source import Library, open_library
from dflash_sim.calibrate.silicon_tables import Table
from dflash_sim.profiles.interp import GemmCurve

HEADER = (
    "# Derived from NVIDIA aiconfigurator-core (Apache-2.0); see NOTICE.\n"
    '# Written by "dflash-sim calibrate import-silicon"; times in the CSV files are microseconds.\n'
)


@dataclass(frozen=True)
class ImportReport:
    """What an import wrote.

    Parameters
    ----------
    gpu, system : our name and the package's
    folder : where the files are
    files : name to size [byte]
    cells : family to number of times kept
    curve : the fitted GEMM curve
    curve_miss : error of the curve alone, by region
    held_out : family to error of interpolation on points it had not seen
    notes : family to what the cleaning did
    """

    gpu: str
    system: str
    folder: Path
    files: Mapping[str, int]
    cells: Mapping[str, int]
    curve: GemmCurve
    curve_miss: Mapping[str, Miss]
    held_out: Mapping[str, Miss]
    notes: Mapping[str, Mapping[str, object]]


def import_silicon(
    system: str,
    out_dir: str | Path,
    data_dir: str | Path | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> ImportReport:
    """Write ``out_dir/ops/<gpu>/`` from the tables of ``system``; the same input, the same bytes.

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
    gemm, cells = tables.gemm(library)
    curve = fit_curve(cells)
    families = [gemm]
    for read in (tables.moe, tables.attention, tables.gdn, tables.comm):
        tell(f"{library.system}: {read.__name__}")
        families.append(read(library))
    curve_miss = curve_misses(curve, cells)
    held_out = {table.family: _held_out(table, curve) for table in families}
    meta = _meta(library, families, curve, curve_miss, held_out)
    files = {f"{table.family}.csv": table.csv() for table in families} | {"meta.toml": meta}
    folder = Path(out_dir) / "ops" / library.gpu
    _write(folder, files)
    tell(f"{library.system}: wrote {folder}")
    return ImportReport(
        gpu=library.gpu,
        system=library.system,
        folder=folder,
        files={name: len(text) for name, text in files.items()},
        cells={table.family: table.cells for table in families},
        curve=curve,
        curve_miss=curve_miss,
        held_out=held_out,
        notes={table.family: table.notes for table in families},
    )


def _held_out(table: Table, curve: GemmCurve) -> Miss:
    if table.family != "gemm":
        return line_misses(table.lines(), linear=table.family == "gdn")
    axis = table.axis
    grid = {(n, k): [row.get(m) for m in axis] for (n, k), row in table.times.items()}
    return gemm_misses(axis, grid, curve)


def _meta(
    library: Library,
    families: Sequence[Table],
    curve: GemmCurve,
    curve_miss: Mapping[str, Miss],
    held_out: Mapping[str, Miss],
) -> str:
    text = HEADER + _toml(
        "",
        {"format": 1, "gpu": library.gpu, "system": library.system, "origin": library.origin},
    )
    for table in families:
        name, miss = table.family, held_out[table.family]
        text += _toml(name, {"rows": len(table.times), "cells": table.cells, **table.notes})
        if name == "gemm":
            text += _toml("gemm.curve", asdict(curve))
            for region, found in curve_miss.items():
                text += _toml(f"gemm.curve_error.{region}", _rounded(found))
        text += _toml(f"{name}.held_out", _rounded(miss))
        text += _toml(f"{name}.error", _trust(table, miss))
    for table in families:
        for source in table.sources:
            text += "\n[[sources]]\n" + _toml("", {"family": table.family, **asdict(source)})
    return text


def _trust(table: Table, miss: Miss) -> dict[str, float]:
    """Relative error to attach to a lookup on the table and off it."""
    if table.family == "gemm":
        second = table.notes["median_second_over_best"]
        return {"measured": rounded(float(str(second)) - 1, 3), "fitted": rounded(miss.median, 3)}
    return {"measured": rounded(miss.median, 3), "fitted": rounded(miss.p90, 3)}


def _rounded(miss: Miss) -> dict[str, float | int]:
    return {
        "points": miss.points,
        "median": rounded(miss.median, 3),
        "p90": rounded(miss.p90, 3),
    }


def _toml(section: str, values: Mapping[str, object]) -> str:
    lines = [f"\n[{section}]"] if section else []
    for key, value in values.items():
        if isinstance(value, list):
            items = "".join(f'\n    "{item}",' for item in value)
            lines.append(f"{key} = [{items}\n]" if value else f"{key} = []")
        else:
            lines.append(f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}")
    return "\n".join(lines) + "\n"


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Put all files in place, or leave the folder as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        for name, text in files.items():
            (Path(scratch) / name).write_text(text, encoding="utf-8", newline="\n")
        for name in files:
            (Path(scratch) / name).replace(folder / name)
