"""What owned GPUs carry: the load that is found is kept, and more is not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from page_colours import keys_of

import dflash_sim as ds
from dflash_sim.cli import run
from dflash_sim.profiles.errors import InfeasibleError, UsageError
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.plan.demand import of_rate
from dflash_sim.studies.plan.difference import ends
from dflash_sim.studies.plan.judge import Judge, Question
from dflash_sim.studies.plan.most import Lifted, Most, most, most_at
from dflash_sim.studies.plan.most_page import HEADS, cells, notes, said
from dflash_sim.studies.plan.objective import Slo
from dflash_sim.studies.show.palette import Palette

FIELDS: dict[str, Any] = {"model": "qwen3-8b", "isl": 500, "osl": 100, "runs": 1, "gpu": "h200"}
SERVERS = ({"tp": 1, "method": "none"}, {"tp": 2, "method": "none"},
    {"tp": 1, "method": "dflash", "block": 16, "acceptance": "al:4"})  # fmt: skip
COMMAND = ["plan", "--model", "qwen3-8b", "--gpu", "h200", "--tp", "1", "--method", "none",
    "--isl", "500", "--osl", "50", "--runs", "1", "--jobs", "1"]  # fmt: skip


def asked(slo: Slo, **about: Any) -> Question:
    points = tuple(Scenario.parse(**FIELDS, rate=1.0, **server) for server in SERVERS)
    demand = of_rate(points[0].model_copy(update={"num_prompts": 200}))
    return Question(points, demand, slo, **about)


@pytest.fixture(scope="module")
def rate() -> Most:
    return most(asked(Slo(tpot_s=0.012, ttft_s=1.0)), gpus=3, what="rate", duration_s=5.0)


def test_a_rate_that_is_carried_is_kept_and_more_is_not(rate: Most) -> None:
    """Asked again of requests at that rate, and at 1.15 times it."""
    best = rate.best
    scenario = rate.question.candidates[best.index]

    def met(times: float) -> bool:
        asked = scenario.model_copy(update={"rate": times * best.most, "num_prompts": 900})
        judge = Judge(rate.question).of(of_rate(asked))
        return judge.meets(best.index, best.replicas, slow=judge.slow(best.index))

    assert met(0.85)
    assert not met(1.15)


@pytest.mark.slow
def test_a_trial_that_is_shorter_than_an_answer_is_no_trial() -> None:
    """Where nothing is asked of latencies, as many would fit as come before one is answered."""
    plain = Scenario.parse(**{**FIELDS, "osl": 1500}, rate=1.0, tp=1, method="none")
    demand = of_rate(plain.model_copy(update={"num_prompts": 200}))
    judge = Judge(Question((plain,), demand, Slo()))
    short, long = (most_at(judge, 0, 1, 1.0, "rate", seconds)[0] for seconds in (5.0, 200.0))
    assert short == pytest.approx(long, rel=0.1)
    assert long > 1.0


def test_servers_are_as_many_as_the_gpus_make(rate: Most) -> None:
    by_index = {c.index: c for c in rate.carried}
    assert {i: c.replicas for i, c in by_index.items()} == {0: 3, 1: 1, 2: 3}
    carried = [c.most for c in rate.carried]
    assert carried == sorted(carried, reverse=True)
    assert rate.as_predicted >= rate.best.most


def test_a_gain_is_that_of_both_at_one_point_of_the_joint_law(rate: Most) -> None:
    judge = Judge(rate.question)
    for r in rate.ratios:
        one, other = (next(c for c in rate.carried if c.index == i) for i in (r.one, r.other))
        gains = []
        for slow in ((1.0, 1.0), *ends(judge, r.one, r.other)):
            most = [
                most_at(judge, c.index, c.replicas, s, "rate", 5.0)[0]
                for c, s in zip((one, other), slow, strict=True)
            ]
            gains.append(most[0] / most[1] - 1)
        assert r.gain == pytest.approx(gains[0])
        assert r.ci90 == pytest.approx((min(gains), max(gains)))


def test_users_without_a_limit_are_what_memory_holds() -> None:
    """Full slots or a full cache, whichever comes first; on twice the GPUs twice as many."""
    one, two = (most(asked(Slo()), gpus=n, what="users", duration_s=1.0) for n in (1, 2))
    judge = Judge(asked(Slo()))
    for found, times in ((one, 1), (two, 2)):
        for c in found.carried:
            if c.error is None and c.tp == 1:
                limits = judge.setup(c.index).limits
                block = judge.setup(c.index).block
                holds = int(limits.kv_tokens / (500 + 100 + block))
                assert c.most == times * min(holds, limits.max_running_requests)


def test_a_tighter_limit_carries_no_more() -> None:
    limits = (0.03, 0.01, 0.006)
    found = [
        most(asked(Slo(tpot_s=x)), gpus=1, what="users", duration_s=1.0).best.most for x in limits
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_what_nothing_keeps_is_said() -> None:
    with pytest.raises(InfeasibleError, match=r"carry nothing within TPOT <= 0\.1 ms"):
        most(asked(Slo(tpot_s=1e-4)), gpus=2, what="rate", duration_s=1.0)
    with pytest.raises(UsageError, match="unknown --maximise 'tokens'"):
        most(asked(Slo()), gpus=2, what="tokens", duration_s=1.0)


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--gpus", "2"], 2, "go together"),
        (["--maximise", "rate"], 2, "go together"),
        (["--gpus", "2", "--maximise", "rates"], 2, "unknown --maximise 'rates'"),
        (["--gpus", "1.5", "--maximise", "rate"], 2, "--gpus 1.5"),
        (["--gpus", "2", "--maximise", "rate", "--rate", "3"], 2, "takes no --rate"),
        (["--gpus", "2", "--maximise", "users", "--conc", "3"], 2, "takes no --conc"),
        (["--gpus", "2", "--maximise", "rate", "--hours", "0-23:1"], 2, "takes no --hours"),
    ],
)
def test_what_cannot_be_maximised_is_said(
    flags: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*COMMAND, *flags]) == code
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_the_api_says_what_the_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--gpus", "2", "--maximise", "users", "--tpot", "20", "--format", "json"]
    assert run([*COMMAND, *flags]) == 0
    told = json.loads(capsys.readouterr().out)
    found = ds.carried(
        gpus=2, maximise="users", tpot=20, model="qwen3-8b", gpu="h200", tp=1, method="none",
        isl=500, osl=50, runs=1,
    )  # fmt: skip
    assert found.to_dict() == told
    assert found.verdict == told["verdict"]


@pytest.fixture(scope="module")
def carried() -> ds.Carried:
    return ds.carried(
        gpus=4, maximise="users", tpot=20, config={**FIELDS, "tp": 1, "osl": 50},
        method=["none", "dflash"], acceptance="al:4", price={"h200": 2.0},
        from_launch="python -m sglang_router.launch_server --model-path Qwen/Qwen3-8B",
    )  # fmt: skip


def test_the_router_of_a_launch_is_its_router(carried: ds.Carried) -> None:
    assert carried.found.question.router == "cache-aware"
    router = yaml.safe_load(carried.compose())["services"]["router"]["command"]
    assert router[router.index("--policy") + 1] == "cache_aware"


def test_files_and_the_page_start_what_carries_most(carried: ds.Carried, tmp_path: Path) -> None:
    best = carried.found.best
    services = yaml.safe_load(carried.compose())["services"]
    servers = [s for name, s in services.items() if name.startswith("server-")]
    assert len(servers) == best.replicas == 4
    pods = next(o for o in yaml.safe_load_all(carried.kubernetes()) if o["kind"] == "Deployment")
    assert pods["spec"]["replicas"] == 4
    (container,) = pods["spec"]["template"]["spec"]["containers"]
    assert container["command"] == servers[0]["command"]
    text = carried.report(tmp_path / "carried.html").read_text(encoding="utf-8")
    launch = " ".join(w for w in servers[0]["command"] if w not in ("--host", "0.0.0.0"))
    assert launch.split(" --port")[0] in text
    assert "h200 at 2 USD/h as given" in text
    shown = dict(keys_of(text))
    assert shown == {c.title: Palette([c.title])[c.title].colour if c.block else "var(--muted)"
        for c in carried.found.carried}  # fmt: skip


def test_slots_of_the_engine_are_told_with_what_more_of_them_carry() -> None:
    """As many users more as slots, until memory is full; nothing is said of a cap that is tried."""
    found = most(asked(Slo()), gpus=1, what="users", duration_s=1.0)
    index = 2
    own, lift = next(c for c in found.carried if c.index == index), found.lifted[index]
    capped = found.question.candidates[index].model_copy(update={"max_running_requests": 192})
    assert (own.most, lift) == (48, Lifted("--max-running-requests 192", 192))
    told = said(found)[-1]
    assert told.startswith("h200/tp1/dflash/block16 carries 48 with the 48 requests of a server")
    assert told.endswith("192 with --max-running-requests 192.")
    assert any("--max-running-requests default,192 tries more beside" in n for n in notes(found))
    as_much = replace(found, lifted={index: replace(lift, most=48.0)})
    assert "add nothing" in said(as_much)[-1]
    assert not any("max-running" in note for note in notes(as_much))
    both = replace(found.question, candidates=(*found.question.candidates[::2], capped))
    tried = most(both, gpus=1, what="users", duration_s=1.0)
    assert 1 not in tried.lifted
    assert not any("max-running" in line for line in [*said(tried), *notes(tried)])
    (more,) = [c for c in tried.carried if c.index == index]
    assert more.most == 192
    assert cells(tried, more)[HEADS.index("cap")] == "192"


def test_what_is_in_doubt_is_in_the_first_sentence() -> None:
    """Of a GPU without any measurement the headline is no promise, and no note takes it back."""
    found = most(
        Question(
            tuple(Scenario.parse(**{**FIELDS, "gpu": "l40s"}, rate=1.0, tp=1, method=m)
                  for m in ("none",)),
            of_rate(Scenario.parse(**FIELDS, rate=1.0, tp=1, method="none", num_prompts=200)),
            Slo(tpot_s=0.05),
        ),
        gpus=1, what="users", duration_s=1.0,
    )  # fmt: skip
    assert "at 90 %, but no measurement on" in said(found)[0]
    assert not [note for note in notes(found) if note.startswith("unconfirmed")]


def test_the_command_writes_its_page_and_its_files(tmp_path: Path) -> None:
    flags = ["--gpus", "2", "--maximise", "users", "--tpot", "20"]
    files = {"--html": "p.html", "--write-compose": "c.yaml", "--write-k8s": "k.yaml"}
    words = [w for flag, name in files.items() for w in (flag, str(tmp_path / name))]
    assert run([*COMMAND, *flags, *words, "-o", str(tmp_path / "page.txt")]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {*files.values(), "page.txt"}
