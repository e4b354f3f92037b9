"""The command's question, its search, what it advises and what it pastes."""

import json
import re
from dataclasses import replace
from functools import partial
from io import StringIO
from itertools import pairwise
from math import exp, log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dflash_sim.cli import run
from dflash_sim.profiles.errors import DflashSimError, InfeasibleError, UsageError
from dflash_sim.simulator.policy.parse import BatchTable, parse_policy
from dflash_sim.studies.ask.question import Given, ask
from dflash_sim.studies.crossover.advice import choices, reason, sentence
from dflash_sim.studies.crossover.axis import axis_of
from dflash_sim.studies.crossover.page import CrossoverPage, folded, interval
from dflash_sim.studies.crossover.paste import settings, sglang_ladder, vllm_table
from dflash_sim.studies.crossover.question import Question, question
from dflash_sim.studies.crossover.report import write_report
from dflash_sim.studies.crossover.rows import crossover_rows, to_json, warnings
from dflash_sim.studies.crossover.search import Crossover, Curve, crossover, curve_of
from dflash_sim.studies.show.launch import sglang_flags
from dflash_sim.studies.show.terminal import as_page

FEW: dict[str, Any] = {
    "gpu": "h200", "model": "qwen3.5-27b", "num_prompts": "8", "max_new_tokens": "256",
}  # fmt: skip


def asked(over: str = "conc", values: Any = None, **flags: Any) -> Question:
    fields, _ = ask({**FEW, **flags}, preset=None, from_launch=None)
    return question(fields, over=over, values=values)


@pytest.fixture(scope="module")
def made() -> Question:
    return asked(method="mtp,dflash", steps="3", block="8", values="1-64:x4")


def straight(made: Question, at: list[float], *, least: float = 1.0) -> Crossover:
    """An answer whose gains fall by 1 for each factor e, from the logs of ``at``."""
    curves = []
    for setup, crossing in zip(made.candidates, at, strict=True):
        server: Any = SimpleNamespace(
            axis=made.axis,
            base=setup,
            title=setup.method.name,
            values=_values(setup, crossing),
            setup=partial(made.axis.setup, setup),
        )
        plain: Any = SimpleNamespace(
            axis=made.axis,
            base=made.plain,
            title="plain decoding",
            values=_values(made.plain, None),
            setup=partial(made.axis.setup, made.plain),
        )
        curve = curve_of(server, plain, [v for v in made.values if v >= least], interval=False)
        curves.append(curve)
    return Crossover(made, tuple(curves), (), False)


def _values(setup: Any, crossing: float | None) -> Any:
    def values(value: float) -> dict[str, float]:
        if crossing == 0:
            msg = "does not fit"
            raise InfeasibleError(msg)
        gain = 0.0 if crossing is None else log(crossing / value)
        return {
            "output_throughput": 100.0 * exp(gain),
            "mean_batch": min(value, setup.limits.max_running_requests),
            "step_ms": 1.0 if crossing is None else 3.0,
            "accept_length_cycle": 3.0,
        }

    return values


# ---- the search --------------------------------------------------------------------------


@pytest.mark.parametrize("crossing", [1.7, 5.0, 23.0, 63.0])
def test_a_crossing_is_found_to_a_tenth(made: Question, crossing: float) -> None:
    found = straight(made, [crossing, crossing])
    for curve in found.curves:
        assert curve.until.value == pytest.approx(crossing, rel=0.05)
        assert curve.pays == "until"
        assert len(curve.values) < 15


def test_never_and_always_are_answers(made: Question) -> None:
    found = straight(made, [0.5, 1e3])
    assert [curve.pays for curve in found.curves] == ["never", "always"]
    assert sentence(found) == "Use dflash: it is the fastest from 1 to 64 requests at once."
    assert sentence(straight(made, [0.5, 0.7])).startswith("Use plain decoding: no method beats")


def test_a_dip_within_error_is_told_of_one_that_always_pays(made: Question) -> None:
    curve = straight(made, [1e3, 1e3]).curves[0]
    assert curve.pays == "always"
    places, count = curve.values, len(curve.values)
    for dip, said in (([], "always"), ([1], "within error at 4"), ([1, 2], "error from 4 to 16")):
        gain = np.array([0.1 if i in dip else 0.9 for i in range(count)])
        told = replace(curve, gain=gain, sd=np.full(count, 0.2))
        assert told.within_error == (((places[dip[0]], places[dip[-1]]),) if dip else ())
        assert interval(told).endswith(said)
        assert ("always" in interval(told)) == (not dip)
        row = crossover_rows(Crossover(made, (told,)))[0]
        assert row["within_error"] == [list(ends) for ends in told.within_error]


def test_a_table_that_is_too_wide_leaves_out_every_other_place(made: Question) -> None:
    """No gap of two, the ends are there; places of context are told briefly."""
    wide = replace(made, values=tuple(float(2**n) for n in range(9)))
    found = straight(wide, [1e3, 1e3])
    console = Console(width=88, record=True, file=StringIO())
    console.print(CrossoverPage(found))
    head = next(x for x in console.export_text().splitlines() if x.startswith("method"))
    places = [int(x) for x in re.findall(r"at (\d+)", head)]
    assert (places[0], places[-1]) == (1, 256)
    assert 3 < len(places) < 9
    assert max(b / a for a, b in pairwise(places)) <= 4
    assert [axis_of("context").briefly(x) for x in (512, 1000, 8192)] == ["512", "1,000", "8k"]


def test_servers_that_are_unlike_are_named(made: Question) -> None:
    """A side that throws requests out, and sides that run different numbers of requests."""
    found = straight(made, [1e3, 1e3])
    assert not [w for w in warnings(found) if "thrown out" in w]
    curve, inner = found.curves[1], found.curves[1].plain.values
    object.__setattr__(
        curve.plain, "values", lambda v: inner(v) | {"retractions": 3.0 if v == 16 else 0.0}
    )
    (line,) = [w for w in warnings(found) if "thrown out" in w]
    assert line.startswith("plain decoding: the KV cache runs out at 16 requests at once")
    assert "at 16 requests at once so many with plain decoding do not fit" in sentence(found)
    few = asked(method="dflash", block="8", values="1-64:x4", max_running_requests="8")
    unlike = replace(few, plain=made.plain)
    said = [w for w in warnings(straight(unlike, [1e3])) if "unlike servers" in w]
    assert len(said) == 1
    assert "8 requests at once" in said[0]
    assert not [w for w in warnings(straight(few, [1e3])) if "unlike servers" in w]


def test_each_position_is_asked_once(made: Question) -> None:
    runs: list[int] = []
    few = replace(made, values=(1.0, 8.0), candidates=made.candidates[:1])
    crossover(few, interval=False, on_run=runs.append)
    assert len(runs) == 4  # two servers at two places: nothing crosses


def test_the_answer_does_not_depend_on_who_asks_first(made: Question) -> None:
    few = replace(made, values=(1.0, 16.0))
    one = crossover(few, interval=False)
    two = crossover(replace(few, candidates=few.candidates[::-1]), interval=False)
    for a, b in zip(one.curves, two.curves[::-1], strict=True):
        np.testing.assert_array_equal(a.gain, b.gain)


def test_a_speedup_is_that_of_predict(made: Question) -> None:
    from dflash_sim.simulator.predict import predict

    few = replace(made, values=(1.0, 4.0), candidates=made.candidates[:1])
    curve = crossover(few, interval=False).curves[0]
    setup = few.axis.setup(few.candidates[0], 4.0)
    result = predict(setup.scenario.model_copy(update={"runs": 1}), with_interval=False)
    assert exp(curve.gain[-1]) == pytest.approx(result.speedup, rel=1e-9)


def test_an_interval_is_that_of_predict() -> None:
    """What is uncertain of one speed-up is what predict says of it, prices of kernels included."""
    from dflash_sim.simulator.predict import predict

    made = asked(method="dflash", block="8", values="4,8")
    curve = crossover(made).curves[0]
    setup = made.axis.setup(made.candidates[0], 8.0, own_prices=True)
    result = predict(setup.scenario.model_copy(update={"runs": 1}))
    low, high = result.intervals["speedup"]
    half = 1.645 * curve.sd[-1]
    assert exp(curve.gain[-1] - half) == pytest.approx(low, rel=1e-6)
    assert exp(curve.gain[-1] + half) == pytest.approx(high, rel=1e-6)


def test_a_small_accept_length_never_pays() -> None:
    """At one token a cycle speculation is a loss, at a full block a win, with an end between."""
    made = asked("accept", gpu="b200", method="dflash", block="8", conc="4", values="1,2,4,8")
    curve = crossover(made, interval=True).curves[0]
    assert curve.pays == "from"
    assert 1 < curve.since.value < 4
    assert curve.since.low < curve.since.value < curve.since.high < 4


def test_the_accept_length_that_pays_is_that_of_explain() -> None:
    """Two rooms look for it in two ways: bisection over servers, and a fixed point of one."""
    from dflash_sim.simulator.predict import predict
    from dflash_sim.studies.explain.break_even import break_even
    from dflash_sim.studies.explain.replay import Replay

    made = asked("accept", method="dflash", block="8", conc="4", values="1,2,4,8")
    curve = crossover(made, interval=False).curves[0]
    scenario = made.candidates[0].scenario.model_copy(update={"runs": 1})
    result = predict(scenario, with_interval=False)
    found = break_even(result, Replay(result.setup)).accept_length
    assert curve.since.value == pytest.approx(found, rel=0.04)


def test_context_moves_the_prompt() -> None:
    made = asked("context", method="mtp", steps="3", values="512,8192")
    setups = [made.axis.setup(made.candidates[0], v) for v in made.values]
    assert [s.scenario.isl for s in setups] == [512, 8192]
    assert {(s.scenario.dataset, s.scenario.content) for s in setups} == {(None, "humaneval")}
    assert {s.scenario.osl for s in setups} == {256}  # answers that all end at the cap
    fixed = asked("context", method="mtp", steps="3", isl="512,2048", osl="64", acceptance="al:3")
    assert fixed.values == (512, 2048)
    assert fixed.axis.setup(fixed.candidates[0], 2048).scenario.isl == 2048


# ---- advice and settings -----------------------------------------------------------------


def test_the_best_of_each_stretch(made: Question) -> None:
    found = straight(made, [8.0, 32.0])
    assert [c.setup.method.name for c in found.curves] == ["mtp", "dflash"]
    parts = choices(found)
    assert [(p.title, p.first, p.last) for p in parts] == [
        ("dflash", 1, 31),
        ("plain decoding", 32, 64),
    ]
    assert sentence(found) == "Use dflash up to 31 requests at once; plain decoding above."
    why = reason(found.curves[0])
    assert why.endswith("a cycle takes 3.00 x a plain step and gives 3.00 tokens")


def test_pasted_tables_are_those_of_the_engines(made: Question) -> None:
    found = straight(made, [8.0, 4.0])
    told = {s.engine: s.text for s in settings(found)}
    flags = told["SGLang, 1 to 7"]
    assert flags == (
        "--speculative-algorithm NEXTN --speculative-num-steps 3 --speculative-eagle-topk 1 "
        "--speculative-num-draft-tokens 4"
    )
    assert told["SGLang, 8 to 64"] == "(no --speculative-algorithm)"
    config = json.loads(told["vLLM, by batch size"].split("'")[1])
    rows = config["num_speculative_tokens_per_batch_size"]
    assert (config["method"], config["num_speculative_tokens"]) == ("mtp", 3)
    cap = made.plain.limits.max_running_requests
    assert cap < 64, "so many are in flight, and no batch is so large"
    assert rows == [[1, 7, 3], [8, cap, 0]]
    table = parse_policy(f"table:{json.dumps(rows)}", block=4)  # which refuses what vLLM does
    assert isinstance(table, BatchTable)
    assert json.loads(told["ladder.json"]) == {
        "1": {"candidate_steps": [3]},
        "8": {"candidate_steps": [0]},
    }
    assert "--speculative-adaptive-config ladder.json" in told["SGLang, by batch size"]


def test_a_block_drafter_has_its_repository_and_no_ladder(made: Question) -> None:
    found = straight(made, [4.0, 8.0])
    told = {s.engine: s.text for s in settings(found)}
    assert "--speculative-draft-model-path z-lab/Qwen3.5-27B-DFlash" in told["SGLang, 1 to 7"]
    assert "--speculative-num-draft-tokens 8" in told["SGLang, 1 to 7"]
    assert "ladder.json" not in told
    assert sglang_flags(found.curves[1].setup) == told["SGLang, 1 to 7"]


def test_a_drafter_without_a_repository_is_for_the_reader_to_name() -> None:
    """A sheet of a public training config: a short name of ours is no path of a checkpoint."""
    made = asked(model="qwen3-8b", method="dspark", acceptance="al:4")
    told = [s.text for s in settings(straight(made, [8.0]))]
    assert "--speculative-draft-model-path PATH_OF_YOUR_DRAFTER" in told[0]
    assert not any("qwen3-8b-dspark" in text for text in told)


def test_clients_are_told_how_answers_are_sampled(made: Question) -> None:
    """No flag of a launch says it, so it is a line for those that send requests."""
    assert "Clients" not in {s.engine for s in settings(straight(made, [8.0, 4.0]))}
    found = straight(asked(temperature=0.6, top_k=20, acceptance="al:3"), [8.0, 4.0])
    told = {s.engine: s.text for s in settings(found)}
    assert told["Clients"] == '# {"temperature": 0.6, "top_k": 20}'


def test_clients_are_told_the_temperatures_of_each_stretch() -> None:
    made = asked("temperature", values="0,1", method="mtp", steps="3", top_k=20, acceptance="al:3")
    found = crossover(made, interval=False)
    told = {s.engine: s.text for s in settings(found) if s.engine.startswith("Clients")}
    assert told == {"Clients, 0 to 1": '# {"temperature": 1.0, "top_k": 20}'}


def test_a_place_that_no_flag_gave_is_left_out_with_a_note() -> None:
    """That of a preset, a file or a launch is the point of a question of another kind."""
    fields, _ = ask({**FEW, "method": "dflash"}, preset=None, from_launch=None)
    fields["conc"] = Given(5, "study.yaml")
    made = question(fields, over="conc", values="1,2")
    assert made.notes[0].endswith("that of study.yaml is left out")
    assert made.candidates[0].scenario.conc == 1
    same = asked(method="dflash", values="1,2")
    assert made.candidates[0].scenario == same.candidates[0].scenario


def test_answers_of_one_length_need_no_prompt() -> None:
    made = asked("context", method="dflash", osl="64", acceptance="al:3")
    assert made.values[0] == made.candidates[0].scenario.isl == 512


def test_flags_parse_as_a_launch(made: Question) -> None:
    from dflash_sim.calibrate.observations.launch_command import scenario_from_launch

    for setup in made.candidates:
        launch = f"python -m sglang.launch_server --model-path Qwen/Qwen3.5-27B --tp 1 \
            {sglang_flags(setup)}"
        fields = scenario_from_launch(launch, None).fields
        assert fields["method"] == setup.method.name
        width = fields.get("block") or fields["steps"] + 1
        assert width == setup.block


def test_tables_begin_at_one(made: Question) -> None:
    from_four = replace(made, values=(4.0, 64.0))
    found = straight(from_four, [8.0, 8.0], least=4.0)
    assert vllm_table(choices(found), made.plain)[0][0] == 1
    assert set(json.loads(sglang_ladder(choices(found), made.plain))) == {"1", "8"}


def test_tables_end_at_the_largest_batch_that_ran(made: Question) -> None:
    """Drafts up to the cap of the server that drafts, none from there: no batch comes twice."""
    always = straight(made, [8.0, 1e3])
    cap = always.curves[1].setup.limits.max_running_requests
    plain = made.plain.limits.max_running_requests
    assert cap < plain < 64
    assert vllm_table(choices(always, always.curves[1:]), made.plain) == [[1, cap, 7]]
    until = straight(made, [8.0, 40.0])
    rows = vllm_table(choices(until, until.curves[1:]), made.plain)
    assert rows == [[1, cap, 7], [cap + 1, plain, 0]]
    told = next(s for s in settings(until) if s.engine == "vLLM, by batch size")
    assert "prices are SGLang's" in told.note


def test_folded_flags_are_one_command() -> None:
    text = "--speculative-algorithm DFLASH --speculative-num-draft-tokens 16 --page-size 64"
    lines = folded(text, 50).splitlines()
    assert len(lines) > 1
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert " ".join(line.rstrip("\\").strip() for line in lines) == text


# ---- pages and files ---------------------------------------------------------------------


def test_every_form_says_the_same(made: Question, tmp_path: Path) -> None:
    found = straight(made, [8.4, 32.4])
    page = as_page(CrossoverPage(found), to_file=True)
    assert sentence(found) in page
    assert "up to 8 " in page
    assert "up to 32 " in sentence(found)
    data = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert data["answer"] == sentence(found)
    assert [row["pays"] for row in crossover_rows(found)] == ["until", "until"]
    assert data["servers"][1]["pays_until"] == pytest.approx(32, rel=0.05)
    path = tmp_path / "x.html"
    write_report(path, found)
    html = path.read_text(encoding="utf-8")
    assert sentence(found) in html
    assert "Speed-up by requests at once" in html


# ---- bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"method": "none"}, "nothing to compare with plain decoding"),
        ({"method": "turbo"}, "unknown method 'turbo'"),
        ({"over": "batch"}, "unknown --over 'batch'"),
        ({"rate": "4"}, "crossover compares closed loops"),
        ({"policy": "ema"}, "crossover compares fixed widths"),
        ({"gpu": "b200,h200"}, "give one value of --gpu"),
        ({"values": "8"}, "a crossing lies between two"),
        ({"values": "1-8", "conc": "1,2"}, "give one of them"),
        ({"values": "8-1"}, "runs backwards"),
        ({"values": "0.5,1"}, "not a whole number"),
        ({"block": "8,x"}, "'x' is not a whole number"),
        ({"method": "dflash", "block": "1,8"}, "--block 1"),
        ({"over": "accept", "acceptance": "al:3"}, "asks which accept length pays"),
        ({"conc": "5", "values": "1,2"}, "--conc 5: --over conc changes it"),
        ({"conc": "5"}, "--conc 5: --over conc changes it"),
        ({"over": "context", "isl": "4096", "osl": "64"}, "--isl 4096: --over context changes it"),
        ({"over": "temperature", "temperature": 0.6, "values": "0,1"}, "--temperature 0.6: --over"),
    ],
)
def test_bad_questions_are_one_line(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        asked(**flags)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_range_where_nothing_fits_says_which_end(made: Question) -> None:
    with pytest.raises(DflashSimError, match=r"runs nowhere from 1 to 64 .* at 1: does not fit"):
        straight(made, [0, 8.0])
    server = SimpleNamespace(axis=made.axis, base=made.candidates[0], title="mtp")
    plain: Any = SimpleNamespace(axis=made.axis, base=made.plain, values=_values(made.plain, None))

    def values(value: float) -> dict[str, float]:
        if value > 1:
            msg = "too many"
            raise InfeasibleError(msg)
        return {"output_throughput": 1.0}

    server.values = values
    with pytest.raises(InfeasibleError, match="only 1 is left, the upper end does not run; at 4"):
        curve_of(server, plain, made.values, interval=False)  # type: ignore[arg-type]


def test_nobody_named_is_nobody_refused() -> None:
    """Without --method, what the model has is compared, and the rest is told."""
    found = asked(model="qwen3-8b", values="1,8")
    assert [s.method.name for s in found.candidates] == ["dflash"]
    assert "mtp is left out: qwen3-8b has no native MTP layer" in found.notes[0]
    with pytest.raises(UsageError, match="no native MTP layer"):
        asked(model="qwen3-8b", method="dflash,mtp")


def test_trees_are_compared() -> None:
    """A tree has steps and a width of its own; a block beside it has no branching."""
    made = asked(method="mtp,dflash", steps="3", topk="2", block="8", values="1,8")
    tree, block = made.candidates
    assert (tree.scenario.topk, tree.scenario.steps, tree.block, tree.most_tokens) == (2, 3, 8, 4)
    assert (block.scenario.topk, block.block) == (1, 8)
    over = asked("accept", method="mtp", steps="3", topk="2", block="8", values="1,2,4,6")
    assert crossover(over, interval=False).curves[0].values[-1] == 4  # a path, not the width
    chains = asked(method="mtp", steps="2,3", block="8", values="1,8").candidates
    assert [s.block for s in chains] == [3, 4]
    with pytest.raises(UsageError, match="makes a tree: give --steps, and with --block"):
        asked(method="mtp", topk="2", values="1,8")
    with pytest.raises(UsageError, match="method dflash takes no topk"):
        asked(method="dflash", topk="2", values="1,8")


def test_nothing_is_said_beyond_what_runs() -> None:
    """Where no server runs, plain decoding is no advice: the answer ends before."""
    far = asked(method="mtp", steps="3", values="1,8,2000000", num_prompts=None)
    found = crossover(far, interval=False)
    assert sentence(found).endswith("it is the fastest from 1 to 8 requests at once.")
    assert [value for value, _ in found.curves[0].missing] == [2e6]
    page = as_page(CrossoverPage(found), to_file=True)
    assert "does not run at 2,000,000: 2,00" in page


def test_more_tokens_than_a_cycle_verifies_are_refused() -> None:
    with pytest.raises(UsageError, match="20, 30 are above the 8 tokens that block 8 can give"):
        crossover(asked("accept", method="dflash", block="8", values="20,30"))
    with pytest.raises(UsageError, match="20 is above the 8 tokens that block 8 can give"):
        crossover(asked("accept", method="dflash", block="8", values="2,20"))


def test_prompts_end_where_the_context_does() -> None:
    made = asked("context", method="mtp", steps="3", values="512,1000000")
    with pytest.raises(InfeasibleError, match="only 512 is left, the upper end does not run; at"):
        crossover(made, interval=False)


def test_a_temperature_is_asked_where_there_is_one() -> None:
    made = asked("temperature", method="mtp", steps="3", values="0,1", acceptance="al:3")
    assert made.axis.setup(made.candidates[0], 1.0).scenario.model_dump()["temperature"] == 1.0
    assert axis_of("temperature").between(0.0, 0.5) == 0.25
    assert axis_of("temperature").between(0.0, 0.1) is None


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [word for name, value in FEW.items() for word in ("--" + name.replace("_", "-"), value)]
    command = ["crossover", *flags, "--method", "mtp", "--steps", "3", "--interval", "none"]
    csv, page = tmp_path / "x.csv", tmp_path / "x.html"
    assert run([*command, "--values", "1,4", "-o", str(csv), "--report", str(page)]) == 0
    assert csv.read_text(encoding="utf-8").startswith("over,model,gpu,tp,method,block")
    assert page.is_file()
    capsys.readouterr()
    for bad, code in ((["--method", "none"], 2), (["--values", "4"], 2), (["--over", "x"], 2)):
        assert run([*command[:-6], *bad]) == code
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1


def test_axes_are_known_by_name() -> None:
    assert axis_of("conc").between(8, 16) == 11
    assert axis_of("conc").between(8, 9) is None
    assert axis_of("conc").between(100, 105) is None  # near enough
    assert axis_of("accept").between(2.0, 2.1) is None


def test_a_curve_is_flat_beyond_its_ends(made: Question) -> None:
    curve: Curve = straight(made, [8.0, 8.0]).curves[0]
    assert curve.gain_at(1e6) == curve.gain[-1]
