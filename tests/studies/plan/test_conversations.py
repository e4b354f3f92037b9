"""Plans of conversations: hits that a trace tells, turns behind answers, shares that are given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dflash_sim.calibrate.readers.request_traces import Trace, read_trace
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.plan.close_look import Limit, examine
from dflash_sim.studies.plan.demand import faster, led_in, of_rate, of_trace
from dflash_sim.studies.plan.judge import Judge, Question
from dflash_sim.studies.plan.objective import Slo
from dflash_sim.studies.plan.over_long import within

SERVER = {"gpu": "b200", "tp": 1, "model": "qwen3-8b", "method": "none", "runs": 1}
TURNS, SESSIONS = 5, 12


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """Sessions of five turns; each adds 512 tokens, of which 100 are the answer before."""
    rows: list[dict[str, Any]] = []
    for session in range(SESSIONS):
        for turn in range(TURNS):
            ids = [1000 * session + i for i in range(turn + 2)]
            row = {"session_id": str(session), "input_length": 512 * len(ids)}
            row |= {"output_length": 100, "hash_ids": ids}
            row |= {"delay": 400} if turn else {"timestamp": 150 * session}
            rows.append(row)
    path = tmp_path / "sessions.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return read_trace(path)


def asked(trace: Trace, **changed: Any) -> Question:
    isl, osl = int(trace.isl.max()), int(trace.osl.max())
    fields = SERVER | {"isl": isl, "osl": osl, "rate": 5.0, "max_new_tokens": osl} | changed
    router = fields.pop("router", "round-robin")
    scenario = Scenario.parse(**fields)
    demand = of_trace(trace, scenario, capped=False)
    return Question((scenario,), demand, Slo(ttft_s=2.0), router=router)


def shares(question: Question, replicas: int) -> float:
    judge = Judge(question)
    service = judge.serve(0, replicas)
    assert np.isfinite(service.finish_s).all()
    return float(service.cached.sum() / judge.question.demand.runs[0].isl.sum())


def by_hand(page: int) -> float:
    """Every turn but the first finds the turn before with its answer, in whole pages."""
    isl = [512 * (turn + 2) for turn in range(TURNS)]
    found = [(n + 99) // page * page for n in isl[:-1]]
    return sum(found) / sum(isl)


def test_one_server_finds_all_but_what_is_new(trace: Trace) -> None:
    question = asked(trace)
    assert shares(question, 1) == pytest.approx(by_hand(64))
    assert question.demand.found == pytest.approx(by_hand(1), abs=0.01)
    off = asked(trace, radix_cache=False)
    assert shares(off, 1) == 0
    for told, said in ((question, True), (off, False), (asked(trace, cache_hit=0.5), False)):
        assert any("hash_ids" in note for note in told.demand.notes) == said
    assert "no prompt is found in a prefix cache" in off.demand.notes


def test_routers_differ_in_what_is_found(trace: Trace) -> None:
    """One that knows prompts finds what one server would; turns in rotation find little."""
    found = {name: shares(asked(trace, router=name), 4) for name in ("round-robin", "cache-aware")}
    assert found["cache-aware"] == pytest.approx(by_hand(64))
    assert found["round-robin"] < found["cache-aware"] - 0.1


def test_a_share_that_is_given_stands_for_what_the_trace_would_tell(trace: Trace) -> None:
    question = asked(trace, cache_hit=0.5)
    assert question.demand.runs[0].prompts is None
    assert any("0.5 of every prompt" in note for note in question.demand.notes)
    assert shares(question, 2) == pytest.approx(0.5, abs=0.02)


def test_hits_at_a_rate() -> None:
    fields = SERVER | {"isl": 6400, "osl": 20, "rate": 20.0, "num_prompts": 60}
    for share in (None, 0.5, 0.9):
        scenario = Scenario.parse(**fields, cache_hit=share)
        demand = of_rate(scenario)
        assert demand.found == pytest.approx(share or 0)
        question = Question((scenario,), demand, Slo(ttft_s=1.0))
        assert shares(question, 1) == pytest.approx(share or 0)
        assert demand.finds == bool(share)


def test_what_was_found_is_reported(trace: Trace) -> None:
    question = asked(trace)
    judge = Judge(question)
    fleet = examine(judge, 0, 1, Limit(1.0, None), Limit(1.0, None))
    assert fleet.cache_hit_rate == pytest.approx(by_hand(64))


def test_pauses_are_the_users_own(trace: Trace) -> None:
    """More sessions come in as much time; how long a user thinks is not a matter of load."""
    work = asked(trace).demand.runs[0]
    assert work.delay_s is not None
    assert work.arrival_s is not None
    twice, slow = faster(work, 2.0), faster(work, 1.0, slow=2.0)
    assert twice.delay_s is not None
    assert slow.delay_s is not None
    np.testing.assert_allclose(twice.delay_s, work.delay_s)
    np.testing.assert_allclose(slow.delay_s, work.delay_s / 2)
    np.testing.assert_allclose(twice.arrival_s, slow.arrival_s)


def test_a_slow_engine_is_a_fast_one_on_a_stretched_clock(trace: Trace) -> None:
    """Latencies of a run that is simulated slow are those of one whose turns come late."""
    judge = Judge(asked(trace))
    calm, slow = judge.serve(0, 1), judge.serve(0, 1, slow=1.5)
    work = judge.question.demand.runs[0]
    assert work.delay_s is not None
    for service, factor in ((calm, 1.0), (slow, 1.5)):
        for rid, follow in enumerate(work.follow.tolist()):
            if follow >= 0:
                pause_s = factor * (service.arrival_s[follow] - service.finish_s[rid])
                assert pause_s == pytest.approx(work.delay_s[follow])


def test_turns_that_are_cut_or_left_out_go_on(trace: Trace) -> None:
    kept = within(trace, 3000, "m", "drop")
    assert kept.prompts is not None
    assert kept.follow is not None
    assert len(kept) == len(kept.prompts.asked) == SESSIONS * (TURNS - 1)
    assert (kept.follow >= 0).sum() == SESSIONS * (TURNS - 2)
    cut = within(trace, 3000, "m", "truncate")
    assert cut.prompts is not None
    sizes = [sum(tokens for _, tokens in text) for text in cut.prompts.asked]
    assert sizes == cut.isl.tolist()
    busy, lead = led_in(trace, 1.0)
    assert busy.prompts is not None
    assert len(busy) == len(busy.prompts.asked)
    assert lead < len(busy)


def test_sessions_without_times_begin_at_random(trace: Trace) -> None:
    timeless = Trace(
        "t", "agentx", None, trace.isl, trace.osl,
        prompts=trace.prompts, follow=trace.follow, delay_s=trace.delay_s,
    )  # fmt: skip
    demand = asked(timeless, runs=3).demand
    firsts = [work.arrival_s for work in demand.runs]
    assert not np.array_equal(firsts[0], firsts[1])
    for work in demand.runs:
        assert work.arrival_s is not None
        assert (np.diff(work.arrival_s) >= 0).all()
        assert (work.follow >= 0).sum() == SESSIONS * (TURNS - 1)
    assert demand.rate == pytest.approx(5.0, rel=0.6)
