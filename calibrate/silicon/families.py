"""Operator families: the cases that are kept of each, and from which framework.

bf16 GEMM is the fastest of three frameworks per cell: the kernel is the same and the slow copies
are accidents. Everything else is SGLang's, whose kernels differ from the others' on purpose.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import log
from statistics import median

from dflash_sim.calibrate.silicon.source import LETTERS, Library, Row, read_rows
from dflash_sim.calibrate.silicon.table import Key, Table, Tally, Times, lift, no_rows
from dflash_sim.calibrate.silicon.thinning import thinned, thinning_miss
from dflash_sim.profiles.times.attention_table import BACKENDS
from dflash_sim.profiles.units import BF16_BYTES, FP32_BYTES, MS

M = {1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256}
M |= {512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384}  # none measured between 257 and 512
SLOW = 1.5  # a framework this much slower than the best of the same cell is counted
SHARDS = (1, 2, 4, 8)
# (heads, KV heads, head width, window) before sharding, of the same models and the drafters
ATTENTION = (
    (32, 2, 256, 0),
    (16, 2, 256, 0),
    (24, 4, 256, 0),
    (16, 4, 256, 0),
    (32, 8, 128, 0),
    (32, 4, 128, 0),
    (40, 8, 128, 0),
    (64, 8, 128, 0),
    (64, 8, 64, 0),
    (64, 8, 64, 128),
)
DECODE_MIN_KV = 64  # shorter caches cost the launch
DECODE_MAX_BATCH = 512
PREFILL_MAX_BATCH = 8
GDN_HEADS = ((64, 16), (48, 16), (32, 16))  # (value heads, key heads) before sharding
GDN_STATE_BYTES = 128 * 128 * FP32_BYTES  # of one value head
GDN_SHARED_KERNEL = "fused_recurrent_gated_delta_rule_packed_decode"
GDN_KERNELS = {
    GDN_SHARED_KERNEL: "recurrent_decode",
    "fused_recurrent_gated_delta_rule": "recurrent_decode",
    "causal_conv1d_update": "conv_update",
    "chunk_gated_delta_rule": "chunk_prefill",
    "causal_conv1d_fn": "conv_prefill",
}

KDA_PHASES = {"generation": "decode", "verify": "verify", "context": "prefill"}
KDA_FUSED = {"kda_fused_decode", "fused_kda_decode_mtp_dspark"}  # with their convolution
KDA_CONV = {"causal_conv1d_update", "causal_conv1d_fn_qkv3"}
KDA_RULE = {
    "fused_recurrent_kda_packed_decode",
    "fused_sigmoid_gating_delta_rule_update",
    "chunk_kda",
}
STREAM_TOKENS = (1, 8, 32, 64, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192, 16384, 32768)

GemmCells = dict[tuple[int, int, int], float]


def gemm(library: Library) -> tuple[Table, GemmCells]:
    """bf16 products on the kept row counts; also every cell, for the fit."""
    cells: dict[tuple[int, int, int], dict[str, float]] = defaultdict(dict)
    sources = []
    for framework in ("sglang", "vllm", "trtllm"):
        path = library.newest("gemm", framework, "gemm_perf.parquet")
        if path is not None:
            sources.append(library.source(path))
            rows = read_rows(path, ("m", "n", "k", "latency"), {"gemm_dtype": ["bfloat16"]})
            for m, n, k, time_ms in rows:
                known = cells[m, n, k].get(LETTERS[framework], time_ms * MS)
                cells[m, n, k][LETTERS[framework]] = min(time_ms * MS, known)
    if not cells:
        raise no_rows(library, "gemm")
    times: Times = defaultdict(dict)
    for (m, n, k), cell in cells.items():
        times[n, k][m] = min(cell.values())
    lifted = lift(times, lambda key, m: BF16_BYTES * key[0] * key[1])
    every = {(m, n, k): times[n, k][m] for m, n, k in cells}
    kept = {key: cell for key, cell in cells.items() if key[0] in M}
    sizes = sorted({m for m, _, _ in kept})
    letters = {(n, k): "".join(_fastest(kept.get((m, n, k), {})) for m in sizes) for n, k in times}
    shown = {key: {m: t for m, t in row.items() if m in M} for key, row in times.items()}
    notes = {**_gemm_notes(kept), "cells_fitted": len(every), **lifted}
    return Table("gemm", ("n", "k"), "m", shown, letters, tuple(sources), notes), every


def attention(library: Library) -> Table:
    """SGLang's attention: decode by KV length, and prefill of fresh prompts by length."""
    tally = Tally(library, "attention")
    for phase, file in (("decode", "generation"), ("prefill", "context")):
        path = library.newest("attention", "sglang", f"{file}_attention_perf.parquet")
        if path is not None:
            shape = ("kernel_source", "num_heads", "num_key_value_heads", "head_dim", "window_size")
            where = {"attn_dtype": ["bfloat16"], "kv_cache_dtype": ["bfloat16"]}
            rows = read_rows(path, (*shape, "batch_size", "isl", "step", "latency"), where)
            chosen = _nearest_heads({row[:5] for row in rows}, phase)
            tally.add(path, _attention_rows(phase, rows, chosen))
    keys = ("phase", "backend", "heads", "kv_heads", "head_dim", "window", "batch")
    return tally.table(keys, "len", _kv_bytes)


def gdn(library: Library) -> Table:
    """SGLang's gated delta net: decode by batch, prefill by batch and length.

    vLLM times the very same decode kernel: it stands in where SGLang's run was disturbed.
    """
    tally = Tally(library, "gdn")
    shards = {(v // tp, max(1, k // tp)) for v, k in GDN_HEADS for tp in SHARDS}
    path = library.newest("linear_attention", "sglang", "gdn_perf.parquet")
    if path is not None:
        columns = ("kernel_source", "num_v_heads", "num_k_heads", "phase", "seq_len", "batch_size")
        rows = read_rows(path, (*columns, "latency"), {"kernel_source": GDN_KERNELS})
        tally.add(
            path,
            (
                ((GDN_KERNELS[kernel], v, k, 1 if phase == "generation" else seq), batch, time_ms)
                for kernel, v, k, phase, seq, batch, time_ms in rows
                if (v, k) in shards
            ),
        )
    other = library.newest("linear_attention", "vllm", "gdn_perf.parquet")
    if other is not None:
        fewer = ("num_v_heads", "num_k_heads", "batch_size", "latency")
        rows = read_rows(other, fewer, {"kernel_source": [GDN_SHARED_KERNEL]})
        named = ((("recurrent_decode", v, k, 1), batch, time_ms) for v, k, batch, time_ms in rows)
        tally.mend(other, named)
    return tally.table(("kernel", "v_heads", "k_heads", "seq"), "batch", _state_bytes)


def kda(library: Library) -> Table | None:
    """SGLang's Kimi delta attention: decode by batch, verification and prefill by rows too.

    Each has its convolution in it, fused or as a second kernel.
    """
    path = library.newest("kda", "sglang", "kda_perf.parquet")
    if path is None:
        return None
    tally = Tally(library, "kda")
    columns = ("kernel_source", "num_v_heads", "phase", "seq_len", "batch_size", "latency")
    known = {"kernel_source": KDA_FUSED | KDA_CONV | KDA_RULE}
    parts: dict[Key, dict[str, float]] = defaultdict(dict)
    for kernel, heads, phase, seq, batch, time_ms in read_rows(path, columns, known):
        own = parts[(KDA_PHASES[phase], heads, seq), batch]
        own[kernel] = min(time_ms, own.get(kernel, time_ms))
    whole = ((key, batch, _whole(own)) for (key, batch), own in parts.items())
    tally.add(path, ((key, batch, time_ms) for key, batch, time_ms in whole if time_ms))
    table = tally.table(("kernel", "heads", "seq"), "batch", _kda_state_bytes)
    return replace(table, digits=3)


def _whole(parts: Mapping[str, float]) -> float | None:
    """The fused kernel where it was timed, else those that it replaces; None of one alone."""
    fused = [time_ms for kernel, time_ms in parts.items() if kernel in KDA_FUSED]
    return min(fused) if fused else sum(parts.values()) if len(parts) > 1 else None


def _kda_state_bytes(key: Key, batch: int) -> float:
    kernel, heads, _ = key
    return 0.0 if kernel == "prefill" else 2.0 * batch * heads * GDN_STATE_BYTES


def streams(library: Library) -> Table | None:
    """Hyper-connections of DeepSeek-V4 before and behind both parts of a layer."""
    path = library.newest("mhc", "sglang", "mhc_module_perf.parquet")
    if path is None:
        return None
    tally = Tally(library, "streams")
    columns = ("op_name", "hc_mult", "hidden_size", "num_tokens", "latency")
    rows = read_rows(path, columns, {"num_sites": [2]})
    tally.add(path, ((tuple(key), tokens, time_ms) for *key, tokens, time_ms in rows))
    table = tally.table(("step", "streams", "hidden"), "tokens")
    kept = thinned(table.times, STREAM_TOKENS)
    misses = {"streams": thinning_miss(table.times, kept)}
    return replace(table, times=kept, misses=misses, digits=3)


def comm(library: Library) -> Table:
    """SGLang's all-reduce inside a CUDA graph, and NCCL; sizes become bytes here.

    The tables count bf16 elements. nccl-tests sizes an all-gather by its whole result.
    """
    tally = Tally(library, "comm")
    path = library.newest("comm", "sglang", "custom_allreduce_perf.parquet")
    if path is not None:
        where = {"kernel_source": ["SGLang_CustomAllReduce_graph"]}
        rows = read_rows(path, ("num_gpus", "message_size", "latency"), where)
        tally.add(path, ((("all_reduce", g), size * BF16_BYTES, t) for g, size, t in rows))
    path = library.newest("comm", "nccl", "nccl_perf.parquet")
    if path is not None:
        names = {"all_gather": "all_gather", "all_reduce": "all_reduce_nccl"}
        where = {"op_name": list(names), "nccl_dtype": ["half"]}
        rows = read_rows(path, ("op_name", "num_gpus", "message_size", "latency"), where)
        tally.add(path, (((names[op], g), size * BF16_BYTES, t) for op, g, size, t in rows))
    return tally.table(("op", "gpus"), "bytes")


def _fastest(cell: Mapping[str, float]) -> str:
    return min(cell, key=lambda letter: (cell[letter], letter), default="-")


def _gemm_notes(cells: Mapping[tuple[int, int, int], Mapping[str, float]]) -> dict[str, object]:
    ordered = [sorted(cell.values()) for cell in cells.values() if len(cell) > 1]
    slow = [
        (max(cell.values()) / min(cell.values()), key, max(cell, key=lambda name: cell[name]))
        for key, cell in cells.items()
        if max(cell.values()) > SLOW * min(cell.values())
    ]
    notes: dict[str, object] = {
        "second_fastest_median_ratio": round(median([t[1] / t[0] for t in ordered] or [1.0]), 4),
        "slow_ratio": SLOW,
        "frameworks_slow": len(slow),
    }
    if slow:
        ratio, (m, n, k), letter = max(slow)
        notes["framework_slowest"] = f"{letter} at m={m} n={n} k={k}: {ratio:.2f} x the fastest"
    return notes


def _nearest_heads(measured: set[Row], phase: str) -> set[Row]:
    """Measured shapes to keep: each wanted cache with the nearest number of query heads.

    Decode keeps every kernel family, prefill the first one that was measured.
    """
    chosen: set[Row] = set()
    for heads, *cache in _sharded_attention():
        near = [
            min(found, key=lambda key: (round(abs(log(key[1] / heads)), 6), -key[1]))
            for backend in BACKENDS
            if (found := [key for key in measured if key[0] == backend and [*key[2:]] == cache])
        ]
        chosen.update(near[:1] if phase == "prefill" else near)
    return chosen


def _sharded_attention() -> Sequence[tuple[int, int, int, int]]:
    return sorted(
        {
            (heads // tp, max(1, kv // tp), width, window)
            for heads, kv, width, window in ATTENTION
            for tp in SHARDS
        }
    )


def _attention_rows(
    phase: str, rows: Iterable[Row], chosen: set[Row]
) -> Iterator[tuple[Key, int, float]]:
    most = DECODE_MAX_BATCH if phase == "decode" else PREFILL_MAX_BATCH
    least = DECODE_MIN_KV if phase == "decode" else 1
    for *shape, batch, isl, step, time_ms in rows:
        if tuple(shape) in chosen and batch <= most and isl + step >= least:
            yield (phase, *shape, batch), isl + step, time_ms


def _kv_bytes(key: Key, kv_len: int) -> float:
    phase, _, _, kv_heads, head_dim, window, batch = key
    read = min(kv_len, window or kv_len)
    return 2.0 * BF16_BYTES * batch * read * kv_heads * head_dim if phase == "decode" else 0.0


def _state_bytes(key: Key, batch: int) -> float:
    kernel, v_heads = key[:2]  # the state is read and written
    return 2.0 * batch * v_heads * GDN_STATE_BYTES if kernel == "recurrent_decode" else 0.0
