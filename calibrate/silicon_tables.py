"""What is kept of each operator family, and how its rows are cleaned.

Cleaning is the least that works: bf16 GEMM takes the fastest framework, because the kernel is the
same and the slow copies are accidents; repeated rows take the fastest; a collective slower than
both its neighbours by half is replaced and named. Nothing else is changed.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from statistics import median

from dflash_sim.calibrate.silicon_fit import geometric_middle, spikes, spread
from dflash_sim.calibrate.silicon_source import LETTERS, Library, Row, Source, read_rows
from dflash_sim.profiles.errors import MissingProfileError
from dflash_sim.profiles.interp import Line
from dflash_sim.profiles.units import BF16_BYTES, MS, US

M = (1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512, 768)
M += (1024, 1536, 2048, 3072, 4096, 8192, 16384)
SLOW = 1.5  # a copy this much slower than the best of the same cell is counted as an outlier
SHARDS = (1, 2, 4, 8)
DISTRIBUTIONS = ("balanced", "power_law_1.01", "power_law_1.2")
# (experts, top-k, hidden, inter) of the models in profiles/models, and of Qwen3-235B
EXPERTS = (
    (512, 10, 4096, 1024),
    (256, 8, 3072, 1024),
    (256, 8, 2048, 512),
    (128, 8, 2048, 768),
    (128, 8, 4096, 1536),
    (32, 4, 2880, 2880),
    (128, 4, 2880, 2880),
)
MOE_DTYPES = ("bfloat16", "w4a16_mxfp4")  # the second for gpt-oss, which ships in MXFP4
# (heads, KV heads, head width, window) before sharding
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
PREFILL_MAX_BATCH = 8
DECODE_MIN_KV = 64  # shorter caches cost the launch
DECODE_MAX_BATCH = 512
GDN_HEADS = ((64, 16), (48, 16), (32, 16))  # (value heads, key heads) before sharding
GDN_KERNELS = {
    "fused_recurrent_gated_delta_rule_packed_decode": "recurrent_decode",
    "fused_recurrent_gated_delta_rule": "recurrent_decode",
    "causal_conv1d_update": "conv_update",
    "chunk_gated_delta_rule": "chunk_prefill",
    "causal_conv1d_fn": "conv_prefill",
}
PREFILL_BACKENDS = ("trtllm_mha", "fa3", "flashinfer", "triton", "flash_attention")

Key = tuple[object, ...]
Cells = dict[Key, dict[int, list[float]]]


@dataclass(frozen=True)
class Table:
    """One CSV in the making.

    Parameters
    ----------
    family : file name without suffix
    keys : names of the key columns
    size : name of the quantity across the columns
    times : key to time by size [s]
    letters : key to source letter, one for the row or one per column
    sources : files behind the letters
    notes : what ``meta.toml`` says about the cleaning
    """

    family: str
    keys: tuple[str, ...]
    size: str
    times: Mapping[Key, Mapping[int, float]]
    letters: Mapping[Key, str]
    sources: tuple[Source, ...]
    notes: Mapping[str, object] = field(default_factory=dict)

    @property
    def axis(self) -> tuple[int, ...]:
        """Sizes that occur, rising."""
        return tuple(sorted({size for row in self.times.values() for size in row}))

    @property
    def cells(self) -> int:
        """How many times are kept."""
        return sum(len(row) for row in self.times.values())

    def lines(self) -> list[Line]:
        """Rows as interpolators."""
        axis = self.axis
        return [Line(axis, [row.get(x) for x in axis]) for row in self.times.values()]

    def csv(self) -> str:
        """The file, microseconds to four digits."""
        axis = self.axis
        head = [*self.keys, "source", *(f"us:{self.size}={x}" for x in axis)]
        body = [
            [*map(str, key), self.letters[key], *(_cell(self.times[key].get(x)) for x in axis)]
            for key in sorted(self.times, key=_sortable)
        ]
        return "".join(",".join(row) + "\n" for row in (head, *body))


def gemm(library: Library) -> tuple[Table, dict[tuple[int, int, int], float]]:
    """bf16 products, fastest framework per cell; also every cell, for the fit."""
    by_cell: dict[tuple[int, int, int], dict[str, float]] = defaultdict(dict)
    sources = []
    for framework in ("sglang", "vllm", "trtllm"):
        path = library.newest("gemm", framework, "gemm_perf.parquet")
        if path is None:
            continue
        sources.append(library.source(path))
        letter = LETTERS[framework]
        for m, n, k, ms in read_rows(
            path, ("m", "n", "k", "latency"), {"gemm_dtype": ["bfloat16"]}
        ):
            cell = by_cell[m, n, k]
            cell[letter] = min(ms * MS, cell.get(letter, ms * MS))
    if not by_cell:
        raise _empty(library, "gemm")
    best = {key: min(cell.values()) for key, cell in by_cell.items()}
    times: dict[Key, dict[int, float]] = defaultdict(dict)
    letters: dict[Key, str] = defaultdict(str)
    for m in M:
        for n, k in sorted({(n, k) for _, n, k in by_cell}):
            cell = by_cell.get((m, n, k))
            if cell:
                times[n, k][m] = best[m, n, k]
            letters[n, k] += min(cell, key=lambda name: (cell[name], name)) if cell else "-"
    kept = {key: cell for key, cell in by_cell.items() if key[0] in M}
    table = Table(
        "gemm", ("n", "k"), "m", times, letters, tuple(sources), _gemm_notes(kept, by_cell)
    )
    return table, best


def moe(library: Library) -> Table:
    """Routed experts without expert parallelism; SGLang first, then vLLM, then TensorRT-LLM.

    Top-k choice is timed with the experts, the router's product is not.
    """
    tally = _Tally(library, "moe")
    columns = ("num_experts", "topk", "hidden_size", "inter_size", "moe_tp_size", "distribution")
    where = {
        "moe_dtype": MOE_DTYPES,
        "moe_ep_size": [1],
        "moe_tp_size": SHARDS,
        "distribution": DISTRIBUTIONS,
    }
    for framework in ("sglang", "vllm", "trtllm"):
        path = library.newest("moe", framework, "moe_perf.parquet")
        if path is None:
            continue
        rows = read_rows(path, (*columns, "moe_dtype", "num_tokens", "latency"), where)
        rows = [row for row in rows if row[:4] in EXPERTS]
        in_bf16 = {row[:4] for row in rows if row[6] == "bfloat16"}
        kept = (row for row in rows if row[6] == "bfloat16" or row[:4] not in in_bf16)
        tally.add(path, ((row[:7], row[7], row[8]) for row in kept))
    keys = ("experts", "top_k", "hidden", "inter", "tp", "distribution", "dtype")
    return tally.table(keys, "tokens", {"includes": "top-k choice; not the router's product"})


def attention(library: Library) -> Table:
    """SGLang's attention: decode by KV length, and prefill of fresh prompts by length."""
    tally = _Tally(library, "attention")
    wanted = _sharded_attention()
    missing: list[str] = []
    for phase, file in (("decode", "generation"), ("prefill", "context")):
        path = library.newest("attention", "sglang", f"{file}_attention_perf.parquet")
        if path is None:
            continue
        columns = ("kernel_source", "num_heads", "num_key_value_heads", "head_dim", "window_size")
        where = {"attn_dtype": ["bfloat16"], "kv_cache_dtype": ["bfloat16"]}
        rows = read_rows(path, (*columns, "batch_size", "isl", "step", "latency"), where)
        chosen, absent = _nearest_heads({row[:5] for row in rows}, wanted, phase)
        missing += absent
        tally.add(path, _attention_rows(phase, rows, chosen))
    keys = ("phase", "backend", "heads", "kv_heads", "head_dim", "window", "batch")
    return tally.table(keys, "len", {"not_measured": missing})


def gdn(library: Library) -> Table:
    """SGLang's gated delta net: decode by batch, prefill by batch and length."""
    tally = _Tally(library, "gdn")
    shards = {(v // tp, max(1, k // tp)) for v, k in GDN_HEADS for tp in SHARDS}
    path = library.newest("linear_attention", "sglang", "gdn_perf.parquet")
    if path is not None:
        columns = ("kernel_source", "num_v_heads", "num_k_heads", "phase", "seq_len", "batch_size")
        rows = read_rows(path, (*columns, "latency"), {"kernel_source": GDN_KERNELS})
        tally.add(
            path,
            (
                ((GDN_KERNELS[kernel], v, k, 1 if phase == "generation" else seq), batch, ms)
                for kernel, v, k, phase, seq, batch, ms in rows
                if (v, k) in shards
            ),
        )
    return tally.table(("kernel", "v_heads", "k_heads", "seq"), "batch", {})


def comm(library: Library) -> Table:
    """SGLang's all-reduce inside a CUDA graph, and NCCL; sizes become bytes here.

    The tables count bf16 elements. nccl-tests sizes an all-gather by its whole result.
    """
    tally = _Tally(library, "comm")
    path = library.newest("comm", "sglang", "custom_allreduce_perf.parquet")
    if path is not None:
        where = {"kernel_source": ["SGLang_CustomAllReduce_graph"]}
        rows = read_rows(path, ("num_gpus", "message_size", "latency"), where)
        tally.add(path, ((("all_reduce", g), size * BF16_BYTES, ms) for g, size, ms in rows))
    path = library.newest("comm", "nccl", "nccl_perf.parquet")
    if path is not None:
        where = {"op_name": ["all_gather", "all_reduce"], "nccl_dtype": ["half"]}
        rows = read_rows(path, ("op_name", "num_gpus", "message_size", "latency"), where)
        names = {"all_gather": "all_gather", "all_reduce": "all_reduce_nccl"}
        tally.add(path, (((names[op], g), size * BF16_BYTES, ms) for op, g, size, ms in rows))
    repaired = [name for key in tally.best for name in _repair(key, tally.best[key])]
    return tally.table(("op", "gpus"), "bytes", {"repaired": repaired})


class _Tally:
    """Rows gathered from several files: the first file that has a key owns it, repeats take min."""

    def __init__(self, library: Library, family: str) -> None:
        self._library = library
        self._family = family
        self._sources: list[Source] = []
        self._repeats: list[float] = []
        self.best: dict[Key, dict[int, float]] = {}
        self.letters: dict[Key, str] = {}

    def add(self, path: Path, rows: Iterable[tuple[Key, int, float]]) -> None:
        source = self._library.source(path)
        cells: Cells = defaultdict(lambda: defaultdict(list))
        for key, size, ms in rows:
            if key not in self.best:
                cells[key][size].append(ms * MS)
        if not cells:
            return
        self._sources.append(source)
        for key, row in cells.items():
            self.best[key] = {size: min(times) for size, times in row.items()}
            self.letters[key] = source.letter
            self._repeats += [max(t) / min(t) for t in row.values() if len(t) > 1]

    def table(self, keys: tuple[str, ...], size: str, notes: Mapping[str, object]) -> Table:
        if not self.best:
            raise _empty(self._library, self._family)
        repeats = {
            "repeated_cells": len(self._repeats),
            "repeated_worst_ratio": round(max(self._repeats, default=1.0), 3),
        }
        return Table(
            self._family,
            keys,
            size,
            self.best,
            self.letters,
            tuple(self._sources),
            {**repeats, **notes},
        )


def _gemm_notes(
    kept: Mapping[tuple[int, int, int], Mapping[str, float]],
    every: Mapping[tuple[int, int, int], Mapping[str, float]],
) -> dict[str, object]:
    shared = [sorted(cell.values()) for cell in kept.values() if len(cell) > 1]
    slow = {
        (max(cell.values()) / min(cell.values()), key, max(cell, key=lambda name: cell[name]))
        for key, cell in kept.items()
        if max(cell.values()) > SLOW * min(cell.values())
    }
    notes: dict[str, object] = {
        "cells_measured": len(every),
        "cells_kept": len(kept),
        "median_second_over_best": round(median([spread(times) for times in shared] or [1.0]), 4),
        "outliers_over_1.5x": len(slow),
    }
    if slow:
        ratio, (m, n, k), letter = max(slow)
        notes["worst_outlier"] = f"{letter} m={m} n={n} k={k}: {ratio:.2f} x the fastest"
    return notes


def _sharded_attention() -> list[tuple[int, int, int, int]]:
    shards = {
        (heads // tp, max(1, kv // tp), width, window)
        for heads, kv, width, window in ATTENTION
        for tp in SHARDS
    }
    return sorted(shards)


def _nearest_heads(
    measured: set[Row], wanted: Sequence[tuple[int, int, int, int]], phase: str
) -> tuple[set[Row], list[str]]:
    """Measured shapes to keep for the wanted ones, and wanted ones with no exact match."""
    chosen: set[Row] = set()
    absent = []
    for heads, *cache in wanted:
        found = [key for key in measured if list(key[2:]) == cache]
        near = {
            backend: min(
                (key for key in found if key[0] == backend),
                key=lambda key: (round(abs(log(key[1] / heads)), 6), -key[1]),
            )
            for backend in sorted({key[0] for key in found}, key=PREFILL_BACKENDS.index)
        }
        exact = [key for key in near.values() if key[1] == heads]
        if not exact:
            shape = f"{phase} {heads}/{cache[0]}x{cache[1]} window {cache[2]}"
            absent.append(f"{shape}: {'nearest heads' if near else 'nothing'} kept")
        keep = [*exact, *near.values()]
        chosen.update(keep[:1] if phase == "prefill" else keep)
    return chosen, absent


def _attention_rows(
    phase: str, rows: Iterable[Row], chosen: set[Row]
) -> Iterable[tuple[Key, int, float]]:
    for *shape, batch, isl, step, ms in rows:
        if tuple(shape) not in chosen:
            continue
        length = isl + step
        if phase == "decode" and (length < DECODE_MIN_KV or batch > DECODE_MAX_BATCH):
            continue
        if phase == "prefill" and batch > PREFILL_MAX_BATCH:
            continue
        yield (phase, *shape, batch), length, ms


def _repair(key: Key, row: dict[int, float]) -> list[str]:
    """Replace lone spikes of a collective by the middle of their neighbours; name each."""
    sizes = sorted(row)
    line = Line(sizes, [row[x] for x in sizes])
    done = []
    for i in spikes(line, SLOW):
        before, now, after = (row[sizes[i + d]] for d in (-1, 0, 1))
        row[sizes[i]] = geometric_middle(before, after)
        what = f"{key[0]} gpus={key[1]} bytes={sizes[i]}"
        done.append(f"{what}: {_cell(now)} us between {_cell(before)} and {_cell(after)}")
    return done


def _cell(seconds: float | None) -> str:
    return "" if seconds is None else f"{float(f'{seconds / US:.4g}'):g}"


def _sortable(key: Key) -> tuple[tuple[bool, object], ...]:
    return tuple((isinstance(part, str), part) for part in key)


def _empty(library: Library, family: str) -> MissingProfileError:
    msg = f"{library.origin} has no usable {family} rows for {library.system}"
    return MissingProfileError(msg)
