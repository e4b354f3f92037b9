"""Measured routed experts of one GPU, by number format, and by how ranks share them.

``moe.csv`` holds the layers that were imported first, without expert parallelism;
``experts_<format>.csv`` every other layer, format, and division into whole experts.
"""

from dflash_sim.profiles.times.interpolation import Line
from dflash_sim.profiles.times.op_file import Key
from dflash_sim.profiles.times.op_folder import OpFolder
from dflash_sim.profiles.times.timing import Timing

# Formats as ``moe.csv`` names them, where it differs from our names.
FIRST_NAMES = {"mxfp4": "w4a16_mxfp4"}
# Scales per channel instead of per block move as many bytes and multiply at the same rate.
STANDS_IN = {"fp8": "fp8_block"}


def experts_time(
    folder: OpFolder,
    tokens: float,
    layer: tuple[int, int, int, int],
    *,
    tp: int,
    ep: int,
    distribution: str,
    dtype: str,
) -> Timing | None:
    """Time of one rank's experts of ``layer``: experts, top-k, hidden and inner width."""
    shape = tuple(map(str, layer))
    if ep == 1:
        key: Key = (*shape, str(tp), distribution, FIRST_NAMES.get(dtype, dtype))
        line = _lines(folder, "moe").get(key)
        if line is not None:
            return folder.timing("moe", line.at(tokens), "moe", (*layer, tp, distribution))
    same = STANDS_IN.get(dtype, dtype)
    family = f"experts_{same}"
    line = _lines(folder, family).get((*shape, str(tp), str(ep), distribution))
    if line is None:
        return None
    seconds, inside = line.at(tokens)
    found = seconds, inside and same == dtype
    return folder.timing(family, found, family, (*layer, tp, ep, distribution))


def _lines(folder: OpFolder, family: str) -> dict[Key, Line]:
    return folder.table(family, lambda matrix: matrix.lines()) or {}
