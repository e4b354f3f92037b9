"""The table that a benchmark prints at its end -> records, as the same tool would have saved them.

``Serving Benchmark Result`` is what issues carry. SGLang and vLLM print it, with other labels for
some lines. The arguments of the benchmark and the launch of the server are read from lines above
it, where the text has them.
"""

import ast
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import takewhile
from math import inf
from typing import Any

from dflash_sim.calibrate.launches.shell_text import commands
from dflash_sim.calibrate.launches.shell_values import Shell
from dflash_sim.calibrate.launches.words import launches
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.sampling import SAMPLING, client_sampling, is_client
from dflash_sim.calibrate.observations.values import Metrics, short
from dflash_sim.calibrate.readers.sglang_bench_serving import read_bench_serving
from dflash_sim.calibrate.readers.vllm_bench_serve import (
    PERCENT,
    accepted_histogram,
    take_drafts,
    with_block,
)
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.precision import quantised_name

_TITLE = re.compile(r"(?i)(?:serving|offline throughput) benchmark result")
_LINE = re.compile(r"([A-Za-z][\w .,/&-]*?(?:\([^)]*\))?)\s*:\s+(\S.*?)\s*$")
_STATISTIC = re.compile(
    r"(?i)(mean|median|std|p\d+)\s+(ttft|tpot|itl|e2el|e2e latency|e2e) \((ms|s)\)"
)
_LATENCIES = {"e2el": "e2e_latency", "e2e latency": "e2e_latency", "e2e": "e2e_latency"}
_LABELS = {
    "backend": "backend",
    "traffic request rate": "request_rate",
    "request rate configured (rps)": "request_rate",
    "max request concurrency": "max_concurrency",
    "max reqeuest concurrency": "max_concurrency",  # as SGLang up to 0.4.6 spelt it
    "maximum request concurrency": "max_concurrency",
    "successful requests": "completed",
    "failed requests": "failed",
    "benchmark duration (s)": "duration",
    "total input tokens": "total_input_tokens",
    "total input vision tokens": "vision_tokens",
    "total generated tokens": "total_output_tokens",
    "request throughput (req/s)": "request_throughput",
    "input token throughput (tok/s)": "input_throughput",
    "output token throughput (tok/s)": "output_throughput",
    "total token throughput (tok/s)": "total_throughput",
    "concurrency": "concurrency",
    "accept length": "accept_length",
    "acceptance length": "spec_decode_acceptance_length",
    "acceptance rate (%)": "spec_decode_acceptance_rate",
    "drafts": "spec_decode_num_drafts",
    "draft tokens": "spec_decode_draft_tokens",
}
_VLLM_ONLY = ("maximum request concurrency", "request rate configured (rps)", "acceptance length")
_POSITION = re.compile(r"position \d+")
_POSITIONS = "spec_decode_per_position_acceptance_rates"
_ARGUMENTS = (
    "backend", "dataset_name", "num_prompts", "request_rate", "max_concurrency", "model",
    "random_range_ratio", "random_input_len", "random_output_len", "burstiness", "tag",
    "extra_request_body", "extra_body", *SAMPLING,
)  # fmt: skip
_NAMESPACE = re.compile(r"\b(?:Namespace|BenchArgs)\((.*)\)\s*$")
_LAUNCH = re.compile(r"sglang\.launch_server|\bsglang\s+(?:serve|launch_server)\b|\bServerArgs\(")
_RESOLVED = re.compile(r"\bServerArgs\(")
_RULE = re.compile(r"={8,}\s*$")
_UNSET = {"not set", "none", "n/a", ""}


def is_console(text: str) -> bool:
    """Return True if the text holds such a table."""
    return _TITLE.search(text) is not None and "Successful requests" in text


def console_records(text: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each table of the text, with its place.

    Values are in the units of the file; a dictionary has the keys of ``bench_serving``.
    """
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if _TITLE.search(line)]
    launch = launch_above(text)
    before = 0
    for start in starts:
        end = next((i for i in range(start + 1, len(lines)) if _RULE.search(lines[i])), len(lines))
        arguments = _arguments(lines[before:start])
        table = _table(lines[start + 1 : end])
        raw = {**arguments, **table, "printed": True}
        if "offline" in lines[start].lower():
            raw |= {"request_rate": inf, "backend": "sglang"}  # all prompts at once
        if table.get("vllm"):
            raw.pop("backend", None)  # how requests are sent, not who answers them
        if launch is not None:
            raw["server_info"] = {"launch_command": launch}
        yield f"{name}:{start + 1}", raw
        before = end


def _table(lines: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in lines:
        if (pair := _LINE.search(line)) is None:
            continue
        label, value = re.sub(r"\s+", " ", pair[1]).strip().lower(), pair[2]
        if statistic := _STATISTIC.fullmatch(label):
            kind = _LATENCIES.get(statistic[2].lower(), statistic[2].lower())
            found[f"{statistic[1]}_{kind}_ms"] = _amount(
                value, 1.0 if statistic[3] == "ms" else 1e3
            )
        elif _POSITION.fullmatch(label):
            found.setdefault(_POSITIONS, []).append(_amount(value, PERCENT))
        elif label in _LABELS and value.lower() not in _UNSET:
            found.setdefault(_LABELS[label], _amount(value, 1.0))
            if label in _VLLM_ONLY:
                found["vllm"] = True
    return found


def _amount(text: str, scale: float) -> Any:
    try:
        return float(text.replace(",", "")) * scale
    except ValueError:
        return text


def _arguments(lines: list[str]) -> dict[str, Any]:
    """Arguments of the benchmark: as it printed them, else as it was called; the last wins."""
    found: dict[str, Any] = {}
    for line in lines:
        if printed := _NAMESPACE.search(line):
            found |= _keywords(printed[1])
    if not found:
        found = called("\n".join(lines))
    return {name: found[name] for name in _ARGUMENTS if found.get(name) is not None}


def _keywords(text: str) -> dict[str, Any]:
    """Constants among ``name=value`` pairs; nothing is run."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return {}
    assert isinstance(call, ast.Call)
    found: dict[str, Any] = {}
    for keyword in call.keywords:
        value = keyword.value
        if isinstance(value, ast.Constant):
            found[str(keyword.arg)] = value.value
        elif isinstance(value, ast.Name) and value.id == "inf":
            found[str(keyword.arg)] = float("inf")
    return found


def called(text: str) -> dict[str, Any]:
    """Arguments of the last benchmark that a text of commands runs."""
    try:
        called = [c.words for c in commands(text, Shell()) if is_client(c.words)]
    except UsageError:
        return {}
    found: dict[str, Any] = {}
    for words in called[-1:]:
        for word, behind in zip(words, [*words[1:], ""], strict=True):
            name, _, value = word.removeprefix("--").replace("-", "_").partition("=")
            if word.startswith("--"):
                found[name] = _amount(word.partition("=")[2] if value else behind, 1.0)
    bodies = ("extra_request_body", "extra_body")
    return {n: v for n, v in found.items() if n not in bodies} | client_sampling(text)


def launch_above(text: str) -> str | None:
    """The launch of the server, if the text has one that can be read.

    What the server says of it counts, in the environment of the command that is above that: SGLang
    warns of one command and names another as an example.
    """
    said = _RESOLVED.search(text)
    if said is None or _TITLE.search(text, 0, said.start()):
        return _first_launch(text)
    start = text.rfind("\n", 0, said.start()) + 1
    typed, resolved = _first_launch(text[:start]), _first_launch(text[start:])
    if typed is None or resolved is None:
        return resolved or typed
    around = takewhile(lambda word: word != "python", shlex.split(typed))
    return shlex.join([*around, *shlex.split(resolved)])


def _first_launch(text: str) -> str | None:
    begun = _LAUNCH.search(text)
    if begun is None:
        return None
    start = text.rfind("\n", 0, begun.start()) + 1
    table = _TITLE.search(text, begun.end())
    part = text[start : table.start() if table else len(text)]
    try:
        found = launches(part)
    except UsageError:
        return None
    around = (f"{name}={value}" for name, value in found[0].environment.items())
    return shlex.join([*around, "python", "-m", "sglang.launch_server", *found[0].arguments])


def read_console(raw: Mapping[str, Any], where: str, names: Names) -> Observation:
    """One table, read as the saved result of the same benchmark would be."""
    raw = {**raw, "dataset_name": raw.get("dataset_name")}
    if raw.get("vllm"):
        raw["random_range_ratio"] = _ratio_of_vllm(raw.get("random_range_ratio"))
    row = read_bench_serving(raw, where, names)
    drafts = Metrics(dict(row.metrics), list(row.notes))
    take_drafts(drafts, raw)
    fields, notes = with_block(row.fields, raw), drafts.notes
    model = raw.get("model")
    if isinstance(model, str) and "model" not in fields:
        try:
            fields["model"] = names.model(model)
        except UsageError:
            if quantised_name(model):
                raise
            notes.append(f"no sheet is called {short(model)}, which the benchmark asked for")
    if raw.get("vision_tokens"):
        notes.append("prompts hold images: their tokens are simulated as text")
    if raw.get("vllm"):
        notes.append("who served is not said: taken for SGLang")
    assumed = (*row.assumed, "engine") if "backend" not in raw else row.assumed
    about = {**row.about, "tool": "printed result"}
    return replace(
        row,
        fields=fields,
        metrics=drafts.values,
        accept_histogram=accepted_histogram(raw),
        about=about,
        assumed=assumed,
        notes=tuple(notes),
    )


def _ratio_of_vllm(told: Any) -> float | None:
    """The shortest length over the longest; vLLM's ratio is how far lengths are from their mean."""
    try:
        away = float(told)
    except (TypeError, ValueError):
        return None
    return (1 - away) / (1 + away) if 0 <= away < 1 else None
