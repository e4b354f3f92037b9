"""Attention of further models in bf16, and of all of them with an FP8 cache.

Only the kernel that SGLang prefers on the GPU is kept, on few batches and lengths.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import log

from dflash_sim.calibrate.silicon.families import ATTENTION
from dflash_sim.calibrate.silicon.source import Library, Row, read_rows
from dflash_sim.calibrate.silicon.table import Key, Table, Tally
from dflash_sim.calibrate.silicon.thinning import thinned_phases
from dflash_sim.profiles.times.attention_table import BACKENDS

# (heads, KV heads, head width, window) before sharding: Llama 405B, Qwen2.5-7B, Qwen3-235B,
# GLM-4.5 and Qwen3-Coder-480B, MiniMax-M2, Gemma-3, Qwen3-1.7B, MiMo-V2, Llama-4, Phi-4, Llama-2.
FURTHER = (
    (128, 8, 128, 0),
    (28, 4, 128, 0),
    (64, 4, 128, 0),
    (96, 8, 128, 0),
    (48, 8, 128, 0),
    (32, 16, 128, 0),
    (16, 8, 256, 0),
    (16, 8, 256, 1024),
    (16, 2, 512, 0),
    (16, 8, 128, 0),
    (64, 4, 192, 0),
    (64, 8, 192, 128),
    (40, 8, 128, 8192),
    (40, 10, 128, 0),
    (32, 32, 128, 0),
)
SHARDS = (1, 2, 4, 8)
BATCHES = {"decode": (1, 4, 8, 16, 32, 64, 128, 256), "prefill": (1, 8)}
LENGTHS = {
    "decode": (128, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072),
    "prefill": (16, 128, 256, 512, 1024, 2048, 4096, 8192, 16384),
}
FILES = {"decode": "generation", "prefill": "context"}
# Kernels that multiply in FP8 when the cache is in FP8; the others widen it.
IN_FP8 = ("trtllm_mha", "fa3")


def attention_more(library: Library) -> Table | None:
    """bf16 caches of the models that the first table does not have."""
    kept = _sharded(FURTHER) - _sharded(ATTENTION)
    return _attention(library, "attention_more", sorted(kept), "bfloat16", 2.0)


def attention_fp8(library: Library) -> Table | None:
    """FP8 caches of every model."""
    return _attention(
        library, "attention_fp8", sorted(_sharded((*ATTENTION, *FURTHER))), "fp8", 1.0
    )


def _sharded(models: Sequence[tuple[int, int, int, int]]) -> set[tuple[int, int, int, int]]:
    return {
        (heads // tp, max(1, kv // tp), width, window)
        for heads, kv, width, window in models
        for tp in SHARDS
    }


def _attention(
    library: Library,
    family: str,
    shapes: Sequence[tuple[int, int, int, int]],
    kv_dtype: str,
    value_bytes: float,
) -> Table | None:
    tally = Tally(library, family)
    head = ("kernel_source", "num_heads", "num_key_value_heads", "head_dim", "window_size")
    columns = (*head, "attn_dtype", "batch_size", "isl", "step", "latency")
    for phase in FILES:
        path = library.newest("attention", "sglang", f"{FILES[phase]}_attention_perf.parquet")
        if path is None:
            continue
        rows = read_rows(path, columns, {"kv_cache_dtype": [kv_dtype]})
        chosen = _preferred({row[:5] for row in rows}, shapes)
        in_fp8 = {row[:5] for row in rows if row[5] == "fp8" and row[0] in IN_FP8}
        most = 2 * max(BATCHES[phase])
        tally.add(
            path,
            (
                ((phase, *row[:5], batch), isl + step, time_ms)
                for *row, batch, isl, step, time_ms in rows
                if tuple(row[:5]) in chosen
                and (row[5] == "fp8") == (tuple(row[:5]) in in_fp8)
                and batch <= most
            ),
        )
    if not tally.times:
        return None

    def bytes_read(key: Key, kv_len: int) -> float:
        _, _, _, kv_heads, width, window, batch = key
        read = min(kv_len, window or kv_len)
        cached: float = 2.0 * value_bytes * batch * read * kv_heads * width
        return cached if key[0] == "decode" else 0.0

    keys = ("phase", "backend", "heads", "kv_heads", "head_dim", "window", "batch")
    table = tally.table(keys, "len", bytes_read, at_most_byte_s=library.memory_byte_s)
    kept, misses = thinned_phases(
        table.times, family, across=BATCHES, along=LENGTHS, power=("prefill",)
    )
    return replace(table, times=kept, misses=misses, digits=3)


def _preferred(measured: set[Row], shapes: Sequence[tuple[int, int, int, int]]) -> set[Row]:
    """Of each wanted cache the preferred kernel's row, with the nearest number of query heads."""
    chosen = set()
    for heads, *cache in shapes:
        found = [key for key in measured if [*key[2:]] == cache and key[0] in BACKENDS]
        best = min(
            found,
            key=lambda key: (BACKENDS.index(key[0]), abs(log(key[1] / heads)), -key[1]),
            default=None,
        )
        if best is not None:
            chosen.add(best)
    return chosen
