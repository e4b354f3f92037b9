"""A crossing as data: strict JSON, and a row for each server."""

from collections.abc import Iterator, Mapping
from math import exp, isfinite
from typing import Any

from dflash_sim import __version__
from dflash_sim.studies.crossover.advice import (
    choices,
    out_of_memory,
    reason,
    sentence,
    thrown_out,
)
from dflash_sim.studies.crossover.behind import doubted, facts, row
from dflash_sim.studies.crossover.ends import Z90, Span
from dflash_sim.studies.crossover.paste import settings
from dflash_sim.studies.crossover.search import Crossover, Curve

SCHEMA_VERSION = 1
_DECIMALS = 6


def to_json(found: Crossover) -> dict[str, Any]:
    """Return the whole answer as strict JSON; null is beyond the values that were tried."""
    plain = found.question.plain
    values = found.question.values
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "crossover",
        "dflash_sim_version": __version__,
        "over": found.axis.name,
        "from": values[0],
        "to": values[-1],
        "model": plain.model.name,
        "gpu": plain.device.name,
        "num_gpus": plain.num_gpus,
        "tp": plain.tp,
        "answer": sentence(found),
        "choices": [
            {
                "from": _rounded(part.first),
                "to": _rounded(part.last),
                "method": part.curve.setup.method.name if part.curve else plain.method.name,
                "block": part.curve.setup.block if part.curve else None,
                "speedup_from": _rounded(exp(part.gain[0])),
                "speedup_to": _rounded(exp(part.gain[1])),
            }
            for part in choices(found)
        ],
        "leads": [_lead(curve) for curve in found.leads],
        "settings": [
            {"engine": s.engine, "text": s.text, "note": s.note or None} for s in settings(found)
        ],
        "servers": crossover_rows(found),
        "facts": facts(found),
        "curves": [curve for each in found.curves for curve in points(each)],
        "warnings": warnings(found),
    }


def crossover_rows(found: Crossover) -> list[dict[str, Any]]:
    """Return one row for each server that speculates."""
    return [_row(curve) for curve in found.curves]


def _row(curve: Curve) -> dict[str, Any]:
    setup, axis = curve.setup, curve.server.axis
    return {
        "over": axis.name,
        "model": setup.model.name,
        "gpu": setup.device.name,
        "tp": setup.tp,
        "method": setup.method.name,
        "block": setup.block,
        "steps": setup.method.steps(setup.block),
        "pays": curve.pays,
        "pays_from": _rounded(curve.since.value),
        "pays_from_ci90": _ends(curve.since),
        "pays_until": _rounded(curve.until.value),
        "pays_until_ci90": _ends(curve.until),
        "within_error": [[_rounded(end) for end in dip] for dip in curve.within_error],
        "from": curve.values[0],
        "to": curve.values[-1],
        "speedup_at_from": _rounded(exp(float(curve.gain[0]))),
        "speedup_at_to": _rounded(exp(float(curve.gain[-1]))),
        "reason": reason(curve) or None,
        **row(curve),
    }


def _lead(curve: Curve) -> dict[str, Any]:
    """Return until where a method is faster than the one that the answer names after it."""
    ours, theirs = curve.setup, curve.plain.base
    return {
        "method": ours.method.name,
        "block": ours.block,
        "than_method": theirs.method.name,
        "than_block": theirs.block,
        "until": _rounded(curve.until.value),
        "until_ci90": _ends(curve.until),
    }


def points(curve: Curve) -> list[dict[str, Any]]:
    """Return one row for each position that was tried."""
    setup = curve.setup
    rows = []
    for i, value in enumerate(curve.values):
        gain = float(curve.gain[i])
        half = Z90 * float(curve.sd[i]) if curve.sd.size else None
        rows.append(
            {
                "over": curve.server.axis.name,
                "method": setup.method.name,
                "block": setup.block,
                "value": _rounded(value),
                "output_throughput": _rounded(_tok_s(curve.server.values(value))),
                "plain_output_throughput": _rounded(_tok_s(curve.plain.values(value))),
                "speedup": _rounded(exp(gain)),
                "speedup_ci90": None
                if half is None
                else [_rounded(exp(gain - half)), _rounded(exp(gain + half))],
            }
        )
    return rows


def warnings(found: Crossover, *, caps: bool = True) -> list[str]:
    """Return what to distrust, each once; without ``caps`` what :func:`facts` say is left out."""
    out = list(found.question.notes)
    out += [f"{title} is left out: {error}" for title, error in found.failed]
    for curve in found.curves:
        if curve.missing:
            said = curve.server.axis.said
            places = ", ".join(said(value) for value, _ in curve.missing)
            out.append(f"{curve.title} does not run at {places}: {curve.missing[0][1]}")
        out += _unequal(found, curve)
    out += [out_of_memory(found, server) for server in thrown_out(found)] if caps else []
    return list(dict.fromkeys([*out, *doubted(found, caps=caps)]))


def _unequal(found: Crossover, curve: Curve) -> Iterator[str]:
    """Say that the two servers run different numbers of requests, where that many are asked."""
    most = curve.values[-1] if found.axis.name == "conc" else curve.setup.scenario.conc or 0
    caps = [setup.limits.max_running_requests for setup in (curve.setup, found.question.plain)]
    if caps[0] != caps[1] and most > min(caps):
        causes = [setup.memory.cap_cause for setup in (curve.setup, found.question.plain)]
        yield (
            f"{curve.title} runs {caps[0]:,} requests at once ({causes[0]}), plain decoding "
            f"{caps[1]:,} ({causes[1]}): beyond {min(caps):,} in flight unlike servers are compared"
        )


def _tok_s(values: Mapping[str, float]) -> float:
    return values["output_throughput"]


def _ends(span: Span) -> list[float | None]:
    return [_rounded(span.low), _rounded(span.high)]


def _rounded(value: float) -> float | None:
    return round(float(value), _DECIMALS) if isfinite(value) else None
