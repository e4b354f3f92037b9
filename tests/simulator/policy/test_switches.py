"""Policies that switch speculation off: by batch, by context, by what cycles gave."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from dflash_sim.profiles.policies import load_policies
from dflash_sim.simulator.policy.ema_ladder import EmaLadder
from dflash_sim.simulator.policy.parse import BatchTable, parse_policy
from dflash_sim.simulator.policy.switches import ContextLimit, MeasuredLength
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario

BLOCK = 8
SMALL = {"gpu": "b200", "model": "qwen3-8b", "tp": 1, "dataset": "gsm8k", "thinking": False}


@dataclass(frozen=True)
class Steep:
    """A cycle that costs as much as ``ratio`` plain steps."""

    ratio: float
    block: int = BLOCK

    def decode_s(self, batch: int, kv_tokens: float, *, rows: int, drafted: int) -> float:
        return self.ratio if rows > batch else 1.0


def reqs(*kv: int) -> Any:
    return [SimpleNamespace(rid=n, kv=k) for n, k in enumerate(kv)]


def test_a_batch_switch_is_a_table_of_two_rows() -> None:
    found = parse_policy("batch:8", block=BLOCK)
    assert isinstance(found, BatchTable)
    assert [found.drafts(b) for b in (1, 8, 9, 64)] == [7, 7, 0, 0]


def test_long_requests_verify_no_drafts() -> None:
    found = parse_policy("context:100", block=BLOCK)
    assert isinstance(found, ContextLimit)
    switch = found.start(Steep(2.0), None)  # type: ignore[arg-type]
    mixed = switch.plan(reqs(50, 100, 101), 251)
    assert (list(mixed.widths), mixed.drafted) == ([8, 8, 1], 8)
    assert switch.plan(reqs(101), 101).drafted == 1  # nothing is drafted for nobody


@pytest.mark.parametrize(("text", "ratio"), [("accept:3", 99.0), ("accept", 3.0)])
def test_drafts_stop_when_cycles_give_less_than_they_must(text: str, ratio: float) -> None:
    """The threshold is the user's, or how many plain steps a cycle costs."""
    found = parse_policy(text, block=BLOCK)
    assert isinstance(found, MeasuredLength)
    switch = found.start(Steep(ratio), None)  # type: ignore[arg-type]
    widths = []
    for _ in range(40):
        plan = switch.plan(reqs(10, 10), 20)
        widths.append(plan.drafted)
        drafting = plan.drafted > 1
        switch.processed(2, [3, 3] if len(widths) < 20 and drafting else [0, 0])
    assert widths[:20] == [BLOCK] * 20  # four tokens a cycle are enough
    assert widths[-1] == 1  # one is not


def test_drafts_are_tried_again_and_stay_if_they_pay() -> None:
    numbers = load_policies().measured
    switch = MeasuredLength(2.0, numbers).start(Steep(9.0), None)  # type: ignore[arg-type]
    switch.mean = 1.0
    widths = []
    for _ in range(2 * (numbers.probe_every + numbers.probe_steps)):
        plan = switch.plan(reqs(10), 10)
        widths.append(plan.drafted)
        switch.processed(1, [7] if plan.drafted > 1 else [0])
    first = widths.index(BLOCK)
    assert first == numbers.probe_every
    assert set(widths[first:]) == {BLOCK}


def test_results_of_steps_without_drafts_teach_nothing() -> None:
    """Results come a step late: a step that was launched without drafts is not a bad cycle."""
    switch = MeasuredLength(2.0, load_policies().measured).start(Steep(9.0), None)  # type: ignore[arg-type]
    switch.mean = 1.0
    plan = switch.plan(reqs(10), 10)
    assert plan.drafted == 1
    switch.mean = 5.0
    assert switch.plan(reqs(10), 10).drafted == BLOCK
    switch.processed(1, [0])  # of the first step
    assert switch.mean == 5.0
    switch.processed(1, [0])  # of the second
    assert switch.mean < 5.0


def test_shipped_policies_have_names() -> None:
    ladder = parse_policy("sglang-adaptive", block=BLOCK)
    assert isinstance(ladder, EmaLadder)
    assert ladder == parse_policy("ema", block=BLOCK)
    table = parse_policy("vllm-example", block=3)
    assert isinstance(table, BatchTable)
    assert [table.drafts(b) for b in (1, 64, 65, 129)] == [2, 2, 1, 0]  # cut to the block


def test_switched_off_is_plain_decoding_but_for_the_drafters_cache() -> None:
    """All policies serve the same requests, so that equal plans are equal to the last digit."""
    asked = {**SMALL, "conc": 8, "num_prompts": 16, "runs": 1}
    speeds = {
        policy: predict(
            Scenario.parse(**asked, policy=policy), with_interval=False, with_baseline=False
        ).values["output_throughput"]
        for policy in ("batch:1", "table:[[1,1,15],[2,64,0]]", "context:1", "table:[[1,64,0]]")
    }
    assert speeds["batch:1"] == speeds["table:[[1,1,15],[2,64,0]]"]
    assert speeds["context:1"] == pytest.approx(speeds["table:[[1,64,0]]"], rel=1e-9)
    assert speeds["batch:1"] > speeds["context:1"]  # the last request of all drafts again
