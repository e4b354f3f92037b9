"""Result rows: exactly the schema, strict JSON, and the arithmetic at this edge."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from dflash_sim.profiles.errors import InfeasibleError, UsageError
from dflash_sim.profiles.schema import Field, is_row, load_schema
from dflash_sim.simulator.engine.metrics import LATENCIES
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.row import Row, failed_row, to_row
from dflash_sim.simulator.scenario import Scenario

SMALL = {"model": "qwen3-8b", "isl": 64, "osl": 64, "num_prompts": 8, "runs": 2}
SCENARIOS: dict[str, dict[str, Any]] = {
    "dflash": {"model": "qwen3-8b", "dataset": "gsm8k", "thinking": False, "conc": 1,
        "max_new_tokens": 2048, "runs": 1},
    "dflash, two runs": SMALL | {"conc": 4},
    "plain": SMALL | {"method": "none"},
    "eagle3": SMALL | {"method": "eagle3", "steps": 3, "acceptance": "al:2.5"},
    "mtp": SMALL | {"model": "qwen3.5-35b-a3b", "method": "mtp", "steps": 3},
    "open loop": SMALL | {"rate": 20.0, "burstiness": 0.5},
    "shared draws": SMALL | {"acceptance": "sglang-simulated:3.24", "conc": 2},
    "no price, no tables": SMALL | {"gpu": "mi355x", "engine_mode": "v1"},
}  # fmt: skip
TYPES = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list[str]": list,
    "list[int]": list,
    "list[float]": list,
    "dict[str,float]": dict,
}


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    return {name: predict(Scenario.parse(**fields)) for name, fields in SCENARIOS.items()}


@pytest.fixture(scope="module")
def rows(results: dict[str, Result]) -> dict[str, Row]:
    error = InfeasibleError("it does not fit")
    failed = failed_row(results["dflash"].scenario, error)
    return {name: to_row(result) for name, result in results.items()} | {"failed": failed}


def fits(field: Field, value: object) -> bool:
    """Whether a value has the type the schema gives its field."""
    if value is None:
        return field.type.endswith("?")
    kind = field.type.removesuffix("?")
    if type(value) is not TYPES[kind]:
        return False
    inside = {"list[str]": str, "list[int]": int, "list[float]": float, "dict[str,float]": float}
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(type(item) is inside[kind] for item in items)


def test_the_schema_is_a_dictionary() -> None:
    schema = load_schema()
    names = [field.name for field in schema]
    assert len(names) == len(set(names)) > 100
    assert all(field.description for field in schema)
    assert {field.type.removesuffix("?") for field in schema} <= set(TYPES)
    # Numbers that are measured in something say in what.
    bare = {f.name for f in schema if f.type.startswith(("float", "list[float]")) and not f.unit}
    assert bare == {"burstiness"}
    ours = {f.name for f in schema if f.name == f.sglang}
    assert {"output_throughput", "mean_ttft_ms", "p99_e2e_latency_ms", "concurrency"} <= ours


@pytest.mark.parametrize("name", [*SCENARIOS, "failed"])
def test_rows_are_the_schema_exactly(rows: dict[str, Row], name: str) -> None:
    row = rows[name]
    assert list(row) == [field.name for field in load_schema()]
    wrong = {f.name: row[f.name] for f in load_schema() if not fits(f, row[f.name])}
    assert wrong == {}


def test_every_field_is_filled_by_some_row(rows: dict[str, Row]) -> None:
    empty = [f.name for f in load_schema() if all(row[f.name] is None for row in rows.values())]
    assert empty == ["tag", "window", "cache_hit"]
    tagged = to_row(predict(Scenario.parse(**SMALL, window=512, conc=1)), tag="mine")
    assert (tagged["tag"], tagged["window"]) == ("mine", 512)


def test_rows_are_strict_json(rows: dict[str, Row]) -> None:
    def refuse(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    for row in rows.values():
        assert json.loads(json.dumps(row, allow_nan=False), parse_constant=refuse) == row


def test_what_is_not_finite_is_null(results: dict[str, Result]) -> None:
    result = results["plain"]
    broken = result.values | {"mean_ttft_ms": math.nan, "duration": math.inf}
    row = to_row(replace(result, values=broken))
    assert row["mean_ttft_ms"] is None
    assert row["duration"] is None
    json.dumps(row, allow_nan=False)


def test_conversions(results: dict[str, Result], rows: dict[str, Row]) -> None:
    for name, result in results.items():
        row, setup = rows[name], result.setup
        tok_s = result.values["output_throughput"]
        assert row["output_tput_per_gpu"] == pytest.approx(tok_s / setup.num_gpus, rel=1e-6)
        assert row["weight_gb"] == pytest.approx(setup.memory.weight_bytes / 1e9, rel=1e-6)
        assert row["overlap"] is (row["engine_mode"] == "v2")
        assert row["scenario_hash"] == result.scenario.hash
        share = row["source_share"]
        assert isinstance(share, dict)
        assert sum(share.values()) == pytest.approx(1, abs=1e-5)
    # One B200 at its typical rent of 6 USD/h, making 3600 x tok/s tokens in an hour.
    usd, tok_s = rows["dflash"]["usd_per_mtok_out"], results["dflash"].values["output_throughput"]
    assert isinstance(usd, dict)
    assert usd["typical"] == pytest.approx(6.0 / (3600 * tok_s) * 1e6, rel=1e-5)
    assert usd["low"] < usd["typical"] < usd["high"]
    assert rows["no price, no tables"]["usd_per_hour"] is None
    assert rows["no price, no tables"]["profile_hash"] == "none"


def test_steps_and_blocks(rows: dict[str, Row]) -> None:
    told = {name: (r["speculative_algorithm"], r["block"], r["steps"]) for name, r in rows.items()}
    assert told["dflash"] == ("DFLASH", 16, None)
    assert told["mtp"] == ("NEXTN", 4, 3)
    assert told["eagle3"] == ("EAGLE3", 4, 3)
    assert told["plain"] == (None, 1, None)


def test_loads_are_told_apart(rows: dict[str, Row]) -> None:
    assert (rows["dflash"]["max_concurrency"], rows["dflash"]["request_rate"]) == (1, None)
    assert (rows["open loop"]["max_concurrency"], rows["open loop"]["request_rate"]) == (None, 20.0)
    assert (rows["plain"]["dataset_name"], rows["plain"]["thinking"]) == (None, None)


def test_baseline_and_published(results: dict[str, Result], rows: dict[str, Row]) -> None:
    row, baseline = rows["dflash"], results["dflash"].baseline
    assert baseline is not None
    plain = baseline.values["output_throughput"]
    assert row["baseline_output_throughput"] == pytest.approx(plain, rel=1e-6)
    assert row["speedup"] == pytest.approx(results["dflash"].values["output_throughput"] / plain)
    # SGLang PR 23000: 1,161.88 tok/s at concurrency 1 with Spec V2.
    assert (row["published_source"], row["published_output_throughput"]) == ("SGL_PR23000", 1161.88)
    assert row["published_error"] == pytest.approx(
        results["dflash"].values["output_throughput"] / 1161.88 - 1, abs=1e-6
    )
    assert rows["plain"]["speedup"] is None


def test_little_holds_in_the_row(rows: dict[str, Row]) -> None:
    """Concurrency is arrivals times time in the system, whatever the load."""
    for name, row in rows.items():
        if name == "failed":
            continue
        rate, e2e_ms = row["request_throughput"], row["mean_e2e_latency_ms"]
        assert isinstance(rate, float)
        assert isinstance(e2e_ms, float)
        runs_differ = 0.15 if row["replications"] != 1 else 1e-4
        assert row["concurrency"] == pytest.approx(rate * e2e_ms / 1e3, rel=runs_differ)


def test_latency_fields_cover_every_statistic() -> None:
    names = {field.name for field in load_schema()}
    stats = ("mean", "median", "std", "p90", "p95", "p99")
    assert {f"{stat}_{what}_ms" for stat in stats for what in LATENCIES} <= names


def test_a_failed_row_says_what_was_asked_and_why_not(rows: dict[str, Row]) -> None:
    row = rows["failed"]
    assert row["error"] == "it does not fit"
    assert (row["model"], row["dataset_name"], row["method"]) == ("qwen3-8b", "gsm8k", "dflash")
    assert row["output_throughput"] is None


def test_a_row_is_known_when_it_is_read_again(rows: dict[str, Row]) -> None:
    for name, row in rows.items():
        assert is_row(json.loads(json.dumps(row))), name
    row = rows["dflash"]
    for changed in (
        {"output_throughput": -1.0},
        {"output_throughput": "5"},
        {"output_throughput": math.inf},
        {"tp": 1.5},
        {"tp": True},
        {"output_throughput_ci90": [1.0, None]},
        {"source_share": {"measured": -0.1}},
        {"warnings": None},
    ):
        assert not is_row(row | changed), changed
    assert not is_row({n: v for n, v in row.items() if n != "output_throughput"})
    assert not is_row([row])


@pytest.mark.parametrize(
    "name", [n for n, f in Scenario.model_fields.items() if "Literal" in str(f.annotation)]
)
def test_a_word_that_is_none_is_answered_with_those_there_are(name: str) -> None:
    """Also where it may be left out."""
    with pytest.raises(UsageError, match=r"unknown .* '%'\. Have: \w"):
        Scenario.parse(**{name: "%"})
