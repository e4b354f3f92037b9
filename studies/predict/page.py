"""One result as a page of terminal text: the answer first, then where it comes from."""

from collections.abc import Collection
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dflash_sim.profiles.load import load_acceptance
from dflash_sim.profiles.sheets import PriceRange
from dflash_sim.profiles.units import GIGA, in_percent
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.row import to_row
from dflash_sim.studies.predict.answer_lines import (
    INDENT,
    Flow,
    Line,
    labelled,
    prompts,
    speed,
    step_bar,
)
from dflash_sim.studies.predict.lift import in_lockstep, lifted, told
from dflash_sim.studies.show.figures import number, percent, shares
from dflash_sim.studies.show.styles import LABEL, STRONG
from dflash_sim.studies.show.titles import effective, published_note, title

_BAR_CELLS = 60
_LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e_latency": "E2E"}
_ACCEPT_LENGTHS = {
    "accept_length": ("request mean", "mean over requests, what model cards print"),
    "accept_length_cycle": ("per step", "1 + accepted drafts / verify steps, the server's log"),
    "accept_length_token_weighted": ("token weighted", "long answers count for more"),
    "accept_length_harmonic": ("harmonic", "what throughput follows at equal lengths"),
}
_PANELS = {
    "target": (
        "model",
        "dtype",
        "quantization",
        "kv_cache_dtype",
        "gpu",
        "num_gpus",
        "tp",
        "ep_size",
    ),
    "speculation": (
        "method",
        "draft_model",
        "speculative_draft_model_quantization",
        "block",
        "steps",
        "topk",
        "window",
        "acceptance",
        "temperature",
        "top_p",
        "top_k",
        "speculative_use_rejection_sampling",
        "policy",
    ),
    "engine": (
        "engine",
        "calibration",
        "build",
        "engine_mode",
        "attention_backend",
        "max_running_requests",
        "mem_fraction_static",
        "chunked_prefill_size",
        "max_prefill_tokens",
        "cuda_graph_backend_prefill",
        "cuda_graph_max_bs",
        "context_length",
        "page_size",
        "min_free_slots_delay",
        "schedule_policy",
        "schedule_conservativeness",
        "scheduler_recv_interval",
        "stream_interval",
        "radix_cache",
        "mamba_radix_cache_strategy",
        "mamba_ssm_dtype",
        "mamba_full_memory_ratio",
        "max_mamba_cache_size",
        "linear_attn_decode_backend",
        "linear_replayssm_spec",
    ),
    "workload": (
        "dataset",
        "content",
        "thinking",
        "isl",
        "osl",
        "range_ratio",
        "cache_hit",
        "max_new_tokens",
        "conc",
        "rate",
        "burstiness",
        "num_prompts",
        "seed",
        "runs",
    ),
}


def present(
    result: Result, *, given: Collection[str] = (), price: PriceRange | None = None
) -> RenderableType:
    """The page of one result.

    Parameters
    ----------
    given
        Scenario fields that are marked; the others are defaults.
    price
        What the asker pays for a GPU, if it is not what its sheet says.
    """
    parts: list[RenderableType] = [
        Text(title(result), style=STRONG),
        Text(),
        labelled([*speed(result), *_published(result), *prompts(result)]),
        Text(),
        _latencies(result),
    ]
    if "accept_length" in result.values:
        parts += [Text(), _accept_lengths(result)]
    parts += [
        Text(),
        labelled(_step(result)),
        _facts(result, price),
        Text(),
        _scenario(result, given),
    ]
    parts += [Text(f"warning: {w}", style="yellow") for w in remarks(result)]
    parts.append(Text(f"sources: {shares(result.evidence)}"))
    return Group(*parts)


def remarks(result: Result) -> list[str]:
    """Warnings, with what would lift what binds, and the answer for lengths that vary."""
    out, lockstep = told(result, lifted(result)), in_lockstep(result)
    return [*out, lockstep] if lockstep is not None else out


def _published(result: Result) -> list[Line]:
    lines: list[Line] = [("Published", Text(published_note(result)))]
    if result.published is not None:
        lines.append(("", Text(result.published.url, style="dim")))
    return lines


def _latencies(result: Result) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style=LABEL)
    table.add_column(Text("Latency [ms]"), style=LABEL, min_width=INDENT - 1, no_wrap=True)
    columns = [(result, "")]
    if result.baseline is not None:
        columns.append((result.baseline, "plain "))
    for _, whose in columns:
        for name in ("mean", "p50", "p90", "p99"):
            table.add_column(f"{whose}{name}" if name == "mean" else name, justify="right")
    for field, label in _LATENCIES.items():
        cells = [
            number(shown.values[f"{point}_{field}_ms"])
            for shown, _ in columns
            for point in ("mean", "median", "p90", "p99")
        ]
        table.add_row(label, *cells)
    return table


def _accept_lengths(result: Result) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
    table.add_column(style=LABEL, min_width=INDENT - 1, no_wrap=True)
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    table.add_row("Accept length", "", "tokens per verify step, the bonus token included")
    for field, (label, meaning) in _ACCEPT_LENGTHS.items():
        table.add_row(f" {label}", f"{result.values[field]:.2f}", Text(meaning, style="dim"))
    return table


def _step(result: Result) -> list[Line]:
    v = result.values
    hidden = max(0.0, v["host_ms"] - v["host_exposed_ms"])
    step = f"{number(v['step_ms'])} ms with {v['mean_batch']:.1f} requests in it"
    within = f"communication {v['comm_ms']:.2f} of it; {hidden:.2f} of host work hidden behind it"
    bar, legend = step_bar(result, _BAR_CELLS)
    return [("Step", step), ("", bar), ("", legend), ("", within)]


def _facts(result: Result, price: PriceRange | None) -> Table:
    v, m = result.values, result.setup.memory
    pools = {"weights": m.weight_bytes, "drafter": m.draft_weight_bytes}
    pools |= {"KV": m.kv_bytes, "GDN state": m.gdn_bytes}
    memory = " + ".join(f"{number(size / GIGA)} {what}" for what, size in pools.items() if size)
    rows: list[Line] = [
        ("GPU", f"busy {percent(v['gpu_busy'])}, of that prefill {percent(v['prefill_share'])}"),
        ("Memory [GB]", f"{memory} = {number(m.static_bytes / GIGA)} per GPU"),
        (
            "Capacity",
            f"{m.kv_tokens:,} tokens; {m.max_running_requests:,} requests ({m.cap_cause})",
        ),
    ]
    usd = to_row(result, price=price)["usd_per_mtok_out"]
    if isinstance(usd, dict):
        rows.append(("Cost [USD]", f"{_cost(usd, price)} per million output tokens"))
    if result.expectation is not None:
        e = result.expectation
        doubt = f", +-{in_percent(e.rel_err)}" if e.rel_err else ""
        rows.append(("Acceptance", Text(f"{e.source}{doubt}")))
        shown = result.published.url if result.published else ""
        rows += [("", Text(url, style="dim")) for url in _links(e.source) if url != shown]
    return labelled(rows)


def _cost(usd: dict[str, float], own: PriceRange | None) -> str:
    if own is not None:
        return f"{number(usd['typical'])} at {own.typical:g} USD/h for a GPU, as given,"
    return ", ".join(f"{number(each)} ({end})" for end, each in usd.items())


def _links(source: str) -> list[str]:
    """Return where the sources that ``source`` names by their identifiers can be read."""
    named = set(source.replace(",", " ").split())
    return list(dict.fromkeys(p.url for p in load_acceptance() if p.source_id in named and p.url))


def _scenario(result: Result, given: Collection[str]) -> Table:
    values = effective(result)
    rows: list[Line] = [("Scenario", "* given; everything else is a default")]
    for panel, names in _PANELS.items():
        words = []
        for name in names:
            if values[name] is None:
                continue
            mark = "*" if name in given else ""
            word = Text.assemble((f"{name} ", "dim"), _word(values[name]), mark)
            word.stylize(STRONG if mark else "")
            words.append(word)
        rows.append((f" {panel}", Flow(words)))
    return labelled(rows)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
