"""``/metrics`` in Prometheus' text, by SGLang's names."""

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dflash_sim.serve.backend import Backend
from dflash_sim.serve.information import accept_length

_FIRST = (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400)
_BETWEEN = (0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08,
            0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8)  # fmt: skip
_WHOLE = (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400, 600, 1200)


@dataclass
class Histogram:
    """Counts by bucket, and their sum."""

    edges: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.edges) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.edges, value)] += times
        self.total += value * times

    def lines(self, name: str, label: str) -> Iterator[str]:
        """Samples of the histogram."""
        seen = 0
        for edge, count in zip((*self.edges, math.inf), self.counts, strict=True):
            seen += count
            le = "+Inf" if math.isinf(edge) else f"{edge:g}"
            yield f'{name}_bucket{{{label},le="{le}"}} {seen}'
        yield f"{name}_count{{{label}}} {seen}"
        yield f"{name}_sum{{{label}}} {self.total}"


class Latencies:
    """What clients have waited for, at the server's edge."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.first = Histogram(_FIRST)
        self.between = Histogram(_BETWEEN)
        self.whole = Histogram(_WHOLE)


def exposition(backend: Backend, latencies: Latencies) -> str:
    """Return all samples."""
    load = backend.load()
    label = f'model_name="{_quoted(backend.model)}"'
    counters = load.counters
    gauges: dict[str, float | None] = {
        "num_running_reqs": load.running,
        "num_queue_reqs": load.queued,
        "num_used_tokens": load.cached_tokens_now,
        "max_total_num_tokens": load.cache_tokens,
        "token_usage": load.cached_tokens_now / load.cache_tokens if load.cache_tokens else None,
        "cache_hit_rate": _share(counters.get("cached_tokens"), counters.get("prompt_tokens")),
        "spec_accept_length": accept_length(load),
        "spec_accept_rate": _share(counters.get("accepted"), counters.get("drafted")),
    }
    totals = {
        "prompt_tokens_total": counters.get("prompt_tokens"),
        "cached_tokens_total": counters.get("cached_tokens"),
        "generation_tokens_total": counters.get("generated_tokens"),
        "num_requests_total": counters.get("finished"),
        "num_aborted_requests_total": counters.get("aborted"),
        "num_retracted_requests_total": counters.get("retracted"),
        "spec_verify_calls_total": counters.get("verifies"),
    }
    lines: list[str] = []
    lines += _samples("gauge", gauges.items(), label)
    lines += _samples("counter", totals.items(), label)
    lines += _stages(load.stages, label)
    for name, histogram in (
        ("time_to_first_token_seconds", latencies.first),
        ("inter_token_latency_seconds", latencies.between),
        ("e2e_request_latency_seconds", latencies.whole),
    ):
        lines.append(f"# TYPE sglang:{name} histogram")
        lines += histogram.lines(f"sglang:{name}", label)
    return "\n".join(lines) + "\n"


def _samples(kind: str, values: Iterable[tuple[str, float | None]], label: str) -> Iterator[str]:
    for name, value in values:
        if value is not None:
            yield f"# TYPE sglang:{name} {kind}"
            yield f"sglang:{name}{{{label}}} {float(value)}"


def _stages(seconds: Mapping[str, float], label: str) -> Iterator[str]:
    name = "sglang:scheduler_stage_seconds_total"
    if seconds:
        yield f"# TYPE {name} counter"
    for category, spent in seconds.items():
        yield f'{name}{{category="{category}",{label}}} {float(spent)}'


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
