"""Comparisons: what is compared, and whether the cause that was put in is the one that is named."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dflash_sim.calibrate.compare.causes import CAUSES, Diagnosis
from dflash_sim.calibrate.compare.common_definitions import in_flight, measured, running
from dflash_sim.calibrate.compare.compare import Metric, compare, joined, summary
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.readers.read import read_observations
from dflash_sim.calibrate.readers.sglang_bench_serving import POOLED
from dflash_sim.cli import run
from dflash_sim.profiles.errors import MissingProfileError
from dflash_sim.profiles.releases.engine_sheet import EngineSheet
from dflash_sim.simulator.engine.events import EventEngine
from dflash_sim.simulator.predict import predict, simulate
from dflash_sim.simulator.requests.draws import draw_commits
from dflash_sim.simulator.requests.workload import fixed_workload
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.compare.compare_page import row_of, said_of_own, summary_line
from dflash_sim.studies.compare.compare_question import answers

DATA = Path(__file__).parents[2] / "data/readers"
Fields = dict[str, Any]

OPEN: Fields = {
    "model": "qwen3-8b", "gpu": "b200", "method": "dflash", "block": 16, "conc": 8,
    "isl": 512, "osl": 256, "max_new_tokens": 256, "num_prompts": 48,
}  # fmt: skip
DFLASH = OPEN | {"acceptance": "al:4.2"}
PLAIN = {name: value for name, value in OPEN.items() if name != "block"}
PLAIN |= {"method": "none", "conc": 16}
SYNC = DFLASH | {"engine_mode": "v2-sync"}
V1 = DFLASH | {"engine_mode": "v1"}

LATENCIES = [
    f"{s}_{latency}_ms"
    for s in ("mean", "median", "p99")
    for latency in ("ttft", "tpot", "itl", "e2e_latency")
]
RATES = ["output_throughput", "request_throughput", "concurrency"]
TOLD = [*RATES, *LATENCIES, "accept_length_cycle"]
HOST = ("get_next_batch", "run_batch_first", "run_batch_rest", "process_batch_result",
        "eager_launch")  # fmt: skip


def measure(
    said: Fields,
    *,
    seed: int = 77,
    slower: Mapping[str, float] | None = None,
    tell: list[str] = TOLD,
    **actual: Any,
) -> Observation:
    """What a client would measure of a server that is not all that ``said`` says of it.

    An acceptance that is said is one that the asker assumes: the row's own is set against it.

    ``slower`` are factors on engine constants, ``actual`` other scenario fields.
    """
    scenario = Scenario.parse(**said | actual | {"seed": seed, "runs": 1})
    setup = resolve(scenario)
    if slower:
        setup = resolve(scenario, engine=engine_with(setup.engine, slower))
    found = predict(scenario, with_baseline=False, with_interval=False, setup=setup).values
    return Observation(
        row=f"seed {seed}",
        source="us",
        fields=said,
        metrics={name: found[name] for name in tell if name in found},
        assumed=("acceptance",) if "acceptance" in said else (),
    )


def engine_with(engine: EngineSheet, factors: Mapping[str, float]) -> EngineSheet:
    return engine.with_constants(**{name: k * engine[name] for name, k in factors.items()})


def diagnosed(row: Observation) -> Diagnosis:
    diagnosis = compare(row, with_interval=False).diagnosis
    assert diagnosis is not None
    parts = sum(cause.share for cause in diagnosis.causes)
    assert parts + diagnosis.unexplained == pytest.approx(diagnosis.rel_err)
    return diagnosis


def named(diagnosis: Diagnosis) -> list[str]:
    return [cause.name for cause in diagnosis.causes]


CHANGED: dict[str, tuple[Fields, dict[str, Any], str]] = {
    "other acceptance": (DFLASH, {"acceptance": "al:6.5"}, "accept_length"),
    "other acceptance, one client": (DFLASH | {"conc": 1}, {"acceptance": "al:2.5"},
                                     "accept_length"),
    "half the cap": (DFLASH, {"max_running_requests": 4}, "request_cap"),
    "half the cap, plain": (PLAIN, {"max_running_requests": 8}, "request_cap"),
    "three times the prompt": (DFLASH, {"isl": 1536}, "prefill"),
    "fewer clients": (DFLASH, {"conc": 5}, "load"),
    "slower kernels": (DFLASH, {"slower": {"graph_node_gap": 6}}, "step"),
    "slower kernels, plain": (PLAIN, {"slower": {"graph_node_gap": 6}}, "step"),
    "slower host, no overlap": (SYNC, {"slower": dict.fromkeys(HOST, 5)}, "host"),
    "slower host, V1": (V1, {"slower": dict.fromkeys(HOST, 5)}, "host"),
}  # fmt: skip


class TestCauses:
    @pytest.mark.parametrize("case", CHANGED)
    def test_what_was_changed_is_named(self, case: str) -> None:
        said, actual, cause = CHANGED[case]
        found = diagnosed(measure(said, **actual))
        assert abs(found.rel_err) > 0.05, "the change must matter"
        if cause == "host":  # not to be told from kernels without the scheduler's own seconds
            assert "host" in (*named(found), *found.causes[0].or_else)
        else:
            assert named(found) == [cause]
        # A single run of so few requests is itself some percent off.
        assert abs(found.unexplained) < 0.2 * abs(found.rel_err) + 3 * found.spread + 0.01

    @pytest.mark.parametrize("said", [DFLASH, PLAIN, V1], ids=["dflash", "plain", "v1"])
    def test_nothing_is_named_where_nothing_was_changed(self, said: Fields) -> None:
        for seed in (1, 2, 3):
            found = diagnosed(measure(said, seed=seed))
            assert named(found) == []
            assert found.unexplained == pytest.approx(found.rel_err)

    def test_two_causes_are_told_apart(self) -> None:
        both = diagnosed(measure(DFLASH, acceptance="al:6.5", max_running_requests=4))
        assert sorted(named(both)) == ["accept_length", "request_cap"]
        cap = diagnosed(measure(DFLASH, max_running_requests=4))
        accept = diagnosed(measure(DFLASH, acceptance="al:6.5"))
        shares = {cause.name: cause.share for cause in both.causes}
        logs = {name: np.log1p(both.rel_err) * s / both.rel_err for name, s in shares.items()}
        assert logs["request_cap"] == pytest.approx(np.log1p(cap.causes[0].share), abs=0.05)
        assert logs["accept_length"] == pytest.approx(np.log1p(accept.causes[0].share), abs=0.08)

    def test_a_longer_way_to_the_server(self) -> None:
        """Clients that wait 0.2 s before the server sees a request."""
        turnaround_s = resolve(Scenario.parse(**DFLASH)).engine["client_turnaround"]
        row = measure(DFLASH, slower={"client_turnaround": (turnaround_s + 0.2) / turnaround_s})
        found = diagnosed(row)
        assert "frontend" in {*named(found), *found.causes[0].or_else}
        assert abs(found.unexplained) < 0.05

    def test_an_accept_length_that_is_not_told_shows_in_the_gaps(self) -> None:
        """Mean ITL over mean TPOT is tokens per step."""
        tell = [name for name in TOLD if name != "accept_length_cycle"]
        found = diagnosed(measure(DFLASH, acceptance="al:6.5", tell=tell))
        assert named(found) == ["accept_length"]
        assert "itl / mean tpot" in found.causes[0].evidence

    def test_host_and_kernels_look_alike_unless_the_scheduler_tells(self) -> None:
        slow = dict.fromkeys(HOST, 2.5)
        # First tokens and tails would tell as well: it is the host that launches a prefill.
        means = ["output_throughput", "mean_tpot_ms", "mean_itl_ms", "accept_length_cycle"]
        alone = measure(SYNC, slower=slow, tell=means)
        found = diagnosed(alone)
        assert {found.causes[0].name, *found.causes[0].or_else} >= {"host", "step"}
        assert any("/metrics" in what for what in found.unknown)
        told = replace(alone, metrics={**alone.metrics, **scheduler_stages(slow)})
        host, *rest = diagnosed(told).causes
        assert (host.name, host.or_else) == ("host", ())
        assert all(abs(cause.share) < host.share / 4 for cause in rest)

    def test_slower_kernels_are_not_blamed_on_a_host_that_is_known(self) -> None:
        slow = {"graph_node_gap": 6.0}
        row = measure(SYNC, slower=slow)
        row = replace(row, metrics={**row.metrics, **scheduler_stages(slow)})
        assert named(diagnosed(row)) == ["step"]

    def test_a_throughput_alone_explains_nothing(self) -> None:
        row = measure(PLAIN, slower={"graph_node_gap": 6}, tell=["output_throughput"])
        found = diagnosed(row)
        assert named(found) == []
        assert {what.partition(":")[0] for what in found.unknown} == {
            "prefill, queueing and request cap", "decode steps",
        }  # fmt: skip

    def test_an_open_loop_is_judged_by_its_latency(self) -> None:
        said = {n: v for n, v in DFLASH.items() if n != "conc"} | {"rate": 8.0}
        found = diagnosed(measure(said, seed=0, acceptance="al:6.5"))
        assert found.target == "mean_e2e_latency_ms"
        assert named(found) == ["accept_length"]

    def test_a_cap_that_the_file_states_is_no_cause(self) -> None:
        said = DFLASH | {"max_running_requests": 8}
        assert "request_cap" not in named(diagnosed(measure(said, max_running_requests=4)))

    def test_steps_are_not_blamed_where_the_median_gap_agrees(self) -> None:
        """Gaps that are long in the mean alone are those in which a prompt was computed."""
        row = measure(PLAIN | {"range_ratio": 0.1, "num_prompts": 96})
        odd = {"mean_tpot_ms": 1.3, "mean_itl_ms": 1.3, "p99_itl_ms": 4.0, "mean_ttft_ms": 2.0}
        odd |= {"output_throughput": 1 / 1.3, "mean_e2e_latency_ms": 1.3}
        metrics = {name: value * odd.get(name, 1.0) for name, value in row.metrics.items()}
        found = diagnosed(replace(row, metrics=metrics))
        assert named(found)
        assert {*named(found)} <= {"prefill", "host", "load"}, "a host launches prefills"

    def test_nothing_explains_more_than_there_is(self) -> None:
        """First tokens five times as late ask for prefills that the throughput does not."""
        row = measure(PLAIN | {"range_ratio": 0.1, "num_prompts": 96})
        odd = {"mean_ttft_ms": 5.0, "mean_tpot_ms": 1.5, "mean_itl_ms": 1.4}
        odd |= {"output_throughput": 1 / 1.4, "mean_e2e_latency_ms": 1.6}
        metrics = {name: value * odd.get(name, 1.0) for name, value in row.metrics.items()}
        found = diagnosed(replace(row, metrics=metrics))
        assert found.causes
        assert max(cause.share for cause in found.causes) < 1.2 * found.rel_err
        assert abs(found.unexplained) < 0.2 * found.rel_err

    def test_evidence_has_the_figures_of_the_page(self) -> None:
        """Causes on top of one another are told beside one prediction, that of the table."""
        row = measure(DFLASH, isl=1536, conc=5)
        found = compare(row, with_interval=False)
        assert found.diagnosis is not None
        shown = {f"{m.predicted:.1f}" for m in found.metrics}
        shown |= {f"{m.predicted:,.2f}" for m in found.metrics}
        told = [c.evidence.partition("predicted ")[2] for c in found.diagnosis.causes]
        assert any(told)
        assert all(text.split(":")[0] in shown for text in told if text)

    def test_a_cause_that_a_mean_speaks_against_is_not_named(self) -> None:
        """Slow prefills would stretch the gaps between tokens far beyond what was measured."""
        row = measure(PLAIN)
        odd = {"mean_ttft_ms": 3.2, "mean_tpot_ms": 1.6, "mean_itl_ms": 1.25}
        odd |= {"output_throughput": 1 / 1.36, "mean_e2e_latency_ms": 1.4}
        metrics = {name: value * odd.get(name, 1.0) for name, value in row.metrics.items()}
        found = diagnosed(replace(row, metrics=metrics))
        assert found.unexplained * found.rel_err >= 0, "more is explained than there is"

    def test_every_cause_has_words(self) -> None:
        assert {cause for _, _, cause in CHANGED.values()} <= CAUSES.keys()


def scheduler_stages(slower: Mapping[str, float]) -> dict[str, float]:
    """What ``/metrics`` counts over a run of ``SYNC``, from every stage of the event engine."""
    scenario = Scenario.parse(**SYNC, runs=1)
    setup = resolve(scenario, engine=engine_with(resolve(scenario).engine, slower))
    shape = {"isl": SYNC["isl"], "osl": SYNC["osl"], "conc": SYNC["conc"]}
    work = fixed_workload(**shape, requests=SYNC["num_prompts"])  # with as many prefills
    expected = predict(
        setup.scenario, with_baseline=False, with_interval=False, setup=setup
    ).expectation
    assert expected is not None
    totals: dict[str, float] = {}
    words = {"get_next_batch": "get_next_batch_to_run"}

    def stage(lane: str, name: str, start_s: float, end_s: float, *_: int) -> None:
        key = f"scheduler_stage_s.{words.get(name, name)}.none"
        totals[key] = totals.get(key, 0.0) + (end_s - start_s) * (lane == "host")

    EventEngine(
        step=setup.step,
        host=setup.host,
        limits=setup.limits.for_workload(work),
        workload=work,
        draws=draw_commits(expected.acceptance, work, np.random.default_rng(5)),
        mode="v2-sync",
        turnaround_s=setup.engine["client_turnaround"],
        on_interval=stage,
    ).run()
    assert totals["scheduler_stage_s.run_batch.none"] > 0
    return {**totals, "total_output_tokens": float(work.osl.sum())}


class TestMetrics:
    def test_everything_that_both_sides_have_is_compared(self) -> None:
        row = measure(DFLASH)
        row = replace(row, metrics={**row.metrics, "scheduler_stage_s.idle.none": 3.0})
        found = compare(row, with_causes=False, with_interval=False)
        assert {m.name for m in found.metrics} == set(TOLD)
        for m in found.metrics:
            assert m.rel_err == m.predicted / row.metrics[m.name] - 1
            assert m.inside is None
        assert found.diagnosis is None

    def test_inside_the_interval(self) -> None:
        row = measure(PLAIN, tell=["output_throughput"])
        (metric,) = compare(row, with_causes=False).metrics
        assert metric.inside
        row = replace(row, metrics={"output_throughput": 3 * metric.observed})
        assert compare(row, with_causes=False).metrics[0].inside is False
        metric = Metric(name="output_throughput", observed=100, predicted=110, interval=(95, 120))
        assert metric.inside
        assert replace(metric, observed=94).inside is False
        assert replace(metric, interval=None).inside is None

    def test_a_speed_up_is_compared_with_plain_decoding(self) -> None:
        row = measure(DFLASH, tell=["output_throughput"])
        found = compare(
            replace(row, metrics={**row.metrics, "speedup": 2.0}),
            with_causes=False,
            with_interval=False,
        )
        speedup = found.metric("speedup")
        assert speedup is not None
        assert found.result is not None
        assert speedup.predicted == found.result.speedup

    def test_gaps_that_the_client_divides_by_their_tokens_are_left_out(self) -> None:
        row = measure(DFLASH)
        native = {n: row.metrics[n.replace("itl", "tpot")] for n in LATENCIES if "_itl_" in n}
        assert native
        assert [m.name for m in compare(row, with_causes=False).metrics if "_itl_" in m.name]
        divided = replace(row, metrics={**row.metrics, **native})
        found = compare(divided, with_causes=False, with_interval=False)
        assert not [m.name for m in found.metrics if "_itl_" in m.name]
        assert any("per token" in note for note in found.notes)
        plain = measure(PLAIN)
        assert measured(plain, {})[0] == plain.metrics

    def test_littles_law_counts_requests(self) -> None:
        """Those in flight are those that decode, and those that wait for their first token."""
        values = predict(
            Scenario.parse(**PLAIN, runs=1), with_baseline=False, with_interval=False
        ).values
        assert in_flight(values) == values["concurrency"]
        told = {n: v for n, v in values.items() if n != "concurrency"}
        assert in_flight(told) == pytest.approx(values["concurrency"])
        decoding, osl = running(values), PLAIN["osl"]
        assert decoding is not None
        waiting = values["request_throughput"] * values["mean_ttft_ms"] / 1e3
        assert decoding * (osl - 1) / osl + waiting == pytest.approx(values["concurrency"])

    def test_a_single_batch_by_the_definitions_of_its_tool(self, tmp_path: Path) -> None:
        """What ``bench_one_batch_server`` would write of a simulated batch comes back exactly."""
        said = PLAIN | {"num_prompts": 16, "runs": 1}
        setup = resolve(Scenario.parse(**said))
        _, record = simulate(setup, None, run=0)
        first_s, last_s = (
            x.max() + record.client_s for x in (record.first_token_s, record.finish_s)
        )
        line = {
            "run_name": "gpu=b200 model=qwen3-8b method=none", "batch_size": 16,
            "input_len": 512, "output_len": 256, "latency": last_s, "last_ttft": first_s,
        }  # fmt: skip
        path = tmp_path / "batch.jsonl"
        path.write_text(json.dumps(line) + "\n")
        (row,) = read_observations([path]).observations
        found = compare(row, with_interval=False)
        errors = {m.name: m.rel_err for m in found.metrics}
        assert {"output_throughput", "mean_tpot_ms", "duration"} <= errors.keys()
        assert max(map(abs, errors.values())) < 0.01
        assert found.diagnosis is not None
        assert found.diagnosis.causes == ()

    def test_errors_over_rows(self) -> None:
        rows = [measure(PLAIN, tell=["output_throughput"], seed=s) for s in (1, 2)]
        true = rows[0].metrics["output_throughput"]
        off = [replace(r, metrics={"output_throughput": true / k})
               for r, k in zip(rows, (1.2, 0.9), strict=True)]  # fmt: skip
        found = [compare(row, with_causes=False, with_interval=False) for row in off]
        total = summary(found)
        assert total.rows == 2
        assert total.mape == pytest.approx(0.15, abs=1e-6)
        assert total.bias == pytest.approx(0.05, abs=1e-6)
        assert summary_line(total) == "throughput of 2 rows: MAPE 15.0 %, bias +5.0 %"
        assert isnan(summary([]).mape)


class TestItsOwnAcceptLength:
    """A row that states how many drafts were accepted is predicted with that."""

    def test_what_is_left_is_time(self) -> None:
        row = measure(OPEN, acceptance="al:6.5")
        with_own, without = (
            compare(row, with_causes=False, with_interval=False, own_acceptance=own)
            for own in (True, False)
        )
        mine, theirs = (c.metric("output_throughput") for c in (with_own, without))
        assert mine is not None
        assert theirs is not None
        assert abs(mine.rel_err) < 0.03 < 0.2 < abs(theirs.rel_err), "a control: it matters"
        assert without.own is None
        own = with_own.own
        assert own is not None
        assert own.measured == row.metrics["accept_length_cycle"]
        assert own.values["output_throughput"] == theirs.predicted
        assert with_own.metric("accept_length_cycle") is None, "it would be compared with itself"

    def test_the_page_and_the_row_say_both(self) -> None:
        row = measure(OPEN, acceptance="al:6.5")
        found = compare(row, with_interval=False)
        assert found.own is not None
        assert "accept_length" not in named(found.diagnosis) if found.diagnosis else True
        words, told = said_of_own(found), row_of(found)["own_accept_length"]
        assert f"{found.own.measured:.2f}" in words
        assert f"{found.own.expected:.2f}" in words
        assert told["output_throughput_at_expected"] == pytest.approx(
            found.own.values["output_throughput"]
        )

    def test_what_the_asker_assumes_stands(self) -> None:
        row = measure(DFLASH, acceptance="al:6.5")
        assert compare(row, with_causes=False, with_interval=False).own is None

    def test_a_text_in_the_row_gives_way_to_what_was_counted(self) -> None:
        """Rows of a live calibration state a law that one run of theirs was matched with."""
        row = replace(measure(DFLASH, acceptance="al:6.5"), assumed=())
        found = compare(row, with_causes=False, with_interval=False)
        assert found.own is not None
        assert found.own.expected is None
        speed = found.metric("output_throughput")
        assert speed is not None
        assert abs(speed.rel_err) < 0.03


class TestWithoutAnAcceptLength:
    @pytest.fixture
    def row(self, monkeypatch: pytest.MonkeyPatch) -> Observation:
        """Of a scenario for which nothing is published."""
        from dflash_sim.simulator.requests import expected

        row = measure(OPEN)
        monkeypatch.setattr(expected, "load_acceptance", lambda: ())
        return row

    def test_the_measured_one_stands_in(self, row: Observation) -> None:
        found = compare(row, with_interval=False)
        assert any("the file's own" in note for note in found.notes)
        assert found.metric("output_throughput") is not None
        assert found.metric("accept_length_cycle") is None, "it would be compared with itself"

    def test_with_none_there_is_no_prediction(self, row: Observation) -> None:
        found = compare(replace(row, metrics={"output_throughput": 900.0}))
        assert isinstance(found.error, MissingProfileError)
        assert row_of(found)["error"]


class TestJoining:
    ACCEPT = Observation(
        row="log", source="log", fields={"block": 16}, metrics={"accept_length_cycle": 4.2},
        accept_histogram=(1, 2),
    )  # fmt: skip

    def test_acceptance_joins_the_only_benchmark(self) -> None:
        row = replace(measure(DFLASH), notes=(POOLED, "kept"))
        (whole,), remarks = joined([self.ACCEPT, row])
        assert whole.metrics == {**row.metrics, "accept_length_cycle": 4.2}
        assert whole.notes == ("kept",)
        assert whole.accept_histogram == (1, 2)
        assert remarks == [f"log: taken for the same run as {row.row}"]

    def test_not_of_another_block_or_method(self) -> None:
        other = replace(self.ACCEPT, fields={"block": 8})
        assert joined([measure(DFLASH), other])[0][1:] == [other]
        assert joined([measure(PLAIN), self.ACCEPT])[0][1:] == [self.ACCEPT]

    def test_not_where_there_are_several(self) -> None:
        rows = [measure(DFLASH), measure(PLAIN), self.ACCEPT]
        assert joined(rows) == (rows, [])

    def test_scheduler_seconds_are_scaled_to_the_tokens_of_the_benchmark(self) -> None:
        stages = {"scheduler_stage_s.run_batch.full": 4.0, "total_output_tokens": 2000.0}
        scrapes = Observation(row="m", source="m", fields={}, metrics=stages)
        row = replace(
            measure(PLAIN), metrics={"output_throughput": 9.0, "total_output_tokens": 500}
        )
        (whole,), _ = joined([row, scrapes])
        assert whole.metrics["scheduler_stage_s.run_batch.full"] == 1.0
        assert whole.metrics["total_output_tokens"] == 500


Answer = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench_serving file of three small runs, off by 0, 10 and 40 percent."""
    path = tmp_path_factory.mktemp("bench") / "runs.jsonl"
    row = measure(PLAIN)
    lines = [json.dumps(serving(row, k)) for k in (1.0, 0.9, 1 / 1.4)]
    path.write_text("\n".join(lines) + "\n")
    return path


class TestCommand:
    @pytest.fixture
    def answer(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Answer:
        """Run the command in this process: exit code, stdout, stderr."""
        monkeypatch.setenv("DFLASH_SIM_PROFILES", "")

        def call(*words: object) -> tuple[int, str, str]:
            fast = () if "--interval" in words else ("--interval", "none")
            code = run(["compare", *map(str, words), *fast])
            told = capsys.readouterr()
            return code, told.out, told.err

        return call

    def test_rows_and_counts(self, answer: Answer, bench: Path) -> None:
        code, out, err = answer(bench, "--no-causes", "--format", "jsonl")
        rows = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
        assert code == 0
        assert "3 rows read, 3 used, 0 refused" in err
        assert "MAPE 17.0 %" in err
        assert [round(r["output_throughput_error"], 2) for r in rows] == [0, 0.11, 0.4]
        assert all(r["kind"] == "compared" and r["error"] is None for r in rows)
        assert rows[2]["metrics"]["output_throughput"]["inside"] is None

    def test_one_row_is_a_page_and_several_are_a_table(self, answer: Answer, bench: Path) -> None:
        code, out, _ = answer(bench, "--format", "table", "--on", "conc==16", "--no-causes")
        assert code == 0
        assert "largest cause" in out
        assert "MAPE 17.0 %" in out
        lines = bench.read_text().splitlines()
        bench.with_name("one.jsonl").write_text(lines[2])
        code, out, _ = answer(bench.with_name("one.jsonl"), "--format", "table")
        assert "output_throughput" in out
        assert "40.0 % above the measured one" in out
        assert "unexplained" in out

    def test_a_row_without_a_throughput_is_told_by_its_time_per_token(
        self, answer: Answer, tmp_path: Path
    ) -> None:
        path = tmp_path / "steps.csv"
        path.write_text("conc,mean_tpot_ms,duration\n1,5.25,9\n2,6.5,9\n")
        told = (f"{key}={value}" for key, value in
                {"model": "qwen3-8b", "method": "none", "isl": 64, "osl": 8}.items())  # fmt: skip
        assumed = [word for value in told for word in ("--assume", value)]
        _, out, _ = answer(path, *assumed, "--format", "table", "--no-causes")
        lines = [line for line in out.splitlines() if line.startswith("steps.csv:")]
        assert [("5.25" in line, "6.50" in line) for line in lines] == [
            (True, False),
            (False, True),
        ]
        assert all("mean_tpot_ms; no throughput" in line for line in lines)
        _, out, _ = answer(path, *assumed, "--format", "jsonl", "--no-causes")
        compared = [set(json.loads(line)["metrics"]) for line in out.splitlines()]
        assert compared == [{"mean_tpot_ms"}] * 2  # of how many requests the duration is, none says

    def test_formats_and_files(self, answer: Answer, bench: Path, tmp_path: Path) -> None:
        _, out, _ = answer(bench, "--format", "csv", "--no-causes")
        table = list(csv.DictReader(io.StringIO(out)))
        assert len(table) == 3
        assert float(table[0]["metrics_output_throughput_predicted"]) > 0
        target = tmp_path / "out.json"
        code, out, _ = answer(bench, "-o", target, "--no-causes")
        assert (code, out) == (0, "")
        assert len(json.loads(target.read_text())) == 3

    def test_fail_above(self, answer: Answer, bench: Path) -> None:
        code, _, err = answer(bench, "--no-causes", "--fail-above", 15)
        assert code == 1
        assert "runs.jsonl:3 by +40.0 %" in err
        assert "runs.jsonl:2" not in err
        assert answer(bench, "--no-causes", "--fail-above", 45)[0] == 0
        assert answer(bench, "--fail-above", -1)[0] == 2
        assert answer(bench, "--fail-above", "nan")[0] == 2

    def test_refused_rows_need_leave(self, answer: Answer, bench: Path) -> None:
        """A truncated line, an infinity, a repeated row, a row without a load."""
        lines = bench.read_text().splitlines()
        broken = json.loads(lines[0]) | {"output_throughput": float("inf")}
        loose = json.loads(lines[0]) | {"max_concurrency": None, "completed": None}
        bad = bench.with_name("bad.jsonl")
        written = [lines[0], lines[1][:80], json.dumps(broken), lines[0], json.dumps(loose)]
        bad.write_text("\n".join(written))
        code, out, err = answer(bad, "--no-causes")
        assert (code, out) == (2, "")
        assert "--allow-partial" in err
        for line in (2, 4, 5):
            assert f"refused bad.jsonl:{line}: " in err
        code, out, err = answer(bad, "--no-causes", "--allow-partial", "--format", "jsonl")
        assert code == 0
        assert "5 rows read, 2 used, 3 refused" in err
        assert len(out.splitlines()) == 2

    @pytest.mark.parametrize("text", ["", "\0\1", "hello", '{"a": 1}', "[1, 2", "model,conc\n"])
    def test_files_of_no_tool(self, answer: Answer, tmp_path: Path, text: str) -> None:
        path = tmp_path / "strange"
        path.write_text(text)
        for words in ((path,), (path, "--allow-partial")):
            code, out, err = answer(*words)
            assert (code, out) == (2, "")
            assert "1 row read, 0 used, 1 refused" in err
            assert "Traceback" not in err
        assert answer(tmp_path / "absent")[0] == 2

    def test_what_is_assumed_is_listed(self, answer: Answer, bench: Path) -> None:
        line = json.loads(bench.read_text().splitlines()[0])
        path = bench.with_name("bare.jsonl")
        path.write_text(json.dumps(line | {"tag": None}))
        code, out, err = answer(path, "--no-causes", "--format", "jsonl", "--assume", "gpu=h200")
        (row,) = [json.loads(line) for line in out.splitlines()]
        assert (code, row["gpu"], row["assumed"]) == (0, "h200", ["gpu", "temperature"])
        _, _, err = answer(bench, "--no-causes", "--assume", "gpu=h200")
        assert "every row says it itself" in err
        for wrong in ("gpu", "gpu=", "gpux=h200", "gpu=abacus", "gpu=b200 --assume gpu=h200"):
            code, out, err = answer(bench, "--assume", *wrong.split())
            assert (code, out) == (2, "")
            assert "gpu" in err.lower()

    def test_wrong_options(self, answer: Answer, bench: Path) -> None:
        for words in (["--on", "conc=="], ["--on", "conc==3"], ["--format", "xml"],
                      ["--simulator", "slow"], ["-o", "/no/such/folder/x.json"]):  # fmt: skip
            code, out, err = answer(bench, *words)
            assert (code, out) == (2, "")
            assert err.startswith(("dflash-sim: ", "3 rows"))

    def test_no_prediction(self, answer: Answer, bench: Path) -> None:
        """A server of one GPU that cannot hold the model: infeasible, said in one line."""
        row = json.loads(bench.read_text().splitlines()[0])
        row["server_info"] |= {"model_path": "Qwen/Qwen3.5-397B-A17B"}
        path = bench.with_name("small.jsonl")
        path.write_text(json.dumps(row))
        code, out, err = answer(path)
        assert (code, out) == (1, "")
        assert err.splitlines()[-1].startswith("dflash-sim: ")
        code, out, err = answer(path, bench, "--no-causes")
        assert code == 0
        assert "1 of 4 rows have no prediction" in err
        assert answer(path, bench, "--no-causes", "--fail-above", 50)[0] == 1

    @pytest.mark.parametrize("tool", ["inferencex", "vllm_bench_serve", "sglang_one_batch"])
    def test_files_of_every_tool(self, answer: Answer, tool: str) -> None:
        paths = sorted(p for p in (DATA / tool).iterdir() if p.suffix != ".md")
        words = ("--no-causes", "--allow-partial", "--on", "conc<=8", "--format", "jsonl")
        code, out, err = answer(*paths, *words)
        assert code == 0, err
        for line in out.splitlines():
            row = json.loads(line)
            assert row["error"] is None
            assert row["metrics"]

    def test_acceptance_and_scrapes_beside_a_benchmark(self, answer: Answer) -> None:
        files = [
            DATA / "sglang_bench_serving/runs.jsonl",
            DATA / "sglang_request_metrics/sglang-request-metrics-20261102_10.log",
            *(DATA / f"sglang_metrics/{name}.prom" for name in ("before", "after")),
        ]
        on = "rate==3"
        code, out, err = answer(
            *files, "--on", on, "--no-causes", "--allow-partial", "--format", "jsonl"
        )
        assert code == 0
        assert err.count("taken for the same run as runs.jsonl:3") == 2
        (row,) = [json.loads(line) for line in out.splitlines()]
        assert row["own_accept_length"]["metric"] == "accept_length_cycle"


def test_a_file_that_names_no_release_may_be_of_any() -> None:
    """What is known of the release makes the interval narrower, and moves no answer."""
    row = measure(PLAIN | {"conc": 4, "num_prompts": 8})
    named = replace(row, build="v0.5.14")
    known, unknown = answers([named, row], simulator="auto", with_causes=False, with_interval=True)
    assert known.result is not None
    assert unknown.result is not None
    narrow, wide = (c.metric("output_throughput") for c in (known, unknown))
    assert narrow is not None
    assert wide is not None
    assert wide.predicted == narrow.predicted
    assert wide.interval[0] < narrow.interval[0] < narrow.interval[1] < wide.interval[1]  # type: ignore[index]
    assert any("which release" in warning for warning in unknown.result.warnings)
    assert not any("which release" in warning for warning in known.result.warnings)


def serving(row: Observation, factor: float) -> Mapping[str, Any]:
    """A line of ``sglang.bench_serving``, of a server so many times as fast."""
    seen = {n: v * factor if n in RATES[:2] else v for n, v in row.metrics.items()}
    seen |= {n: v / factor for n, v in seen.items() if n.endswith("_ms")}
    server = {
        "model_path": "Qwen/Qwen3-8B", "tp_size": 1, "version": "0.5.13",
        "disable_overlap_schedule": False, "disable_radix_cache": False,
    }  # fmt: skip
    return {
        **seen, "tag": "gpu=b200", "backend": "sglang", "max_concurrency": PLAIN["conc"],
        "request_rate": float("inf"), "random_range_ratio": 1.0, "completed": 48,
        "total_input_tokens": 48 * 512, "total_output_tokens": 48 * 256, "server_info": server,
        "duration": 48 * 256 / seen["output_throughput"],
    }  # fmt: skip


class TestPage:
    """The page of a comparison, and what it says of a file that names no GPU."""

    @staticmethod
    def compared(folder: Path, *flags: str) -> str:
        bench = folder / "bench.csv"
        bench.write_text("isl,osl,conc,method,output_throughput,model\n50,20,2,none,500,qwen3-8b\n")
        page = folder / "page.html"
        told = ["-o", str(folder / "page.txt"), "--html", str(page)]
        assert run(["compare", str(bench), *flags, *told]) == 0
        assert "Throughput, measured and predicted" in page.read_text(encoding="utf-8")
        return page.read_text(encoding="utf-8") + (folder / "page.txt").read_text(encoding="utf-8")

    def test_a_gpu_that_is_assumed_is_said_first(self, tmp_path: Path) -> None:
        text = self.compared(tmp_path)
        assert text.count("names no GPU") == 2
        assert "Throughput of 1 row: MAPE " in text
        assert "--assume gpu=NAME" in text

    def test_one_that_the_asker_said_is_not(self, tmp_path: Path) -> None:
        assert "names no GPU" not in self.compared(tmp_path, "--assume", "gpu=h200")
