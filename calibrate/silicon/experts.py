"""Routed experts: SGLang's rows, and another framework's where SGLang's ran something else.

Top-k choice is timed with the experts, the router's product is not. With expert parallelism the
tables time the rank that has most to do, on the tokens that reach it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path

from dflash_sim.calibrate.silicon.source import LETTERS, Library, read_rows
from dflash_sim.calibrate.silicon.suspects import (
    UNREAD,
    jumps,
    reading_rates,
    refused_layers,
    slow_rows,
)
from dflash_sim.calibrate.silicon.table import Key, Table, Tally, Times
from dflash_sim.calibrate.silicon.thinning import thinned, thinning_miss
from dflash_sim.profiles.formats import bytes_of
from dflash_sim.profiles.units import BF16_BYTES, MS

SHARDS = (1, 2, 4, 8)
RANKS = 8  # at most, of one server
DISTRIBUTIONS = ("balanced", "power_law_1.01", "power_law_1.2")
SPREADS = ("balanced",)  # kept of the further tables; a price reads no other
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
# (experts, top-k, hidden, inter): Qwen3.5 397B, 122B, 35B; Qwen3 30B, 235B; gpt-oss 20b, 120b
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
# Our format: as the tables call it, and bytes of a weight with its scales.
FORMATS: Mapping[str, tuple[str, float]] = {
    form: (name, bytes_of(form))
    for form, name in {
        "bfloat16": "bfloat16",
        "fp8_block": "fp8_block",
        "nvfp4": "nvfp4",
        "int4": "int4_wo",
        "mxfp4": "w4a16_mxfp4",
        "mxfp4_w4a8": "w4a8_mxfp4_mxfp8",
    }.items()
}
# Nemotron-H: two matrices an expert instead of three.
UNGATED = (
    (128, 6, 2688, 1856),
    (512, 22, 1024, 2688),
    (512, 22, 2048, 5120),
    (512, 22, 4096, 2688),
    (512, 22, 8192, 5120),
)
FRAMEWORKS = ("sglang", "vllm", "trtllm")
FIRST = ("bfloat16", "mxfp4")  # formats of :func:`moe`
MOST_TOLD = 5  # rows and steps named in notes.toml; the rest is counted


@dataclass(frozen=True)
class Told:
    """Rows of one file: (key, tokens, ms).

    Parameters
    ----------
    letter : of the framework
    path : of the file
    rows : what it holds of the wanted experts
    """

    letter: str
    path: Path
    rows: Sequence[tuple[Key, int, float]]

    @property
    def name(self) -> str:
        """Return the framework and its version."""
        return f"{self.path.parts[-3]} {self.path.parts[-2]}"

    def times(self) -> Times:
        """Return the fastest time by row and tokens [s]."""
        found: Times = {}
        for key, tokens, time_ms in self.rows:
            row = found.setdefault(key, {})
            row[tokens] = min(time_ms * MS, row.get(tokens, inf))
        return found


def moe(library: Library) -> Table:
    """Experts of the first layers, without expert parallelism.

    SGLang first, then vLLM, then TensorRT-LLM.
    """
    shape = ("num_experts", "topk", "hidden_size", "inter_size", "moe_tp_size", "distribution")
    where = {
        "moe_dtype": MOE_DTYPES,
        "moe_ep_size": [1],
        "moe_tp_size": SHARDS,
        "distribution": DISTRIBUTIONS,
    }
    told = []
    for framework in FRAMEWORKS:
        path = library.newest("moe", framework, "moe_perf.parquet")
        if path is not None:
            rows = read_rows(path, (*shape, "moe_dtype", "num_tokens", "latency"), where)
            rows = [row for row in rows if row[:4] in EXPERTS]
            in_bf16 = {row[:4] for row in rows if row[6] == "bfloat16"}
            kept = [row for row in rows if row[6] == "bfloat16" or row[:4] not in in_bf16]
            told.append(Told(LETTERS[framework], path, [(r[:7], r[7], r[8]) for r in kept]))
    tally = Tally(library, "moe")
    narrow = [replace(t, rows=[row for row in t.rows if row[0][6] != "bfloat16"]) for t in told]
    told, notes = _as_they_say(narrow, told, library, FORMATS["mxfp4"][1], narrow=True)
    for one in told:
        tally.add(one.path, one.rows)
    keys = ("experts", "top_k", "hidden", "inter", "tp", "distribution", "dtype")
    table = tally.table(keys, "tokens", lambda key, n: _bf16_bytes(key, n) * (key[6] == "bfloat16"))
    return replace(table, notes={**table.notes, **notes})


def experts(library: Library, dtype: str) -> Table | None:
    """Experts in one format, divided in every way over at most :data:`RANKS` ranks.

    Returns ``None`` if nobody timed the format on this GPU.
    """
    name, weight_bytes = FORMATS[dtype]
    every = _told(library, name)
    told, notes = _as_they_say(every, every, library, weight_bytes, narrow=dtype != "bfloat16")
    if dtype in FIRST:  # the first layers have a file of their own
        first = {(*layer, tp, 1) for layer in EXPERTS for tp in SHARDS}
        told = [replace(t, rows=[row for row in t.rows if row[0][:6] not in first]) for t in told]
    if not any(one.rows for one in told):
        return None
    tally = Tally(library, f"experts_{dtype}")
    for one in told:
        tally.add(one.path, one.rows)
    keys = ("experts", "top_k", "hidden", "inter", "tp", "ep", "distribution")
    read = partial(_weight_bytes, weight_bytes)
    table = tally.table(keys, "tokens", read, at_most_byte_s=library.memory_byte_s)
    kept = thinned(table.times, TOKENS)
    misses = {table.family: thinning_miss(table.times, kept)}
    odd = _odd(told, tally)
    return replace(
        table, times=kept, notes={**table.notes, **notes, **odd}, misses=misses, digits=3
    )


def _told(library: Library, name: str) -> list[Told]:
    shape = ("num_experts", "topk", "hidden_size", "inter_size", "moe_tp_size", "moe_ep_size")
    where = {
        "moe_dtype": [name],
        "distribution": SPREADS,
        "moe_tp_size": SHARDS,
        "moe_ep_size": SHARDS,
    }
    told = []
    for framework in FRAMEWORKS:
        for path in library.every("moe", framework, "moe_perf.parquet"):
            rows = read_rows(path, (*shape, "distribution", "num_tokens", "latency"), where)
            near = [(r[:7], r[7], r[8]) for r in rows if r[4] * r[5] <= RANKS]
            told.append(Told(LETTERS[framework], path, near))
    return [one for one in told if one.rows]


def _as_they_say(
    judged: Sequence[Told],
    told: Sequence[Told],
    library: Library,
    weight_bytes: float,
    *,
    narrow: bool,
) -> tuple[list[Told], dict[str, object]]:
    """Leave out layers that did not run what their file says; and say which."""
    read = partial(_weight_bytes, weight_bytes)
    rates = {one.name: reading_rates(one.times(), read) for one in judged}
    refused = refused_layers(rates, library.memory_byte_s, narrow=narrow)
    wrong: dict[str, set[Key]] = {}
    for (name, layer), why in refused.items():
        rest = (one for one in judged if one.name != name and (one.name, layer) not in refused)
        elsewhere = {row[0] for one in rest for row in one.rows}
        # SGLang's kernel is kept where lifting to the memory's rate mends it: another framework's
        # is another kernel, and with many tokens several times as slow. So is a lone division.
        mends = why.endswith(UNREAD)
        own = name.startswith("sglang")
        wrong.setdefault(name, set()).update(
            row[0]
            for one in judged
            for row in one.rows
            if one.name == name
            and row[0][:4] == layer
            and not (mends and (own or row[0] not in elsewhere))
        )
    kept = [
        replace(one, rows=[row for row in one.rows if row[0] not in wrong.get(one.name, ())])
        for one in told
    ]
    return kept, {"layers_refused": [f"{name}: {why}" for (name, _), why in refused.items()]}


def _odd(told: Sequence[Told], tally: Tally) -> dict[str, object]:
    """Rows and steps of SGLang that no other framework has, for the record: they are kept."""
    mine = {key: row for key, row in tally.times.items() if tally.letters[key] == "s"}
    others = [(one.letter, one.times()) for one in told if one.letter != "s"]
    rows, steps = slow_rows(mine, others), jumps(mine, others)
    return {
        "slow_rows_kept": len(rows),
        "slow_rows_worst": [str(row) for row in rows[:MOST_TOLD]],
        "steps_of_one_framework": len(steps),
        "steps_worst": steps[:MOST_TOLD],
    }


def _bf16_bytes(key: Key, tokens: int) -> float:
    return _weight_bytes(float(BF16_BYTES), key, tokens)


def _weight_bytes(each: float, key: Key, tokens: int) -> float:
    """Weights that cannot be avoided: with skewed routing only the first token's are certain."""
    experts, top_k, hidden, inter, tp = key[:5]
    ep, distribution = (key[5], key[6]) if isinstance(key[5], int) else (1, key[5])
    active = min(experts, tokens * top_k) if distribution == "balanced" else top_k
    matrices = 2.0 if key[:4] in UNGATED else 3.0
    return float(each * active * matrices * hidden * inter / (tp * ep))
