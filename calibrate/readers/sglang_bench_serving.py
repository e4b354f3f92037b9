"""A row of ``sglang.bench_serving``: the scenario is in the server's own arguments."""

from math import isinf
from typing import Any

from dflash_sim.calibrate.observations.conditions import tagged_conditions, with_lengths
from dflash_sim.calibrate.observations.lengths import (
    AT_MEANS,
    SPREAD,
    mean_lengths,
    uniform_lengths,
)
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.observation import Observation, drafts_nothing
from dflash_sim.calibrate.observations.sampling import sampling_of
from dflash_sim.calibrate.observations.values import (
    LATENCIES,
    THROUGHPUTS,
    TOTALS,
    Metrics,
    Raw,
    inner,
    known,
    number,
    whole,
    word,
)
from dflash_sim.calibrate.readers.sglang_server_info import read_server_info
from dflash_sim.profiles.errors import UsageError

_RANDOM = ("random", "random-ids")  # data sets whose lengths are drawn uniformly
_TEXTS = ("sharegpt",)  # data sets of real texts, whose lengths are as spread at the least
# What our own client adds: verify steps of this run alone, summed over its requests; and
# ``acceptance``, with which a simulation takes as many.
STEPS = "verify_steps"
_ALL_WAIT = 0.95  # of the clients are under way on average: they limit the load, not the rate
POOLED = "accept_length_cycle pools every step since the server started, not of this run alone"


def is_bench_serving(raw: Raw) -> bool:
    """Keys that tell it from other tools."""
    return "server_info" in raw or "mean_e2e_latency_ms" in raw


def read_bench_serving(raw: Raw, where: str, names: Names) -> Observation:
    """One run; the server's accept length is a mean over steps, hence ``accept_length_cycle``."""
    metrics = Metrics()
    metrics.take_same(raw, *TOTALS, *THROUGHPUTS, "concurrency")
    metrics.take_latencies(raw, dict(zip(LATENCIES, LATENCIES, strict=True)))
    server = read_server_info(inner(raw, "server_info"), names)
    tag = word(raw, "tag")
    told = tagged_conditions(tag, names) | server.fields
    notes = [*server.notes]
    steps = None if drafts_nothing(told) else number(raw, STEPS)
    if steps:
        length = metrics.get("total_output_tokens") / steps
        metrics.values |= dict.fromkeys(("accept_length_cycle", "accept_length_harmonic"), length)
    elif raw.get("accept_length") is not None and not drafts_nothing(told):
        metrics.take("accept_length_cycle", raw, "accept_length")
        notes.append(POOLED)
    if acceptance := word(raw, "acceptance"):
        told["acceptance"] = acceptance
    lengths, how = _lengths(raw, metrics)
    notes += how
    return Observation(
        row=where,
        source="",
        fields=with_lengths(told | load(raw) | sampling_of(raw), lengths),
        metrics=metrics.values,
        build=server.build,
        about=known(
            tool="sglang bench_serving",
            engine=word(raw, "backend"),
            benchmark=word(raw, "dataset_name"),
            tag=tag,
        ),
        notes=(*notes, *metrics.notes),
    )


def _lengths(raw: Raw, metrics: Metrics) -> tuple[dict[str, Any], list[str]]:
    """Lengths as the benchmark drew them, with the means that this run had, and remarks.

    A file that names no data set, as printed text does, is taken for the benchmark's own defaults,
    which all spread them.
    """
    means, kind = mean_lengths(metrics), word(raw, "dataset_name")
    told = number(raw, "random_range_ratio")
    drawn = kind in _RANDOM or (kind is None and bool(told))  # a ratio is of random lengths alone
    ratio = told if drawn else None
    guessed = kind in _TEXTS or (kind is None and not drawn)
    if guessed:
        ratio = 0.0
    if not means or ratio == 1:
        return means, []
    if ratio is None or not 0 <= ratio < 1:
        return means, [AT_MEANS]
    return uniform_lengths(means, ratio), [SPREAD] if guessed else []


def load(raw: Raw) -> dict[str, Any]:
    """Closed loop of ``max_concurrency`` clients, arrivals at ``request_rate``, or all at once."""
    rate, conc = number(raw, "request_rate"), whole(raw, "max_concurrency")
    prompts = whole(raw, "num_prompts") or whole(raw, "completed")
    fields: dict[str, Any] = {} if prompts is None else {"num_prompts": prompts}
    if rate is not None and isinf(rate):
        rate = None
        conc = conc or prompts
    if rate is not None and conc is not None and prompts is not None and conc < prompts:
        under_way = number(raw, "concurrency") or 0.0
        if under_way < _ALL_WAIT * conc:
            msg = (
                f"request_rate {rate:g} and max_concurrency {conc} both limit the load; "
                "one of them is simulated at a time"
            )
            raise UsageError(msg)
        rate = None  # every client waits for its answer, whatever the rate
    if rate is not None:
        fields["rate"] = rate
        if (burstiness := number(raw, "burstiness")) is not None:
            fields["burstiness"] = burstiness
    elif conc is not None:
        fields["conc"] = conc
    return fields
