"""The best block at each batch size, and the files that servers read it from."""

import json
import re
from bisect import bisect_right
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.intervals import ratio_error
from dflash_sim.simulator.policy.parse import BatchTable, parse_policy
from dflash_sim.simulator.predict import predict, simulate
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.plan.tune import CLEAR, AdditiveCost, Tuned, tune_block
from dflash_sim.studies.published.exhibit import ratio_span

H100 = {
    "gpu": "h100", "model": "qwen3-8b", "tp": 1, "dataset": "gsm8k", "thinking": False,
    "max_running_requests": 128,
}  # fmt: skip
BATCHES, BLOCKS = (1, 8, 32, 128), (1, 4, 8, 16)


@pytest.fixture(scope="module")
def tuned() -> Tuned:
    return tune_block(Scenario.parse(**H100), batches=BATCHES, blocks=BLOCKS)


def test_larger_batches_want_narrower_blocks(tuned: Tuned) -> None:
    """A dense model is bound by compute sooner or later, and drafts that fail are compute."""
    best = [tuned.best[b] for b in BATCHES]
    assert best == sorted(best, reverse=True)
    assert best[0] == 16
    assert best[-1] < 8


def test_the_schedule_is_vllms(tuned: Tuned) -> None:
    """Rows one after the other from batch 1; each tried batch gets its block less one."""
    rows = tuned.as_vllm()
    assert rows[0][0] == 1
    assert rows[-1][1] == BATCHES[-1]
    assert all(a[1] + 1 == b[0] and a[2] != b[2] for a, b in pairwise(rows))
    policy = parse_policy(f"table:{json.dumps(rows)}", block=16)
    assert isinstance(policy, BatchTable)
    assert {b: policy.drafts(b) + 1 for b in BATCHES} == tuned.chosen
    assert policy.drafts(9) == tuned.chosen[32] - 1  # up to the next batch that was tried


def test_rates_are_those_of_the_engine(tuned: Tuned) -> None:
    """A closed loop of many equal requests serves what the table says, ramp and prefill aside."""
    row = tuned.tok_s[BATCHES.index(8)]
    for block in (4, 16):
        asked = H100 | {"dataset": None, "thinking": True, "conc": 8, "block": block}
        asked |= {"isl": 1, "osl": 2 * tuned.ctx, "num_prompts": 64, "runs": 1}
        fixed = resolve(Scenario.parse(**asked))
        law = resolve(Scenario.parse(**H100, block=block)).expectation
        values = simulate(fixed, law, run=0)[0].values
        # Its requests drain at the end, one sooner than another.
        served = values["output_throughput"] * 8 / values["mean_batch"]
        assert row[BLOCKS.index(block)] == pytest.approx(served, rel=0.08)


@pytest.mark.slow
def test_the_schedule_serves_more_than_any_block(tuned: Tuned) -> None:
    """Pasted back as a policy, at every concurrency no block is clear of it; it is of another."""
    schedule = f"table:{json.dumps(tuned.as_vllm())}"

    def tok_s(conc: int, policy: str) -> float:
        asked = Scenario.parse(**H100, conc=conc, num_prompts=3 * conc, runs=1, policy=policy)
        setup = resolve(asked)
        return simulate(setup, setup.expectation, run=0)[0].values["output_throughput"]

    for conc in (1, 16):
        fixed = {b: tok_s(conc, f"table:[[1,128,{b - 1}]]") for b in BLOCKS}
        assert tok_s(conc, schedule) >= (1 - CLEAR) * max(fixed.values())
    assert tok_s(32, "table:[[1,128,15]]") < 0.95 * tok_s(32, schedule)


def test_a_table_for_the_terminal(tuned: Tuned) -> None:
    table = tuned.table()
    blocks = ("block 1", "block 4", "block 8", "block 16")
    assert table.head == ("batch", *blocks, "best", "gain", "advice")
    assert [row[0] for row in table.rows] == [str(b) for b in BATCHES]
    assert table.rows[0][-3:] == ("16", "+0.0%", "keep block 16")
    assert float(table.rows[-1][-2].strip("+%")) > 20
    assert table.rows[-1][-1] == f"block {tuned.chosen[128]}"
    assert "block 16" in table.text()


# ---- what is no gain ---------------------------------------------------------------------


def with_gains(tuned: Tuned, *by_batch: tuple[float, ...]) -> Tuned:
    """The same with other speeds, of blocks 1, 4, 8 and 16."""
    return replace(tuned, tok_s=np.array(by_batch))


def test_differences_of_interpolation_change_no_width(tuned: Tuned) -> None:
    """Blocks 8 and 16 in turns, by 1.5 %: the widest stays. By 3 % each batch takes its own."""
    for swing, drafts in ((0.015, [15]), (0.03, [7, 15, 7, 15])):
        ahead, behind = (0.1, 0.1, 1 + swing, 1.0), (0.1, 0.1, 1.0, 1 + swing)
        found = with_gains(tuned, ahead, behind, ahead, behind)
        assert list(found.best.values()) == [8, 16, 8, 16]
        assert [row[2] for row in found.as_vllm()] == drafts
        assert found.as_vllm()[-1][1] == BATCHES[-1]


def test_a_gain_within_the_error_is_told(tuned: Tuned) -> None:
    gains = (0.0, 0.9 * tuned.error, 1.1 * tuned.error, 3.0)
    found = with_gains(tuned, *((0.1, 0.1, 1 + gain, 1.0) for gain in gains))
    told = [row[-1] for row in found.table().rows]
    assert told == ["keep block 16", "block 8, within error", "block 8", "block 8"]


def test_a_choice_that_is_not_the_best_says_which_is(tuned: Tuned) -> None:
    equal, wide, narrow = (0.1, 0.1, 1, 1), (0.1, 0.1, 1.0, 1.01), (0.1, 0.1, 1.5, 1.0)
    found = with_gains(tuned, equal, narrow, wide, wide)
    told = [row[-1] for row in found.table().rows]
    assert told[2] == "block 8, within error of 16"


def test_the_largest_batch_says_why_there_is_no_larger_one() -> None:
    """Left to the server it is named with what would let more run."""
    scenario = Scenario.parse(gpu="h200", model="qwen3-8b", tp=1, isl=64, osl=64)
    found = tune_block(scenario, blocks=[4])
    assert str(found.batches[-1]) in found.ends
    assert "--max-running-requests" in found.ends
    assert tune_block(scenario, blocks=[4], batches=[1]).ends == ""


def test_the_advice_is_what_the_server_is_told(tuned: Tuned) -> None:
    """Whatever the gains, the block of the advice is the one of vLLM's table."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        found = with_gains(tuned, *(1 + 0.2 * rng.random(4) for _ in BATCHES))
        policy = parse_policy(f"table:{json.dumps(found.as_vllm())}", block=16)
        assert isinstance(policy, BatchTable)
        for row in found.table().rows:
            advised = int(re.search(r"block (\d+)", row[-1])[1])  # type: ignore[index]
            assert policy.drafts(int(row[0])) + 1 == advised


@pytest.mark.parametrize("fields", [H100, {}], ids=["elsewhere", "home"])
def test_the_error_is_that_of_a_ratio(fields: dict[str, Any]) -> None:
    """Of two blocks it is what ``predict`` has for two settings, parameters apart: what a server
    differs in is the same for both."""
    asked = fields | {"conc": 8, "num_prompts": 8, "runs": 1}
    results = [predict(Scenario.parse(**asked, block=b), with_baseline=False) for b in (12, 16)]
    lower, upper = ratio_span(*results)
    error = ratio_error(results[0].setup)
    assert 0.06 < error < 0.1
    assert error < (upper / lower) ** 0.5 - 1 < 1.5 * error


@given(st.integers(0, 2**32 - 1), st.floats(0.001, 0.3))
def test_what_is_chosen_is_clear_of_nothing_better(tuned: Tuned, seed: int, scatter: float) -> None:
    rng = np.random.default_rng(seed)
    found = replace(tuned, tok_s=np.exp(scatter * rng.standard_normal(tuned.tok_s.shape)))
    before = found.widths.index(found.widest)
    for batch, speeds in zip(BATCHES, found.tok_s, strict=True):
        now = found.widths.index(found.chosen[batch])
        assert (1 + CLEAR) * speeds[now] >= speeds.max()
        assert now == before or speeds[now] > (1 + CLEAR) * speeds[before]
        before = now


# ---- SGLang's cost table -----------------------------------------------------------------


class SglangAdditive:
    """``SpsAdditiveCostTable`` of sglang/srt/speculative/dspark_components/dspark_sps.py: what it
    refuses, and how it reads a step time."""

    FIELDS = ("bias_seconds", "bs_probes", "alpha_seconds", "m_probes", "theta_seconds")

    def __init__(self, text: str) -> None:
        self.table: dict[str, Any] = json.loads(text)
        assert tuple(self.table) == self.FIELDS
        assert self.table["bias_seconds"] > 0
        for probes, values in (("bs_probes", "alpha_seconds"), ("m_probes", "theta_seconds")):
            xs = self.table[probes]
            assert xs == sorted(set(xs))
            assert all(type(x) is int for x in xs)
            assert len(xs) == len(self.table[values]) > 0

    def step_time(self, *, num_reqs: int, budget: int) -> float:
        t = self.table
        part = self.clamped(t["bs_probes"], t["alpha_seconds"], num_reqs)
        whole = self.clamped(t["m_probes"], t["theta_seconds"], num_reqs + budget)
        return float(t["bias_seconds"] + part + whole)

    @staticmethod
    def clamped(xs: list[int], ys: list[float], x: float) -> float:
        if x <= xs[0]:
            return ys[0]
        if x >= xs[-1]:
            return ys[-1]
        hi = bisect_right(xs, x)
        share = (x - xs[hi - 1]) / (xs[hi] - xs[hi - 1])
        return ys[hi - 1] + share * (ys[hi] - ys[hi - 1])


def test_sglang_reads_our_prices(tuned: Tuned) -> None:
    read = SglangAdditive(tuned.as_sglang_json())
    prices = resolve(Scenario.parse(**H100)).widths
    misses = []
    for batch in (1, 4, 8, 20, 32, 100, 128):
        for width in (1, 3, 8, 16):
            asked = {"rows": batch * width, "drafted": 16}
            priced = prices.decode_s(batch, batch * tuned.ctx, **asked)
            told = read.step_time(num_reqs=batch, budget=batch * (width - 1))
            misses.append(abs(told / priced - 1))
            assert told == pytest.approx(
                tuned.additive.seconds(requests=batch, tokens=batch * width), rel=1e-12
            )
    # Batches that were not probed too: stairs of tiles are not linear in between, and one row is a
    # plain step, which the factor of wide verification does not touch.
    assert max(misses) < 0.25
    assert np.mean(misses) < 0.07
    assert tuned.additive.rms < 0.06


def test_the_diagonal_form(tuned: Tuned) -> None:
    """``SpsCostTable``: probes that rise, steps per second that fall, each batch in full."""
    table = json.loads(tuned.as_sglang_json("diagonal"))
    assert list(table) == ["sample_batch_tokens", "sample_steps_per_sec", "max_batch_tokens"]
    assert table["sample_batch_tokens"] == [b * 16 for b in BATCHES]
    assert table["max_batch_tokens"] == BATCHES[-1] * 16
    steps = table["sample_steps_per_sec"]
    assert steps == sorted(steps, reverse=True)
    for batch, each, speeds in zip(BATCHES, steps, tuned.tok_s, strict=True):
        assert each * batch * tuned.accept_length[-1] == pytest.approx(speeds[-1], rel=1e-12)
    with pytest.raises(UsageError, match="additive, diagonal"):
        tuned.as_sglang_json("square")


def test_an_additive_cost_is_found_again() -> None:
    requests = np.repeat([1, 2, 8, 32], 8)
    tokens = requests * np.tile(np.arange(1, 9), 4)
    seconds = 5e-3 + 1e-5 * requests + 2e-5 * tokens
    found = AdditiveCost.fitted(requests, tokens, seconds)
    assert found.rms < 1e-9
    assert found.seconds(requests=20, tokens=100) == pytest.approx(5e-3 + 2e-4 + 2e-3, rel=1e-9)
    # What is no sum of the two is not.
    assert (
        AdditiveCost.fitted(requests, tokens, 1e-3 * tokens / requests + 1e-5 * tokens).rms > 0.05
    )


# ---- what cannot be tuned ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "asked", "said"),
    [
        ({"method": "none"}, {}, "no block to tune"),
        ({}, {"batches": (4, 256)}, "batch 256 is above the 128 requests"),
        ({}, {"batches": (0, 4)}, "begin at 1"),
        ({}, {"blocks": (8, 32)}, "block 32 is above the 16"),
        ({"acceptance": "sglang-simulated:3"}, {}, "drawn for a whole batch"),
    ],
)
def test_refusals(fields: dict[str, Any], asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        tune_block(Scenario.parse(**(H100 | fields)), **asked)


def test_a_small_cache_bounds_the_batches() -> None:
    long = {"dataset": None, "thinking": True, "isl": 30000, "osl": 2000}
    asked = Scenario.parse(**(H100 | long), acceptance="al:5")
    most = tune_block(asked, blocks=(1, 16)).batches[-1]
    assert 1 < most < 128
    with pytest.raises(UsageError, match="the KV cache holds"):
        tune_block(asked, batches=(1, most + 1), blocks=(1, 16))


def test_a_chain_is_tuned_by_its_steps() -> None:
    asked = {"gpu": "b200", "model": "qwen3.6-35b-a3b", "tp": 1, "method": "mtp", "steps": 7}
    found = tune_block(Scenario.parse(**asked), batches=(1, 32), blocks=(1, 2, 4, 8))
    assert found.widths == (1, 2, 4, 8)
    assert found.best[1] > 1
