"""A row of InferenceX (``agg_*.json``): throughput per GPU, and latencies in **seconds**."""

import re
from collections.abc import Iterator
from math import isfinite

from dflash_sim.calibrate.observations.lengths import fixed_lengths
from dflash_sim.calibrate.observations.names import Names
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.values import (
    STATISTICS,
    Metrics,
    Raw,
    known,
    naming,
    number,
    short,
    whole,
    word,
)
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.cost.methods import PLAIN

_LATENCIES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e_latency": "e2el"}
_RATES = ("output", "input", "total")
_UNIT_TOLERANCE = 0.2  # of tpot x interactivity = 1; quantiles of a ratio are not exact
_SINGLE = ("pp", "dcp_size", "pcp_size")


def is_inferencex(raw: Raw) -> bool:
    """Keys that tell it from other tools."""
    return "infmax_model_prefix" in raw or ("tput_per_gpu" in raw and "hw" in raw)


def read_inferencex(raw: Raw, where: str, names: Names) -> Observation:
    """One point of the sweep; lengths are those asked for."""
    for problem in _not_simulated(raw):
        raise UsageError(problem)
    tp, ep, conc, isl, osl = (whole(raw, key) for key in ("tp", "ep", "conc", "isl", "osl"))
    if tp is None:
        msg = "tp is missing; without it tput_per_gpu says nothing of the server"
        raise UsageError(msg)
    metrics = Metrics()
    metrics.take_latencies(raw, _LATENCIES, suffix="")
    _check_unit(raw)
    for way in _RATES:
        key = "tput_per_gpu" if way == "total" else f"{way}_tput_per_gpu"
        metrics.take(f"{way}_throughput", raw, key, tp)
    hw, model = word(raw, "hw"), word(raw, "model")
    fields: dict[str, object] = known(
        tp=tp, ep_size=None if ep == 1 else ep, num_gpus=tp, conc=conc
    )
    if hw is not None:
        with naming("hw"):
            short_name = hw if names.find("gpus", hw) else hw.partition("-")[0]
            fields["gpu"] = names.gpu(short_name)[0]
    if model is not None:
        with naming("model"):
            fields["model"] = names.model(model)
    with naming("spec_decoding"):
        fields["method"] = names.method(word(raw, "spec_decoding") or PLAIN.name)
    if isl is not None and osl is not None:
        fields |= fixed_lengths(isl, osl)
    image = word(raw, "image")
    version = re.search(r"v?(\d+\.\d+\.[\w.]+|nightly[\w.-]*)", (image or "").rpartition(":")[2])
    return Observation(
        row=where,
        source="",
        fields=fields,
        metrics=metrics.values,
        build=version[1] if version else None,
        about=known(
            tool="inferencex",
            engine=word(raw, "framework"),
            dtype=word(raw, "precision"),
            image=image,
        ),
        notes=tuple(metrics.notes),
    )


def _not_simulated(raw: Raw) -> Iterator[str]:
    for key in ("disagg", "is_multinode", "dp_attention"):
        if str(raw.get(key, "false")).lower() not in ("false", "none", "0", ""):
            yield f"{key} is {short(raw[key])}; one server without it is simulated"
    for key in _SINGLE:
        if (size := whole(raw, key)) not in (None, 1):
            yield f"{key} {size} is not simulated; allowed: 1"


def _check_unit(raw: Raw) -> None:
    """Interactivity is 1 / TPOT in seconds; a TPOT in milliseconds is off by a thousand."""
    for statistic in STATISTICS:
        tpot, users = (number(raw, f"{statistic}_{key}") for key in ("tpot", "intvty"))
        if statistic == "std" or not tpot or not users or not isfinite(tpot * users):
            continue
        if abs(tpot * users - 1) > _UNIT_TOLERANCE:
            msg = (
                f"{statistic}_tpot {tpot:g} and {statistic}_intvty {users:g} contradict each "
                "other: latencies of this format are in seconds, and interactivity is 1 / tpot"
            )
            raise UsageError(msg)
