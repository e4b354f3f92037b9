"""Records -> what a benchmark prints, under the names of ``sglang.bench_serving``.

TPOT is (e2e - ttft) / (output tokens - 1); ITL is the gap between two chunks of one request, and
with speculation one chunk is one verify step of several tokens. ``bench_serving``'s native backend
divides such a gap by its tokens; its OpenAI backends, vLLM and this module do not.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dflash_sim.profiles.units import MS
from dflash_sim.simulator.cost.cycle import PHASES
from dflash_sim.simulator.cost.parts import COMM, IDLE, PARTS, by_evidence, seconds_of
from dflash_sim.simulator.cost.step_table import BatchTable, StepModel
from dflash_sim.simulator.cost.width_tables import WidthSteps
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.engine.records import DECODE, PREFILL, AdaptiveRun, Run
from dflash_sim.simulator.requests.draws import Draws
from dflash_sim.simulator.requests.parse import AcceptLengths, accept_lengths
from dflash_sim.simulator.requests.workload import Workload

QUANTILES = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
LATENCIES = ("ttft", "tpot", "itl", "e2e_latency")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """One run in numbers: ``values`` by result-schema name, and a histogram of accepted drafts."""

    values: dict[str, float]
    evidence_s: Floats
    accept_histogram: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Served:
    """The measured requests of a run that were answered.

    Parameters
    ----------
    done
        Which requests they are.
    isl, osl
        Their prompt and output lengths [token].
    e2e, ttft, tpot
        Their latencies [s]; TPOT of those with more than one output token.
    duration_s
        From the first request of the run to the last answer [s].
    """

    done: npt.NDArray[np.bool_]
    isl: npt.NDArray[np.int64]
    osl: npt.NDArray[np.int64]
    e2e: Floats
    ttft: Floats
    tpot: Floats
    duration_s: float


def served(run: Run, workload: Workload) -> Served:
    """Return what a benchmark sees of its requests, at the client's end."""
    done = workload.measured & np.isfinite(run.finish_s)
    osl = workload.osl[done]
    e2e = run.finish_s[done] - run.arrival_s[done] + run.client_s
    ttft = run.first_token_s[done] - run.arrival_s[done] + run.client_s
    many = osl > 1
    return Served(
        done=done,
        isl=workload.isl[done],
        osl=osl,
        e2e=e2e,
        ttft=ttft,
        tpot=(e2e - ttft)[many] / (osl[many] - 1),
        duration_s=float(run.finish_s[done].max() - np.nanmin(run.arrival_s)) + run.client_s,
    )


def summarise(
    run: Run,
    workload: Workload,
    *,
    step: StepModel | WidthSteps,
    host: HostTime,
    draws: Draws | None,
    stream_interval: int = 1,
) -> Summary:
    """Reduce one run.

    Parameters
    ----------
    draws
        The commits, for the accept histogram; None without speculation.
    stream_interval
        Tokens of an answer that are sent at a time, after the first.
    """
    seen = served(run, workload)
    done, isl, osl, duration_s = seen.done, seen.isl, seen.osl, seen.duration_s
    values: dict[str, float] = {
        "duration": duration_s,
        "completed": float(done.sum()),
        "total_input_tokens": float(isl.sum()),
        "total_output_tokens": float(osl.sum()),
        "request_throughput": done.sum() / duration_s,
        "input_throughput": isl.sum() / duration_s,
        "output_throughput": osl.sum() / duration_s,
        "total_throughput": (isl.sum() + osl.sum()) / duration_s,
        "concurrency": seen.e2e.sum() / duration_s,
        "cache_hit_rate": float(run.cached[done].sum() / isl.sum()),
        "retractions": float(run.retractions),
    }
    if stream_interval == 1:
        gaps, weights = inter_token_gaps(run, done)
    else:
        gaps, weights = _wide_gaps(run, seen, stream_interval)
    for name, sample, weight in (
        ("ttft", seen.ttft, None),
        ("tpot", seen.tpot, None),
        ("itl", gaps, weights),
        ("e2e_latency", seen.e2e, None),
    ):
        values |= _latency(name, sample, weight)
    histogram = np.zeros(1, np.int64)
    if draws is not None:
        histogram = np.bincount(_accepted(draws, run, done), minlength=step.cycle.block)
        cycles, committed = run.cycles[done], run.committed[done]
        lengths = accept_lengths(osl, cycles, int((committed - cycles).sum()))
        values |= _accept_values(lengths, _mean_width(run, step.cycle.block))
        values["verify_steps"] = float(cycles.sum())
    shares, evidence_s = step_anatomy(run, step=step, host=host)
    return Summary(values | shares, evidence_s, histogram)


def _mean_width(run: Run, block: int) -> float:
    """Tokens verified per request and step [token]."""
    if not isinstance(run, AdaptiveRun):
        return block
    decode = run.kind == DECODE
    return float(run.rows[decode].sum() / run.batch[decode].sum())


def _accept_values(lengths: AcceptLengths, width: float) -> dict[str, float]:
    return {
        "accept_length": lengths.al_request_mean,
        "accept_length_cycle": lengths.al_cycle,
        "accept_length_token_weighted": lengths.al_token_weighted,
        "accept_length_harmonic": lengths.al_harmonic,
        "accept_rate": (lengths.al_cycle - 1) / (width - 1) if width > 1 else 0.0,
        "verify_width": float(width),
    }


def _accepted(draws: Draws, run: Run, done: npt.NDArray[np.bool_]) -> npt.NDArray[np.integer]:
    """Accepted drafts of every cycle of the answered requests, or of every step if shared."""
    if isinstance(run, AdaptiveRun):
        draws = replace(draws, commits=run.commits)
    if draws.shared:
        return draws.commits[0, : int((run.kind == DECODE).sum())] - 1
    rows = draws.commits[done]
    return rows[np.arange(rows.shape[1]) < run.cycles[done][:, None]] - 1


def inter_token_gaps(run: Run, done: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Gaps between chunks of one answer, each with the number of ``done`` requests that saw it.

    A request is in every decode step from its first token to its last, if it is not retracted.
    """
    emit = run.emit_s[run.kind == DECODE]
    chunked = done & (run.cycles > 0)
    first_token_s = run.first_token_s[chunked]
    first = np.searchsorted(emit, first_token_s, side="right")
    last = np.searchsorted(emit, run.finish_s[chunked], side="right") - 1
    seen = np.bincount(first + 1, minlength=len(emit) + 1)
    seen -= np.bincount(last + 1, minlength=len(emit) + 1)
    inner = np.cumsum(seen)[1 : len(emit)]
    keep = inner > 0
    gaps = np.concatenate([np.diff(emit)[keep], emit[first] - first_token_s])
    return gaps, np.concatenate([inner[keep], np.ones(first.size)])


def median_gap_s(run: Run, done: npt.NDArray[np.bool_]) -> float:
    """Median of :func:`inter_token_gaps` [s]; 0 where answers have one token.

    Prefills stretch few gaps: it is a decode step, whatever else the server does.
    """
    gaps, weights = inter_token_gaps(run, done)
    return float(_quantiles(gaps, weights, [0.5])[0]) if len(gaps) else 0.0


def quantiles(sample: Floats, shares: Sequence[float]) -> Floats:
    """Quantiles, linear between ordered values: NumPy's, which take longer to load than to find."""
    at = (len(sample) - 1) * np.array(shares)
    found: Floats = np.interp(at, np.arange(len(sample)), np.sort(sample))
    return found


def _quantiles(sample: Floats, weight: Floats, shares: Sequence[float]) -> Floats:
    alike = weight.min() == weight.max()  # of a client alone: no order is needed but at some places
    order = np.argsort(sample) if not alike else slice(None)
    share = np.cumsum(weight[order]) / weight.sum()
    at = np.minimum(np.searchsorted(share, list(shares)), len(sample) - 1)
    points: Floats = (np.partition(sample, at) if alike else sample[order])[at]
    return points


def _wide_gaps(run: Run, seen: Served, interval: int) -> tuple[Floats, Floats]:
    """Mean gap between the chunks of each answer, sent ``interval`` tokens at a time, and chunks.

    The mean over all gaps is exact; how much they differ within an answer is not seen.
    """
    chunks = np.minimum(run.cycles[seen.done], -(-(seen.osl - 1) // interval))
    many = chunks > 0
    return (seen.e2e - seen.ttft)[many] / chunks[many], chunks[many].astype(float)


def _latency(name: str, sample: Floats, weight: Floats | None) -> dict[str, float]:
    if not len(sample):
        sample, weight = np.zeros(1), None
    if weight is None:
        mean, std = float(sample.mean()), float(sample.std())
        points = quantiles(sample, list(QUANTILES.values()))
    else:
        mean = float(np.average(sample, weights=weight))
        std = float(np.sqrt(np.average((sample - mean) ** 2, weights=weight)))
        points = _quantiles(sample, weight, list(QUANTILES.values()))
    out = {f"mean_{name}_ms": mean / MS, f"std_{name}_ms": std / MS}
    return out | {f"{q}_{name}_ms": float(p) / MS for q, p in zip(QUANTILES, points, strict=True)}


def step_anatomy(
    run: Run, *, step: StepModel | WidthSteps, host: HostTime
) -> tuple[dict[str, float], Floats]:
    """Divide a decode step into its parts, and the seconds of the whole run by evidence.

    Returns mean milliseconds per decode cycle: GPU phases, communication inside them, host work
    and the part of it the GPU waited for, and the period between results. ``gpu_busy`` leaves out
    the gaps between kernels and graphs.
    """
    decode = run.kind == DECODE
    parts = np.zeros((len(PHASES), len(PARTS)))
    for table, rows in _priced_by(run, step, decode):
        parts += table.parts @ _node_weights(table.ctx, run.kv_tokens[rows] / run.batch[rows])
    evidence = by_evidence(parts.sum(axis=0))
    between_s = float(parts[:, IDLE].sum())
    prefills = np.flatnonzero(run.kind == PREFILL)
    shapes = (c[prefills].tolist() for c in (run.batch, run.kv_tokens, run.prefix))
    for (requests, tokens, prefix), n in Counter(zip(*shapes, strict=True)).items():
        priced = step.prefill_parts(requests=requests, tokens=tokens, prefix=prefix)
        evidence = evidence + n * by_evidence(priced)
        between_s += n * priced[IDLE]
    idle = np.maximum(0.0, np.diff(run.gpu_end_s, prepend=0.0) - run.gpu_s)
    idle[run.after_idle] = 0.0
    exposed = idle[decode]
    taken = run.gpu_end_s - run.gpu_start_s  # of a prefill, the launches that it waits for too
    work_s = run.gpu_s.sum()
    busy_s = work_s - between_s
    span_s = float(run.gpu_end_s[-1] - run.gpu_start_s[0])
    n = max(1, int(decode.sum()))
    work = _host_work_s(run.batch[decode], step, host)
    evidence = evidence + np.array([0.0, 0.0, 0.0, idle.sum()])
    spent_ms = {
        name: float(seconds_of(phase) / n / MS) for name, phase in zip(PHASES, parts, strict=True)
    }
    return {
        "step_ms": float((run.gpu_s[decode] + exposed).mean() / MS) if decode.any() else 0.0,
        "draft_ms": spent_ms["draft"],
        "verify_ms": spent_ms["verify"],
        "commit_ms": spent_ms["commit"],
        "materialise_ms": spent_ms["materialise"],
        "other_ms": spent_ms["other"],
        "comm_ms": float(parts[:, COMM].sum() / n / MS),
        "host_ms": float(work.mean() / MS) if decode.any() else 0.0,
        "host_exposed_ms": float(exposed.mean() / MS) if decode.any() else 0.0,
        "prefill_share": float(taken[prefills].sum() / taken.sum()) if work_s else 0.0,
        "gpu_busy": float(busy_s / span_s) if span_s else 1.0,
        "mean_batch": float(run.batch[decode].mean()) if decode.any() else 0.0,
    }, evidence


def _node_weights(nodes: Floats, at: Floats) -> Floats:
    """How often each node counts in the sum of what is interpolated linearly at so many places."""
    at = np.clip(at, nodes[0], nodes[-1])
    below = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, len(nodes) - 2)
    share = (at - nodes[below]) / (nodes[below + 1] - nodes[below])
    weights = np.zeros(len(nodes))
    weights += np.bincount(below, 1 - share, len(nodes))
    weights += np.bincount(below + 1, share, len(nodes))
    return weights


def _priced_by(
    run: Run, step: StepModel | WidthSteps, decode: npt.NDArray[np.bool_]
) -> Iterator[tuple[BatchTable, npt.NDArray[np.integer] | npt.NDArray[np.bool_]]]:
    """Tables, and the decode iterations that each prices."""
    if isinstance(run, AdaptiveRun):
        assert isinstance(step, WidthSteps)
        keys = np.stack([run.batch, run.rows, run.drafted], axis=1)
        kinds, which = np.unique(keys, axis=0, return_inverse=True)
        for i in np.unique(which[decode]).tolist():
            batch, rows, drafted = kinds[i].tolist()
            yield step.mixed_table(batch, rows=rows, drafted=drafted), decode & (which == i)
        return
    order = np.argsort(run.batch)
    order = order[decode[order]]
    changes = np.flatnonzero(np.diff(run.batch[order])) + 1
    for rows in np.split(order, changes) if len(order) else ():
        yield step.table(int(run.batch[rows[0]])), rows


def _host_work_s(
    batch: npt.NDArray[np.int64], step: StepModel | WidthSteps, host: HostTime
) -> Floats:
    """Host seconds of each decode iteration, hidden or not."""
    stages = host.stages(v1=step.v1 and step.cycle.method.speculative)
    fixed_s = sum(stage.fixed_s for stage in stages)
    per_request_s = sum(stage.per_request_s for stage in stages)
    return fixed_s + per_request_s * batch.astype(float)


def queue_growth(run: Run) -> float:
    """Return the share of an open loop's arrivals that is added to those who wait [1].

    Requests without a first token, as arrivals see them: the last quarter less the second one,
    over the arrivals between; 0 unless the fewest of the one are more than the most of the other.
    Neither the tail of a run nor the rate that it drew is in it.
    """
    at = np.sort(run.arrival_s[np.isfinite(run.arrival_s)])
    quarter = len(at) // 4
    if not quarter:
        return 0.0
    begun = np.searchsorted(np.sort(run.first_token_s), at, side="right")
    waiting = np.arange(1, len(at) + 1) - begun
    late, early = waiting[-quarter:], waiting[-3 * quarter : -2 * quarter]
    if late.min() <= early.max() + 1:
        return 0.0
    return float(late.mean() - early.mean()) / (2 * quarter)
