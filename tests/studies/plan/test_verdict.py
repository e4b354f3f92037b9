"""The verdict: its doubts are in it, every candidate has numbers, savings have intervals."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.calibrate.readers.request_traces import read_trace
from dflash_sim.cli import run
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.sheets import PriceRange
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.ask.prices import HOURS_A_MONTH
from dflash_sim.studies.ask.question import Given
from dflash_sim.studies.plan.candidate import Solved, Survey
from dflash_sim.studies.plan.choice import chosen, label, out_of_slots
from dflash_sim.studies.plan.close_look import Limit
from dflash_sim.studies.plan.demand import of_rate, of_trace
from dflash_sim.studies.plan.deploy import compose, fewest, kubernetes
from dflash_sim.studies.plan.difference import ends, joint_ends, needed_at
from dflash_sim.studies.plan.hours import shares_by_hour
from dflash_sim.studies.plan.judge import Judge, Question
from dflash_sim.studies.plan.objective import Slo
from dflash_sim.studies.plan.page import PlanPage, candidate_rows, facts
from dflash_sim.studies.plan.question import _with_caps
from dflash_sim.studies.plan.search import Plan, _roomiest, plan
from dflash_sim.studies.plan.verdict import doubts_of, remarks, saved, verdict
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.launch import launch_command
from dflash_sim.studies.show.terminal import as_page

SERVERS = (
    {"gpu": "h200", "tp": 1, "method": "none"},
    {"gpu": "h200", "tp": 1, "method": "dflash", "block": 16, "acceptance": "al:4"},
    {"gpu": "l40s", "tp": 1, "method": "dflash", "block": 16, "acceptance": "al:4"},
    {"gpu": "l40s", "tp": 1, "method": "none"},
)
HOURS = "0-7:0.2,8-19:1,20-23:0.5"


def asked(rate: float = 90.0, tpot_s: float = 0.012, **about: object) -> Question:
    fields = {"model": "qwen3-8b", "isl": 500, "osl": 100, "runs": 1, "num_prompts": 300}
    points = tuple(Scenario.parse(**fields, rate=rate, **server) for server in SERVERS)
    slo = Slo(tpot_s=tpot_s, ttft_s=1.0)
    return Question(points, of_rate(points[0]), slo, max_gpus=400, **about)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found() -> Plan:
    shares = shares_by_hour(HOURS)
    return plan(asked(prices={"h200": 2.0}, by_hour=shares))


def test_every_candidate_has_its_numbers(found: Plan) -> None:
    """Servers, GPUs and dollars, or that no number of servers does."""
    rows = candidate_rows(found)
    assert len(rows) == len(SERVERS)
    for row in rows:
        assert row[5] == "none do" or (row[5].isdecimal() and row[8] != "-")
    slow = [i for i in found.alone if found.alone[i].excess > 1]
    assert sorted(r.index for r in found.solved if r.replicas is None) == sorted(slow)


def test_what_is_in_doubt_is_in_the_verdict(found: Plan) -> None:
    """Nothing that changes a fleet is left for the end of the page."""
    text = " ".join(verdict(found))
    for fleet in found.fleets.values():
        for doubt in doubts_of(fleet, found):
            assert doubt in text
            assert doubt not in " ".join(remarks(found))
    short = plan(replace(asked(), candidates=asked().candidates[1:2]))
    assert "too short to see a queue grow" in verdict(short)[0]  # 300 requests last 3 s


class Answered:
    """A pool whose answers are known."""

    def __init__(self, limits: dict[int, float]) -> None:
        self.limits, self.asked = limits, 0

    def map(self, work: object, tasks: list[tuple[int, int, bool]]) -> list[Limit]:
        self.asked += len(tasks)
        return [Limit(self.limits[i], None) for i, _, _ in tasks]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(("room", "needs"), [(2.5, (0.2, 0.3)), (1.03, (0.3, 0.2))])
def test_of_equal_fleets_the_roomiest_is_best(
    order: tuple[int, int], room: float, needs: tuple[float, float]
) -> None:
    """Whichever was asked about first; where they have as much, the one that needs least."""
    price = PriceRange(low=2.0, typical=4.0, high=8.0, source="us")
    dear = replace(price, typical=5.0)
    two = {0: (price, needs[0], 1.0), 1: (price, needs[1], room)}
    about = [two[i] for i in order]
    surveys = [Survey(i, 1, p, n) for i, (p, n, _) in enumerate([*about, (dear, 0.1, 9.0)])]
    found = {i: Solved(i, 1, 0) for i in range(3)}
    pool = Answered({i: limit for i, (_, _, limit) in enumerate(about)})
    answer = {"gpus": 0, "typical": 0}
    tied = _roomiest(pool, answer, surveys, found)  # type: ignore[arg-type]
    assert answer == dict.fromkeys(answer, order.index(1))
    assert sorted(tied) == [0, 1]
    assert pool.asked == 2


def test_a_fleet_alone_is_looked_at_once() -> None:
    price = PriceRange(low=None, typical=None, high=None, source="us")
    surveys, pool = [Survey(i, i + 1, price, 1.0) for i in range(2)], Answered({})
    answer = {"gpus": 0}
    found = {i: Solved(i, 1, 0) for i in range(2)}
    assert _roomiest(pool, answer, surveys, found) == {}  # type: ignore[arg-type]
    assert (answer, pool.asked) == ({"gpus": 0}, 0)


def test_the_headroom_of_equal_fleets_is_said(found: Plan) -> None:
    mine = found.fewest
    twin = next(s for s in found.surveys if s.index != mine.index and s.error is None)
    alike = replace(found.surveys[mine.index], index=twin.index)
    solved = Solved(twin.index, mine.replicas, mine.replicas - 1)
    rooms = {mine.index: Limit(mine.headroom, 3.0), twin.index: Limit(1.0, 1.1)}
    surveys = tuple(alike if s is twin else s for s in found.surveys)
    rest = tuple(s for s in found.solved if s.index != twin.index)
    tied = replace(found, headroom=rooms, surveys=surveys, solved=(*rest, solved))
    assert f"{mine.room} more requests, against 0 % with" in " ".join(verdict(tied))
    roomy = replace(tied, headroom={mine.index: rooms[mine.index], twin.index: Limit(9.0, 9.9)})
    assert "No fleet of that size and price has clearly more headroom" in " ".join(verdict(roomy))
    endless = {i: Limit(3.0, None) for i in rooms}
    mine_too = {mine.index: replace(mine, unbroken=True, headroom=3.0)}
    fleets = {**tied.fleets, **mine_too}
    told = " ".join(verdict(replace(tied, headroom=endless, fleets=fleets)))
    assert "none breaks with 3 x the requests" in told
    assert "most headroom" not in told
    assert "headroom" not in " ".join(verdict(found))


def test_a_month_is_730_hours_of_the_price_that_was_given(found: Plan) -> None:
    fleet = found.fewest
    assert fleet.setup.device.name == "h200"
    assert fleet.usd_per_hour == dict.fromkeys(("low", "typical", "high"), 2.0 * fleet.gpus)
    d = found.differences[0]
    assert d.usd_month[0] == pytest.approx(2.0 * d.gpus[0] * HOURS_A_MONTH)


@pytest.mark.parametrize(
    ("saves", "span", "said"),
    [(0, (0, 0), "0 fewer"), (2, (1, 4), "1 to 4 fewer"), (1, (-1, 3), "1 more to 3 fewer"),
     (0, (-1, 0), "1 more to as many"), (-2, (-3, -1), "1 to 3 more"),
     (-2, (-3, 1), "1 fewer to 3 more")],
)  # fmt: skip
def test_an_interval_of_gpus_has_no_signs(
    found: Plan, saves: int, span: tuple[int, int], said: str
) -> None:
    d = replace(found.differences[0], saved_gpus=saves, saved_gpus_ci90=span)
    assert f"(90 % interval {said})" in saved(d, found)


def test_a_bill_is_that_of_the_fleets_it_names(found: Plan) -> None:
    """One statement of cost, of the two that would be rented; its interval holds it."""
    d = replace(
        found.differences[0], gpus=(3, 5), central_gpus=(2, 2), usd_month=(4380.0, 7300.0),
        saved_gpus=2, saved_gpus_ci90=(-1, 2), saved_usd_month=2920.0,
        saved_usd_month_ci90=(-1460.0, 2920.0),
    )  # fmt: skip
    said = saved(d, found)
    assert "needs 2 GPUs fewer than" in said
    assert "3 against 5, each sized for 90 % confidence (90 % interval 1 more to 2 fewer)" in said
    bills = "(1,460 more to 2,920 less), 4,380 against 7,300."
    assert said.endswith(f"saves 2,920 USD a month {bills}")
    assert said.count("USD") == 1
    money = {"saved_usd_month": -2920.0, "saved_usd_month_ci90": (-2920.0, 0.0)}
    dear = replace(d, usd_month=(7300.0, 4380.0), **money)
    bills = "(0.00 to 2,920 more), 7,300 against 4,380."
    assert saved(dear, found).endswith(f"costs 2,920 USD a month more {bills}")
    free = replace(d, saved_usd_month=0.0, saved_usd_month_ci90=(0.0, 0.0))
    assert "0.00 USD" not in saved(free, found)


def test_what_is_saved_over_a_server_of_few_slots_says_so(found: Plan) -> None:
    """Where slots limit the speculation that is compared, and nowhere else."""
    (d,) = found.differences
    assert found.question.candidates[d.one].speculation.speculative
    fleets = {i: replace(fleet, binds="TPOT breaks first") for i, fleet in found.fleets.items()}
    lines = []
    for capped in (False, True):
        surveys = tuple(
            replace(s, capped=capped and s.index == d.one, need=2.0) for s in found.surveys
        )
        told = verdict(replace(found, surveys=surveys, fleets=fleets))
        lines.append([line for line in told if line.startswith("There, ")])
    assert lines[0] == []
    (line,) = lines[1]
    assert "only 48 requests of a server" in line
    assert line.endswith("--max-running-requests default,192 tries more beside.")


def test_goodput_is_told_of_what_came(found: Plan) -> None:
    """Arrivals are drawn: of 90 a second that are asked for, those of a run are not just 90."""
    (line,) = [text for label, text in facts(found.fewest, found) if label == "Goodput"]
    came = number(found.fewest.expected.came)
    assert f"of the {came} requests/s that came (drawn by chance at 90.00 on average)" in line
    run = found.question.demand.runs[0]
    judged = run.arrival_s[found.question.demand.lead :]
    rate = len(judged) / (judged.max() - judged.min()) * (len(judged) - 1) / len(judged)
    assert float(came) == pytest.approx(rate, rel=1e-3)


def test_a_million_tokens_are_those_of_the_day(found: Plan) -> None:
    """The rate that is asked for, not the one that was drawn, at its mean over 24 hours."""
    share = (8 * 0.2 + 12 * 1 + 4 * 0.5) / 24
    for fleet in found.fleets.values():
        tokens_h = 90.0 * share * found.question.demand.mean_osl * 3600
        usd = fleet.usd_per_hour["typical"] / tokens_h * 1e6
        assert fleet.usd_per_mtok_out["typical"] == pytest.approx(usd, rel=1e-9)


def test_savings_are_those_of_fleets_sized_in_pairs() -> None:
    """The number is of the two that are rented, the ends of pairs at points of the joint law."""
    question = asked(tpot_s=0.009, prices={"h200": 2.0})
    found = plan(replace(question, candidates=question.candidates[:2]))
    judge = Judge(found.question)
    solved = {s.index: s for s in found.solved}

    def needed(i: int, slow: float) -> int:
        return needed_at(judge, i, slow, solved[i], 400) or 401

    assert found.differences
    for d in found.differences:
        tp = [judge.setup(i).tp for i in (d.one, d.other)]
        points = ((1.0, 1.0), *ends(judge, d.one, d.other))
        sizes = [(tp[0] * needed(d.one, a), tp[1] * needed(d.other, b)) for a, b in points]
        saved = [b - a for a, b in sizes]
        assert d.central_gpus == sizes[0]
        assert d.saved_gpus == d.gpus[1] - d.gpus[0] != saved[0]  # what is rented is what is told
        saved.append(d.saved_gpus)
        assert d.saved_gpus_ci90 == (min(saved), max(saved))
        assert d.saved_usd_month is not None
        assert d.usd_month[0] is not None
        each = d.usd_month[0] / d.gpus[0]
        assert d.saved_usd_month == pytest.approx(each * d.saved_gpus)
    text = " ".join(verdict(found))
    assert "90 % interval" in text
    assert "each sized for 90 % confidence" in text


def test_fewer_requests_need_no_more_servers(found: Plan) -> None:
    assert [h.share for h in found.hours] == [1.0, 0.5, 0.2]
    sizes = [h.replicas for h in found.hours]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == found.fewest.replicas
    busy = [h.busy for h in found.hours]
    assert busy == sorted(busy, reverse=True)
    assert sum(len(h.hours) for h in found.hours) == 24
    assert found.hours[0].said == "8-19"


@given(st.floats(0.01, 0.5), st.floats(0.01, 0.5), st.floats(-0.99, 0.99))
def test_the_ends_of_a_difference_are_those_of_the_joint_law(
    one: float, two: float, correlation: float
) -> None:
    """Their ratio is at its 5 % and 95 % points; draws near it have both sides on average."""
    ratio = math.sqrt(one**2 + two**2 - 2 * correlation * one * two)
    (a, b), (c, d) = joint_ends(one, two, ratio)
    assert math.log(b / a) == pytest.approx(-1.645 * ratio, rel=1e-6)
    assert math.log(d / c) == pytest.approx(1.645 * ratio, rel=1e-6)


def test_an_end_is_the_mean_of_draws_near_it() -> None:
    one, two, shared = 0.2, 0.1, 0.01
    cov = np.array([[one**2, shared], [shared, two**2]])
    draws = np.random.default_rng(0).multivariate_normal([0, 0], cov, 400_000)
    ratio = draws[:, 0] - draws[:, 1]
    end = 1.645 * math.sqrt(one**2 + two**2 - 2 * shared)
    near = draws[np.abs(ratio - end) < 0.01].mean(axis=0)
    slow = joint_ends(one, two, math.sqrt(one**2 + two**2 - 2 * shared))[1]
    assert [-math.log(x) for x in slow] == pytest.approx(near.tolist(), abs=0.004)


def test_one_that_is_sure_alone_is_not_asked_to_move() -> None:
    assert joint_ends(0.2, 0.2, 0.0) == ((1.0, 1.0), (1.0, 1.0))


# ---- what is written ---------------------------------------------------------------------


def test_a_launch_reads_back_as_the_server(found: Plan) -> None:
    for i in found.fleets:
        setup = found.fleets[i].setup
        fields = scenario_from_launch(launch_command(setup), None).fields
        assert fields["method"] == setup.scenario.method
        assert fields.get("tp", 1) == setup.tp
        assert fields.get("block") == (setup.block if setup.speculative else None)


@pytest.mark.parametrize(
    ("asks", "flag"),
    [
        ({"mem_fraction_static": 0.8}, "--mem-fraction-static 0.8"),
        ({"radix_cache": False}, "--disable-radix-cache"),
        ({"engine_mode": "v2-sync"}, "--disable-overlap-schedule"),
        ({"max_running_requests": 7}, "--max-running-requests 7"),
        ({"cuda_graph_max_bs": 0}, "--disable-cuda-graph"),
    ],
)
def test_what_is_asked_for_is_in_the_launch(asks: dict[str, object], flag: str) -> None:
    from dflash_sim.simulator.setup import resolve

    setup = resolve(Scenario.parse(gpu="h200", model="qwen3-8b", block=8, **asks))
    command = launch_command(setup)
    assert flag in command
    fields = scenario_from_launch(command, None).fields
    assert {name: fields[name] for name in asks} == asks


def test_files_start_every_server_once(found: Plan) -> None:
    fleet, tp = found.fewest, found.fewest.setup.tp
    services = yaml.safe_load(compose(fewest(found)))["services"]
    servers = {n: s for n, s in services.items() if n.startswith("server-")}
    assert len(servers) == fleet.replicas
    devices = [
        gpu
        for s in servers.values()
        for gpu in s["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
    ]
    assert len(set(devices)) == len(devices) == fleet.gpus
    objects = list(yaml.safe_load_all(kubernetes(fewest(found))))
    pods = next(o for o in objects if o["metadata"]["name"] == "sglang")["spec"]
    assert pods["replicas"] == fleet.replicas
    (container,) = pods["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == tp
    assert container["command"] == servers["server-0"]["command"]
    assert all({"apiVersion", "kind", "metadata"} <= set(o) for o in objects)
    assert "&" not in kubernetes(fewest(found))
    # The router may list pods of its own namespace alone, and asks for no others.
    many = next(o for o in objects if o["metadata"]["name"] == "sglang-router" and "spec" in o)
    (router,) = many["spec"]["template"]["spec"]["containers"]
    at = router["command"].index("--service-discovery-namespace")
    (variable,) = router["env"]
    assert router["command"][at + 1] == f"$({variable['name']})"
    assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert {o["kind"] for o in objects} >= {"Role", "RoleBinding"}
    assert not {o["kind"] for o in objects} & {"ClusterRole", "ClusterRoleBinding"}


def test_written_files_are_whole_and_refused_first(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    flags = ["plan", "--model", "qwen3-8b", "--isl", "200", "--osl", "50", "--rate", "5",
             "--num-prompts", "40", "--runs", "1", "--gpu", "h200", "--tp", "1", "--method",
             "none", "--jobs", "1"]  # fmt: skip
    k8s = tmp_path / "k.yaml"
    assert run([*flags, "--write-k8s", str(k8s)]) == 0
    assert list(yaml.safe_load_all(k8s.read_text()))
    assert run([*flags, "--write-compose", str(k8s), "--write-k8s", str(k8s)]) == 2
    assert run([*flags, "--write-compose", str(tmp_path / "no" / "c.yaml")]) == 2
    assert "is no directory" in capsys.readouterr().err


# ---- what is asked -----------------------------------------------------------------------


def test_candidates_are_told_apart_by_their_words() -> None:
    points = asked().candidates
    assert label(points[1]) == "h200/tp1/dflash/block16"
    assert chosen(("none/h200", "l40s/dflash"), points) == (0, 2)
    for names, said in (
        (("h200", "l40s/none"), "2 candidates are called so"),
        (("b200", "l40s/none"), "no candidate is called so"),
        (("h200/none", "none/h200"), "both are h200/tp1/none"),
    ):
        with pytest.raises(UsageError, match=said):
            chosen(names, points)


def test_two_that_are_named_are_compared() -> None:
    compared = plan(asked(compared=(1, 0)))
    (d,) = compared.differences
    assert (d.one, d.other) == (1, 0)
    back = plan(asked(compared=(0, 1))).differences[0]
    assert back.saved_gpus == -d.saved_gpus


def test_a_pair_moves_less_than_its_sides_apart() -> None:
    """What both hang on cancels: of two blocks of one model more than of strangers."""
    judge = Judge(asked())
    alone = math.hypot(judge.spread(0), judge.spread(1))
    assert judge.ratio_spread(0, 1) < alone


@pytest.mark.parametrize(
    ("text", "said"),
    [("0-7:0.2", "hour 8 is missing"), ("0-23:1,5:1", "named twice"), ("0-24:1", "give hours"),
     ("0-23:x", "give hours"), ("0-23:0", "no hour has any"), ("7-3:1", "give hours"),
     ("", "give")],
)  # fmt: skip
def test_hours_that_are_none_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        shares_by_hour(text)


def test_hours_may_be_24_numbers() -> None:
    assert shares_by_hour(",".join(map(str, range(24)))) == tuple(map(float, range(24)))


@pytest.mark.parametrize(("n", "few"), [(4, True), (99, True), (100, False)])
def test_a_percentile_of_few_requests_is_in_doubt(n: int, few: bool, tmp_path: Path) -> None:
    """Of 100 requests five lie beyond the 95th percentile; of four none does."""
    rows = [f"{0.2 * k},500,100" for k in range(n)]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["arrival_s,isl,osl", *rows]) + "\n")
    trace = read_trace(path)
    point = Scenario.parse(model="qwen3-8b", gpu="h200", tp=1, method="none", isl=500, osl=100)
    demand = of_trace(trace, point.model_copy(update={"runs": 1}), capped=False)
    found = plan(Question((point,), demand, Slo(tpot_s=0.05)))
    text = verdict(found)[0]
    assert (f"{n} requests are judged" in text) == few
    assert ("met with 90 % confidence" in text) != few
    assert f", {n} requests" in as_page(PlanPage(found), to_file=True).splitlines()[0]
    whole = replace(found, question=replace(found.question, slo=Slo(tpot_s=0.05, percentile=100)))
    assert "are judged" not in verdict(whole)[0]


def test_a_price_of_no_candidate_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["plan", "--model", "qwen3-8b", "--isl", "200", "--osl", "50", "--rate", "5",
             "--gpu", "h200", "--tp", "1"]  # fmt: skip
    assert run([*flags, "--price", "h100=2"]) == 2
    error = capsys.readouterr().err
    assert "--price h100=2: no server that is asked about is on h100, they are on h200" in error
    assert len(error.strip().splitlines()) <= 3


def test_slots_that_limit_a_server_come_with_the_flag_that_gives_more() -> None:
    """What it names is a cap that the server then has; a cap that was asked for is no news."""
    fields = {"model": "qwen3-8b", "gpu": "h200", "tp": 1}
    capped = Scenario.parse(**fields, method="dflash", block=16)
    (told,) = out_of_slots([capped], [capped])
    assert told.startswith("h200/tp1/dflash/block16: only 48 requests")
    listed = told.partition("--max-running-requests ")[2].split()[0]
    assert listed.startswith("default,")
    given = {name: Given(value, "") for name, value in fields.items()}
    methods = Given(["none", "dflash"], "")
    caps: dict[str, set[int]] = {"none": set(), "dflash": set()}
    tried = _with_caps(given | {"method": methods}, listed)
    words = Given(["default", max(c.max_running_requests or 0 for c in tried)], "")
    assert _with_caps(given | {"method": methods, "max_running_requests": words}, None) == tried
    for c in tried:
        caps[c.method].add(resolve(c).memory.max_running_requests)
    plain = Scenario.parse(**fields, method="none")
    # Nothing that is a candidate without the list is gone with it.
    assert resolve(plain).memory.max_running_requests in caps["none"]
    assert min(caps["dflash"]) == 48 < max(caps["dflash"])
    own = capped.model_copy(update={"max_running_requests": max(caps["dflash"])})
    assert out_of_slots([own], [own]) == []
    assert out_of_slots([capped], [capped, own]) == []  # it is tried beside already


@pytest.mark.parametrize(("gpu", "method"), [("h200", "dflash"), ("b200", "none")])
def test_slots_of_states_are_given_by_other_flags_than_the_cap(gpu: str, method: str) -> None:
    c = Scenario.parse(model="qwen3.5-27b", gpu=gpu, tp=1, method=method)
    (told,) = out_of_slots([c], [c])
    assert "GDN state slots" in told
    assert f"would in a plan of --method {method} --" in told
    assert "--max-running-requests" not in told
