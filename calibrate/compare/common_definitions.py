"""Measured and predicted values are brought to one definition before they are compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan, sqrt

from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.values import ACCEPTANCE, STATISTICS
from dflash_sim.profiles.units import MS

Values = Mapping[str, float]

ONE_BATCH = "sglang bench_one_batch_server"
PER_TOKEN = "itl is per token in this file, a chunk's gap divided by its tokens: not compared"
_HOST_STAGES = ("recv_requests", "get_next_batch_to_run", "run_batch")
_STAGE = "scheduler_stage_s."


def measured(observation: Observation, predicted: Values) -> tuple[dict[str, float], list[str]]:
    """The values of a file that mean what they mean here, and remarks on those left out.

    ``bench_serving``'s native backend divides the gap between two chunks by the tokens of the
    second; then the gaps are tokens apart, not verify steps. ``bench_one_batch_server`` does not
    say when the last first token came, but what is left of the time tells.
    """
    seen = dict(observation.metrics)
    osl = observation.fields.get("osl") or 1
    if observation.about.get("tool") == ONE_BATCH and "mean_tpot_ms" in seen and osl > 1:
        last_ttft_ms = seen["duration"] / MS - seen["mean_tpot_ms"] * (osl - 1)
        seen |= {"p99_ttft_ms": last_ttft_ms} if last_ttft_ms > 0 else {}
    itl, tpot = seen.get("mean_itl_ms"), seen.get("mean_tpot_ms")
    length = seen.get("accept_length_cycle") or predicted.get("accept_length_cycle", 1.0)
    if not itl or not tpot or length == 1 or itl / tpot > sqrt(length):
        return seen, []
    gaps = [f"{statistic}_itl_ms" for statistic in STATISTICS]
    return {name: value for name, value in seen.items() if name not in gaps}, [PER_TOKEN]


def as_measured(predicted: Values, observation: Observation) -> dict[str, float]:
    """Predicted values by the definitions of the file.

    ``bench_one_batch_server`` counts the time per token from the last first token of the batch
    to the end of its longest answer.
    """
    values = dict(predicted)
    osl = observation.fields.get("osl") or 1
    if observation.about.get("tool") == ONE_BATCH and osl > 1:
        decode_ms = values["duration"] / MS - values["p99_ttft_ms"]
        values["mean_tpot_ms"] = decode_ms / (osl - 1)
    return values


def in_flight(values: Values) -> float | None:
    """Mean number of requests between arrival and last token, by Little's law."""
    if "concurrency" in values:
        return values["concurrency"]
    if "request_throughput" in values and "mean_e2e_latency_ms" in values:
        return values["request_throughput"] * values["mean_e2e_latency_ms"] * MS
    return None


def running(values: Values) -> float | None:
    """Mean number of requests that are decoding, by Little's law."""
    if "output_throughput" in values and "mean_tpot_ms" in values:
        return values["output_throughput"] * values["mean_tpot_ms"] * MS
    return None


@dataclass(frozen=True)
class AcceptLength:
    """One of the definitions of the accept length.

    Parameters
    ----------
    name
        Of a metric, or empty for the ratio of mean ITL to mean TPOT.
    block
        Verify width [token].
    """

    name: str
    block: int

    @property
    def words(self) -> str:
        """The definition as a reader knows it."""
        return self.name if self.name != "" else "mean itl / mean tpot"

    def of(self, values: Values) -> float:
        """The accept length by this definition; not-a-number if no step was run."""
        if self.name == "":
            return values["mean_itl_ms"] / (values["mean_tpot_ms"] or nan)
        if self.name == "accept_rate":
            return 1 + values[self.name] * (self.block - 1)
        return values[self.name]


def accept_length(seen: Values, block: int) -> AcceptLength | None:
    """The best definition that a file has; of steps rather than requests, as throughput follows."""
    for name in ("accept_length_cycle", *ACCEPTANCE, "accept_rate"):
        if name in seen:
            return AcceptLength(name, block)
    if block > 1 and "mean_itl_ms" in seen and "mean_tpot_ms" in seen:
        return AcceptLength("", block)
    return None


def host_stage_s(seen: Values) -> float | None:
    """Host seconds per generated token in the stages that never wait for the GPU."""
    tokens = seen.get("total_output_tokens")
    stages = [
        seconds
        for name, seconds in seen.items()
        if name.startswith(_STAGE) and name.split(".")[1] in _HOST_STAGES
    ]
    return sum(stages) / tokens if tokens and stages else None


def beside(row: Observation, other: Observation) -> dict[str, float]:
    """Metrics of ``row`` completed by a file that measured acceptance or the host in the same run.

    Seconds of the scheduler are scaled to the row's tokens: two scrapes may span more than it.
    """
    values = dict(row.metrics)
    if any(name in other.metrics for name in ACCEPTANCE):
        values = {n: v for n, v in values.items() if n not in (*ACCEPTANCE, "accept_rate")}
        values |= {n: other.metrics[n] for n in (*ACCEPTANCE, "accept_rate") if n in other.metrics}
    theirs = other.metrics.get("total_output_tokens")
    ours = values.setdefault("total_output_tokens", theirs) if theirs else None
    if theirs and ours:
        scale = ours / theirs
        stages = {n: v for n, v in other.metrics.items() if n.startswith(_STAGE)}
        values |= {name: seconds * scale for name, seconds in stages.items()}
    return values
