"""SGLang's requests one by one: ``sglang-request-metrics-*.log``, ``/generate`` dumps, log events.

Sums up to one observation of acceptance; throughput and load are not in such a file.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dflash_sim.calibrate.observations.acceptance_records import (
    Verified,
    accept_observation,
    count,
    dense_histogram,
)
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.sampling import sampling_of
from dflash_sim.calibrate.observations.values import Raw, inner, number
from dflash_sim.profiles.errors import UsageError

# The list's name changed once; a dump may hold the older one.
_HISTOGRAMS = ("spec_correct_drafts_histogram", "spec_accept_histogram")


def is_request_metrics(raw: Raw) -> bool:
    """Keys that tell it from other tools."""
    return "spec_verify_ct" in _meta(raw)


def check_request(raw: Raw) -> None:
    """Refuse a request that has no sound acceptance."""
    meta = _meta(raw)
    reason = meta.get("finish_reason")
    if inner(meta, "finish_reason").get("type") == "abort" or reason == "abort":
        msg = "the request was aborted"
        raise UsageError(msg)
    if not count(meta, "spec_verify_ct"):
        msg = "spec_verify_ct is 0: no verify step was run"
        raise UsageError(msg)
    _verified(meta)


def read_requests(rows: Sequence[Raw], where: str) -> Observation:
    """All requests of a file together."""
    metas = [_meta(raw) for raw in rows]
    requests = [_verified(meta) for meta in metas]
    sampling = [_sampling(raw, meta) for raw, meta in zip(rows, metas, strict=True)]
    found = accept_observation(
        requests,
        where,
        fields=_block(requests) | _cap(sampling) | _drawn(sampling),
        about={"tool": "sglang request metrics", "engine": "sglang"},
    )
    totals: dict[str, float] = {}
    for name, key in (
        ("total_input_tokens", "prompt_tokens"),
        ("total_output_tokens", "completion_tokens"),
    ):
        if total := sum(count(meta, key) or 0 for meta in metas):
            totals[name] = float(total)
    return replace(found, metrics={**found.metrics, **totals})


def _meta(raw: Raw) -> Raw:
    """``meta_info`` of a record: at its top, below it, or in a log event."""
    for found in (raw, inner(raw, "meta_info"), inner(raw, "out", "meta_info")):
        if "spec_verify_ct" in found:
            return found
    return {}


def _verified(meta: Raw) -> Verified:
    histogram = next((meta[key] for key in _HISTOGRAMS if meta.get(key)), None)
    dense = None if histogram is None else dense_histogram(histogram)
    steps, tokens = count(meta, "spec_verify_ct") or 0, count(meta, "completion_tokens")
    accepted = count(meta, "spec_num_correct_drafts")
    if accepted is None and dense is not None:
        accepted = sum(j * n for j, n in enumerate(dense))
    if accepted is None:
        if tokens is None:
            msg = "neither spec_num_correct_drafts, a histogram nor completion_tokens is there"
            raise UsageError(msg)
        accepted = max(0, tokens - steps)
    return Verified(
        histogram=dense,
        steps=steps,
        accepted=accepted,
        proposed=count(meta, "spec_num_proposed_drafts"),
        completion=tokens,
    )


def _block(requests: Sequence[Verified]) -> dict[str, Any]:
    """Verify width, if every step of every request proposed as many drafts."""
    widths = {r.proposed / r.steps if r.proposed else 0.0 for r in requests}
    width = widths.pop() if len(widths) == 1 else 0.0
    return {"block": int(width) + 1} if width and width == int(width) else {}


def _sampling(raw: Raw, meta: Raw) -> Raw:
    """Sampling parameters; the exporter writes the request as JSON inside JSON."""
    request = raw.get("request_parameters", meta.get("request_parameters"))
    if isinstance(request, str):
        try:
            request = json.loads(request)
        except (ValueError, RecursionError):
            return {}
    return inner({"request": request}, "request", "sampling_params")


def _cap(sampling: Sequence[Raw]) -> dict[str, Any]:
    caps = {number(params, "max_new_tokens") for params in sampling}
    cap = caps.pop() if len(caps) == 1 else None
    return {"max_new_tokens": int(cap)} if cap is not None and 1 <= cap <= 10**7 else {}


def _drawn(sampling: Sequence[Raw]) -> dict[str, Any]:
    """How tokens were drawn, if all requests say the same of it."""
    ways = [sampling_of(params) for params in sampling]
    return ways[0] if all(way == ways[0] for way in ways) else {}
