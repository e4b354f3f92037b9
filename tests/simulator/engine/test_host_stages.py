"""The host stages of a cycle: one list that engines, metrics and pages add up."""

import pytest

from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.sheets import EVIDENCE
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario

ENGINE = load_engine("sglang-0.5.14")
HOST = HostTime.from_sheet(ENGINE)


@pytest.mark.parametrize(("v1", "stages"), [(False, 6), (True, 6)])
def test_every_stage_has_evidence_and_a_source(v1: bool, stages: int) -> None:
    found = HOST.stages(v1=v1, sheet=ENGINE)
    assert len(found) == stages
    for stage in found:
        assert stage.evidence
        assert set(stage.evidence) <= set(EVIDENCE)
        assert stage.sources
        assert all(name in ENGINE.constants for name in stage.constants)


def test_overlapped_stages_add_up_by_hand() -> None:
    """The ten numbers of the sheet at 32 requests."""
    e = ENGINE
    by_hand = e["time_factor"] * (
        e["recv_requests"]
        + e["get_next_batch"]
        + e["run_batch_first"]
        + e["run_batch_rest"]
        + e["d2h_sync"]
        + e["process_batch_result"]
        + 32 * (e["get_next_batch_per_request"] + e["process_batch_result_per_request"])
    )
    stages = HOST.stages(v1=False)
    assert sum(stage.seconds(32) for stage in stages) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("mode", ["v1", "v2"])
def test_a_prediction_has_the_same_host_time(mode: str) -> None:
    """One request at a time, so that every cycle has a batch of one."""
    scenario = Scenario.parse(
        model="qwen3-8b", engine_mode=mode, acceptance="al:4", conc=1, num_prompts=3, runs=1
    )
    found = predict(scenario, with_interval=False, with_baseline=False)
    stages = found.setup.host.stages(v1=mode == "v1")
    assert found.values["host_ms"] == pytest.approx(1e3 * sum(s.seconds(1) for s in stages))


def test_no_host_takes_no_time() -> None:
    assert sum(s.seconds(100) for s in HostTime.none().stages(v1=True)) == 0
