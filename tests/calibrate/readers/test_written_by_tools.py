"""Files that the tools themselves wrote, of runs against the simulated server, are read unedited.

``README.md`` beside them says who wrote them, and how. The machine did much else.
"""

from pathlib import Path

import pytest

from dflash_sim.calibrate.compare.compare import compare
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.readers.read import read_observations

WRITTEN = Path(__file__).parents[2] / "data" / "written"
SGLANG = ("sglang_generate.jsonl", "sglang_completions.jsonl", "sglang_chat.jsonl")


# By file: requests in flight and in all, and tokens in, of which guidellm sends a few more.
OTHERS = {
    "vllm_8.json": (8, 96, 512),
    "vllm_32.json": (32, 256, 512),
    "guidellm_8.json": (8, 96, 528),
    "aiperf_8.json": (8, 96, 512),
}
SERVER = {"gpu": "b200", "method": "dflash", "block": "16", "acceptance": "al:4.5,theta=0"}


def only_row(name: str, assume: dict[str, str] | None = None) -> Observation:
    found = read_observations([WRITTEN / name], assume)
    assert not found.refused
    (row,) = found.observations
    return row


@pytest.mark.parametrize("name", SGLANG)
def test_bench_serving_says_what_it_talked_to(name: str) -> None:
    row = only_row(name)
    asked = {"model": "qwen3.5-397b-a17b", "method": "dflash", "block": 16, "tp": 8}
    asked |= {"isl": 512, "osl": 256, "conc": 8}
    assert {key: row.fields.get(key) for key in asked} == asked
    assert row.metrics["accept_length_cycle"] == pytest.approx(4.5, rel=0.08)
    made = row.metrics["total_output_tokens"]
    assert made == 48 * 256
    assert row.metrics["output_throughput"] == pytest.approx(made / row.metrics["duration"])
    assert row.metrics["mean_tpot_ms"] * 255 + row.metrics["mean_ttft_ms"] == pytest.approx(
        row.metrics["mean_e2e_latency_ms"], rel=1e-3
    )


@pytest.mark.parametrize("name", OTHERS)
def test_other_clients_say_what_they_asked(name: str) -> None:
    conc, requests, isl = OTHERS[name]
    row = only_row(name, SERVER)
    asked = {"model": "qwen3.5-397b-a17b", "conc": conc, "osl": 256}
    assert {key: row.fields.get(key) for key in asked} == asked
    assert row.fields["isl"] == pytest.approx(isl, rel=0.01)
    rate = row.metrics["request_throughput"]
    assert row.metrics["output_throughput"] == pytest.approx(256 * rate, rel=0.01)
    assert row.metrics.get("completed", requests) == requests
    latency_ms = row.metrics["mean_tpot_ms"] * 255 + row.metrics["mean_ttft_ms"]
    assert latency_ms == pytest.approx(row.metrics["mean_e2e_latency_ms"], rel=0.01)


@pytest.mark.parametrize("name", OTHERS)
def test_other_clients_measured_what_is_predicted(name: str) -> None:
    """Within 3 %, the chance of so few requests among it."""
    found = compare(only_row(name, SERVER), with_causes=False, with_interval=False)
    for metric in ("output_throughput", "mean_tpot_ms"):
        value = found.metric(metric)
        assert value is not None
        assert abs(value.rel_err) < 0.03, metric


def test_another_server_is_not_what_they_measured() -> None:
    """The control: a tenth more accepted is seen."""
    row = only_row("vllm_8.json", SERVER | {"acceptance": "al:5,theta=0"})
    value = compare(row, with_causes=False, with_interval=False).metric("mean_tpot_ms")
    assert value is not None
    assert value.rel_err < -0.03


def test_requests_of_aiperf_are_those_of_its_summary() -> None:
    row = only_row("aiperf_8.jsonl", SERVER | {"model": "qwen3.5-397b-a17b"})
    assert row.metrics["completed"] == 8
    assert row.metrics["total_output_tokens"] == 8 * 256
    whole = only_row("aiperf_8.json", SERVER)
    assert row.metrics["mean_tpot_ms"] == pytest.approx(whole.metrics["mean_tpot_ms"], rel=0.3)
