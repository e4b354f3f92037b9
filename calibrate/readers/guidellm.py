"""guidellm's ``benchmarks.json``: one observation per benchmark of the sweep.

Its ``time_per_output_token_ms`` is latency over all output tokens, the first included; what is
TPOT here, it calls ``inter_token_latency_ms``.
"""

from collections.abc import Mapping
from typing import Any

from dflash_sim.calibrate.observations.lengths import lengths_of
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.sampling import sampling_of
from dflash_sim.calibrate.observations.values import (
    EVENLY,
    Metrics,
    Raw,
    anywhere,
    inner,
    known,
    naming,
    number,
)
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.units import MS

_TIMES_MS = {"time_to_first_token_ms": "ttft", "inter_token_latency_ms": "tpot"}
_RATES = {
    "requests_per_second": "request_throughput",
    "output_tokens_per_second": "output_throughput",
    "tokens_per_second": "total_throughput",
    "request_concurrency": "concurrency",
}
_INCLUDED = "tpot from time_per_output_token_ms, its first token taken out with the mean ttft"
_CHUNKS = (
    "about.output_tokens_per_iteration is an accept length as the client sees it, "
    "if the server streams every step"
)


def is_guidellm(raw: Raw) -> bool:
    """Keys that tell it from other tools."""
    return isinstance(raw.get("benchmarks"), list)


def read_guidellm(raw: Raw, where: str, names: Names, report: Raw) -> Observation:
    """One benchmark.

    Parameters
    ----------
    raw
        A member of ``benchmarks``.
    report
        The whole file: where ``raw`` does not name the model, its arguments may.
    """
    metrics = Metrics()
    for tag, ours in _TIMES_MS.items():
        _statistics(metrics, inner(raw, "metrics", tag), ours, 1.0)
    _statistics(metrics, inner(raw, "metrics", "request_latency"), "e2e_latency", 1 / MS)
    for tag, ours in _RATES.items():
        metrics.take(ours, _successful(inner(raw, "metrics", tag)), "mean")
    isl, osl = (
        number(_successful(inner(raw, "metrics", f"{way}_token_count")), "mean")
        for way in ("prompt", "output")
    )
    notes = []
    including = number(_successful(inner(raw, "metrics", "time_per_output_token_ms")), "mean")
    ttft_ms = metrics.values.get("mean_ttft_ms")
    if "mean_tpot_ms" not in metrics.values and including and ttft_ms and osl and osl > 1:
        excluding = {"mean_tpot_ms": (including * osl - ttft_ms) / (osl - 1)}
        metrics.take_same(excluding, "mean_tpot_ms")
        notes.append(_INCLUDED)
    iteration = inner(raw, "metrics", "output_tokens_per_iteration")
    per_chunk = number(_successful(iteration), "mean")
    if per_chunk is not None:
        notes.append(_CHUNKS)
    fields = _load(raw) | _model(raw, report, names) | _sampling(raw, report)
    if isl and osl:
        counts = _successful(inner(raw, "metrics", "output_token_count"))
        lengths, how = lengths_of(isl, osl, number(counts, "std_dev"))
        fields |= lengths
        notes.insert(0, how)
    return Observation(
        row=where,
        source="",
        fields=fields,
        metrics=metrics.values,
        assumed=("engine",),
        about=known(tool="guidellm", output_tokens_per_iteration=per_chunk),
        notes=(*notes, *metrics.notes),
    )


def _successful(found: Raw) -> Raw:
    return inner(found, "successful")


def _statistics(metrics: Metrics, found: Raw, ours: str, scale: float) -> None:
    one = _successful(found)
    for theirs, statistic in {"mean": "mean", "median": "median", "std_dev": "std"}.items():
        metrics.take(f"{statistic}_{ours}_ms", one, theirs, scale)
    for point in ("p90", "p95", "p99"):
        metrics.take(f"{point}_{ours}_ms", inner(one, "percentiles"), point, scale)


def _load(raw: Raw) -> dict[str, Any]:
    """Clients or arrivals, by the strategy; the place of it moved between versions."""
    strategy = inner(raw, "config", "strategy") or inner(raw, "args", "strategy")
    kind = strategy.get("type_", strategy.get("kind"))
    if kind == "synchronous":
        return {"conc": 1}
    if kind in ("concurrent", "throughput"):
        streams = strategy.get("streams", strategy.get("max_concurrency"))
        if isinstance(streams, int) and streams > 0:
            return {"conc": int(streams)}
        return {}
    if kind in ("constant", "poisson", "async"):
        rate = number(strategy, "rate")
        even = {"burstiness": EVENLY} if kind == "constant" else {}
        return {} if rate is None else {"rate": rate, **even}
    if kind is None:
        return {}
    msg = f"strategy {kind!r} is not known; allowed: synchronous, concurrent, constant, poisson"
    raise UsageError(msg)


def _sampling(raw: Raw, report: Raw) -> dict[str, Any]:
    """What its requests say beside the prompt; the run's own words come before the report's."""
    return sampling_of(inner(report, "args"), nested=True) | sampling_of(
        inner(raw, "config"), nested=True
    )


def _model(raw: Raw, report: Raw, names: Names) -> dict[str, Any]:
    for place in (inner(raw, "config", "backend"), inner(raw, "worker"), report.get("args"), raw):
        model = anywhere(place, "model") or anywhere(place, "backend_model")
        if isinstance(model, Mapping):
            model = model.get("name")
        if isinstance(model, str) and model:
            with naming("model"):
                return {"model": names.model(model)}
    return {}
