"""Figures are functions of a state: what is in them adds up, and a colour means one thing."""

import json
import re
from collections import defaultdict
from dataclasses import replace
from functools import cache

import pytest

from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.show.chart_style import Chart, go
from dflash_sim.studies.show.launch import TO_BE_NAMED, launch_command
from dflash_sim.ui import meanings
from dflash_sim.ui.answer import SHORT, WHOLE, Answer, Reasons, Refusal
from dflash_sim.ui.bars import accepted, cost, cycle, memory, memory_parts, waterfall
from dflash_sim.ui.copies import report
from dflash_sim.ui.curves import frontier, gains, interactivity_tok_s
from dflash_sim.ui.desk import Found, Task, done
from dflash_sim.ui.drawing import drawing
from dflash_sim.ui.state import State, from_query
from dflash_sim.ui.view import Measured, Plan, View, viewed

QUERY = "?gpu=h200&model=qwen3-4b&method=dflash&block=8&dataset=gsm8k&conc=4&num_prompts=48"
LOADS = (1.0, 4.0, 16.0)


@cache
def found(task: Task) -> Found:
    return done(task)


def known(task: Task) -> Found | None:
    """Whatever a page needs, at three loads and only in short runs."""
    load = dict(task.fields).get("conc")
    return found(task) if task.quality == SHORT and float(load) in LOADS else None


@pytest.fixture(scope="module")
def view() -> View:
    return viewed(from_query(QUERY), known)


def checked(chart: Chart) -> go.Figure:
    """The chart as Plotly takes it: it refuses words that it does not know."""
    return go.Figure(chart.spec())


def answer(**fields: object) -> Answer:
    state = from_query(QUERY).but(**fields)
    one = found(Task.of(state.fields, SHORT))
    assert isinstance(one, Answer)
    return one


class TestCurves:
    def test_every_load_is_drawn_where_it_is(self, view: View) -> None:
        figure = checked(frontier(view))
        mine = next(t for t in figure.data if t.name == "DFlash, block 8")
        rows = [answer(conc=int(load)).row for load in LOADS]
        assert list(mine.x) == [interactivity_tok_s(row) for row in rows]
        assert list(mine.y) == [row["output_throughput"] for row in rows]
        # The users together see the throughput, but for first tokens and for the last answers.
        for x, y, load in zip(mine.x, mine.y, LOADS, strict=True):
            assert 0.6 * x * load < y < 1.02 * x * load

    def test_gains_are_ratios_and_one_is_plain(self, view: View) -> None:
        figure = checked(gains(view))
        named = {t.name: t for t in figure.data if t.name}
        assert set(named) == {"block 4", "block 8", "block 16"}
        plain = answer(method="none", block=None).row["output_throughput"]
        mine = answer().row["output_throughput"]
        assert named["block 8"].y[1] == pytest.approx(mine / plain)
        assert named["block 8"].line.dash == "solid"
        dashes = {t.line.dash for t in named.values()}
        assert len(dashes) == 3

    def test_the_axis_of_loads_does_not_move_as_answers_arrive(self, view: View) -> None:
        alone = replace(view, curve={}, plain={}, widths={})
        low, high = checked(gains(alone)).layout.xaxis.range
        assert checked(gains(view)).layout.xaxis.range == (low, high)
        assert 10**low < 1 < 128 < 10**high

    def test_what_is_measured_is_beside_it(self, view: View) -> None:
        import dataclasses

        beside = dataclasses.replace(view, measured=(Measured(4, 1000, "bench.jsonl:1"),))
        mark = next(t for t in checked(frontier(beside)).data if t.name == "your benchmark")
        assert (list(mark.x), list(mark.y)) == ([250.0], [1000.0])

    def test_nothing_known_is_no_crash(self) -> None:
        empty = View(from_query(QUERY))
        assert len(checked(frontier(empty)).data) == 0
        assert [t for t in checked(gains(empty)).data if t.x] == []


class TestBars:
    def test_the_cycle_adds_up_to_the_step(self) -> None:
        one = answer()
        bars = [t for t in checked(cycle(one)).data if list(t.y) == ["GPU"]]
        assert sum(t.x[0] for t in bars) == pytest.approx(one.row["step_ms"], rel=0.01)

    @pytest.mark.parametrize("query", [QUERY, "?gpu=b200&conc=32", "?gpu=b200&method=none&conc=8"])
    def test_memory_adds_up_to_the_gpu(self, query: str) -> None:
        from dflash_sim.studies.predict.memory import memory_row

        row = memory_row(resolve(from_query(query).scenario()))
        parts = memory_parts(row)
        assert sum(size for _, size, *_ in parts) == pytest.approx(row["gpu_bytes"] / 1e9)
        assert all(size > 0 for _, size, *_ in parts)

    def test_accepted_drafts_are_shares(self) -> None:
        bars = checked(accepted(answer())).data[0]
        assert len(bars.y) == 8
        assert sum(bars.y) == pytest.approx(100)

    def test_cost_is_beside_plain_decoding(self) -> None:
        state = from_query(QUERY)
        both = found(Task.of(state.fields, SHORT, baseline=True))
        assert isinstance(both, Answer)
        bars = {t.y[0]: t for t in checked(cost(both)).data}
        assert set(bars) == {"plain decoding", "DFlash, block 8"}
        ratio = bars["plain decoding"].x[0] / bars["DFlash, block 8"].x[0]
        assert ratio == pytest.approx(both.row["speedup"], rel=1e-4)

    def test_factors_of_a_waterfall_lead_to_its_end(self) -> None:
        steps = [("plain decoding", 100.0, 1.0, "a"), ("acceptance", 500.0, 5.0, "b"),
                 ("verification", 300.0, 0.6, "<c>")]  # fmt: skip
        names = ("name", "speed_tok_s", "factor", "why")
        rungs = tuple(dict(zip(names, step, strict=True)) for step in steps)
        figure = checked(waterfall(Reasons("t", rungs)))
        assert figure.data[-1].x[0] == 300
        assert [(t.base[0] if t.base else 0) + t.x[0] for t in figure.data[:-1]] == [100, 500, 300]
        assert "&lt;c&gt;" in figure.data[2].hovertemplate


def colours_by_name(figure: go.Figure) -> dict[str, set[str]]:
    by_name = defaultdict(set)
    for trace in json.loads(figure.to_json())["data"]:
        name = re.sub(r" [\d,]*\.\d+$", "", trace.get("name") or "")
        colour = (trace.get("marker") or {}).get("color") or (trace.get("line") or {}).get("color")
        by_name[colour].add(name)
    return by_name


def test_a_colour_means_one_thing(view: View) -> None:
    one = answer()
    meant: dict[str, set[str]] = defaultdict(set)
    for figure in map(checked, (cycle(one), memory(one), frontier(view))):
        for colour, names in colours_by_name(figure).items():
            meant[colour] |= names - {""}
    assert meant[meanings.TARGET] == {"verify", "weights"}
    assert meant[meanings.DRAFTER] == {"draft", "drafter"}
    assert meant[meanings.CACHE] == {"KV injection", "KV cache"}
    assert meant[meanings.PLAIN] == {"plain decoding"}
    assert meant[meanings.ASKED] == {"DFlash, block 8"}
    alone = View(from_query("?method=none"), short=answer(method="none", block=None))
    assert meanings.ASKED not in colours_by_name(checked(frontier(alone)))


class TestDrawing:
    def test_a_view_is_json(self, view: View) -> None:
        shown = json.loads(json.dumps(drawing(view, unfinished=True), allow_nan=False))
        assert set(shown["figures"]) == {"frontier", "gains", "cycle", "memory", "cost", "accepted"}
        assert shown["quality"] == SHORT != WHOLE
        assert shown["words"]["span-throughput"] == "a short run"
        assert "template" not in shown["figures"]["cycle"]["layout"]
        assert shown["query"] == QUERY.replace("&num_prompts=48", "") + "&num_prompts=48"

    def test_a_refusal_says_what_would_do(self) -> None:
        state = from_query("?gpu=l4&tp=1&model=qwen3-8b&isl=64&osl=64&mem_fraction_static=0.5")
        refused = found(Task.of(state.fields, SHORT))
        assert isinstance(refused, Refusal)
        assert not refused.fits
        shown = drawing(View(state, short=refused), unfinished=False)
        assert "does not fit" in shown["refusal"]["why"]
        ways = shown["refusal"]["remedies"]
        assert "on 2 GPUs (TP 2)" in [way["words"] for way in ways]
        for way in ways:  # each does what it promises
            resolve(from_query(way["query"]).scenario())

    def test_a_price_that_is_none_is_left_out_to_have_an_answer(self) -> None:
        state = from_query("?gpu=h200&tp=1&model=qwen3-8b&isl=64&osl=64&conc=2&price=cheap")
        refused = found(Task.of(state.fields, SHORT))
        assert isinstance(refused, Refusal)
        (way,) = drawing(View(state, short=refused), unfinished=False)["refusal"]["remedies"]
        assert way["words"] == "at list prices"
        assert "price" not in from_query(way["query"]).fields

    def test_a_benchmark_stands_where_its_time_per_token_puts_it(self, view: View) -> None:
        rows = (Measured(4, 300.0, "a", 10.0), Measured(4, 300.0, "b"))
        figure = checked(frontier(replace(view, measured=rows)))
        (stars,) = (t for t in figure.data if t.name == "your benchmark")
        assert list(stars.x) == [100.0, 75.0]

    def test_why_names_what_moves_the_answer_most(self, view: View) -> None:
        import dataclasses

        hangs = tuple({"name": n, "effect": e} for n, e in (("a", 0.01), ("b", -0.05), ("c", 0.0)))
        told = dataclasses.replace(view, why=Reasons("t", ({"name": "plain decoding",
            "speed_tok_s": 1.0, "factor": 1.0, "why": ""},), hangs))  # fmt: skip
        found = drawing(told, unfinished=False)["why"]["hangs"]
        assert [line[0] for line in found] == ["b", "a"]
        assert "5.0 %" in found[0]

    def test_a_report_holds_what_is_seen(self, view: View) -> None:
        page = report(view)
        assert "<script src" not in page
        assert "dflash-sim predict" in page
        assert "sglang.launch_server" in page
        assert "No answer" in report(View(State(), short=Refusal("because")))


@pytest.mark.parametrize(
    "query",
    [
        QUERY,
        "?gpu=b200&conc=32",
        "?gpu=h200&model=qwen3-8b&method=none&quantization=fp8&tp=2&conc=4",
        "?gpu=h200&model=qwen3-8b&method=eagle3&steps=4&conc=4&radix_cache=false",
        "?gpu=b200&model=qwen3.5-27b&method=mtp&steps=3&max_running_requests=20&conc=4",
        "?gpu=h200&model=qwen3.5-27b&method=mtp&steps=3&conc=4"
        "&speculative_use_rejection_sampling=true",
        "?gpu=h200&model=qwen3-8b&window=2048&attention_backend=fa3&engine_mode=v2-sync",
    ],
)
def test_a_launch_command_is_read_back(query: str) -> None:
    asked = resolve(from_query(query).scenario())
    launch = scenario_from_launch(launch_command(asked))
    known = asked.scenario.speculation.name != "eagle3"  # a head that no checkpoint is named for
    assert [said for said in launch.remarks if known or TO_BE_NAMED not in said] == []
    state = from_query(query)
    load = {n: v for n, v in state.keywords().items() if n in ("gpu", "conc", "num_prompts",
                                                               "dataset")}  # fmt: skip
    from dflash_sim.ui.state import scenario_of

    again = resolve(scenario_of({"method": "none", **load, **launch.fields}))
    for name in ("method", "block", "tp", "quantization", "backend", "kv_cache_dtype", "window"):
        assert getattr(again, name) == getattr(asked, name), name
    assert again.memory == asked.memory
    assert again.step.cycle.drawn == asked.step.cycle.drawn


def test_a_plan_begins_with_what_is_looked_at_first() -> None:
    plan = Plan(from_query(QUERY))
    one = answer()
    tasks = list(plan.tasks(one, why=True))
    assert tasks[:3] == [plan.plain(one.row["tp"])[4.0], plan.whole, plan.why]
    assert len(set(tasks)) > 20
    plain = Plan(from_query("?method=none&conc=4"))
    alone = answer(method="none", block=None)
    assert all(dict(t.fields)["method"] == "none" for t in plain.tasks(alone, why=False))


def test_plain_decoding_has_as_many_gpus() -> None:
    tasks = Plan(from_query("?gpu=b200&model=qwen3.5-397b-a17b&conc=4")).plain(8).values()
    assert {dict(task.fields)["tp"] for task in tasks} == {"8"}


def test_a_load_that_is_no_number_is_refused_in_words() -> None:
    state = from_query("?gpu=h200&model=qwen3-4b&conc=many")
    shown = drawing(viewed(state, found), unfinished=False)
    assert "--conc many" in shown["refusal"]["why"]
