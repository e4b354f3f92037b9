"""Conditions of a measurement as people write them in a table or a label -> scenario fields."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dflash_sim.calibrate.observations.hints import hinted
from dflash_sim.calibrate.observations.names import Names, of_checkpoint, stated
from dflash_sim.calibrate.observations.sampling import SAMPLING, sampling_of
from dflash_sim.calibrate.observations.values import naming, number, short, whole
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.sampled_rows import cuts
from dflash_sim.simulator.cost.cycle import Method
from dflash_sim.simulator.cost.methods import METHODS
from dflash_sim.simulator.scenario import Scenario

ALIASES = {
    "concurrency": "conc",
    "max_concurrency": "conc",
    "request_rate": "rate",
    "dataset_name": "dataset",
    "draft_model": "drafter",
    "tp_size": "tp",
    "ep": "ep_size",
    "expert_parallel_size": "ep_size",
    "mamba_scheduler_strategy": "mamba_radix_cache_strategy",
}
_COUNTS = (
    "num_gpus", "tp", "ep_size", "window", "max_running_requests", "chunked_prefill_size",
    "max_prefill_tokens", "scheduler_recv_interval", "stream_interval", "context_length",
    "cuda_graph_max_bs", "page_size", "min_free_slots_delay", "isl", "osl", "max_new_tokens",
    "conc", "num_prompts", "max_mamba_cache_size",
)  # fmt: skip
_AMOUNTS = (
    "mem_fraction_static", "mamba_full_memory_ratio", "rate", "burstiness", "range_ratio",
    "schedule_conservativeness",
)  # fmt: skip
_WORDS = (
    "quantization", "kv_cache_dtype", "attention_backend", "acceptance", "mamba_ssm_dtype",
    "mamba_radix_cache_strategy", "linear_attn_decode_backend", "cuda_graph_backend_prefill",
    "schedule_policy",
)  # fmt: skip
_MODES = {
    "v1": "v1",
    "v2": "v2",
    "v2-sync": "v2-sync",
    "spec_v1": "v1",
    "spec_v2": "v2",
    "none": None,  # no speculation: the mode of plain decoding is not stated
}
_TRUTH = {"yes": True, "true": True, "on": True, "1": True}
_TRUTH |= {"no": False, "false": False, "off": False, "0": False}
_STEPS = re.compile(r"(?:k\s*=\s*)?(\d+)(?: spec(?:ulative)? tokens| drafts)?")
_READ = (
    "model", "method", "block", "steps", "block_or_steps", "gpu", "engine_mode", "thinking",
    "radix_cache", "ignore_eos",
)  # fmt: skip
COLUMNS = frozenset([*_COUNTS, *_AMOUNTS, *_WORDS, *_READ, *SAMPLING, *ALIASES.values()])


@dataclass
class Conditions:
    """The conditions of a row: scenario fields, those that are only assumed, and remarks."""

    fields: dict[str, Any] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def tagged_conditions(text: str | None, names: Names) -> dict[str, Any]:
    """``gpu=b200 method=dflash block=16`` in a free label: what the tool itself cannot know."""
    pairs = dict(re.findall(r"(\w+)=([^\s,;=]+)", text or ""))
    known = ALIASES | {"precision": "quantization"}
    cells = {known.get(name, name): cell for name, cell in pairs.items()}
    with naming("tag"):
        return read_conditions({n: c for n, c in cells.items() if n in COLUMNS}, names).fields


def with_lengths(fields: Mapping[str, Any], lengths: Mapping[str, int]) -> dict[str, Any]:
    """Measured lengths beside the fields, unless a data set is named: its sheet has lengths."""
    return dict(fields) if fields.get("dataset") else {**fields, **lengths}


def read_conditions(cells: Mapping[str, str], names: Names, remarks: str = "") -> Conditions:
    """Scenario fields from cells by column name (see :data:`COLUMNS`, :data:`ALIASES`).

    Parameters
    ----------
    remarks
        Free text that may settle what no column does, such as ``radix off``.

    Raises
    ------
    UsageError
        Naming the column and the value that no sheet or field stands for.
    """
    said = {name: text for name, cell in cells.items() if (text := stated(cell)) is not None}
    out = Conditions()
    for name in _COUNTS:
        if (count := whole(said, name)) is not None:
            out.fields[name] = count
    for name in _AMOUNTS:
        if (amount := number(said, name)) is not None:
            out.fields[name] = amount
    out.fields |= {name: said[name] for name in _WORDS if name in said}
    out.fields |= sampling_of(_as_number(said))
    for name in ("thinking", "radix_cache"):
        if name in said:
            out.fields[name] = _truth(name, said[name])
    _hardware(said, out, names)
    _method(said, out, names)
    with naming("column quantization"):
        out.fields |= of_checkpoint(out.fields)
    hints = hinted(remarks, conc=out.fields.get("conc", 1))
    if out.fields.get("temperature"):
        hints |= cuts(remarks)
    if settled := [name for name in hints if name not in out.fields]:
        out.notes.append(f"read from the remarks: {', '.join(settled)}")
    forced = hints.pop("osl", None)
    if not out.fields.keys() & {"isl", "osl"}:
        if _truth("ignore_eos", said.get("ignore_eos", "no")):
            forced = out.fields.get("max_new_tokens")
        _workload(said, out, names, forced)
    out.fields |= {name: value for name, value in hints.items() if name not in out.fields}
    if "osl" in out.fields:
        out.fields["max_new_tokens"] = out.fields["osl"]
        out.fields.pop("thinking", None)
    return out


def _as_number(said: Mapping[str, str]) -> dict[str, str]:
    """The sampling cells; ``greedy`` is temperature 0."""
    cells = {name: said[name] for name in SAMPLING if name in said}
    return {name: "0" if cell.lower() == "greedy" else cell for name, cell in cells.items()}


def _truth(name: str, cell: str) -> bool:
    if cell.lower() not in _TRUTH:
        msg = f"{name} is {short(cell)}; expected yes or no"
        raise UsageError(msg)
    return _TRUTH[cell.lower()]


def _hardware(said: Mapping[str, str], out: Conditions, names: Names) -> None:
    if "gpu" in said:
        with naming("column gpu"):
            out.fields["gpu"], count = names.gpu(said["gpu"])
        if count is not None and out.fields.setdefault("num_gpus", count) != count:
            msg = f"gpu {short(said['gpu'])} contradicts num_gpus {out.fields['num_gpus']}"
            raise UsageError(msg)
        if "assumed" in said["gpu"].lower():
            out.assumed.append("gpu")
    mode = said.get("engine_mode", "none").lower()
    if mode not in _MODES:
        msg = f"engine_mode is {short(mode)}; allowed: {', '.join(_MODES)}"
        raise UsageError(msg)
    if _MODES[mode] is not None:
        out.fields["engine_mode"] = _MODES[mode]


def _method(said: Mapping[str, str], out: Conditions, names: Names) -> None:
    if "model" in said:
        with naming("column model"):
            out.fields["model"] = names.model(said["model"])
    if "method" not in said:
        return
    with naming("column method"):
        method = METHODS[names.method(said["method"])]
    out.fields["method"] = method.name
    block = _block(said, method)
    if not method.speculative:
        if block not in (None, 1):
            msg = f"method {method.name} verifies nothing, but its block is {block}"
            raise UsageError(msg)
        return
    if block is not None:
        out.fields["block"] = block
    drafter = said.get("drafter", "")
    _tree(drafter, method, out)
    if "draft_model" in method.takes and (sheet := names.drafter(drafter)) is not None:
        out.fields["draft_model"] = sheet


def _tree(drafter: str, method: Method, out: Conditions) -> None:
    """The shape of a tree of drafts, as people write it: ``7 steps, topk 10, tree 60``."""
    branches = re.search(r"(?i)\btop-?k ?=? ?(\d+)|\b(tree)\b", drafter)
    if branches is None or branches[1] == "1":
        return
    steps = re.search(r"(?i)\b(\d+) steps\b", drafter)
    tokens = re.search(r"(?i)\btree ?(\d+)\b", drafter)
    if "topk" not in method.takes or None in (branches[1], steps, tokens):
        msg = (
            f"column drafter: {short(drafter)} drafts a tree; say of which shape, such as "
            "(7 steps, topk 10, tree 60)"
        )
        raise UsageError(msg)
    assert steps is not None
    assert tokens is not None
    found = {"topk": int(branches[1]), "steps": int(steps[1]), "block": int(tokens[1])}
    out.fields |= found


def _block(said: Mapping[str, str], method: Method) -> int | None:
    """Verify width: k steps of MTP or EAGLE, and k "speculative tokens" of vLLM, verify k + 1."""
    found = {}
    if "block" in said:
        found["block"] = whole(said, "block")
    if "steps" in said:
        found["steps"] = (whole(said, "steps") or 0) + 1
    if "block_or_steps" in said:
        text = said["block_or_steps"]
        if (steps := _STEPS.fullmatch(text)) is None or len(steps[1]) > 4:
            msg = f"column block_or_steps: {short(text)} is no block and no number of steps"
            raise UsageError(msg)
        drafts = method.sequential or method.counts_drafts or steps[0] != steps[1]
        found["block_or_steps"] = int(steps[1]) + drafts
    if len(set(found.values())) > 1:
        parts = ", ".join(f"{name} {said[name]}" for name in found)
        msg = f"{parts} contradict each other: k steps verify a block of k + 1"
        raise UsageError(msg)
    return next(iter(found.values()), None)


def _workload(said: Mapping[str, str], out: Conditions, names: Names, forced: int | None) -> None:
    """A data set by sheet, or fixed lengths where the name or a forced answer length says so."""
    text = said.get("dataset")
    work = names.workload(text) if text is not None else None
    if work is not None and work.isl is not None:
        out.fields |= {"isl": work.isl, "osl": work.osl}
    elif forced is not None:
        sheet = (work and work.dataset) or str(Scenario.model_fields["dataset"].default)
        isl = names.mean_isl(sheet)
        out.fields |= {"isl": isl, "osl": forced}
        out.assumed.append("isl")
        kind = f"'{text}'" if text else "no data set"
        out.notes.append(f"{kind}, answers of exactly {forced} tokens: prompts as in {sheet}")
    elif work is not None and work.dataset is not None:
        out.fields["dataset"] = work.dataset


__all__ = ["ALIASES", "COLUMNS", "Conditions", "read_conditions", "tagged_conditions"]
