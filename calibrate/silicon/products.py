"""Products with quantised weights: SGLang's kernels, their accidents mended by other frameworks.

Each time holds the kernel that quantises the activations, as a server runs it. SGLang's own time
is kept, because frameworks choose different kernels on purpose; a lone cell that stands out of its
row is an accident. bf16 is in :mod:`~dflash_sim.calibrate.silicon.families`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from dflash_sim.calibrate.silicon.gemm_curve import (
    Miss,
    curve_misses,
    edge_miss,
    fit_curve,
    grid_miss,
)
from dflash_sim.calibrate.silicon.source import LETTERS, Library, Source, read_rows
from dflash_sim.calibrate.silicon.suspects import host_bound
from dflash_sim.calibrate.silicon.table import DISTURBED, Key, Table, Times, lift
from dflash_sim.calibrate.silicon.thinning import thinned
from dflash_sim.profiles.errors import MissingProfileError
from dflash_sim.profiles.times.interpolation import GemmCurve, GemmGrid
from dflash_sim.profiles.units import BF16_BYTES, MS

# Both sides of the steps where a kernel takes another row of tiles.
M = (1, 16, 32, 64, 65, 128, 129, 192, 256, 257, 512, 1024, 2048, 4096, 8192, 16384)
SIDES = (256, 512, 1024, 1536, 2048, 3072, 4096, 5120, 6144, 7168, 8192, 12288, 16384, 65536)
# Our format: as the tables call it, bytes of a weight with its scales, bytes of an activation.
FORMATS: Mapping[str, tuple[str, float, float]] = {
    "fp8": ("fp8", 1.0, 1.0),
    "fp8_block": ("fp8_block", 1.0, 1.0),
    "nvfp4": ("nvfp4", 0.5625, 0.5625),
    "int8": ("sq", 1.0, 1.0),
    "int4": ("int4_wo", 0.53125, float(BF16_BYTES)),
}

Cells = dict[Key, float]  # (m, n, k) to time [s]


def products(library: Library, dtype: str) -> Table | None:
    """Products in one format on the kept row counts, or ``None`` if nobody timed enough here."""
    name, weight_bytes, input_bytes = FORMATS[dtype]
    by_letter, sources = _read(library, name)
    refused = host_bound(by_letter)
    used = {letter: cells for letter, cells in by_letter.items() if letter not in refused}
    if not used:
        return None
    times, letters, mended = _owned(used)
    lifted = lift(times, lambda key, m: weight_bytes * key[0] * key[1])
    every = {(m, n, k): t for (n, k), row in times.items() for m, t in row.items()}
    try:
        curve = fit_curve(every, weight_bytes=weight_bytes, input_bytes=input_bytes)
    except MissingProfileError:
        return None  # a handful of products says nothing about the others
    wanted = {key: row for key, row in times.items() if set(key) <= set(SIDES)}
    kept = thinned(wanted, M)
    notes: dict[str, object] = {
        "refused_host_bound": [f"{a}: median {r} x the fastest" for a, r in refused.items()],
        "cells_mended": mended,
        **lifted,
    }
    family = f"gemm_{dtype}"
    return Table(
        family,
        ("n", "k"),
        "m",
        kept,
        {key: letters[key] for key in kept},
        tuple(source for letter, source in sources.items() if letter in used),
        notes,
        _misses(family, times, kept, curve),
        curve,
        curve_misses(curve, every),
        digits=3,
    )


def _read(library: Library, name: str) -> tuple[dict[str, Cells], dict[str, Source]]:
    by_letter: dict[str, Cells] = {}
    sources = {}
    for framework in ("sglang", "vllm", "trtllm"):
        path = library.newest("gemm", framework, "gemm_perf.parquet")
        if path is None:
            continue
        cells: Cells = {}
        rows = read_rows(path, ("m", "n", "k", "latency"), {"gemm_dtype": [name]})
        for m, n, k, time_ms in rows:
            cells[m, n, k] = min(time_ms * MS, cells.get((m, n, k), float("inf")))
        if cells:
            by_letter[LETTERS[framework]] = cells
            sources[LETTERS[framework]] = library.source(path)
    return by_letter, sources


def _owned(used: Mapping[str, Cells]) -> tuple[Times, dict[Key, str], int]:
    """The first framework's row of every shape, its accidents replaced; how many they were."""
    rows: dict[str, Times] = {}
    for letter, cells in used.items():
        rows[letter] = defaultdict(dict)
        for (m, n, k), seconds in cells.items():
            rows[letter][n, k][m] = seconds
    times: Times = {}
    letters: dict[Key, str] = {}
    mended = 0
    for letter in used:  # SGLang first
        for key, row in rows[letter].items():
            if key in times:
                continue
            rest = [rows[other][key] for other in used if other != letter and key in rows[other]]
            times[key], changed = _without_accidents(row, rest)
            letters[key] = letter
            mended += changed
    return times, letters, mended


def _without_accidents(
    row: Mapping[int, float], rest: Sequence[Mapping[int, float]]
) -> tuple[dict[int, float], int]:
    """Bring cells back that are slower beside another framework than the rest of their row is."""
    best = {m: min(r[m] for r in rest if m in r) for m in row if any(m in r for r in rest)}
    if not best:
        return dict(row), 0
    usual = max(1.0, median(row[m] / best[m] for m in best))
    mended = {m: usual * best[m] for m in best if row[m] > DISTURBED * usual * best[m]}
    return {**row, **mended}, len(mended)


def _misses(family: str, times: Times, kept: Times, curve: GemmCurve) -> dict[str, Miss]:
    """On a kept shape at the row counts left out; on the shapes left out; past the edge."""
    axis = sorted({m for row in kept.values() for m in row})
    table = {(n, k): [row.get(m) for m in axis] for (n, k), row in kept.items()}
    grid = GemmGrid(axis, table, curve)
    rows = _misses_of(grid, times, kept.keys(), axis)
    shapes = _misses_of(grid, times, times.keys() - kept.keys(), axis)
    return {
        f"{family}.rows": rows,
        family: shapes if shapes.points else grid_miss(axis, table, curve),
        f"{family}.past_edge": edge_miss(axis, table, curve),
    }


def _misses_of(grid: GemmGrid, times: Times, shapes: Iterable[Key], axis: Sequence[int]) -> Miss:
    """Predict what was left out: other row counts of kept shapes, kept ones of other shapes."""
    kept = set(axis)
    return Miss.of(
        (grid.at(m=m, n=n, k=k)[0], seconds)
        for n, k in sorted(shapes)
        if min(n, k) >= min(SIDES)
        for m, seconds in sorted(times[n, k].items())
        if m < axis[-1] and (m in kept) == ((n, k) not in grid.table)
    )
