"""Explanations: factors multiply, parts add up, slopes and break-even points hold."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import log, prod
from pathlib import Path
from typing import Any

import pytest
import typer

from dflash_sim.cli import app, run
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.predict import Result, predict
from dflash_sim.simulator.requests.other_laws import with_accept_length
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.simulator.trial import run_engine
from dflash_sim.simulator.whatif import changed, host_stages, with_faster_gpu, with_host
from dflash_sim.studies.explain.break_even import AtBlock, BreakEven, break_even, jumps
from dflash_sim.studies.explain.burden import Burden, burden, growth
from dflash_sim.studies.explain.elasticities import STEP, elasticities
from dflash_sim.studies.explain.explain import Explanation, explain, simulations, to_json
from dflash_sim.studies.explain.page import burden_words, explanation_page
from dflash_sim.studies.explain.replay import Replay
from dflash_sim.studies.explain.step_anatomy import anatomy, typical_step
from dflash_sim.studies.explain.waterfall import MODES, waterfall
from dflash_sim.studies.show.files import as_text
from dflash_sim.studies.show.terminal import as_page

SMALL = {"model": "qwen3-8b", "isl": 64, "osl": 200, "num_prompts": 12, "runs": 2}
WORDS = "--model qwen3-8b --isl 64 --osl 32 --num-prompts 4 --runs 1"


def scenario(**fields: Any) -> Scenario:
    return Scenario.parse(**(SMALL | fields))


def asked(**fields: Any) -> tuple[Result, Replay]:
    result = predict(scenario(**fields), with_interval=False)
    return result, Replay(result.setup)


# ---- what a cycle takes beyond a step ------------------------------------------------------


def test_the_parts_of_a_burden_are_what_the_cycle_takes_beyond_a_step() -> None:
    result, _ = asked(conc=4, acceptance="fixed:2")
    assert result.baseline is not None
    for requests, host in ((1, False), (4, True)):
        b = burden(result, requests=requests, ctx=150.0, host=host)
        assert sum(b.parts.values()) == pytest.approx(b.cycle_s - b.plain_s)
        assert b.steps == pytest.approx(1 + sum(b.share(part) for part in b.parts))
        took = result.setup.step.decode_s(requests, 150.0 * requests)
        exposed = result.values["host_exposed_ms"] / 1e3 if host else 0.0
        assert b.cycle_s == pytest.approx(took + exposed)
    assert b.parts["drafting"] > 0


def test_the_burden_names_what_weighs_most_and_what_grows() -> None:
    kinds = {"experts": 0.004, "drafting": 0.001, "host": 0.0}
    one = Burden(1, 100.0, 0.01, 0.012, {"experts": 0.001, "drafting": 0.001})
    many = Burden(8, 100.0, 0.01, 0.015, kinds)
    assert many.heaviest[0] == "experts"
    assert growth(one, many) == ("experts", pytest.approx(0.3))
    words = burden_words((one, many))
    assert "8 requests takes 1.50 plain steps: 5.00 ms more (experts 4.00, drafting 1.00)" in words
    assert "grows most is experts, by 0.30" in words
    assert "grows" not in burden_words((many,))


# ---- the waterfall -------------------------------------------------------------------------

WAYS = [
    {"conc": 1},
    {"conc": 8},
    {"conc": 8, "engine_mode": "v1"},
    {"conc": 8, "engine_mode": "v2-sync"},
    {"conc": 60, "num_prompts": 90, "runs": 1},
    {"rate": 20.0},
    {"acceptance": "sglang-simulated:3.2", "conc": 4},
    {"method": "mtp", "steps": 3, "model": "qwen3.5-9b", "acceptance": "al:2.8", "conc": 4},
    {"method": "diffusion-only", "acceptance": "al:2", "conc": 4},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda w: "-".join(map(str, w.values())))
def test_factors_multiply_to_the_speed_up(way: dict[str, Any]) -> None:
    """Of a prediction made apart; every rung is the one before times its factor."""
    result, replay = asked(**way)
    rungs = waterfall(result, replay)
    apart = predict(scenario(**way), with_interval=False)
    assert apart.baseline is not None
    expected = apart.speedup
    if "rate" in way:
        expected = apart.baseline.values["mean_tpot_ms"] / apart.values["mean_tpot_ms"]
    assert prod(r.factor for r in rungs) == pytest.approx(expected, rel=1e-12)
    for before, after in pairwise(rungs):
        assert after.speed_tok_s == pytest.approx(before.speed_tok_s * after.factor, rel=1e-12)
    names = [r.name for r in rungs]
    assert ("fewer at once" in names) == (way.get("conc") == 60 or "rate" in way)
    last = ["host and GPU in turns", "V2 worker", "overlap"]
    modes = MODES.index(way.get("engine_mode", "v2")) + 1
    assert names[-modes:] == last[:modes]


def test_each_change_goes_its_way() -> None:
    """Work makes it slower, acceptance and overlap make it faster, each more than noise."""
    result, replay = asked(conc=4, runs=3)
    factor = {r.name: r.factor for r in waterfall(result, replay)}
    assert factor["acceptance"] > 2
    assert factor["without host time"] >= 1
    for name in ("verification", "drafting", "bookkeeping", "host and GPU in turns"):
        assert factor[name] < 0.9995, name
    for name in ("V2 worker", "overlap"):
        assert factor[name] > 1.0005, name


@pytest.mark.parametrize("commit", [2, 5, 16])
def test_accepting_alone_is_worth_the_tokens_of_a_step(commit: int) -> None:
    """One request, long answers: the factor is the tokens of a step, but for the prefill."""
    way = {"conc": 1, "osl": 1601, "num_prompts": 2, "runs": 1, "acceptance": f"fixed:{commit}"}
    result, replay = asked(**way)
    factor = {r.name: r.factor for r in waterfall(result, replay)}
    assert factor["acceptance"] == pytest.approx(commit, rel=0.02)


def test_work_is_worth_the_time_of_a_step() -> None:
    """With the same requests, the other factors are ratios of step times."""
    way = {"conc": 1, "isl": 1, "osl": 1601, "num_prompts": 1, "runs": 1, "acceptance": "fixed:16"}
    result, replay = asked(**way)
    factor = {r.name: r.factor for r in waterfall(result, replay)}
    assert result.baseline is not None
    v, p = result.values, result.baseline.values
    plain = p["verify_ms"] + p["other_ms"]
    wide = v["verify_ms"] + p["other_ms"]
    drafted = wide + v["draft_ms"] + v["materialise_ms"]
    whole = drafted - p["other_ms"] + v["other_ms"] + v["commit_ms"]
    assert factor["verification"] == pytest.approx(plain / wide, rel=0.01)
    assert factor["drafting"] == pytest.approx(wide / drafted, rel=0.01)
    assert factor["bookkeeping"] == pytest.approx(drafted / whole, rel=0.01)


def test_a_host_without_time_is_one() -> None:
    result, _ = asked()
    engine = result.setup.engine
    idle = replace(result.setup, engine=with_host(engine, 0.0))
    assert idle.host == HostTime.none()
    assert idle.step.decode_s(4, 400) == result.setup.step.decode_s(4, 400)
    assert {"recv_requests", "process_batch_result", "d2h_sync"} <= host_stages(engine)


# ---- the step ------------------------------------------------------------------------------

STEPS = [
    {"model": "qwen3-8b"},
    {"model": "qwen3.5-397b-a17b"},
    {"model": "qwen3.5-397b-a17b", "method": "mtp", "steps": 3},
    {"model": "llama-3.1-8b", "method": "eagle3", "steps": 5},
    {"model": "gpt-oss-20b", "gpu": "h100"},
    {"model": "qwen3-8b", "gpu": "mi300x"},
    {"model": "qwen3-8b", "method": "none"},
]


@pytest.mark.parametrize("way", STEPS, ids=lambda w: "-".join(map(str, w.values())))
@pytest.mark.parametrize(("requests", "ctx"), [(1, 128.0), (7, 4096.0), (40, 1000.0)])
def test_ops_add_up_to_the_step(way: dict[str, Any], requests: int, ctx: float) -> None:
    """As the engines price it; at a node of the tables no op is off either."""
    setup = resolve(Scenario.parse(**({"acceptance": None} | way)))
    found = anatomy(setup, requests=requests, ctx=ctx)
    step_s = setup.step.decode_s(requests, requests * ctx)
    assert found.seconds == pytest.approx(step_s, rel=1e-12)
    assert sum(op.seconds for op in found.ops) == pytest.approx(step_s, rel=1e-12)
    for phase in found.phases:
        ops = [op for op in found.ops if op.phase == phase.name]
        assert sum(op.seconds for op in ops) == pytest.approx(phase.seconds, rel=1e-12)
        assert sum(phase.by_evidence) == pytest.approx(phase.seconds, rel=1e-12)
        rest = [op.seconds for op in ops if not op.launches]
        assert min(rest) >= -1e-9 * step_s if ctx != 1000 else min(rest) > -0.01 * step_s


def test_no_product_beats_the_data_sheet() -> None:
    """Measured matrix products stay below the peaks of B200, whose cache holds no weights."""
    for model in ("qwen3-8b", "qwen3.5-397b-a17b"):
        setup = resolve(Scenario.parse(model=model))
        for requests in (1, 32):
            for op in anatomy(setup, requests=requests, ctx=2000.0).ops:
                if op.op.endswith("_proj") or op.op.endswith("lm_head"):
                    assert 0.02 < max(op.memory_share, op.compute_share) < 1, op


def test_roofline_prices_are_where_the_sheet_puts_them() -> None:
    """Where nothing was measured, a large product runs at the assumed share of a peak."""
    setup = resolve(Scenario.parse(model="qwen3-8b", gpu="mi300x"))
    ops = {(op.phase, op.op): op for op in anatomy(setup, requests=1, ctx=2000.0).ops}
    head = ops["verify", "lm_head"]
    slow = setup.engine["time_factor"]
    share = setup.engine["weight_stream_bw_eff"]
    whole = head.nbytes / (share * setup.device.mem_bw_byte_s)
    assert head.bound == "memory"
    assert head.seconds == pytest.approx(slow * (whole + setup.engine["roofline_launch"]), rel=1e-9)
    assert head.memory_share == pytest.approx(
        head.nbytes / setup.device.mem_bw_byte_s / head.seconds
    )


def test_the_typical_step_is_of_the_run() -> None:
    result, replay = asked(conc=5, num_prompts=20, runs=1)
    requests = replay.requests(0)
    record = run_engine(result.setup, requests.workload, requests.draws(result.expectation))
    batch, ctx = typical_step(record)
    assert batch == 5
    assert 64 < ctx < 64 + 200 + 16


# ---- elasticities --------------------------------------------------------------------------


def slopes(**fields: Any) -> dict[str, float]:
    result, replay = asked(**fields)
    return {e.name: e.elasticity for e in elasticities(result, replay)}


def test_shares_of_the_host_add_up() -> None:
    """In V1 every stage shows: the slope of all stages is the sum of their slopes."""
    found = slopes(engine_mode="v1", conc=4, runs=1)
    stages = host_stages(resolve(scenario()).engine)
    alone = sum(slope for name, slope in found.items() if name in stages)
    assert found["host time"] == pytest.approx(alone, rel=0.02)
    assert found["host time"] < -0.05


def test_hidden_stages_move_nothing() -> None:
    found = slopes(conc=4, runs=1)
    assert abs(found.get("host time", 0.0)) < 0.01
    assert found["memory bandwidth"] > 0.3


def test_all_rates_and_all_fixed_times_are_everything() -> None:
    """Twice the rates and half of every fixed time is twice as fast: the slopes add up to one."""
    result, replay = asked(model="qwen3-4b", gpu="mi300x", conc=2, runs=1, acceptance="al:4")
    found = {e.name: e.elasticity for e in elasticities(result, replay)}
    rates = ("memory bandwidth", "compute rate", "link bandwidth")
    sheet = result.setup.engine.constants
    times = [name for name in found if name in sheet and sheet[name].unit in ("us", "ms", "s")]
    fixed = [name for name in times if name not in host_stages(result.setup.engine)]
    whole = sum(found.get(name, 0.0) for name in rates) - sum(found[name] for name in fixed)
    whole -= found.get("host time", 0.0)
    assert whole == pytest.approx(1, abs=0.01)
    assert len(fixed) > 5


def test_a_faster_gpu_is_faster_by_its_bound() -> None:
    """Doubling a rate halves what is beyond a launch, of ops under that ceiling only."""
    setup = resolve(Scenario.parse(model="qwen3-8b"))
    fast = with_faster_gpu(setup, "mem_bw_byte_s", 2.0)
    phases = setup.step.cycle.decode(requests=8, ctx=1000)
    launch = setup.engine["roofline_launch"]
    seen = set()
    for call in phases[1].calls:
        old, new = setup.step.cost.op(call.op), fast.step.cost.op(call.op)
        memory = call.op.nbytes / setup.device.mem_bw_byte_s
        bound = memory >= call.op.flops / setup.device.bf16_flop_s
        timed = old.by_evidence[0] + old.by_evidence[1]
        if not timed:
            assert new.seconds < old.seconds
            continue
        expected = launch + (timed - launch) / 2 if bound else timed
        assert new.seconds - old.seconds == pytest.approx(expected - timed, rel=1e-9)
        seen.add(bound)
    assert True in seen
    wide = with_faster_gpu(setup, "bf16_flop_s", 2.0)
    assert wide.step.decode_s(64, 64_000) < 0.9 * setup.step.decode_s(64, 64_000)
    assert wide.step.decode_s(1, 1000) == setup.step.decode_s(1, 1000)


def test_slopes_are_derivatives() -> None:
    """Half the step gives the same slope: the central difference is in its linear range."""
    result, replay = asked(conc=4, runs=1)
    engine = result.setup.engine
    name = "small_kernel"
    found = {e.name: e.elasticity for e in elasticities(result, replay)}
    few = replay.shorter(8)
    sides = []
    for k in (1 + STEP / 2, 1 / (1 + STEP / 2)):
        other = replace(result.setup, engine=engine.with_constants(**{name: k * engine[name]}))
        sides.append(log(few.speed(other, result.expectation)))
    slope = (sides[0] - sides[1]) / (2 * log(1 + STEP / 2))
    assert found[name] == pytest.approx(slope, rel=0.02)
    assert found[name] < -0.005


# ---- break-even ----------------------------------------------------------------------------


@pytest.mark.parametrize("conc", [1, 8])
def test_at_the_break_even_length_nothing_is_gained(conc: int) -> None:
    """A prediction that is given this accept length is as fast as plain decoding."""
    way = {"conc": conc, "osl": 400, "num_prompts": 24, "runs": 1, "acceptance": "al:5"}
    result, replay = asked(**way)
    even = break_even(result, replay)
    assert even.accept_length is not None
    assert result.expectation is not None
    assert 1 < even.accept_length < 3
    there = with_accept_length(result.expectation, even.accept_length)
    assert replay.speed(result.setup, there) == pytest.approx(even.plain_tok_s, rel=0.005)


def test_break_even_is_the_ratio_of_step_times() -> None:
    """One request without prefill to speak of: accept length equals cycle over plain step."""
    way = {"conc": 1, "isl": 1, "osl": 3000, "num_prompts": 2, "runs": 1, "max_new_tokens": 3000,
        "acceptance": "vllm-synthetic:4"}  # fmt: skip
    result, replay = asked(**way)
    assert result.baseline is not None
    even = break_even(result, replay)
    ratio = result.values["step_ms"] / result.baseline.values["step_ms"]
    assert even.accept_length == pytest.approx(ratio, rel=0.01)


def test_speculation_that_never_pays() -> None:
    """Drafting step by step with a drafter as slow as the target: no accept length is enough."""
    way = {"method": "injection-only", "block": 2, "acceptance": "al:1.5", "conc": 1, "runs": 1}
    result, replay = asked(**way)
    slow = replace(result.setup, engine=result.setup.engine.with_constants(cycle_residue=0.1))
    even = break_even(replace(result, setup=slow), replay)
    assert even.accept_length is None
    assert (even.smallest_block, even.largest_block) == (None, None)


def test_blocks_are_those_of_predict() -> None:
    result, replay = asked(conc=2, runs=1, num_prompts=16)
    even = break_even(result, replay)
    assert [b.block for b in even.blocks] == [2, 3, 4, 6, 8, 12, 16]
    assert (even.smallest_block, even.largest_block) == (2, 16)
    for b in even.blocks:
        other = changed(result.scenario, block=b.block)
        alone = predict(other, with_interval=False, with_baseline=False)
        assert b.speed_tok_s == pytest.approx(alone.values["output_throughput"], rel=1e-12)
    lengths = [b.accept_length for b in even.blocks]
    assert lengths == sorted(lengths)


# ---- the command ---------------------------------------------------------------------------

Answer = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Answer:
    monkeypatch.setenv("DFLASH_SIM_PROFILES", "")

    def call(line: str) -> tuple[int, str, str]:
        code = run(line.split())
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


@pytest.fixture(scope="module")
def small() -> tuple[Explanation, int]:
    """An explanation, and the runs that it took."""
    runs: list[int] = []
    return explain(scenario(conc=2, num_prompts=8), on_run=runs.append), len(runs)


def test_the_object_adds_up(small: tuple[Explanation, int]) -> None:
    found = json.loads(as_text([to_json(small[0])], "json"), parse_constant=pytest.fail)
    factors = prod(rung["factor"] for rung in found["waterfall"])
    assert factors == pytest.approx(found["speedup"], rel=1e-4)
    step = found["step"]
    assert sum(p["seconds"] for p in step["phases"]) == pytest.approx(step["seconds"], rel=1e-4)
    assert sum(o["seconds"] for o in step["ops"]) == pytest.approx(step["seconds"], rel=1e-4)
    shares = [sum(p["source_share"].values()) for p in step["phases"]]
    assert shares == pytest.approx([1.0] * len(shares), abs=1e-5)  # each has six digits
    slopes = [abs(e["elasticity"]) for e in found["elasticities"]]
    assert slopes == sorted(slopes, reverse=True)
    assert all(e["effect"] >= 0 for e in found["elasticities"])
    assert all(g["source"] for g in found["evidence"])
    parts = {"throughput", "accept length", "operator times", "memory bandwidth", "host stages"}
    assert parts <= {g["part"] for g in found["evidence"]}


def test_it_explains_the_prediction(small: tuple[Explanation, int]) -> None:
    found = to_json(small[0])
    predicted = predict(small[0].result.scenario)
    assert found["output_throughput"] == pytest.approx(
        predicted.values["output_throughput"], rel=1e-5
    )
    assert found["speedup"] == pytest.approx(predicted.speedup, rel=1e-5)


def test_the_number_of_runs_is_about_right(small: tuple[Explanation, int]) -> None:
    explanation, runs = small
    assert 0.6 < runs / simulations(explanation.result.scenario) < 1.4


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
def test_the_page_fits_its_terminal(
    small: tuple[Explanation, int], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    page = as_page(explanation_page(small[0]), to_file=True)
    assert max(map(len, page.splitlines())) <= columns
    assert "\x1b" not in page
    assert "…" not in page
    for words in ("From plain decoding to this", "acceptance", "verification", "overlap",
        "A step of 2 requests", "verify", "gate_up_proj", "memory", "What the answer hangs on",
        "memory bandwidth", "breaks even", "tokens a step", "What it rests on",
        "operator times", "sources: measured "):  # fmt: skip
        assert words in page, words


def test_same_bytes_every_time(answer: Answer) -> None:
    one, two = (answer(f"explain {WORDS} --method none --format json") for _ in range(2))
    assert one == two
    assert (one[0], one[2]) == (0, "")
    assert json.loads(one[1])["kind"] == "explanation"


def test_plain_decoding_has_a_step_and_slopes() -> None:
    found = explain(scenario(method="none", num_prompts=8, runs=1))
    page = as_page(explanation_page(found), to_file=True)
    assert "decode" in page
    assert "breaks even" not in page
    assert "From plain decoding" not in page
    row = to_json(found)
    assert (row["waterfall"], row["break_even"], row["speedup"]) == ([], None, None)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("--format csv", ["explanation", "--format csv", "json"]),
        ("--conc 1,2", ["2 scenarios", "--conc", "Give one value"]),
        ("--block 32", ["block 32 is above"]),
        ("-o /nowhere/e.json", ["cannot write", "mkdir -p"]),
    ],
)
def test_mistakes(answer: Answer, typed: str, told: list[str]) -> None:
    code, out, err = answer(f"explain {WORDS} {typed}")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert [words for words in told if words not in err] == []


def test_print_config(answer: Answer) -> None:
    code, out, _ = answer(f"explain {WORDS} --conc 2 --print-config")
    assert code == 0
    assert out == answer(f"predict {WORDS} --conc 2 --print-config")[1]


@pytest.mark.parametrize("name", ["explain", "trace"])
def test_scenario_options_are_those_of_predict(name: str) -> None:
    """Name, type, help and completion."""
    group: Any = typer.main.get_command(app)
    there = {p.name: p for p in group.commands[name].params}
    here = {p.name: p for p in group.commands["predict"].params}
    fields = set(Scenario.model_fields) & set(here) | {"preset", "from_launch", "profiles"}
    assert len(fields) > 30
    for field in fields:
        assert there[field].help == here[field].help
        assert there[field].opts == here[field].opts
    context: Any = None
    found = there["gpu"].shell_complete(context, "b200,h1")
    kinds = ["b200,h100", "b200,h100_nvl", "b200,h100_pcie"]
    assert [getattr(item, "value", item) for item in found] == kinds


class TestJumps:
    """A step that grows faster than before and after is told; one that bends once is not."""

    @staticmethod
    def told(steps_s: dict[int, float]) -> list[str]:
        blocks = tuple(AtBlock(b, 2.0, 2.0 / t, 1.5) for b, t in steps_s.items())
        return jumps(BreakEven(1.0, blocks, 2, 16, 1.5))

    def test_a_constant_and_a_slope_have_none(self) -> None:
        assert self.told({b: max(8.0, float(b)) + 0.1 * b for b in (2, 4, 6, 8, 12, 16)}) == []

    def test_one_that_is_proportional_has_none(self) -> None:
        assert self.told({b: float(b) for b in (2, 4, 8, 16)}) == []

    def test_a_jump_is_named_with_what_hangs_on_it(self) -> None:
        steps = {4: 10.0, 6: 11.0, 8: 17.0, 12: 19.0}
        (said,) = self.told(steps)
        assert said.startswith("From block 6 to 8 a step takes 1.55 x as long for 1.33 x")
        assert "fastest hangs on it" not in said  # all have one accept length: block 4 is best


@pytest.mark.slow
def test_an_explanation_is_a_page(tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    flags = [
        "--model",
        "qwen3-8b",
        "--isl",
        "64",
        "--osl",
        "64",
        "--num-prompts",
        "8",
        "--runs",
        "1",
    ]
    assert run(["explain", *flags, "--html", str(page), "-o", str(tmp_path / "why.txt")]) == 0
    text = page.read_text(encoding="utf-8")
    for words in ("The waterfall", "Other blocks", "What it hangs on", "What it rests on"):
        assert words in text, words
    assert run(["explain", *flags, "--html", str(page), "--phase", "verify"]) == 2
