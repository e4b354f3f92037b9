"""What a server did between two scrapes, as a benchmark of its own traffic."""

from typing import Any

from dflash_sim.calibrate.live.target import gauge
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.readers.sglang_bench_serving import STEPS
from dflash_sim.calibrate.readers.sglang_metrics import Snapshot, read_prometheus
from dflash_sim.profiles.units import MS

_HISTOGRAMS = {
    "ttft": "time_to_first_token_seconds",
    "tpot": "inter_token_latency_seconds",
    "e2e_latency": "e2e_request_latency_seconds",
}


def window(
    before: Snapshot, after: Snapshot, seconds: float
) -> tuple[dict[str, Any], dict[str, float]] | None:
    """A row as ``bench_serving`` would write it, and the seconds of the scheduler's stages.

    An answer's tokens are counted when it ends, which for few requests in step may be just before
    or after a scrape. Where their times are counted as they come, so are they: the row's duration
    is the time in which the tokens of the answers that ended were written.

    Returns
    -------
    tuple or None
        None if no request was answered meanwhile.
    """
    moved = read_prometheus(before, after, Names()).metrics
    done, out = moved.get("completed", 0.0), moved.get("total_output_tokens", 0.0)
    inward = moved.get("total_input_tokens", 0.0)
    if done < 1 or not out or not inward:
        return None
    (first_s, first), (between_s, between) = (
        [_grown(before, after, f"{_HISTOGRAMS[name]}_{part}") for part in ("sum", "count")]
        for name in ("ttft", "tpot")
    )
    written, spent_s = first + between, first_s + between_s
    duration = seconds * out / written if first and between else seconds
    row: dict[str, Any] = {
        "dataset_name": "random",
        "random_range_ratio": 0.0,
        "completed": int(done),
        "num_prompts": int(done),
        "duration": duration,
        "total_input_tokens": inward,
        "total_output_tokens": out,
        "output_throughput": out / duration,
        "request_throughput": done / duration,
    }
    for name, theirs in _HISTOGRAMS.items():
        total, count = (_grown(before, after, f"{theirs}_{part}") for part in ("sum", "count"))
        if total > 0 and count > 0:
            row[f"mean_{name}_ms"] = total / count / MS
    if first and between:
        row["concurrency"] = spent_s / seconds
    elif "mean_e2e_latency_ms" in row:  # Little's law
        row["concurrency"] = done / seconds * row["mean_e2e_latency_ms"] * MS
    seen = row.get("concurrency") or gauge(after, "num_running_reqs") or 1.0
    row["max_concurrency"] = max(1, round(seen))
    row["concurrency"] = min(seen, row["max_concurrency"])
    if steps := moved.get("verify_steps"):
        row[STEPS] = round(steps * duration / seconds)
    return row, {n: v for n, v in moved.items() if n.startswith("scheduler_stage_s.")}


def _grown(before: Snapshot, after: Snapshot, name: str) -> float:
    return (gauge(after, name) or 0.0) - (gauge(before, name) or 0.0)
