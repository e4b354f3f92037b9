"""Plans: as brute force has them, as event engines have them, and monotone in what is asked."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.calibrate.readers.request_traces import Trace, read_trace
from dflash_sim.cli import run
from dflash_sim.profiles.errors import InfeasibleError, UsageError
from dflash_sim.simulator.fleet.fleet import subset
from dflash_sim.simulator.fleet.replica import Tally
from dflash_sim.simulator.requests.draws import draw_commits
from dflash_sim.simulator.requests.workload import given_requests
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.simulator.trial import run_engine
from dflash_sim.studies.plan.candidate import _fewest, solve, survey
from dflash_sim.studies.plan.close_look import Limit, Nearest, largest, likely_largest
from dflash_sim.studies.plan.demand import Demand, faster, led_in, of_rate, of_trace, shares_of
from dflash_sim.studies.plan.judge import Judge, Question, Verdict
from dflash_sim.studies.plan.objective import Slo, crossing, kept
from dflash_sim.studies.plan.question import numbers_of
from dflash_sim.studies.plan.rows import to_json
from dflash_sim.studies.plan.search import ENDS, OBJECTIVES, Plan, plan
from dflash_sim.studies.plan.verdict import warnings

MODEL: dict[str, Any] = {"model": "qwen3-8b", "isl": 500, "osl": 100, "runs": 1}
SERVERS: tuple[dict[str, Any], ...] = (
    {"gpu": "h200", "tp": 1, "method": "none"},
    {"gpu": "h200", "tp": 1, "method": "dflash", "block": 16, "acceptance": "al:4"},
    {"gpu": "h100", "tp": 2, "method": "dflash", "block": 8, "acceptance": "al:3.5"},
    {"gpu": "l40s", "tp": 1, "method": "dflash", "block": 16, "acceptance": "al:4"},
)
MOST = 12


def candidates(rate: float = 1.0, servers: Sequence[dict[str, Any]] = SERVERS) -> list[Scenario]:
    return [Scenario.parse(**MODEL, rate=rate, **server) for server in servers]


def asked(rate: float, slo: Slo, n: int = 250, **about: Any) -> Question:
    """The servers above for ``n`` requests at a rate."""
    servers = about.pop("servers", SERVERS)
    points = [s.model_copy(update={"num_prompts": n}) for s in candidates(rate, servers)]
    return Question(tuple(points), of_rate(points[0]), slo, max_gpus=MOST, **about)


def best_of(question: Question, found: dict[int, int | None]) -> dict[str, float]:
    """The best values of each objective, of replicas by candidate."""
    judge = Judge(question)
    best: dict[str, float] = {}
    for i, replicas in found.items():
        if replicas is None:
            continue
        setup = judge.setup(i)
        gpus = replicas * setup.tp
        prices = {end: getattr(setup.device.price, end) for end in ENDS}
        values = {"gpus": float(gpus)} | {e: p * gpus for e, p in prices.items() if p is not None}
        best = {k: min(values.get(k, 1e99), best.get(k, 1e99)) for k in {*values, *best}}
    return best


def values_of(found: Plan) -> dict[str, float]:
    """The values of the best fleets of a plan."""
    out = {}
    for objective, index in found.best.items():
        fleet = found.fleets[index]
        usd = fleet.usd_per_hour
        out[objective] = float(fleet.gpus) if objective == "gpus" else usd[objective]
    return out


def brute_force(question: Question, *, most: int) -> dict[int, int | None]:
    """The fewest replicas of every candidate, each number tried from one up; for small cases."""
    judge = Judge(question)
    found: dict[int, int | None] = {}
    for i in range(len(question.candidates)):
        sizes = range(1, most + 1)
        slow = judge.slow(i)
        found[i] = next((r for r in sizes if judge.meets(i, r, slow=slow)), None)
    return found


# ---- right -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "router", ["round-robin", pytest.param("least-loaded", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("rate", "slo"),
    [
        (60.0, Slo(tpot_s=0.02, ttft_s=1.0)),
        pytest.param(150.0, Slo(e2e_s=2.0, percentile=90), marks=pytest.mark.slow),
        pytest.param(30.0, Slo(tpot_s=0.004), marks=pytest.mark.slow),
        pytest.param(90.0, Slo(ttft_s=0.1, percentile=99), marks=pytest.mark.slow),
        (30.0, Slo(tpot_s=0.0005)),  # which no fleet meets
    ],
)
def test_a_plan_is_what_brute_force_finds(rate: float, slo: Slo, router: str) -> None:
    question = asked(rate, slo, router=router)
    every = brute_force(question, most=MOST)
    within = {
        i: r if r is not None and r * (question.candidates[i].tp or 1) <= MOST else None
        for i, r in every.items()
    }
    best = best_of(question, within)
    if not best:
        with pytest.raises(InfeasibleError):
            plan(question)
        return
    found = plan(question)
    assert values_of(found) == pytest.approx(best)
    for solved in found.solved:
        replicas = every[solved.index]
        if solved.replicas is not None:
            assert replicas == solved.replicas
        else:
            assert replicas is None or replicas > solved.failed


def test_a_pattern_of_lengths_is_searched_like_brute_force() -> None:
    """Every other prompt is long: an even number of servers sends all of those to half of them."""
    n = 600
    isl = np.where(np.arange(n) % 2, 50, 6000)
    trace = Trace("t", "csv", np.arange(n) / 40, isl, np.full(n, 50))
    fields = {"model": "qwen3-8b", "isl": 6000, "osl": 50, "rate": 40.0, "runs": 1}
    scenario = Scenario.parse(**fields, **SERVERS[0])
    demand = of_trace(trace, scenario, capped=False)
    question = Question((scenario,), demand, Slo(ttft_s=0.4), max_gpus=MOST, confidence=0.5)
    judge = Judge(question)
    slow = judge.slow(0)
    meets = [r for r in range(1, MOST + 1) if judge.meets(0, r, slow=slow)]
    assert meets != list(range(meets[0], MOST + 1))  # a control: not monotone
    assert brute_force(question, most=MOST) == {0: meets[0]}
    assert plan(question).fewest.replicas == meets[0]
    for most in range(1, MOST + 1):
        found = solve(judge, 0, survey(judge, 0).guess, most).replicas
        assert found == (meets[0] if meets[0] <= most else None)


@pytest.mark.parametrize("slow", [1.0, pytest.param(1.3, marks=pytest.mark.slow)])
def test_verdicts_are_those_of_event_engines(slow: float) -> None:
    """The chosen fleet, and one server less, run by the engine that defines the system."""
    question = asked(120.0, Slo(tpot_s=0.01, ttft_s=0.5), n=300)
    judge = Judge(question)
    fleet = plan(question).fewest
    for replicas in (fleet.replicas, fleet.replicas - 1):
        if not replicas:
            continue
        ours = judge.serve(fleet.index, replicas, slow=slow)
        work = faster(question.demand.runs[0], slow)
        first, finish = (np.full(len(work), np.nan) for _ in range(2))
        draws = judge.draws(fleet.index, 0)
        for k in range(replicas):
            rows = np.arange(k, len(work), replicas)
            own = replace(draws, commits=draws.commits[rows], cycles=draws.cycles[rows])
            record = run_engine(fleet.setup, subset(work, rows), own, simulator="event")
            first[rows], finish[rows] = record.first_token_s, record.finish_s
        direct = replace(ours, first_token_s=first, finish_s=finish)
        one, two = judge.kept(ours, slow=slow), judge.kept(direct, slow=slow)
        assert one.share == two.share
        assert one.quantile_s == pytest.approx(two.quantile_s, rel=1e-9)
        met = judge.verdict(fleet.index, replicas, slow=slow).met
        budget = question.slo.budget(len(work)) / len(work)
        assert met == all(share >= 1 - budget for share in two.share.values())


@pytest.mark.slow
def test_the_answer_does_not_depend_on_the_processes() -> None:
    question = asked(60.0, Slo(tpot_s=0.02, ttft_s=1.0), n=100, servers=SERVERS[1:3])
    assert to_json(plan(question, jobs=1)) == to_json(plan(question, jobs=2))


# ---- monotone ----------------------------------------------------------------------------

FEW = SERVERS[1:2]
NEVER = 10**6
KNOWN = Judge(asked(1.0, Slo(), n=10, servers=FEW))


def gpus(question: Question) -> int:
    """GPUs of the smallest fleet of one kind of server; very many where there is none."""
    judge = Judge(question)
    judge._setups, judge._spread = KNOWN._setups, KNOWN._spread  # which no demand changes
    found = survey(judge, 0)
    replicas = solve(judge, 0, found.guess, MOST).replicas
    return NEVER if replicas is None else replicas * found.tp


@settings(max_examples=20)
@given(
    rate=st.floats(5, 200),
    tpot=st.floats(0.002, 0.03),
    ttft=st.floats(0.02, 2.0),
    tighter=st.floats(0.3, 1.0),
    percentile=st.sampled_from([50.0, 90.0, 99.0]),
)
def test_a_tighter_objective_never_needs_less(
    rate: float, tpot: float, ttft: float, tighter: float, percentile: float
) -> None:
    slo = Slo(tpot_s=tpot, ttft_s=ttft, percentile=percentile)
    base = gpus(asked(rate, slo, n=120, servers=FEW))
    for changed in (
        replace(slo, tpot_s=tpot * tighter),
        replace(slo, ttft_s=ttft * tighter),
        replace(slo, percentile=percentile + (100 - percentile) * (1 - tighter)),
        replace(slo, e2e_s=100 * tpot + ttft),
    ):
        assert gpus(asked(rate, changed, n=120, servers=FEW)) >= base


@pytest.mark.slow
@settings(max_examples=20)
@given(rate=st.floats(5, 100), times=st.floats(1.0, 3.0), tpot=st.floats(0.004, 0.03))
def test_more_requests_never_need_fewer_gpus(rate: float, times: float, tpot: float) -> None:
    """Of a rate that lasts: 150 requests at 96 a second are over before a fleet is full.

    Then twice the rate can need one server less, as prompts that come together are read together.
    """
    slo = Slo(tpot_s=tpot, ttft_s=1.0, percentile=90)
    some, more = (gpus(asked(r, slo, n=800, servers=FEW)) for r in (rate, rate * times))
    assert more >= some


@pytest.mark.parametrize("rate", [35.0, 220.0])
def test_confidence_costs_something(rate: float) -> None:
    """Half the times the prediction is too optimistic, so more than that asks more.

    Of a rate that lasts, as above: whether a queue of 120 requests grows is chance.
    """
    slo = Slo(tpot_s=0.02, ttft_s=0.5)
    sure = [gpus(asked(rate, slo, n=800, servers=FEW, confidence=c)) for c in (0.5, 0.9, 0.999)]
    assert sure == sorted(sure)
    assert sure[0] < sure[-1]


# ---- parts -------------------------------------------------------------------------------


@given(st.floats(1.0, 3.0))
def test_a_limit_is_found(truth: float) -> None:
    found = largest(lambda times: times <= truth)
    assert found.good <= truth
    if truth < 3:
        assert found.bad is not None
        assert found.bad > truth
        assert found.bad / found.good <= 1.041


@given(st.floats(1.0, 3.5), st.none() | st.floats(0.1, 9.0), st.floats(0.5, 6.0))
def test_guesses_change_what_is_tried_and_no_limit(
    truth: float, wrong: float | None, power: float
) -> None:
    """Whoever guesses wrong, or not at all, finds what halving finds; who knows tries no more."""
    whole: list[float] = []
    few: list[float] = []
    seen: dict[float, float] = {}

    def fine(times: float, tried: list[float]) -> bool:
        tried.append(times)
        seen[times] = (times / truth) ** power
        return times <= truth

    found = largest(lambda times: fine(times, whole))
    assert likely_largest(lambda times: fine(times, []), lambda: wrong) == found
    seen.clear()
    assert likely_largest(lambda times: fine(times, few), lambda: crossing(seen)) == found
    assert len(few) <= len(whole)
    assert len(few) <= 5


@given(st.integers(0, 40), st.integers(1, 60), st.integers(1, 40), st.floats(-4.0, 4.0))
def test_the_fewest_are_found_whatever_is_late(
    failed: int, truth: int, guess: int, power: float
) -> None:
    """What is late guides the search, rightly or wrongly; what meets decides."""
    failed, most, tried = min(failed, truth - 1), 45, []

    def look(n: int) -> Verdict:
        tried.append(n)
        return Verdict("" if n >= truth else "ttft", (truth / n) ** power)

    assert _fewest(look, guess, most, failed) == (min(truth, most + 1), min(truth - 1, most))
    assert len(tried) == len(set(tried))
    assert all(failed < n <= most for n in tried)


def test_where_lateness_crosses_is_read_off_a_line() -> None:
    assert crossing({1.0: 0.25, 2.0: 4.0}) == pytest.approx(2**0.5)
    assert crossing({1.0: 0.01, 1.5: 0.25, 6.0: 4.0, 9.0: 50.0}) == pytest.approx(3.0)
    assert crossing({2.0: 4.0, 4.0: 16.0, 9.0: 99.0}) == pytest.approx(1.0)  # beyond both
    assert crossing({1.0: 0.0, 2.0: 4.0}) is None  # nobody was late, or nobody knows
    assert crossing({1.0: 4.0, 2.0: 0.5}) is None  # later with less to do


def test_what_was_not_tried_is_no_limit() -> None:
    tried: list[float] = []

    def fine(times: float) -> bool:
        tried.append(times)
        return True

    assert largest(fine) == Limit(3.0, None)
    assert max(tried) == 3.0
    fleet = plan(asked(1.0, Slo(tpot_s=1.0), n=60, servers=FEW)).fewest
    assert fleet.room == "200 % or more"
    assert fleet.binds == "nothing up to 3 x the requests"


def test_a_share_is_a_count() -> None:
    slo = Slo(tpot_s=1.0, percentile=95)
    assert [slo.budget(n) for n in (1, 19, 20, 100, 1000)] == [0, 0, 1, 5, 50]
    assert Slo(percentile=99.9).budget(1000) == 1
    assert Slo(percentile=100).budget(10**6) == 0


def test_goodput_counts_what_keeps_every_limit() -> None:
    """Two requests, one late at first and one slow: each limit is kept by one, both by none."""
    question = asked(1.0, Slo(ttft_s=1.0, tpot_s=0.1))
    judge = Judge(question)
    work = given_requests(
        arrival_s=np.array([0.0, 10.0]), isl=np.array([5, 5]), osl=np.array([11, 11])
    )
    service = replace(
        judge.serve(0, 1),
        arrival_s=work.arrival_s,
        first_token_s=np.array([2.0, 10.5]),
        finish_s=np.array([2.5, 15.5]),
        tally=Tally({}),
    )
    found = kept(service, work, Slo(ttft_s=1.0, tpot_s=0.1, percentile=50), slow=1.0)
    assert found.share == {"ttft": 0.5, "tpot": 0.5}
    assert found.all_limits == 0
    assert found.goodput == 0
    assert found.quantile_s == pytest.approx({"ttft": 0.5, "tpot": 0.05, "e2e": 2.5})
    twice = kept(service, work, Slo(ttft_s=4.0, tpot_s=0.1, percentile=50), slow=2.0)
    assert twice.share == {"ttft": 1.0, "tpot": 0.5}
    assert twice.goodput == pytest.approx(1 / 40)


def test_a_growing_queue_is_seen_without_a_limit_on_it() -> None:
    """Nothing but time per token is asked for, which an overloaded server keeps well."""
    slo = Slo(tpot_s=0.05)
    question = asked(400.0, slo, n=1000, servers=FEW)
    judge = Judge(question)
    slow = judge.slow(0)
    assert judge.verdict(0, 1, slow=slow).broke == "queue"
    assert judge.kept(judge.serve(0, 1, slow=slow), slow=slow).share["tpot"] > 0.95
    assert solve(judge, 0, None, MOST).replicas != 1


@pytest.mark.parametrize(("rate", "grew"), [(20.0, False), (30.0, False), (45.0, True)])
def test_a_queue_that_grows_is_seen_before_the_limit_breaks(rate: float, grew: bool) -> None:
    """Ten minutes of too many requests end before 95 % of the answers take two minutes."""
    server = SERVERS[1]
    scenario = Scenario.parse(**MODEL, rate=rate, **server)
    judge = Judge(Question((scenario,), of_rate(scenario), Slo(e2e_s=120.0)))
    service, verdict = judge.broken(0, 1, slow=1.0)
    assert judge.kept(service).share["e2e"] > 0.95
    assert verdict.broke == ("queue" if grew else "")


def test_requests_that_fill_the_fleet_are_not_judged() -> None:
    """Ten that arrive at once and wait, then some that come one by one."""
    at = np.append(np.zeros(10), 100.0 + 10 * np.arange(10))
    work = given_requests(arrival_s=at, isl=np.full(20, 500), osl=np.full(20, 100))
    server = {**SERVERS[1], "max_running_requests": 1}
    scenario = Scenario.parse(**MODEL, rate=1.0, **server)

    def verdict(lead: int) -> bool:
        demand = Demand("some", (work,), lead=lead)
        return Judge(Question((scenario,), demand, Slo(ttft_s=0.2))).verdict(0, 1, slow=1.0).met

    assert verdict(10)
    assert not verdict(0)


def test_what_came_before_the_busiest_stretch_is_served_first() -> None:
    at = np.array([0.0, 4.0, 9.7, 10.0, 10.2, 10.4, 30.0])
    trace = Trace("t", "csv", at, np.full(7, 5), np.arange(1, 8))
    stretch, lead = led_in(trace, 0.45)
    assert stretch.osl.tolist() == [3, 4, 5, 6]
    assert lead == 1
    demand = of_trace(
        stretch, Scenario.parse(method="none", rate=1.0, runs=1), capped=False, lead=1
    )
    assert demand.judged == 3
    assert demand.span_s == pytest.approx(0.4)
    assert demand.mean_osl == 5


def test_a_rate_that_ends_too_soon_is_said() -> None:
    short, long = (asked(20.0, Slo(tpot_s=0.02), n=n, servers=FEW) for n in (60, 600))
    assert any("give a longer --duration" in line for line in warnings(plan(short)))
    assert not any("give a longer --duration" in line for line in warnings(plan(long)))


def test_what_binds_is_named() -> None:
    """The cap, state slots, memory and the steps themselves, each where it is what binds."""
    capped = [{**SERVERS[1], "max_running_requests": 2}]
    fleet = plan(asked(20.0, Slo(ttft_s=0.5, tpot_s=0.05), servers=capped)).fewest
    assert fleet.binds == "TTFT breaks first; slots: 2 requests a server (--max-running-requests)"
    fast = plan(asked(60.0, Slo(tpot_s=0.0065), servers=SERVERS[1:2])).fewest
    assert fast.binds.startswith("TPOT breaks first; compute: decoding")


def test_tight_kv_is_memory() -> None:
    """Long answers on a card with little room beside the weights."""
    server = {"gpu": "l40s", "tp": 1, "method": "none", "max_running_requests": 256}
    fields = MODEL | {"isl": 2000, "osl": 1500, "rate": 12.0, "num_prompts": 300}
    scenario = Scenario.parse(**fields, **server)
    question = Question((scenario,), of_rate(scenario), Slo(tpot_s=0.4), max_gpus=64)
    fleet = plan(question).fewest
    assert "memory" in fleet.binds


@pytest.mark.parametrize("slo", [Slo(ttft_s=0.1, tpot_s=0.02), Slo(e2e_s=1.0), Slo(tpot_s=0.02)])
def test_first_tokens_are_judged_at_their_own_quantile(slo: Slo) -> None:
    """They are less certain than throughput, and come later by that beside all times."""
    question = asked(20.0, slo, servers=FEW)
    fleet = plan(question).fewest
    judge = Judge(question)
    i, slow = fleet.index, fleet.slow
    more = judge.first_factor(i, slow)
    assert fleet.first_factor == more > 1
    assert judge.first_factor(i, 1.0) == 1
    one, as_is = (judge.kept(judge.serve(i, fleet.replicas, slow=s), slow=s) for s in (slow, 1.0))
    ratio = one.quantile_s["ttft"] / as_is.quantile_s["ttft"]
    assert ratio > more  # and later still where requests queue
    assert judge.verdict(i, fleet.replicas, slow=slow).met


def test_a_client_sees_more_than_the_scheduler() -> None:
    """Way and tokenisation are part of TTFT and E2E, and of no time per token."""
    question = asked(1.0, Slo(ttft_s=1.0))
    judge = Judge(question)
    service = judge.serve(0, 1)
    client_s = judge.setup(0).engine["client_turnaround"]
    here, there = (
        judge.kept(replace(service, tally=replace(service.tally, client_s=s))).quantile_s
        for s in (0.0, client_s)
    )
    assert service.tally.client_s == client_s > 0
    assert there["ttft"] - here["ttft"] == pytest.approx(client_s)
    assert there["e2e"] - here["e2e"] == pytest.approx(client_s)
    assert there["tpot"] == here["tpot"]
    limit_s = (here["ttft"] + there["ttft"]) / 2
    strict = Judge(replace(question, slo=Slo(ttft_s=limit_s)))
    assert strict.verdict(0, 1).broke == "ttft"


def test_a_fleet_on_a_gpu_that_nothing_confirms_is_named() -> None:
    found = plan(asked(20.0, Slo(tpot_s=0.05), servers=[SERVERS[1], SERVERS[3]]))
    told = [line for line in warnings(found) if "has confirmed" in line]
    seen = {f.setup.device.name: f.title for f in found.fleets.values()}
    assert seen["l40s"] in " ".join(told)
    assert not any("b200" in line for line in told)


# ---- the command -------------------------------------------------------------------------

COMMAND = ["plan", "--model", "qwen3-8b", "--isl", "500", "--osl", "100", "--gpu", "h200,l40s",
    "--tp", "1", "--method", "none,dflash", "--acceptance", "al:4", "--num-prompts", "200",
    "--runs", "1", "--jobs", "1"]  # fmt: skip
RATE = ["--rate", "50"]


def test_the_page_says_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMAND, *RATE, "--tpot", "20", "--ttft", "1000", "--format", "table"]) == 0
    page = capsys.readouterr().out
    for word in ("Fewest GPUs", "USD/h", "(low)", "(typical)", "(high)", "Confidence", "Goodput",
                 "Headroom", "Binds", "TTFT", "l40s", "first tokens"):  # fmt: skip
        assert word in page, word


def test_data_are_strict_json_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMAND, *RATE, "--tpot", "20", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["best"]) == set(OBJECTIVES)
    fleet = found["fleets"][str(found["best"]["gpus"])]
    assert fleet["num_gpus"] == fleet["replicas"] * fleet["tp"]
    assert fleet["at_confidence"]["percentile_ms"]["tpot"] <= 20
    assert fleet["at_confidence"]["request_goodput"] <= found["demand"]["rate"] * 1.01
    low, typical, high = (fleet["usd_per_mtok_out"][end] for end in ENDS)
    assert low <= typical <= high
    hour = fleet["usd_per_hour"]["low"]
    assert low == pytest.approx(hour / (fleet["output_throughput"] * 3600 / 1e6), rel=1e-4)
    assert [c["index"] for c in found["candidates"]] == list(range(4))


@pytest.mark.slow
def test_a_mode_that_plain_decoding_is_not_planned_in_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = [*COMMAND, *RATE, "--tpot", "20", "--gpu", "h200", "--format", "json"]
    told = []
    for mode in ("v1", "v2"):
        assert run([*asked, "--engine-mode", mode]) == 0
        told.append(json.loads(capsys.readouterr().out)["warnings"])
    assert any("beside them method none runs in v2" in line for line in told[0])
    assert not any("method none" in line for line in told[1])


def test_csv_has_a_row_for_each_candidate(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMAND, *RATE, "--tpot", "20", "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 4


def test_a_trace_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    rows = "".join(f"{i / 30},{200 + i},{50 + i % 90}\n" for i in range(150))
    path.write_text("arrival_s,isl,osl\n" + rows)
    flags = ["plan", "--model", "qwen3-8b", "--trace", f"{path}:csv", "--gpu", "h200", "--tp", "1",
             "--method", "dflash", "--acceptance", "al:4", "--jobs", "1"]  # fmt: skip
    assert run([*flags, "--e2e", "3000", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["demand"]["requests"] == 150
    assert found["demand"]["mean_isl"] == pytest.approx(274.5)
    assert run([*flags, "--e2e", "3000", "--rate", "3"]) == 2
    assert "has times of its own" in capsys.readouterr().err
    assert run([*flags, "--e2e", "3000", "--isl", "3", "--osl", "3"]) == 2
    assert "has lengths of its own" in capsys.readouterr().err


def test_limits_are_milliseconds_and_may_have_a_unit() -> None:
    slo = numbers_of(ttft="2s", tpot="20ms", e2e=3000).of_question()["slo"]
    assert (slo.ttft_s, slo.tpot_s, slo.e2e_s) == (2.0, 0.02, 3.0)
    for text in ("20us", "2 m", "s", "-2s"):
        with pytest.raises(UsageError, match="above 0"):
            numbers_of(tpot=text)
    with pytest.raises(UsageError):
        numbers_of(duration="60s")
    far = Nearest("one", excess=100.0, latency="TPOT", quantile_s=2e-3, percentile=95, max_gpus=8)
    assert str(far).endswith("Limits are in milliseconds.")
    assert "milliseconds" not in str(replace(far, excess=1.5))


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ([], 2, "what is the demand?"),
        ([*RATE, "--tpot", "-3"], 2, "--tpot -3: it is a number above 0"),
        ([*RATE, "--tpot", "fast"], 2, "--tpot fast"),
        ([*RATE, "--percentile", "101"], 2, "--percentile 101"),
        ([*RATE, "--confidence", "1"], 2, "--confidence 1"),
        ([*RATE, "--confidence", "0.2"], 2, "--confidence 0.2"),
        ([*RATE, "--router", "round"], 2, "did you mean round-robin"),
        ([*RATE, "--max-gpus", "1.5"], 2, "--max-gpus 1.5"),
        ([*RATE, "--conc", "3"], 2, "--conc is not for it"),
        (["--rate", "1,2"], 2, "--rate: a plan takes one value"),
        ([*RATE, "--busiest", "60"], 2, "are about a trace"),
        ([*RATE, "--gpu", "h200,h201"], 2, "unknown GPU 'h201'"),
        (["--trace", "/nowhere.csv"], 2, "it cannot be read"),
        ([*RATE, "--tune", "tp"], 2, "unknown --tune 'tp'"),
        ([*RATE, "--max-running-requests", "a"], 2, "--max-running-requests a"),
        (["--rate", "1e6"], 2, "at most"),
        ([*RATE, "--tpot", "0.5"], 1, "The closest is 1 x h200"),
        ([*RATE, "--tpot", "20", "--max-gpus", "1", "--rate", "4000"], 1, "raise --max-gpus"),
        ([*RATE, "--gpu", "l40s", "--model", "qwen3.5-397b-a17b"], 1, "does not fit"),
    ],
)
def test_what_cannot_be_planned_is_said(
    flags: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = list(COMMAND)
    if "1e6" in flags:
        del command[command.index("--num-prompts") : command.index("--num-prompts") + 2]
    assert run([*command, *flags]) == code
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_what_a_plan_is_asked_is_shown_and_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["plan", "--model", "qwen3-8b", *RATE, "--isl", "500", "--osl", "100", "--tpot", "20",
             "--max-running-requests", "4,8", "--router", "least-loaded"]  # fmt: skip
    assert run([*flags, "--print-config"]) == 0
    shown = capsys.readouterr().out
    told = yaml.safe_load(shown)
    scenario, own = told["scenario"], told["plan"]
    assert scenario["gpu"] == ["b200", "h200"]
    assert scenario["method"] == ["none", "dflash"]
    assert scenario["max_running_requests"] == [4, 8]
    assert scenario["runs"] == 3
    assert own["tpot"] == 20
    assert own["router"] == "least-loaded"
    assert own["max_gpus"] == 512
    assert "ttft" not in own
    assert "# flag" in next(line for line in shown.splitlines() if "router:" in line)
    path = tmp_path / "asked.yaml"
    path.write_text(shown)
    again = ["plan", "--preset", str(path), "--tpot", "20", "--router", "least-loaded"]
    assert run([*again, "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == told


def test_an_interrupted_plan_ends_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> Plan:
        raise KeyboardInterrupt

    monkeypatch.setattr("dflash_sim.studies.plan.search.plan", interrupted)
    assert run([*COMMAND, *RATE, "--tpot", "20"]) == 130
    assert capsys.readouterr().err == "stopped; nothing was written\n"


@pytest.mark.parametrize(
    "flags",
    [["--ttft", "3"], ["--report", "x.html"], ["--format", "json"], ["--jobs", "1"],
     ["--trace", "x.csv"], ["--router", "round-robin"], ["--print-config"]],
)  # fmt: skip
def test_what_tuning_does_not_use_is_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "--tune", "block", *flags]) == 2
    assert f"takes no {flags[0]}" in capsys.readouterr().err


def test_tuning_ends_at_the_cap(capsys: pytest.CaptureFixture[str]) -> None:
    def largest_batch(cap: str) -> int:
        flags = ["plan", "--tune", "block", "--block", "4,16", "--max-running-requests", cap]
        assert run(flags) == 0
        return int(json.loads(capsys.readouterr().out)[-1][1])

    assert largest_batch("4") == 4
    assert largest_batch("8") == 8


def test_a_tuned_block_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.json"
    flags = ["plan", "--tune", "block", "--block", "4,16", "--max-running-requests", "4"]
    assert run([*flags, "-o", str(out)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert all(len(row) == 3 for row in shown)
    assert shown[0][0] == 1
    assert {"bias_seconds", "alpha_seconds", "theta_seconds"} <= set(json.loads(out.read_text()))


def test_copies_of_a_data_set_are_in_different_orders() -> None:
    scenario = Scenario.parse(rate=1.0, num_prompts=2 * 164, dataset="humaneval")
    one, two = of_rate(scenario).runs[0].osl.reshape(2, 164)
    assert (one != two).any()
    assert sorted(one) == sorted(two)


def test_demands_of_two_rates_are_the_same_requests() -> None:
    def of(rate: float) -> Demand:
        scenario = Scenario.parse(rate=rate, num_prompts=50, dataset="humaneval")
        return of_rate(scenario)

    slow, fast = of(1.0).runs[0], of(4.0).runs[0]
    np.testing.assert_array_equal(slow.osl, fast.osl)
    assert slow.arrival_s is not None
    assert fast.arrival_s is not None
    np.testing.assert_allclose(slow.arrival_s, 4 * fast.arrival_s)


class TestContentOfATrace:
    """A column says what each request is about; each has the accept length of its text."""

    @staticmethod
    def written(folder: Path, contents: list[str]) -> Path:
        path = folder / "mixed.csv"
        lines = [f"{i * 0.5},300,200,{c}" for i, c in enumerate(contents)]
        path.write_text("\n".join(["arrival_s,isl,osl,content", *lines]) + "\n")
        return path

    def test_shares_and_labels_follow_the_file(self, tmp_path: Path) -> None:
        trace = read_trace(self.written(tmp_path, ["prose", "code", "prose", "prose"]))
        assert trace.content == ("prose", "code", "prose", "prose")
        assert shares_of(trace) == "prose:0.75,code:0.25"
        scenario = Scenario.parse(isl=300, osl=200, conc=1, method="none")
        demand = of_trace(trace, scenario, capped=False)
        part = demand.runs[0].part
        assert part is not None
        assert part.tolist() == [0, 1, 0, 0]

    def test_each_request_has_its_own_law(self, tmp_path: Path) -> None:
        trace = read_trace(self.written(tmp_path, ["prose", "structured"] * 100))
        scenario = Scenario.parse(isl=300, osl=200, conc=1, content=shares_of(trace))
        law = resolve(scenario).expectation
        assert law is not None
        work = of_trace(trace, scenario, capped=False).runs[0]
        cycles = draw_commits(law.acceptance, work, np.random.default_rng(0)).cycles
        assert cycles[::2].mean() > 2.5 * cycles[1::2].mean()

    def test_a_request_without_it_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"mixed\.csv.*content is missing"):
            read_trace(self.written(tmp_path, ["prose", "", "code"]))

    def test_a_file_without_the_column_says_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "plain.csv"
        path.write_text("arrival_s,isl,osl\n0,3,4\n1,3,4\n")
        trace = read_trace(path)
        assert trace.content == ()
        assert shares_of(trace) is None
