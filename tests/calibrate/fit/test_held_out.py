"""Validation: what is held out, what the intervals hold, and that nothing leaks."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from page_colours import colours_of, meanings

from dflash_sim.calibrate.fit.held_out import (
    Outcome,
    leave_one_out,
    predicted,
    refuse_overlap,
)
from dflash_sim.calibrate.fit.rows import Row, rows_of
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.cli import run
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.simulator.intervals import intervals, misfit, sensitivity, unmodelled
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.compare.validate_question import Question, Rows, assumptions
from dflash_sim.studies.compare.validation_tables import as_rows, tables

ENGINE = load_engine("sglang-0.5.14")
SMALL = {"gpu": "b200", "tp": 1, "isl": 64, "osl": 64, "num_prompts": 8, "max_new_tokens": 64}


def observed(row: str, tok_s: float, **fields: object) -> Observation:
    named = SMALL | {"model": "qwen3-8b", "method": "none", "conc": 1} | fields
    return Observation(row=row, source=row[0], fields=named, metrics={"output_throughput": tok_s})


def rows(*observations: Observation) -> list[Row]:
    found, refused = rows_of(observations, ENGINE)
    assert not refused
    return found


def outcome(
    tok_s: float, predicted_tok_s: float, *, half: float = 0.1, **fields: object
) -> Outcome:
    (row,) = rows(observed("a:1", tok_s, **fields))
    ends = {"low": (1 - half) * predicted_tok_s, "high": (1 + half) * predicted_tok_s}
    return Outcome(row, "", predicted_tok_s, **ends)


def of_build(row: Row, build: str) -> Scenario:
    return Scenario.parse(**(row.scenario.model_dump(exclude_unset=True) | {"build": build}))


# -- nothing leaks


def test_a_row_is_not_fitted_and_tested() -> None:
    found = rows(observed("a:1", 100), observed("a:2", 200, conc=2))
    with pytest.raises(UsageError, match=r"1 of 1 test rows are also fitted on, such as a:2"):
        refuse_overlap(found, found[1:])
    refuse_overlap(found[:1], found[1:])


def test_held_out_rows_have_no_say() -> None:
    """Whatever was measured on the rows that are left out, their predictions stay the same."""
    told = [
        observed("a:1", 215), observed("a:2", 420, conc=2),
        observed("b:1", 50, model="llama-3.1-8b"),
        observed("b:2", 90, model="llama-3.1-8b", conc=2),
    ]  # fmt: skip
    other = [replace(o, metrics={"output_throughput": 3 * o.metrics["output_throughput"]})
             if o.source == "b" else o for o in told]  # fmt: skip
    first, second = (
        leave_one_out(rows(*some), "model", engine=ENGINE, jobs=1) for some in (told, other)
    )
    left = {o.row.observation.row: o.predicted for o in first.outcomes}
    right = {o.row.observation.row: o.predicted for o in second.outcomes}
    assert left["b:1"] == right["b:1"]
    assert left["b:2"] == right["b:2"]
    assert left["a:1"] != right["a:1"]


@pytest.mark.parametrize(
    ("factor_name", "match"),
    [("model", "all rows have model qwen3-8b"), ("colour", "unknown --leave-out 'colour'")],
)
def test_what_cannot_be_left_out(factor_name: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        leave_one_out(rows(observed("a:1", 100)), factor_name, engine=ENGINE, jobs=1)


def test_jobs_do_not_matter() -> None:
    some = rows(observed("a:1", 215), observed("a:2", 420, conc=2))
    one, two = (predicted(some, None, engine=ENGINE, held="", jobs=j) for j in (1, 2))
    # What a process has priced before is added up in another order: the last digits may differ.
    for here, there in zip(one, two, strict=True):
        assert here.predicted == there.predicted
        assert (here.low, here.high) == pytest.approx((there.low, there.high), rel=1e-12)


# -- intervals


def interval(**fields: object) -> tuple[float, float]:
    base = SMALL | {"model": "qwen3-8b", "method": "dflash", "block": 8, "acceptance": "al:4"}
    result = predict(Scenario.parse(**(base | {"runs": 2} | fields)), with_baseline=False)
    low, high = result.intervals["output_throughput"]
    assert low < result.values["output_throughput"] < high
    return low, high


def width(**fields: object) -> float:
    low, high = interval(**fields)
    return math.log(high / low)


def test_what_is_less_known_is_wider() -> None:
    known = width()
    assert width(calibration="none") > known
    assert width(build="some other build") > known + 0.2
    assert width(gpu="h200") > known + 0.05
    assert width(gpu="mi300x") > width(gpu="h200")


def test_an_interval_can_be_left_out() -> None:
    scenario = Scenario.parse(**SMALL, model="qwen3-8b", method="none", conc=1)
    assert predict(scenario, with_interval=False).intervals == {}


def test_a_given_accept_length_is_not_uncertain() -> None:
    """What a law took from a card has the card's error; what the user gave has none."""
    base = {"model": "qwen3-8b", "method": "dflash", "block": 16, "dataset": "gsm8k",
            "thinking": False, "max_new_tokens": 2048, "num_prompts": 64, "tp": 1,
            "calibration": "none"}  # fmt: skip
    variances = [
        sensitivity(resolve(Scenario.parse(**base, acceptance=a))).variance("output_throughput")
        for a in ("al:6.4", None)
    ]
    assert variances[0] < variances[1]


def test_a_ratio_shares_what_is_uncertain() -> None:
    """The speed-up is less uncertain than two independent throughputs."""
    base = SMALL | {"model": "qwen3-8b", "method": "dflash", "block": 8, "acceptance": "al:4"}
    result = predict(Scenario.parse(**base, runs=2))
    assert result.baseline is not None
    low, high = result.intervals["speedup"]
    assert low < (result.speedup or 0) < high
    apart = math.hypot(
        *(math.log(r.intervals["output_throughput"][1] / r.intervals["output_throughput"][0])
          for r in (result, result.baseline))
    )  # fmt: skip
    assert math.log(high / low) < apart
    # Each of the two settings has the discrepancy of a setting.
    assert math.log(high / low) > 2 * 1.645 * math.sqrt(2 * misfit(result.setup))


def test_variance_by_hand() -> None:
    """One uncertain constant: the interval is its slope times its error, and the rest."""
    setup = resolve(Scenario.parse(**SMALL, model="qwen3-8b", method="none", conc=1, runs=1))
    own = sensitivity(setup)
    runs = [{"output_throughput": 100.0, "mean_tpot_ms": 1.0, "mean_ttft_ms": 1.0,
             "mean_e2e_latency_ms": 1.0, "median_tpot_ms": 1.0, "median_ttft_ms": 1.0,
             "median_itl_ms": 1.0}]  # fmt: skip
    low, high = intervals(setup, own, runs)["output_throughput"]
    g = own.vector("output_throughput")
    variance = float(g @ own.covariance @ g) + unmodelled(setup)
    assert math.log(high / low) == pytest.approx(2 * 1.645 * math.sqrt(variance))
    assert low * high == pytest.approx(100.0**2)

    def width(metric: str, mean_ttft_ms: float) -> float:
        found = intervals(setup, own, [runs[0] | {"mean_ttft_ms": mean_ttft_ms}])[metric]
        return math.log(found[1] / found[0]) / (2 * 1.645)

    # A median first token is less sure where the mean lies elsewhere.
    lone, gapped = (width("median_ttft_ms", mean) for mean in (1.0, 4.0))
    assert gapped**2 - lone**2 == pytest.approx(math.log(4.0) ** 2)
    assert width("mean_ttft_ms", 4.0) == pytest.approx(width("mean_ttft_ms", 1.0))


# -- the command


def table_of(path: Path, *lines: str) -> Path:
    head = "model,method,gpu,tp,dataset,isl,osl,concurrency,num_prompts,max_new_tokens,output_tok_s"
    path.write_text("\n".join([head, *lines, ""]), encoding="utf-8")
    return path


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    lines = [f"qwen3-8b,none,b200,1,,64,64,{c},8,64,{t}" for c, t in ((1, 215), (2, 420), (4, 800))]
    return table_of(tmp_path / "bench.csv", *lines)


def test_the_command(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "out.html"
    words = ["validate", "--observations", str(bench), "--fit-on", "concurrency==1", "--jobs", "1"]
    assert run([*words, "--format", "jsonl", "--report", str(page)]) == 0
    out, err = capsys.readouterr()
    assert "3 rows read, 3 used, 0 refused" in err
    found = [json.loads(line) for line in out.splitlines()]
    assert [row["concurrency"] for row in found] == ["2", "4"]
    assert all(row["ci90"][0] < row["predicted"] < row["ci90"][1] for row in found)
    html = page.read_text(encoding="utf-8")
    assert "<title>" in html
    things, _ = meanings(colours_of(html))
    assert {"none", "dflash-sim", "peers"} <= set(things)
    assert all(len(colours) == 1 for colours in things.values()), things


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fit-on", "conc<=2", "--test-on", "conc>=2"], "1 of 2 test rows are also fitted on"),
        (["--fit-on", "conc>=1"], "selects every row"),
        (["--fit-on", "conc>9"], "no row to fit"),
        (["--fit-on", "conc==1", "--leave-out", "model"], "--leave-out excludes"),
        (["--fit-on", "conc==1", "--calibration", "none"], "give one"),
        (["--test-on", "conc>9"], "selects no row"),
        (["--fit-on", "speed==1"], "speed"),
        (["--leave-out", "colour"], "colour"),
        (["--calibration", "missing.toml"], "missing.toml"),
        (["--assume", "gpu"], "KEY=VALUE"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_mistakes(
    bench: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["validate", "--observations", str(bench), "--jobs", "1", *words]) == 2
    assert said in capsys.readouterr().err


def test_unusable_rows_are_refused_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table_of(
        tmp_path / "half.csv",
        "qwen3-8b,none,b200,1,,64,64,1,8,64,215",
        "qwen3-8b,none,b200,1,,64,64,,8,64,215",
        "qwen3-8b,none,b200,1,,64,64,2,8,64,inf",
    )
    words = ["validate", "--observations", str(path), "--calibration", "none", "--jobs", "1"]
    assert run(words) == 2
    assert "2 of 3 rows cannot be used" in capsys.readouterr().err
    assert run([*words, "--allow-partial", "--format", "table"]) == 0
    out, err = capsys.readouterr()
    assert "3 rows read, 1 used, 2 refused" in err
    assert "held-out rows" in out


@pytest.mark.slow
def test_rows_of_a_fitted_source_are_refused() -> None:
    own = Rows.read(None, engine=ENGINE.name)
    from dflash_sim.studies.compare.validate_question import answer

    question = Question.of(fit_on=None, test_on="conc==32", leave_out=None, calibration=None)
    with pytest.raises(UsageError, match="sources that calibration shipped was fitted on"):
        answer(question, own, jobs=1)


def test_tables_say_what_rows_say() -> None:
    from dflash_sim.calibrate.fit.held_out import Validation

    found = Validation((outcome(100, 110), outcome(100, 130, conc=2)), (), (), "by hand")
    by_title = {t.title: t for t in tables(found)}
    assert by_title["held-out rows"].cell("all", "MAPE") == "20.0 %"
    assert [row["error"] for row in as_rows(found)] == pytest.approx([0.1, 0.3])
    assert assumptions(["max-new-tokens=64"]) == {"max_new_tokens": "64"}
    assert found.worst(1)[0].predicted == 130
    assert found.outcomes[0].observed == 100
