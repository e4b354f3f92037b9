"""Two scrapes of SGLang's ``/metrics``, differenced: what the scheduler did in between.

Counters run since the server started, so one scrape alone says nothing. The seconds of the
scheduler's stages are kept under SGLang's own words, ``scheduler_stage_s.<category>.<overlap>``,
as a mean over the ranks that report them.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.values import short
from dflash_sim.profiles.errors import UsageError

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]

STAGES = "sglang:scheduler_stage_seconds_total"
_SUMS = {
    "sglang:generation_tokens_total": "total_output_tokens",
    "sglang:prompt_tokens_total": "total_input_tokens",
    "sglang:num_requests_total": "completed",
    "sglang:spec_verify_calls_total": "verify_steps",
    "sglang:num_retracted_requests_total": "retractions",
}
_GAUGES = ("sglang:spec_accept_length", "sglang:num_running_reqs", "sglang:gen_throughput")
_LINE = re.compile(
    r"([a-zA-Z_:][\w:]*)(?:\{((?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*)\})?\s+(\S+)(?:\s+-?\d+)?\s*"
)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_STAGE = ("category", "forward_overlap")
_MOST = 1e15  # of what a server counts


@dataclass
class Snapshot:
    """One scrape: the value of each series."""

    where: str
    values: dict[Series, float] = field(default_factory=dict)


def is_prometheus(text: str) -> bool:
    """Return True if a text has samples of SGLang's metrics."""
    return re.search(r"^sglang:\w+[{ ]", text, re.MULTILINE) is not None


def snapshots(text: str, name: str) -> tuple[list[Snapshot], list[tuple[str, str]]]:
    """Scrapes in a text, one after the other, and lines that are none of it with the reason."""
    found, damaged = [Snapshot(f"{name}:1")], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        sample = _LINE.fullmatch(line)
        try:
            value = float(sample[3]) if sample else None
        except ValueError:
            value = None
        if sample is None or value is None:
            damaged.append((f"{name}:{number}", f"no Prometheus sample: {short(line)}"))
            continue
        series = (sample[1], tuple(sorted(_LABEL.findall(sample[2] or ""))))
        if series in found[-1].values:  # a series comes once in a scrape: the next one begins
            found.append(Snapshot(f"{name}:{number}"))
        found[-1].values[series] = value
    return found, damaged


def read_prometheus(before: Snapshot, after: Snapshot, names: Names) -> Observation:
    """Return what happened between two scrapes of one server."""
    moved = _differences(before, after)
    metrics = {ours: moved[name] for name, ours in _SUMS.items() if moved.get(name)}
    stages = _stages(before, after)
    metrics |= stages
    if stages:
        metrics["duration"] = sum(stages.values())
    steps, tokens = metrics.get("verify_steps"), metrics.get("total_output_tokens")
    if steps and tokens:
        # The first token of a request comes from its prefill, not from a verify step.
        metrics["accept_length_cycle"] = (tokens - metrics.get("completed", 0.0)) / steps
    last = {name: value for (name, _), value in after.values.items() if name in _GAUGES}
    models = {value for _, labels in after.values for key, value in labels if key == "model_name"}
    model = names.find("models", models.pop()) if len(models) == 1 else None
    return Observation(
        row=f"{before.where} to {after.where}",
        source=after.where.rpartition(":")[0],
        fields={} if model is None else {"model": model},
        metrics=metrics,
        about={"tool": "sglang metrics", "engine": "sglang", **last},
    )


def _differences(before: Snapshot, after: Snapshot) -> dict[str, float]:
    """Growth of every counter over all its labels."""
    moved: dict[str, float] = defaultdict(float)
    for (name, labels), value in after.values.items():
        if name.endswith("_total") and name.startswith("sglang:"):
            moved[name] += _grown(before, (name, labels), value)
    return moved


def _grown(before: Snapshot, series: Series, value: float) -> float:
    growth = value - before.values.get(series, 0.0)
    if not 0 <= growth <= _MOST:
        msg = (
            f"{series[0]} goes from {before.values.get(series, 0.0):g} to {value:g}: the server "
            "was started again in between, or the scrapes are in the wrong order"
        )
        raise UsageError(msg)
    return growth


def _stages(before: Snapshot, after: Snapshot) -> dict[str, float]:
    """Seconds by stage and overlap, a mean over ranks."""
    by_rank: dict[Labels, dict[str, float]] = defaultdict(dict)
    for (name, labels), value in after.values.items():
        if name == STAGES:
            of: Mapping[str, str] = dict(labels)
            rank = tuple(pair for pair in labels if pair[0] not in _STAGE)
            stage = ".".join(["scheduler_stage_s", *(of[key] for key in _STAGE if key in of)])
            by_rank[rank][stage] = _grown(before, (name, labels), value)
    sums: dict[str, float] = defaultdict(float)
    for stages in by_rank.values():
        for stage, seconds in stages.items():
            sums[stage] += seconds / len(by_rank)
    return dict(sorted(sums.items()))
