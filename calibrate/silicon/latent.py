"""Latent attention: MLA's kernels, the products that absorb its projections, and whole modules.

SGLang's kernels, unless another framework's take so much less that SGLang's run did other work:
on Hopper its decode with an FP8 cache widened the cache in every call, and its prefill ran on the
absorbed form, which has 3.4 times the products of the one that servers use.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median

from dflash_sim.calibrate.silicon.source import LETTERS, Library, Row, read_rows
from dflash_sim.calibrate.silicon.table import Key, Table, Tally
from dflash_sim.calibrate.silicon.thinning import thinned, thinned_phases, thinning_miss
from dflash_sim.profiles.units import MS, US

OTHER_WORK = 1.4  # median over long calls, of a framework's time by another's
LONG_S = 100 * US  # shorter calls are launches
HEADS = (8, 16, 32, 64, 128)
BATCHES = {"decode": (1, 4, 8, 16, 32, 64, 128, 256), "prefill": (1, 2, 8)}
LENGTHS = {
    "decode": (128, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072),
    "prefill": (128, 256, 512, 1024, 2048, 4096, 8192, 16384),
}
FILES = {"decode": "generation_mla", "prefill": "context_mla"}
TOKENS = (1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
STEPS = {"mla_gen_pre": "pre", "mla_gen_post": "post"}
CACHED = {"fp8_e4m3": "fp8"}  # formats of keys as some tables call them
COLUMNS = (
    "model", "gemm_type", "kv_cache_dtype", "num_heads", "batch_size", "isl", "step", "latency",
)  # fmt: skip
PREFIXES = (0, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)

Triple = tuple[Key, int, float]


def mla(library: Library) -> Table | None:
    """MLA's kernel on one rank: decode in the absorbed form, prefill of fresh prompts."""
    tally = Tally(library, "mla")
    swapped = []
    for phase, file in FILES.items():
        told = []
        for framework in ("sglang", "trtllm"):
            path = library.newest("mla", framework, f"{file}_perf.parquet")
            if path is not None:
                shape = ("kv_cache_dtype", "num_heads", "batch_size", "isl", "step", "latency")
                rows = [
                    ((phase, kv, heads, batch), isl + step, time_ms)
                    for kv, heads, batch, isl, step, time_ms in read_rows(path, shape, {})
                    if heads in HEADS and batch <= 2 * max(BATCHES[phase])
                ]
                told.append((LETTERS[framework], path, rows))
        if len(told) > 1:
            for kv in ("bfloat16", "fp8"):
                ratio = _long_ratio(*([r for r in t[2] if r[0][1] == kv] for t in told))
                if ratio > OTHER_WORK:
                    told[0][2][:] = [row for row in told[0][2] if row[0][1] != kv]
                    swapped.append(f"{phase} with a {kv} cache: s takes {ratio:.1f} x t")
        for _, path, rows in told:
            tally.add(path, rows)
    if not tally.times:
        return None
    table = tally.table(("phase", "kv_dtype", "heads", "batch"), "len")
    kept, misses = thinned_phases(
        table.times, "mla", across=BATCHES, along=LENGTHS, power=("prefill",)
    )
    notes = {**table.notes, "did_other_work": swapped}
    return replace(table, times=kept, notes=notes, misses=misses, digits=3)


def mla_bmm(library: Library) -> Table | None:
    """The products per head before and after MLA's kernel, which absorb a projection each."""
    tally = Tally(library, "mla_bmm")
    path = library.newest("mla_bmm", "sglang", "mla_bmm_perf.parquet")
    if path is None:
        return None
    shape = ("op_name", "bmm_dtype", "num_heads", "num_tokens", "latency")
    rows = read_rows(path, shape, {"op_name": STEPS, "num_heads": HEADS})
    tally.add(path, (((STEPS[op], dtype, heads), n, t) for op, dtype, heads, n, t in rows))
    table = tally.table(("step", "dtype", "heads"), "tokens")
    kept = thinned(table.times, TOKENS)
    misses = {"mla_bmm": thinning_miss(table.times, kept)}
    return replace(table, times=kept, misses=misses, digits=3)


@dataclass(frozen=True)
class Modules:
    """Whole layers of attention to a part of the tokens, timed as one, of one kind.

    Parameters
    ----------
    family
        The table that they are written to.
    folder, files
        Where the package has them, and the middle of the names of the files: one for each kind of
        layer of a model.
    models
        As the files call them: our name of the model and the format of its projections; without
        one, the format is that of each row.
    every
        Of the batches and prefixes of other families one is kept; what is lost is in the misses.
    """

    family: str
    folder: str
    files: Mapping[str, str]
    models: Mapping[str, tuple[str, str]]
    every: int = 1

    def __call__(self, library: Library) -> Table | None:
        """Decode by batch and cached tokens; prefill of one request by prefix and new tokens."""
        tally = Tally(library, self.family)
        for phase, said in (("decode", "generation"), ("prefill", "context")):
            for kind, name in self.files.items():
                file = f"{name}_{said}_module"
                path = library.newest(self.folder, "sglang", f"{file}_perf.parquet")
                if path is not None:
                    where = {"model": self.models, "op_name": [file]}
                    tally.add(path, self._rows(phase, kind, read_rows(path, COLUMNS, where)))
        if not tally.times:
            return None
        table = tally.table(("phase", "model", "dtype", "kv_dtype", "heads", "across"), "len")
        across = {"decode": BATCHES["decode"][:: self.every], "prefill": PREFIXES[:: self.every]}
        kept, misses = thinned_phases(
            table.times, self.family, across=across, along=LENGTHS, power=("prefill",)
        )
        return replace(table, times=kept, misses=misses, digits=3)

    def _rows(self, phase: str, kind: str, rows: Iterable[Row]) -> Iterable[Triple]:
        for model, gemm, kv, heads, batch, isl, step, time_ms in rows:
            name, dtype = self.models[model]
            key = (phase, name + kind, dtype or gemm, CACHED.get(kv, kv), heads)
            if phase == "decode":
                yield (*key, batch), step, time_ms
            elif batch == 1:
                yield (*key, step), isl, time_ms


MODULES = (
    Modules(
        "dsa",
        "sparse_attention",
        {"": "dsa"},
        {
            "deepseek-ai/DeepSeek-V3.2": ("deepseek-v3.2", "fp8_block"),
            "zai-org/GLM-5-FP8": ("glm-5", "fp8_block"),
            "zai-org/GLM-5": ("glm-5", "bfloat16"),
            "nvidia/GLM-5.2-NVFP4": ("glm-5", "bfloat16"),  # its attention is in bf16
        },
    ),
    Modules(
        "msa", "msa", {"": "msa"}, {"MiniMaxAI/MiniMax-M3": ("minimax-m3", "bfloat16")}, every=2
    ),
    Modules(
        "csa",
        "sparse_attention",
        {" by 4": "dsv4_csa", " by 128": "dsv4_hca"},
        {
            "sgl-project/DeepSeek-V4-Flash-FP8": ("deepseek-v4-flash", ""),
            "deepseek-ai/DeepSeek-V4-Pro": ("deepseek-v4-pro", ""),
            "sgl-project/DeepSeek-V4-Pro-FP8": ("deepseek-v4-pro", ""),
        },
        every=2,
    ),
)


def _long_ratio(mine: Iterable[Triple], other: Iterable[Triple]) -> float:
    """Median ratio of two frameworks over calls that are longer than a launch [1]."""
    theirs = {(key, size): time_ms for key, size, time_ms in other}
    ratios = [
        time_ms / theirs[key, size]
        for key, size, time_ms in mine
        if (key, size) in theirs and theirs[key, size] * MS > LONG_S
    ]
    return median(ratios or [1.0])
