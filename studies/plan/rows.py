"""A plan as data: strict JSON, and a row for each candidate."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from dflash_sim import __version__
from dflash_sim.profiles.units import HOUR_S, MEGA, MS
from dflash_sim.studies.ask.prices import HOURS_A_MONTH
from dflash_sim.studies.plan.candidate import Survey
from dflash_sim.studies.plan.close_look import Fleet
from dflash_sim.studies.plan.difference import Difference
from dflash_sim.studies.plan.search import ENDS, Plan
from dflash_sim.studies.plan.verdict import saved, verdict, warnings
from dflash_sim.studies.show.launch import launch_command

SCHEMA_VERSION = 2
_DECIMALS = 6


def to_json(found: Plan) -> dict[str, Any]:
    """The plan as strict JSON."""
    q = found.question
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "plan",
        "dflash_sim_version": __version__,
        "model": found.fewest.setup.model.name,
        "demand": {
            "name": q.demand.name,
            "requests": q.demand.judged,
            "lead_in_requests": q.demand.lead,
            "rate": _round(q.demand.rate),
            "span_s": _round(q.demand.span_s),
            "mean_isl": _round(q.demand.mean_isl),
            "mean_osl": _round(q.demand.mean_osl),
            "runs": len(q.demand.runs),
            "seed": q.candidates[0].seed,
            "notes": list(q.demand.notes),
        },
        "slo": {
            **{f"{name}_ms": _round(x / MS) for name, x in q.slo.limits_s.items()},
            "percentile": q.slo.percentile,
        },
        "confidence": q.confidence,
        "router": q.router,
        "max_gpus": q.max_gpus,
        "prices": dict(q.prices) or None,
        "verdict": verdict(found),
        "num_gpus_as_predicted": found.as_predicted,
        "best": {name: found.best[name] for name in found.best},
        "fleets": {str(i): fleet_json(fleet) for i, fleet in sorted(found.fleets.items())},
        "candidates": [_candidate_json(found, s) for s in found.surveys],
        "differences": [_difference_json(found, d) for d in found.differences],
        "hours": [
            {
                "hours": list(h.hours),
                "rate": _round(h.share * q.demand.asked_rate),
                "replicas": h.replicas,
                "num_gpus": h.replicas * found.fewest.setup.tp,
                "gpu_busy": _round(h.busy),
            }
            for h in found.hours
        ],
        "warnings": warnings(found),
    }


def fleet_json(f: Fleet) -> dict[str, Any]:
    """One examined fleet."""
    s = f.setup
    return {
        "gpu": s.device.name,
        "tp": s.tp,
        "method": s.scenario.method,
        "block": s.block if s.speculative else None,
        "draft_model": s.draft_name,
        "replicas": f.replicas,
        "num_gpus": f.gpus,
        "launch_command": launch_command(s),
        "usd_per_hour": {e: _round(x) for e, x in f.usd_per_hour.items()},
        "usd_per_mtok_out": {e: _round(x) for e, x in f.usd_per_mtok_out.items()},
        "output_throughput": _round(f.output_tok_s),
        "time_factor": _round(f.slow),
        "time_log_sd": _round(f.spread),
        "holds_to_time_factor": _round(f.patience),
        "confidence": _round(f.confidence),
        "first_token_factor": _round(f.first_factor),
        "headroom": _round(f.headroom),
        "utilisation": _round(1 / f.headroom),
        "gpu_busy": _round(f.load.busy),
        "breaks_first": f.breaks or None,
        "binds": f.binds,
        **{
            f"{when}": {
                "percentile_ms": {n: _round(x / MS) for n, x in kept.quantile_s.items()},
                "slo_attainment_by_metric": {n: _round(x) for n, x in kept.share.items()},
                "slo_attainment": _round(kept.all_limits),
                "request_goodput": _round(kept.goodput),
            }
            for when, kept in (("predicted", f.expected), ("at_confidence", f.sure))
        },
        "mean_batch": _round(f.load.mean_batch),
        "max_running_requests": s.memory.max_running_requests,
        "max_running_requests_cause": s.memory.cap_cause,
        "kv_tokens": s.memory.kv_tokens,
        "kv_peak_share": _round(f.load.kv),
        "prefill_share": _round(f.load.prefill),
        "host_exposed_share": _round(f.load.host),
        "cache_hit_rate": _round(f.cache_hit_rate),
        "accept_histogram": list(f.accept_histogram) or None,
        "acceptance_source": f.acceptance or None,
        "source_share": {name: _round(x) for name, x in f.evidence.items()},
        "calibration": s.calibration.name if s.calibration else "none",
        "scenario_hash": s.scenario.hash,
    }


def _difference_json(found: Plan, d: Difference) -> dict[str, Any]:
    """Two kinds of server side by side; ``saved`` is what the first needs less."""
    span = d.saved_usd_month_ci90
    return {
        "index": [d.one, d.other],
        "num_gpus": list(d.gpus),
        "num_gpus_as_predicted": list(d.central_gpus),
        "saved_gpus": d.saved_gpus,
        "saved_gpus_ci90": list(d.saved_gpus_ci90),
        "saved_usd_per_month": None if d.saved_usd_month is None else _round(d.saved_usd_month),
        "saved_usd_per_month_ci90": None if span is None else [_round(x) for x in span],
        "said": saved(d, found),
    }


def _candidate_json(found: Plan, s: Survey) -> dict[str, Any]:
    c = found.question.candidates[s.index]
    solved = next((r for r in found.solved if r.index == s.index), None)
    replicas = solved.replicas if solved else None
    usd = {end: s.usd(end, replicas) for end in ENDS} if replicas else {}
    typical = usd.get("typical")
    near = found.alone.get(s.index)
    rate = found.fewest.output_tok_s * HOUR_S / MEGA
    return {
        "index": s.index,
        "gpu": c.gpu,
        "tp": s.tp or c.tp,
        "method": c.method,
        "block": c.block,
        "steps": c.steps,
        "max_running_requests": c.max_running_requests,
        "replicas": replicas,
        "num_gpus": replicas * s.tp if replicas else None,
        "replicas_that_fail": solved.failed if solved else None,
        **{
            f"usd_per_hour_{end}": None if x is None else _round(x)
            for end, x in ((end, usd.get(end)) for end in ENDS)
        },
        "usd_per_month": None if typical is None else _round(typical * HOURS_A_MONTH),
        "usd_per_mtok_out": None if typical is None else _round(typical / rate),
        "too_slow_alone": None if near is None else f"{near.latency} {near.quantile_s / MS:.4g} ms",
        "error": str(s.error) if s.error is not None else None,
    }


def plan_rows(found: Plan) -> Sequence[dict[str, Any]]:
    """Candidates as flat rows, for CSV."""
    return [_candidate_json(found, s) for s in found.surveys]


def _round(x: float) -> float | None:
    return round(float(x), _DECIMALS) if isfinite(x) else None
