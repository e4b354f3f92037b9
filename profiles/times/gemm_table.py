"""Measured products of one GPU, by number format of the weights."""

from functools import lru_cache

from dflash_sim.profiles.times.interpolation import GemmCurve, GemmGrid
from dflash_sim.profiles.times.op_file import Matrix
from dflash_sim.profiles.times.op_folder import OpFolder
from dflash_sim.profiles.times.timing import Timing

BF16 = "bfloat16"
KEPT = 1 << 16  # remembered lookups; a prediction asks for the same products again and again


def gemm_family(dtype: str) -> str:
    """Return the name of the file with products of one format, such as ``gemm_fp8_block``."""
    return "gemm" if dtype == BF16 else f"gemm_{dtype}"


@lru_cache(maxsize=KEPT)
def gemm_time(folder: OpFolder, m: int, n: int, k: int, dtype: str) -> Timing | None:
    """Time of a ``[m, k] x [k, n]`` product, ``None`` in a format that was not timed here."""
    family = gemm_family(dtype)
    grid = folder.table(family, lambda matrix: _grid(folder, family, matrix))
    if grid is None:
        return None
    kind = family if grid.covers(n=n, k=k) else f"{family}.past_edge"
    found = grid.at(m=m, n=n, k=k)
    row = (f"{n}x{k}",) if found[1] else (f"{n}x{k}", "by its curve")
    return folder.timing(kind, found, family, row)


def _grid(folder: OpFolder, family: str, matrix: Matrix) -> GemmGrid:
    return GemmGrid(
        [int(m) for m in matrix.axis],
        {(int(n), int(k)): times for (n, k), times in matrix.rows.items()},
        GemmCurve(**folder.meta[family]["curve"]),
    )
