"""The last look at a row: conditions that are missing, values that contradict each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isfinite, nan
from typing import Any

from dflash_sim.calibrate.observations.names import Names, of_checkpoint
from dflash_sim.calibrate.observations.observation import Observation, drafts_nothing
from dflash_sim.calibrate.observations.values import (
    ACCEPTANCE,
    LATENCIES,
    OF_CHUNKS,
    STATISTICS,
    THROUGHPUTS,
    naming,
)
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.formats import (
    OF_CHECKPOINTS,
    format_named,
    format_of,
    quantization_name,
)
from dflash_sim.profiles.load import load_model
from dflash_sim.profiles.units import MS
from dflash_sim.simulator.cost.methods import PLAIN, method_of
from dflash_sim.simulator.scenario import ONLY_SPECULATION, Scenario

# What depends on model, method and load; acceptance does not need to know the load.
TIMED = frozenset(
    ["speedup", *THROUGHPUTS, *(f"{s}_{latency}_ms" for latency in LATENCIES for s in STATISTICS)]
)
# One of a group stands for all of it: an assumption gives way to any given member.
_INSTEAD = {
    "conc": ("rate",),
    "rate": ("conc",),
    "dataset": ("isl", "osl"),
    "isl": ("dataset",),
    "osl": ("dataset",),
    "block": ("steps",),
    "steps": ("block",),
}
_ROUNDING = 0.01  # accept lengths are printed with two or three decimals
_SLACK = 1.05  # of sums and ratios printed with few digits
_OTHER_UNIT = 10.0
_TWO_SPEEDS = 1.5  # runs of one setting differ by a few percent, of two builds by more
_NO_CONDITION = ("id", "measured", "date", "failed", "version")
_BF16 = ("bf16", "bfloat16", "auto", "float16", "half")
_THOUSAND = 300.0  # a ratio above this, or below its inverse, is a unit
_SHORTEST_MS = 0.08  # between tokens of one answer on any server: what is less is in seconds
_AT_ONCE = 0.9  # of an answer's time, and it came in one piece: a stream interval of its length
_PER_TOKEN = ("mean_tpot_ms", "median_tpot_ms", "mean_itl_ms")


def complete(row: Observation, names: Names, assume: Mapping[str, Any]) -> Observation:
    """The row with assumptions in place of what it lacks.

    Raises
    ------
    UsageError
        It measured nothing, contradicts itself, or lacks what no default may stand in for.
    """
    if not row.metrics and row.accept_histogram is None:
        what = "; ".join(row.notes) or "no column or key of a measured value has a number"
        msg = f"nothing was measured: {what}"
        raise UsageError(msg)
    fields = _with_precision(row, _with_assumptions(row, assume))
    timed = not TIMED.isdisjoint(row.metrics)
    if timed:
        _require_sglang(row)
        _require(fields)
        if "dataset" in row.about and not fields.keys() & {"dataset", "isl"}:
            raise names.unknown_workload(row.about["dataset"])
    scenario = Scenario.parse(**fields)
    fields = {name: getattr(scenario, name) for name in fields}
    if timed:
        names.check_network(scenario.method, scenario.model, scenario.draft_model)
    row = _of_steps(row, fields)
    for problem in contradictions(row, fields):
        raise UsageError(problem)
    lacking = [name for name in _conditions(fields, timed) if name not in row.fields]
    taken = [name for name in assume if name in fields and name not in row.fields]
    assumed = tuple(dict.fromkeys([*row.assumed, *lacking, *taken]))
    return replace(row, fields=fields, assumed=assumed)


def _of_steps(row: Observation, fields: Mapping[str, Any]) -> Observation:
    """The row without tokens a chunk that no step commits: the server or the client joined some."""
    if OF_CHUNKS not in row.notes or not any(_acceptance(row.metrics, fields)):
        return row
    metrics = {name: value for name, value in row.metrics.items() if name != "accept_length"}
    return replace(row, metrics=metrics, notes=tuple(n for n in row.notes if n != OF_CHUNKS))


def _with_assumptions(row: Observation, assume: Mapping[str, Any]) -> dict[str, Any]:
    given = row.fields
    out = {
        name: value
        for name, value in assume.items()
        if not any(given.get(other) for other in _INSTEAD.get(name, ()))
    }
    out |= given
    if drafts_nothing(out):
        out = {name: value for name, value in out.items() if name not in ONLY_SPECULATION}
    if out.get("dataset") is None and out.get("osl") and not out.get("isl"):
        msg = "isl is missing beside osl; give the prompt length, or a dataset"
        raise UsageError(msg)
    return out


def _with_precision(row: Observation, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with the precision that a benchmark calls ``dtype``: bf16, or that of weights.

    A checkpoint that is quantised by its own files keeps what they say.

    Raises
    ------
    UsageError
        Nothing is called that.
    """
    said = str(row.about.get("dtype", _BF16[0])).lower()
    if said in _BF16 or "quantization" in fields:
        return fields
    with naming("dtype"):
        name = quantization_name(said)
        return fields if _held(name, fields) else of_checkpoint(fields | {"quantization": name})


def _held(quantization: str, fields: Mapping[str, Any]) -> bool:
    """Return True if the model's own files have weights of as many bits."""
    own = load_model(fields["model"]).quantized if "model" in fields else None
    if own is None or quantization in OF_CHECKPOINTS:
        return own is not None
    bits = int(format_of(format_named(quantization)).bits)
    return bits in {int(format_of(form).bits) for _, form in own.formats}


def contradicted(rows: Sequence[Observation]) -> dict[str, str]:
    """Rows that measured two speeds of one configuration, and why neither can be trusted."""
    by_setting: dict[str, list[Observation]] = {}
    for row in rows:
        if "output_throughput" in row.metrics:
            by_setting.setdefault(_setting(row), []).append(row)
    found: dict[str, str] = {}
    for same in by_setting.values():
        ordered = sorted(same, key=lambda row: row.metrics["output_throughput"])
        slow, fast = ordered[0], ordered[-1]
        speeds = [row.metrics["output_throughput"] for row in (slow, fast)]
        if speeds[1] > _TWO_SPEEDS * speeds[0]:
            why = (
                f"{speeds[0]:,.4g} tok/s in {slow.row} and {speeds[1]:,.4g} in {fast.row} under "
                "the same conditions: say what differs, or leave one out"
            )
            found |= {row.row: why for row in same}
    return found


def _setting(row: Observation) -> str:
    """All that is said about a row but what was measured."""
    about = {name: value for name, value in row.about.items() if name not in _NO_CONDITION}
    parts = (row.source, row.build, sorted(row.fields.items(), key=str), sorted(about.items()))
    return repr(parts)


def _require_sglang(row: Observation) -> None:
    """Times of another engine say nothing about this one; its acceptance does."""
    engine = row.about.get("engine", "sglang")
    if not str(engine).lower().startswith("sglang"):
        msg = f"engine '{engine}' is not simulated; allowed: sglang"
        raise UsageError(msg)


def _require(fields: Mapping[str, Any]) -> None:
    """No default may stand in for the model, the method or the load."""
    lacking = [name for name in ("model", "method") if fields.get(name) is None]
    if fields.get("conc") is None and fields.get("rate") is None:
        lacking.append("conc")
    method = fields.get("method")
    if method and method_of(method).sequential and not (fields.keys() & {"block", "steps"}):
        lacking.append("block")
    for name in lacking:
        words = {
            "conc": "concurrency (requests in flight)",
            "block": f"block (tokens verified a step; {fields.get('method')} has no usual one)",
        }
        msg = (
            f"no {words.get(name, name)}: the row does not say, and it is not guessed; "
            f"give it in the file, or assume {name}=..."
        )
        raise UsageError(msg)


def _conditions(fields: Mapping[str, Any], timed: bool) -> Iterator[str]:
    """Conditions that the answer depends on and that somebody must have set."""
    yield from ("model", "method")
    if timed:
        yield from ("gpu", "tp", "engine_mode", "num_prompts")
        yield "temperature"
    if timed and fields.get("rate") is None:
        yield "conc"
    if fields.get("isl") is None:
        yield from ("dataset", "thinking")
        if timed:
            yield from ("max_new_tokens", "radix_cache")
    method = method_of(fields.get("method") or PLAIN.name)
    if method.speculative and "steps" not in fields:
        yield "block"
    if "draft_model" in method.takes:
        yield "draft_model"


def contradictions(row: Observation, fields: Mapping[str, Any]) -> Iterator[str]:
    """Return what cannot all be true."""
    tp, gpus = fields.get("tp"), fields.get("num_gpus")
    if tp and gpus and tp > gpus:
        yield f"tp {tp} exceeds num_gpus {gpus}"
    if tp and gpus and tp < gpus:
        yield f"num_gpus {gpus} and tp {tp}: one server of tp GPUs is simulated"
    yield from _acceptance(row.metrics, fields)
    yield from _rates(row.metrics, fields)
    yield from _units(row.metrics, fields)


def _acceptance(metrics: Mapping[str, float], fields: Mapping[str, Any]) -> Iterator[str]:
    block = fields.get("block") or (fields.get("steps") or nan) + 1
    for name in ACCEPTANCE:
        length = metrics.get(name, nan)
        if length > block + _ROUNDING:
            yield f"{name} {length:g} exceeds block {block}: no step commits more"
        if length < 1 - _ROUNDING:
            yield f"{name} {length:g} is below 1: the bonus token counts"
        if length > 1 + _ROUNDING and drafts_nothing(fields):
            yield f"{name} {length:g}, but method {fields['method']} drafts nothing"
    if metrics.get("accept_rate", 0.0) > 1 + _ROUNDING:
        yield f"accept_rate {metrics['accept_rate']:g} exceeds 1; percent?"


def _rates(metrics: Mapping[str, float], fields: Mapping[str, Any]) -> Iterator[str]:
    def get(name: str) -> float:
        return metrics.get(name, nan)

    for rate, total in (
        ("output_throughput", "total_output_tokens"),
        ("input_throughput", "total_input_tokens"),
        ("request_throughput", "completed"),
    ):
        ratio = get(rate) * get("duration") / get(total)
        if isfinite(ratio) and not 1 / _SLACK < ratio < _SLACK:
            yield (
                f"{rate} {get(rate):g} is not {total} {get(total):g} "
                f"over duration {get('duration'):g} s"
            )
    if get("concurrency") > _SLACK * (fields.get("conc") or nan):
        yield f"concurrency {get('concurrency'):g} exceeds the {fields['conc']} requests in flight"
    ttft, e2e = get("mean_ttft_ms"), get("mean_e2e_latency_ms")
    if ttft > _SLACK * e2e:
        yield f"mean_ttft_ms {ttft:g} exceeds mean_e2e_latency_ms {e2e:g}"
    osl = fields.get("osl") or nan
    parts = ttft + get("mean_tpot_ms") * (osl - 1)
    if isfinite(e2e / parts) and not 1 / _OTHER_UNIT < e2e / parts < _OTHER_UNIT:
        yield (
            f"mean_e2e_latency_ms {e2e:g} against ttft + tpot x (osl - 1) = {parts:g} ms: "
            "seconds and milliseconds mixed?"
        )


def _units(metrics: Mapping[str, float], fields: Mapping[str, Any]) -> Iterator[str]:
    """Latencies in another unit: so many clients cannot have made that throughput with them."""
    first, whole = (metrics.get(f"mean_{of}_ms", nan) for of in ("ttft", "e2e_latency"))
    for known in () if first > _AT_ONCE * whole else _PER_TOKEN:
        if metrics.get(known, nan) < _SHORTEST_MS:
            yield f"{known} {metrics[known]:g}: seconds, not milliseconds?"
            return
    for statistic in ("mean", "median"):
        first, each = (metrics.get(f"{statistic}_{of}_ms", nan) for of in ("ttft", "tpot"))
        if first * _OTHER_UNIT < each:
            yield (
                f"{statistic}_ttft_ms {first:g} is a fraction of {statistic}_tpot_ms {each:g}: "
                "seconds, not milliseconds?"
            )
            return
    conc, osl = fields.get("conc"), fields.get("osl")
    speed = metrics.get("output_throughput", nan)
    if not conc or not osl:
        return
    tokens = osl * (1 + fields.get("range_ratio", 1.0)) / 2
    for name, per_answer in (("mean_e2e_latency_ms", 1.0), ("mean_tpot_ms", tokens)):
        for known in (name, name.replace("mean", "median")):
            value = metrics.get(known, nan)
            busy = speed * value * MS * per_answer / tokens
            ratio = busy / min(conc, fields.get("num_prompts") or conc)
            if isfinite(ratio) and not 1 / _THOUSAND < ratio < _THOUSAND:
                unit = "seconds" if ratio < 1 else "microseconds"
                yield (
                    f"{known} {value:g} with {conc} requests in flight and {speed:g} tok/s: "
                    f"{unit}, not milliseconds?"
                )
                return
