"""Files that the tools themselves wrote, of runs against the simulated server, are read unedited.

The server was ``serve --gpu b200 --block 16 --acceptance al:4.5`` on a machine that did much else.
"""

from pathlib import Path

import pytest

from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.readers.read import read_observations

WRITTEN = Path(__file__).parents[2] / "data" / "written"
SGLANG = ("sglang_generate.jsonl", "sglang_completions.jsonl", "sglang_chat.jsonl")


def only_row(name: str) -> Observation:
    found = read_observations([WRITTEN / name])
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
