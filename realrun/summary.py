"""A real run in numbers, under the names of the result row."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import nan

import numpy as np

from dflash_sim.profiles.units import MS
from dflash_sim.realrun.job.journal import Iteration, Run

QUANTILES = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
PHASES = {"draft": "draft", "verify": "verify", "materialise": "materialise", "accept": "other"}
Values = dict[str, float | list[int]]


def summarise(run: Run, rows: int) -> Values:
    """Return what a benchmark prints of a run with verify width ``rows`` [tokens]."""
    answers, duration = run.answers, run.duration_s
    if not answers:
        return {"completed": 0.0}
    read = sum(len(a.prompt) for a in answers)
    made = sum(len(a.output) for a in answers)
    e2e = [a.finish_s - a.arrival_s for a in answers]
    values: Values = {
        "duration": duration,
        "completed": float(len(answers)),
        "total_input_tokens": float(read),
        "total_output_tokens": float(made),
        "request_throughput": len(answers) / duration,
        "input_throughput": read / duration,
        "output_throughput": made / duration,
        "total_throughput": (read + made) / duration,
        "concurrency": sum(e2e) / duration,
        "retractions": 0.0,
    }
    values |= latencies("ttft", [a.first_token_s - a.arrival_s for a in answers])
    many = [a for a in answers if len(a.output) > 1]
    values |= latencies(
        "tpot", [(a.finish_s - a.first_token_s) / (len(a.output) - 1) for a in many]
    )
    values |= latencies("itl", [b - a for x in answers for a, b in pairwise(x.chunk_s)])
    values |= latencies("e2e_latency", e2e)
    if rows > 1:
        values |= acceptance(run, rows)
    return values | anatomy(run)


def latencies(name: str, sample: Sequence[float]) -> Values:
    """Mean, standard deviation and quantiles [ms]; zeros of nothing."""
    found = np.array(sample if len(sample) else [0.0]) / MS
    values: Values = {f"mean_{name}_ms": float(found.mean()), f"std_{name}_ms": float(found.std())}
    points = np.quantile(found, list(QUANTILES.values()))
    return values | {f"{q}_{name}_ms": float(p) for q, p in zip(QUANTILES, points, strict=True)}


def acceptance(run: Run, rows: int) -> Values:
    """The accept lengths of the result row, and steps by accepted drafts."""
    spoken = [a for a in run.answers if a.commits]
    commits = [n for a in spoken for n in a.commits]
    if not commits:
        return {}
    each = [len(a.output) / len(a.commits) for a in spoken]
    made = [len(a.output) for a in spoken]
    counts = Counter(commits)
    cycle = sum(commits) / len(commits)
    return {
        "accept_length": sum(each) / len(each),
        "accept_length_cycle": cycle,
        "accept_length_token_weighted": float(np.average(each, weights=made)),
        "accept_length_harmonic": sum(made) / len(commits),
        "accept_rate": (cycle - 1) / (rows - 1),
        "verify_steps": float(len(commits)),
        "accept_histogram": [counts[j + 1] for j in range(rows)],
    }


def anatomy(run: Run) -> Values:
    """Return where a decode step goes: means per step [ms], and shares; nan where it is unknown."""
    decodes = run.decodes
    if not decodes:
        return {}
    n = len(decodes)
    known = all(i.has_phases for i in decodes)
    phases = dict.fromkeys(PHASES.values(), 0.0 if known else nan)
    for i in decodes:
        for name, start, end in i.gpu:
            if name in PHASES:
                phases[PHASES[name]] += end - start
    values: Values = {f"{phase}_ms": s / n / MS for phase, s in phases.items()}
    gaps = [b.gpu_start_s - a.gpu_end_s for a, b in pairwise(run.iterations) if b.kind == 0]
    work = sum(map(_gpu_s, decodes))
    prefill = sum(map(_gpu_s, run.prefills))
    exposed = sum(gaps) + sum(i.gpu_end_s - i.gpu_start_s - _gpu_s(i) for i in decodes)
    span = run.iterations[-1].gpu_end_s - run.iterations[0].gpu_start_s
    return values | {
        "step_ms": (work + exposed) / n / MS,
        "comm_ms": sum(i.comm_s for i in decodes) / n / MS,
        "host_ms": sum(e - s for i in decodes for name, s, e in i.host if name != "wait") / n / MS,
        "host_exposed_ms": exposed / n / MS,
        "gpu_busy": (work + prefill) / span if span else 1.0,
        "prefill_share": prefill / (work + prefill),
        "mean_batch": sum(i.batch for i in decodes) / n,
    }


def _gpu_s(i: Iteration) -> float:
    """Time rank 0 computed [s]."""
    return sum(end - start for _, start, end in i.gpu)
