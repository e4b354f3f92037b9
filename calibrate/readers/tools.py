"""The tools whose records are known, and how each is told from the others by its keys."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dflash_sim.calibrate.observations.acceptance_records import (
    is_acceptance,
    read_acceptance,
    verified,
)
from dflash_sim.calibrate.observations.conditions import ALIASES, COLUMNS, read_conditions
from dflash_sim.calibrate.observations.headings import LENGTHS
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.sampling import SAMPLING
from dflash_sim.calibrate.observations.values import Raw, short
from dflash_sim.calibrate.readers.aiperf import (
    check_aiperf_request,
    is_aiperf_request,
    is_aiperf_summary,
    read_aiperf_requests,
    read_aiperf_summary,
)
from dflash_sim.calibrate.readers.csv_table import read_table_row
from dflash_sim.calibrate.readers.guidellm import is_guidellm
from dflash_sim.calibrate.readers.inferencex import is_inferencex, read_inferencex
from dflash_sim.calibrate.readers.other_clients import (
    is_evalscope,
    is_genai_bench,
    is_llmperf,
    read_evalscope,
    read_genai_bench,
    read_llmperf,
)
from dflash_sim.calibrate.readers.sglang_bench_serving import is_bench_serving, read_bench_serving
from dflash_sim.calibrate.readers.sglang_one_batch import (
    is_batch_alone,
    is_offline,
    is_one_batch,
    read_batch_alone,
    read_offline,
    read_one_batch,
)
from dflash_sim.calibrate.readers.sglang_request_metrics import (
    check_request,
    is_request_metrics,
    read_requests,
)
from dflash_sim.calibrate.readers.vllm_bench_serve import is_vllm, read_vllm

Reader = Callable[[Raw, str, Names], Observation]


@dataclass(frozen=True)
class Tool:
    """A tool: how its records are known, and read one by one or all of a file together.

    Parameters
    ----------
    detect
        Returns True for a record of this tool.
    read
        One record, its place, names.
    check, combine
        Where a file is summed up: refuse a single record; read all that were not refused.
    """

    name: str
    detect: Callable[[Raw], bool]
    read: Reader | None = None
    check: Callable[[Raw], object] | None = None
    combine: Callable[[Sequence[Raw], str], Observation] | None = None


_LOAD = frozenset(["rate", "burstiness", "conc", "num_prompts", "dataset", *LENGTHS, *SAMPLING,
                   "max_new_tokens", "range_ratio"])  # fmt: skip


def _is_result_row(raw: Raw) -> bool:
    return "schema_version" in raw and "kind" in raw


GUIDELLM = Tool("guidellm", is_guidellm)  # one file, several observations
_SAVED = {"random_range_ratio", "max_concurrency", "total_output_tokens", "output_throughput"}
_SERVING = Tool("sglang bench_serving", is_bench_serving, read_bench_serving)
_INFERENCEX = Tool("InferenceX", is_inferencex, read_inferencex)
_VLLM = Tool("vllm bench serve", is_vllm, read_vllm)
_IN_TABLES = (
    replace(_SERVING, detect=lambda raw: raw.keys() >= _SAVED),
    _INFERENCEX,
    replace(_VLLM, detect=lambda raw: is_vllm(raw) and "max_concurrency" in raw),
)
TOOLS = (
    GUIDELLM,
    Tool("dflash-sim result rows", _is_result_row, read_table_row),
    _SERVING,
    Tool("sglang bench_one_batch_server", is_one_batch, read_one_batch),
    Tool("sglang bench_one_batch", is_batch_alone, read_batch_alone),
    Tool("sglang bench_offline_throughput", is_offline, read_offline),
    Tool("genai-bench", is_genai_bench, read_genai_bench),
    Tool("llmperf", is_llmperf, read_llmperf),
    Tool("evalscope perf", is_evalscope, read_evalscope),
    _INFERENCEX,
    _VLLM,
    Tool("AIPerf summary", is_aiperf_summary, read_aiperf_summary),
    Tool(
        "AIPerf requests",
        is_aiperf_request,
        check=check_aiperf_request,
        combine=read_aiperf_requests,
    ),
    Tool(
        "AIPerf acceptance records",
        is_acceptance,
        check=verified,
        combine=read_acceptance,
    ),
    Tool(
        "sglang request metrics",
        is_request_metrics,
        check=check_request,
        combine=read_requests,
    ),
)
KNOWN = (
    *(tool.name for tool in TOOLS),
    "sglang /metrics (two scrapes)",
    "CSV table",
    "printed result",
)


def tool_of(raw: Any) -> Tool | None:
    """The tool that writes such records, if it is a known one."""
    if not isinstance(raw, Mapping):
        return None
    return next((tool for tool in TOOLS if tool.detect(raw)), None)


def kept_as_table(header: Sequence[str]) -> Reader | None:
    """The reader of a table whose rows are records of a tool, as data frames of them are saved.

    Columns that somebody added tell of the server what the tool does not know, and lengths where
    its own columns tell none.
    """
    raw = dict.fromkeys(header)
    tool = next((t for t in _IN_TABLES if t.detect(raw)), None)
    if tool is None or tool.read is None:
        return None
    read = tool.read

    def of_row(cells: Raw, where: str, names: Names) -> Observation:
        said = {name: cell for name, cell in cells.items() if cell != ""}
        row = read(said, where, names)
        about = {ALIASES.get(name, name): cell for name, cell in said.items()}
        taken = COLUMNS - _LOAD
        if not row.fields.keys() & {"dataset", *LENGTHS}:
            taken |= {*LENGTHS}
        added = {name: cell for name, cell in about.items() if name in taken}
        return replace(row, fields=read_conditions(added, names).fields | {**row.fields})

    return of_row


def of_no_tool(raw: Any) -> str:
    """Why a record, or a text's beginning, is not read."""
    what = f"has the keys {short(', '.join(map(str, raw)))}" if isinstance(raw, Mapping) else ""
    return (
        f"{what or f'is {short(raw)}'}: no known tool writes that. Known: {', '.join(KNOWN)}. Of "
        "another tool write a table: columns conc, isl, osl, output_throughput, mean_tpot_ms"
    )
