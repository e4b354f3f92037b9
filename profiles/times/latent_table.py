"""Measured latent attention of one GPU: MLA's kernel, its products per head, sparse modules."""

from functools import lru_cache
from math import log

from dflash_sim.profiles.times.interpolation import Sheet
from dflash_sim.profiles.times.op_file import Key, Matrix
from dflash_sim.profiles.times.op_folder import OpFolder
from dflash_sim.profiles.times.timing import Timing

KEPT = 1 << 16  # remembered lookups; a KV length is rarely asked twice


@lru_cache(maxsize=KEPT)
def latent_time(
    folder: OpFolder, family: str, name: tuple[str, ...], heads: int, across: float, along: float
) -> Timing | None:
    """Time of a row of ``mla.csv`` or of modules, from the nearest number of heads per rank.

    Parameters
    ----------
    name : the key columns before ``heads``
    across, along : the batch, or the prefix of a sparse module's prefill; and the length
    """
    rows = folder.table(family, _sheets) or {}
    found = [key for key in rows if key[:-1] == name]
    key = min(found, key=lambda key: abs(log(int(key[-1]) / heads)), default=None)
    if key is None:
        return None
    seconds, inside = rows[key].at(across, along)
    same = inside and int(key[-1]) == heads
    return folder.timing(f"{family}.{name[0]}", (seconds, same), family, key)


def bmm_time(folder: OpFolder, tokens: float, heads: int, step: str, dtype: str) -> Timing | None:
    """Time of the product per head before (``pre``) or after (``post``) MLA's kernel."""
    lines = folder.table("mla_bmm", lambda matrix: matrix.lines()) or {}
    found = [key for key in lines if key[:2] == (step, dtype)]
    key = min(found, key=lambda key: abs(log(int(key[2]) / heads)), default=None)
    if key is None:
        return None
    seconds, inside = lines[key].at(tokens)
    return folder.timing("mla_bmm", (seconds, inside and int(key[2]) == heads), "mla_bmm", key)


def _sheets(matrix: Matrix) -> dict[Key, Sheet]:
    decode, prefill = matrix.sheets(first="decode"), matrix.sheets(first="prefill", power=True)
    both = (("decode", decode), ("prefill", prefill))
    return {(phase, *key): sheet for phase, rows in both for key, sheet in rows.items()}
