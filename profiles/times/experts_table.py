"""Measured routed experts of one GPU, by number format, and by how ranks share them.

``moe.csv`` holds the layers that were imported first, without expert parallelism;
``experts_<format>.csv`` every other layer, format, and division into whole experts, at fewer
sizes: their lines bend between two of these, where evenly spread tokens reach the last expert.
"""

from bisect import bisect_left

from dflash_sim.profiles.times.interpolation import Line
from dflash_sim.profiles.times.op_file import Key, Matrix
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
    line = _bent(folder, family).get((*shape, str(tp), str(ep), distribution))
    if line is None:
        return None
    seconds, inside = line.at(tokens)
    found = seconds, inside and same == dtype
    return folder.timing(family, found, family, (*layer, tp, ep, distribution))


def _lines(folder: OpFolder, family: str) -> dict[Key, Line]:
    return folder.table(family, lambda matrix: matrix.lines()) or {}


def _bent(folder: OpFolder, family: str) -> dict[Key, Line]:
    def parse(matrix: Matrix) -> dict[Key, Line]:
        return {
            key: with_knee(line, int(key[0]) / int(key[1])) for key, line in matrix.lines().items()
        }

    return folder.table(family, parse) or {}


def with_knee(line: Line, knee: float) -> Line:
    """Return a line with the point where every expert is reached, if it lies between two sizes.

    More tokens read no further weights, so from there on it is as steep as past the next size.

    Parameters
    ----------
    knee
        Tokens that reach every expert when they are spread evenly: experts over top-k.
    """
    hi = bisect_left(line.x, knee)
    if not 0 < hi < len(line.x) - 1 or line.x[hi] == knee:
        return line
    (x1, x2), (y0, y1, y2) = line.x[hi : hi + 2], line.seconds[hi - 1 : hi + 2]
    flat = max(0.0, y2 - y1) / (x2 - x1)
    at_knee = max(y0, y1 - flat * (x1 - knee))
    return Line(
        (*line.x[:hi], knee, *line.x[hi:]), (*line.seconds[:hi], at_knee, *line.seconds[hi:])
    )
