"""The kernel that quantises activations, per token, to FP8.

vLLM's: its two files hold the fixed-scale kernel and what finding the scale adds. SGLang's two
time a chain of tensor operations that no server runs.
"""

from dataclasses import replace

from dflash_sim.calibrate.silicon.source import Library, read_rows
from dflash_sim.calibrate.silicon.table import Table, Tally
from dflash_sim.calibrate.silicon.thinning import sheet_miss, thinned

WIDTHS = (512, 1024, 2048, 4096, 8192, 16384)
TOKENS = (1, 64, 256, 1024, 4096, 16384)


def quantize(library: Library) -> Table | None:
    """Time by row width and tokens, or ``None`` where vLLM was not timed."""
    fixed = library.newest("quantize", "vllm", "scale_matrix_perf.parquet")
    added = library.newest("quantize", "vllm", "computescale_perf.parquet")
    if fixed is None or added is None:
        return None
    columns = ("quant_dtype", "k", "m", "latency")
    more = {row[:3]: row[3] for row in read_rows(added, columns, {}, zero=True)}
    tally = Tally(library, "quantize")
    rows = read_rows(fixed, columns, {"quant_dtype": ["fp8"]})
    tally.add(fixed, (((d, k), m, t + more.get((d, k, m), 0.0)) for d, k, m, t in rows))
    table = tally.table(("dtype", "width"), "tokens")
    few = {key: row for key, row in table.times.items() if key[1] in WIDTHS}
    few = thinned(few, TOKENS)
    sources = (*table.sources, library.source(added))
    misses = {"quantize": sheet_miss(table.times, few)}
    return replace(table, times=few, sources=sources, misses=misses, digits=3)
