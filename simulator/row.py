"""Result -> one flat row under the names of ``sglang.bench_serving``; strict JSON.

``profiles/schema.csv`` describes every field. Milliseconds, gigabytes and tokens per second here.
"""

from math import isfinite

from dflash_sim import __version__
from dflash_sim.profiles.schema import load_schema
from dflash_sim.profiles.sheets import PriceRange
from dflash_sim.profiles.units import GIGA, HOUR_S, MEGA
from dflash_sim.simulator.predict import Result
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup
from dflash_sim.simulator.slopes import METRICS

SCHEMA_VERSION = 1
INTERVALS = (*(m for m in METRICS if not m.startswith("median_")), "speedup")
NO_TABLES = "none"  # of a GPU without operator times
DECIMALS = 6  # of every float: nanoseconds of latency, a millionth of a token per second

Cell = str | int | float | list[str] | list[int] | list[float] | dict[str, float] | None
Row = dict[str, Cell]


def to_row(result: Result, *, tag: str | None = None, price: PriceRange | None = None) -> Row:
    """One prediction as a flat row, fields in the order of the schema.

    Floats are rounded to ``DECIMALS``, and what is not finite is null.

    Parameters
    ----------
    price
        What the asker pays for a GPU, in place of what its sheet says.
    """
    setup = result.setup
    values = {name: _number(value) for name, value in result.values.items()}
    filled = (
        _identity(result.scenario, tag)
        | _scenario(result.scenario)
        | _resolved(setup)
        | _memory(setup)
        | values
        | _trust(result)
        | _comparison(result)
        | _money(setup, result.values["output_throughput"], price or setup.device.price)
        | {"simulator": result.simulator_used}
    )
    filled["output_tput_per_gpu"] = _number(result.values["output_throughput"] / setup.num_gpus)
    return _blank() | filled


def failed_row(scenario: Scenario, error: Exception, *, tag: str | None = None) -> Row:
    """The row of a scenario without an answer: what was asked, and why not."""
    filled = _identity(scenario, tag) | _scenario(scenario) | {"error": str(error), "warnings": []}
    return _blank() | filled


def _blank() -> Row:
    return dict.fromkeys(field.name for field in load_schema())


def _number(value: float | None) -> float | None:
    return round(value, DECIMALS) if value is not None and isfinite(value) else None


def _identity(s: Scenario, tag: str | None) -> Row:
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "predicted",
        "tag": tag,
        "scenario_hash": s.hash,
        "dflash_sim_version": __version__,
        "seed": s.seed,
        "replications": s.runs,
    }


def _scenario(s: Scenario) -> Row:
    engine, _, engine_version = s.engine.partition("-")
    return {
        "gpu": s.gpu,
        "num_gpus": s.num_gpus,
        "tp": s.tp,
        "ep_size": s.ep_size,
        "model": s.model,
        "draft_model": s.draft_model,
        "method": s.method,
        "speculative_algorithm": s.speculation.algorithm,
        "block": s.block,
        "steps": s.steps,
        "topk": s.topk if "topk" in s.speculation.takes else None,
        "window": s.window,
        "policy": s.policy,
        "engine": engine,
        "engine_version": engine_version,
        "engine_mode": s.engine_mode,
        "overlap": s.engine_mode == "v2",
        "attention_backend": s.attention_backend,
        "dtype": s.dtype,
        "quantization": s.quantization,
        "kv_cache_dtype": s.kv_cache_dtype,
        "dataset_name": s.dataset,
        "thinking": s.thinking if s.dataset else None,
        "isl": s.isl,
        "osl": s.osl,
        "cache_hit": s.cache_hit,
        "max_new_tokens": s.max_new_tokens,
        "max_concurrency": s.conc,
        "request_rate": s.rate,
        "burstiness": s.burstiness,
        "num_prompts": s.num_prompts,
    }


def _resolved(setup: Setup) -> Row:
    """Return what the scenario left open, as it was filled in."""
    source = setup.measured or setup.tables
    return {
        "profile_hash": source.digest if source else NO_TABLES,
        "gpu": setup.device.name,
        "num_gpus": setup.num_gpus,
        "tp": setup.tp,
        "model": setup.model.name,
        "draft_model": setup.draft_name,
        "quantization": setup.quantization,
        "kv_cache_dtype": setup.kv_cache_dtype,
        "block": setup.block,
        "steps": setup.scenario.steps or setup.method.steps(setup.block),
        "attention_backend": setup.backend,
        "engine_mode": setup.scenario.engine_mode,
        "overlap": setup.scenario.engine_mode == "v2",
    }


def _memory(setup: Setup) -> Row:
    m = setup.memory
    return {
        "weight_gb": _number(m.weight_bytes / GIGA),
        "draft_weight_gb": _number(m.draft_weight_bytes / GIGA),
        "kv_gb": _number(m.kv_bytes / GIGA),
        "kv_tokens": m.kv_tokens,
        "gdn_state_gb": _number(m.gdn_bytes / GIGA),
        "max_running_requests": m.max_running_requests,
        "max_running_requests_cause": m.cap_cause,
    }


def _ends(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [round(end, DECIMALS) for end in interval]


def _trust(result: Result) -> Row:
    calibration = result.setup.calibration
    return {
        "accept_histogram": result.accept_histogram if result.expectation else None,
        "acceptance_source": result.expectation.source if result.expectation else None,
        "source_share": {name: round(share, DECIMALS) for name, share in result.evidence.items()},
        **{f"{name}_ci90": _ends(result.intervals.get(name)) for name in INTERVALS},
        "calibration": calibration.name if calibration else "none",
        "warnings": list(result.warnings),
    }


def _comparison(result: Result) -> Row:
    row: Row = {}
    if result.baseline is not None:
        row["baseline_output_throughput"] = _number(result.baseline.values["output_throughput"])
        row["speedup"] = _number(result.speedup)
    if result.published is not None:
        row["published_source"] = result.published.source_id
        row["published_url"] = result.published.url
        row["published_output_throughput"] = result.published.output_tok_s
        row["published_error"] = _number(result.published_error)
        row["published_fitted"] = list(result.published_fitted)
    return row


def _money(setup: Setup, output_tok_s: float, price: PriceRange) -> Row:
    ends = {"low": price.low, "typical": price.typical, "high": price.high}
    per_hour = {end: setup.num_gpus * usd for end, usd in ends.items() if usd is not None}
    if not per_hour:
        return {}
    million_tokens_h = output_tok_s * HOUR_S / MEGA
    return {
        "usd_per_hour": {end: round(usd, DECIMALS) for end, usd in per_hour.items()},
        "usd_per_mtok_out": {
            end: round(usd / million_tokens_h, DECIMALS) for end, usd in per_hour.items()
        },
    }
