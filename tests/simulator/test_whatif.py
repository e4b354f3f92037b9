"""Hypothetical servers: what is changed changes by as much, and every command asks the same one."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from dflash_sim.calibrate.compare.trials import Trials
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.requests.laws import ParametricAcceptance
from dflash_sim.simulator.requests.other_laws import accept_length, with_accept_length
from dflash_sim.simulator.requests.survival import fit_one
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.simulator.whatif import Change, changed, mixed, scaled, with_host
from dflash_sim.studies.explain.replay import Replay

SMALL: dict[str, Any] = {
    "model": "qwen3-8b", "isl": 128, "osl": 256, "conc": 8, "num_prompts": 32, "block": 8,
    "runs": 2,
}  # fmt: skip
LAWS = [
    "al:3.4",
    "table:0.9,0.7,0.5,0.3,0.2,0.15,0.1",
    "histogram:0=10,1=9,2=9,3=8,4=3,5=2,6=2,7=5",
    "vllm-synthetic:3.4",
    "sglang-simulated:3.4",
    "fixed:4",
]


@pytest.mark.parametrize("text", LAWS)
def test_compare_and_explain_agree_on_another_accept_length(text: str) -> None:
    scenario = Scenario.parse(**SMALL, acceptance=text)
    result = predict(scenario, with_baseline=False, with_interval=False)
    law, replay = result.expectation, Replay(result.setup)
    assert law is not None
    there = with_accept_length(law, 1.2 * accept_length(law))
    explained = replay.speed(result.setup, there) / replay.speed(result.setup, law)
    trial = Trials(result).values(Change(accept=1.2))
    assert trial is not None
    compared = trial["output_throughput"] / result.values["output_throughput"]
    assert compared == pytest.approx(explained, rel=1e-9)
    if text == "vllm-synthetic:3.4":  # a law of another kind would tell another story
        beta = load_acceptance_priors().beta_of("dflash").mean
        weibull = ParametricAcceptance(fit_one(accept_length(there), 8, beta=beta), 8)
        other = replay.speed(result.setup, replace(there, acceptance=weibull))
        assert other / replay.speed(result.setup, law) < 0.97 * explained


def test_every_time_of_the_host_is_scaled() -> None:
    engine = resolve(Scenario.parse(**SMALL)).engine
    plain, slow = HostTime.from_sheet(engine), HostTime.from_sheet(with_host(engine, 3.0))
    times = [f.name for f in fields(HostTime)]
    assert [getattr(slow, t) for t in times] == pytest.approx(
        [3 * getattr(plain, t) for t in times]
    )
    assert slow.syncs_s > 0


def test_a_slow_host_launches_prefills_slowly() -> None:
    """Once, whether prices are shared or made anew; a longer prefill is launched for longer too."""
    setup = resolve(Scenario.parse(**SMALL))
    plain_s = setup.step.prefill_launch_s(300)
    for change, factor in (
        (Change(host=3.0), 3.0),
        (Change(host=3.0, unpadded=True), 3.0),
        (Change(prefill=2.0), 2.0),
        (Change(host=3.0, prefill=2.0, graphs=4), 6.0),
        (Change(step=2.0), 1.0),
    ):
        slow_s = change.setup(setup).step.prefill_launch_s(300)
        assert slow_s == pytest.approx(factor * plain_s), change


def test_steps_and_prefills_are_scaled_apart() -> None:
    plain = resolve(Scenario.parse(**SMALL)).step
    slow = scaled(plain, decode=1.5, prefill=0.5)
    shape = {"requests": 3, "tokens": 900}
    for ctx in (100.0, 3000.0):
        for of in ("decode_s", "draft_s", "tail_s"):
            ours, theirs = (getattr(step, of)(8, 8 * ctx) for step in (slow, plain))
            assert ours == pytest.approx(1.5 * theirs)
    assert slow.prefill_s(**shape) == pytest.approx(0.5 * plain.prefill_s(**shape))
    assert slow.prefill_launch_s(900) == pytest.approx(0.5 * plain.prefill_launch_s(900))
    slow.reach(40 * plain.max_ctx)
    longer = resolve(Scenario.parse(**SMALL)).step
    longer.reach(slow.max_ctx)
    far = 8.0 * slow.max_ctx
    assert slow.decode_s(8, far) == pytest.approx(1.5 * longer.decode_s(8, far))


def test_phases_are_borrowed() -> None:
    own, other = (resolve(Scenario.parse(**SMALL | {"block": b})).step for b in (8, 4))
    both = mixed(own, other, phases={"verify"}, prefill=True)
    tables = [step.table(8).parts for step in (both, own, other)]
    np.testing.assert_array_equal(tables[0][1], tables[2][1])  # verify
    np.testing.assert_array_equal(tables[0][0], tables[1][0])  # draft
    assert own.decode_s(8, 800) > both.decode_s(8, 800) > other.decode_s(8, 800)


def test_a_change_of_nothing_is_nothing() -> None:
    setup = resolve(Scenario.parse(**SMALL, acceptance="al:3"))
    same = Change().setup(setup)
    assert same.step is setup.step
    assert same.engine == setup.engine
    assert Change().expectation(setup.expectation) is setup.expectation
    assert changed(setup.scenario) == setup.scenario


def test_settings_are_those_of_a_scenario() -> None:
    setup = resolve(Scenario.parse(**SMALL))
    asked = Change(conc=5, cap=3, graphs=2).setup(setup)
    told = resolve(changed(setup.scenario, conc=5, max_running_requests=3, cuda_graph_max_bs=2))
    assert (asked.scenario, asked.limits) == (told.scenario, told.limits)
    assert asked.step.decode_s(3, 900) == told.step.decode_s(3, 900)
    assert set(Change(unpadded=True).setup(setup).step.graph_sizes) >= {1, 3, 5, 7}
