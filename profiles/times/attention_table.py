"""Measured softmax attention of one GPU: decode by batch and cached tokens, prefill by length.

``attention.csv`` and ``attention_more.csv`` hold caches in bf16, the second of further models;
``attention_fp8.csv`` caches in FP8.
"""

from collections.abc import Iterator
from functools import lru_cache
from math import log

from dflash_sim.profiles.times.interpolation import Sheet
from dflash_sim.profiles.times.op_file import Key, Matrix
from dflash_sim.profiles.times.op_folder import OpFolder
from dflash_sim.profiles.times.timing import Timing

# Attention kernels by preference: the first one measured for a shape is its default.
BACKENDS = ("trtllm_mha", "fa3", "flash_attention", "flashinfer", "triton")
FILES = {"bfloat16": ("attention", "attention_more"), "fp8": ("attention_fp8",)}
KEPT = 1 << 16  # remembered lookups; a KV length is rarely asked twice

Head = tuple[int, int, int, int]  # query heads, KV heads, width, window
Place = tuple[str, Key]  # file, row


@lru_cache(maxsize=KEPT)
def attention_time(
    folder: OpFolder,
    phase: str,
    batch: float,
    length: float,
    head: Head,
    backend: str | None,
    kv_dtype: str,
) -> Timing | None:
    """Time of one layer's attention, ``None`` if no cache of its shape was measured."""
    heads, kv_heads, width, window = head
    place = _nearest(folder, phase, head, backend, kv_dtype)
    narrowed = place is None and window > 0
    if narrowed:
        # Reading only the window's tokens costs what a cache of that length costs.
        place = _nearest(folder, phase, (heads, kv_heads, width, 0), backend, kv_dtype)
    if place is None:
        return None
    family, key = place
    sheet = sheets(folder, family, phase)[key]
    seconds, inside = sheet.at(batch, min(length, window) if narrowed else length)
    same = key[0] == (backend or key[0]) and int(key[1]) == heads
    cut = narrowed and length > window
    return folder.timing(f"{family}.{phase}", (seconds, inside and same and not cut), family, key)


def sheets(folder: OpFolder, family: str, phase: str) -> dict[Key, Sheet]:
    """Time against batch and length by row, of one file and phase."""
    both = folder.table(family, _phases)
    return {} if both is None else both[phase]


def _phases(matrix: Matrix) -> dict[str, dict[Key, Sheet]]:
    return {
        "decode": matrix.sheets(first="decode"),
        "prefill": matrix.sheets(first="prefill", power=True),
    }


@lru_cache(maxsize=KEPT)
def _nearest(
    folder: OpFolder, phase: str, head: Head, backend: str | None, kv_dtype: str
) -> Place | None:
    """Row with this cache shape: wanted kernel, else default one; nearest query heads."""
    order = {name: rank for rank, name in enumerate(BACKENDS)}

    def distance(place: Place) -> tuple[bool, int, float, str]:
        _, key = place
        return (
            backend is not None and key[0] != backend,
            order.get(key[0], len(order)),
            round(abs(log(int(key[1]) / head[0])), 6),
            key[0],
        )

    best: Place | None = None
    for family in FILES.get(kv_dtype, ()):
        found = min(_rows(folder, family, phase, head), key=distance, default=None)
        if found is not None and (best is None or distance(found) < distance(best)):
            best = found
        if best is not None and int(best[1][1]) == head[0]:
            break  # the further files hold other shapes
    return best


def _rows(folder: OpFolder, family: str, phase: str, head: Head) -> Iterator[Place]:
    cache = tuple(map(str, head[1:]))
    return ((family, key) for key in sheets(folder, family, phase) if key[2:] == cache)
