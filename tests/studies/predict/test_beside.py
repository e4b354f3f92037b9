"""What stands beside a table of predictions: differences, what lifts what binds, and its page."""

from dataclasses import replace
from pathlib import Path

import pytest

from dflash_sim.simulator.intervals import Side, ratio_interval
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.answers import Answer, answers
from dflash_sim.studies.predict.answer_lines import speed
from dflash_sim.studies.predict.lift import Lift, in_lockstep, lifted
from dflash_sim.studies.predict.report import write_rows
from dflash_sim.studies.predict.table import GridTable
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.sweep.ending import fastest

SMALL = {"gpu": "h200", "model": "qwen3-8b", "isl": 200, "osl": 100, "num_prompts": 12, "runs": 1}


@pytest.fixture(scope="module")
def found() -> list[Answer]:
    asked = [
        Scenario.parse(**SMALL, block=block, conc=4, max_running_requests=cap)
        for block, cap in ((8, 8), (16, 2))
    ]
    return list(answers(asked))


def test_a_warning_names_its_row_and_what_lifts_it(found: list[Answer]) -> None:
    told = GridTable(found).warnings()
    (line,) = [w for w in told if "run at once" in w]
    assert line.startswith(
        "block 16, max running requests 2: only 2 of 4 run at once: with --max-running-requests 4, "
    )
    result = found[1].result
    assert result is not None
    lift = lifted(result)
    assert lift is not None
    freed = predict(result.scenario.model_copy(update={"max_running_requests": 4}))
    assert lift.result.values == freed.values
    assert lifted(freed) is None  # where all run there is nothing to lift


def test_a_difference_is_paired(found: list[Answer]) -> None:
    """Of an answer and itself it is smaller than of two that share nothing."""
    (line,) = GridTable(found).gains()
    assert line.startswith("block ")
    assert ", 90 % " in line
    one = found[0].result
    assert one is not None
    assert one.sensitivity is not None
    side = Side(one.setup, one.sensitivity, one.per_run)
    low, high = ratio_interval(side, side)
    assert low < 1 < high
    own_low, own_high = one.intervals["output_throughput"]
    assert high / low < (own_high / own_low) ** 2


def test_fixed_lengths_in_a_closed_loop_are_in_lockstep(found: list[Answer]) -> None:
    result = found[0].result
    assert result is not None
    said = in_lockstep(result)
    assert said is not None
    assert "--range-ratio 0.8" in said
    spread = result.scenario.model_copy(update={"range_ratio": 0.8})
    assert in_lockstep(predict(spread, with_baseline=False, with_interval=False)) is None


def test_a_page_has_charts_and_plain_words_first(found: list[Answer], tmp_path: Path) -> None:
    table = GridTable(found)
    write_rows(tmp_path / "p.html", table.rows, gains=table.gains(), remarks=table.warnings())
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert text.index("The most is") < text.index("Throughput against interactivity")
    for words in ("Cost", "A step of the fastest", "Every row", "What is ahead"):
        assert words in text, words


def test_a_sweep_ends_with_its_fastest(found: list[Answer]) -> None:
    rows = GridTable(found).rows
    table = fastest(rows)
    assert table is not None
    speeds = [float(row[1].replace(",", "")) for row in table.rows]
    assert speeds == sorted(speeds, reverse=True)
    assert fastest([row | {"output_tput_per_gpu": None} for row in rows]) is None


@pytest.mark.parametrize(
    ("asks", "helps"),
    [({"conc": 4, "max_running_requests": 2}, True),
     ({"isl": 20_000, "conc": 96, "num_prompts": 192}, False)],
)  # fmt: skip
def test_a_lift_says_what_its_own_run_shows(asks: dict[str, int], helps: bool) -> None:
    """Slots alone do not make requests run: with long prompts memory holds fewer of them."""
    result = predict(Scenario.parse(**SMALL | asks), with_baseline=False, with_interval=False)
    lift = lifted(result)
    assert lift is not None
    said, v = lift.said(result), lift.result.values
    assert f"{v['mean_batch']:.1f} run on average" in said
    assert ("retractions" in said) == (v["retractions"] > 0)
    gain = v["output_throughput"] / result.values["output_throughput"] - 1
    assert (gain > 0.02) == helps
    assert ("costs no throughput" in said) != helps


def test_slots_that_cost_no_throughput_may_cost_the_wait_for_one() -> None:
    """TTFT is named where requests wait for a slot, and no latency that stays as it is."""
    fields = SMALL | {"conc": 8, "max_running_requests": 4, "num_prompts": 24}
    result = predict(Scenario.parse(**fields), with_baseline=False, with_interval=False)
    found = lifted(result)
    assert found is not None
    before, after = result.values, found.result.values
    slow = {"output_throughput": before["output_throughput"]}
    same = Lift(found.flags, found.at_once, replace(found.result, values={**after, **slow}))
    said = same.said(result)
    assert "costs no throughput" in said
    assert before["mean_ttft_ms"] > 2 * after["mean_ttft_ms"]
    times = [number(v["mean_ttft_ms"]) for v in (after, before)]
    assert f"TTFT {times[0]} ms against {times[1]}" in said
    still = Lift(found.flags, found.at_once, replace(found.result, values={**before, "x": 0.0}))
    assert "TTFT" not in still.said(result)
    assert "TPOT" not in still.said(result)


@pytest.mark.parametrize(
    ("asks", "said"), [({"rate": 5.0}, True), ({"rate": 500.0}, False), ({"conc": 4}, False)]
)
def test_servers_that_both_keep_up_are_told_apart_by_tpot(
    asks: dict[str, float], said: bool
) -> None:
    """In an open loop the throughput of both is what arrives; that is no speed-up of either."""
    fields = SMALL | {"num_prompts": 100} | asks
    result = predict(Scenario.parse(**fields), with_interval=False)
    (line,) = [str(text) for label, text in speed(result) if label == "Speed-up"]
    assert ("both serve all that arrives" in line) == said


def test_rooflines_are_not_ranked_beside_tables_in_silence(tmp_path: Path) -> None:
    asked = [Scenario.parse(**{**SMALL, "gpu": gpu}, block=8, conc=2) for gpu in ("h200", "mi300x")]
    table = GridTable(list(answers(asked, with_interval=False)))
    (line,) = [w for w in table.warnings() if "less sure" in w]
    assert line.startswith("mi300x: roofline estimates")
    best = fastest(table.rows)
    assert best is not None
    assert line in best.title
    assert "less sure" not in (fastest(table.rows[:1]) or best).title
    for rows in (table.rows, table.rows[1:]):
        write_rows(tmp_path / "p.html", rows)
        page = (tmp_path / "p.html").read_text(encoding="utf-8")
        fast = max(rows, key=lambda row: float(str(row["output_throughput"])))["gpu"]
        assert ("It is a roofline estimate" in page) == (fast == "mi300x")
        assert line in page
    alone = GridTable(list(answers(asked[1:], with_interval=False))).warnings()
    assert not [w for w in alone if "less sure" in w]  # there is nothing beside it
