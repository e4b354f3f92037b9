"""The accuracy study: what it compares, and how it sums up."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dflash_sim.calibrate.fit.held_out import Outcome
from dflash_sim.calibrate.fit.rows import Row
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_dataset
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.studies.published import cards_tables as show
from dflash_sim.studies.published.cards import (
    CARD_SOURCES,
    Variant,
    baseline_rows,
    card_rows,
    evaluate,
    old_rows,
    rows_of,
    stretched,
)
from dflash_sim.studies.published.findings import Findings

ROOT = Path(__file__).parents[3]
FOUND = Findings.read(ROOT / "studies/gallery/01_published_cards.json")


def row_of(source: str, **fields: object) -> Row:
    rows = (row for row in card_rows() if row.observation.source == source)
    return next(r for r in rows if all(getattr(r.scenario, k) == v for k, v in fields.items()))


# -- which rows, and what is asked about them


@pytest.mark.slow
def test_every_open_row_is_there() -> None:
    count = Counter(row.observation.source for row in card_rows())
    assert count == dict(zip(CARD_SOURCES, (70, 35, 3, 4), strict=True))
    assert (len(old_rows()), len(baseline_rows())) == (135, 13)
    others = {row.observation.source for row in (*old_rows(), *baseline_rows())}
    assert not others & set(CARD_SOURCES)


def test_a_fitted_row_is_refused() -> None:
    row = card_rows()[0]
    seen = row.observation
    fitted = replace(seen, about={**seen.about, "fitted_what": ("cycle_residue",)})
    with pytest.raises(UsageError, match=r"cycle_residue. It cannot enter an accuracy table"):
        evaluate([replace(row, observation=fitted)], runs=1)


def test_a_source_with_a_fitted_row_is_refused() -> None:
    with pytest.raises(UsageError, match=r"SGL_PR20547.*v1_accept_per_request"):
        rows_of("SGL_PR20547")


@pytest.mark.slow
def test_no_constant_is_from_a_row_of_the_tables() -> None:
    """Engine constants name their sources; the tables' throughputs are not among them."""
    tested = re.compile(r"HF_Q3|PR ?23000|PAPER_T5|PR ?19952|LAMBDA|silicon_sample", re.IGNORECASE)
    sources = {name: q.source for name, q in load_engine("sglang-0.5.14").constants.items()}
    assert not [name for name, source in sources.items() if tested.search(source)]
    assert tested.search("SGLang PR 23000, c=32")
    assert "20547" in sources["v1_accept_per_request"]  # so that source is in no table
    rows = (*card_rows(), *old_rows(), *baseline_rows())
    assert not [row for row in rows if "20547" in row.observation.source]


def test_each_harness_is_followed() -> None:
    card = row_of("HF_Q35_397B", method="dflash", block=8).scenario
    assert (card.thinking, card.max_new_tokens, card.num_prompts) == (True, 4096, None)
    assert (card.tp, card.block, card.engine_mode) == (8, 8, "v2")
    sweep = row_of("SGL_PR23000", engine_mode="v1", conc=32).scenario
    assert (sweep.thinking, sweep.max_new_tokens, sweep.num_prompts) == (False, 2048, 1024)
    assert row_of("SGL_PR23000", conc=1).scenario.num_prompts == 128
    elsewhere = {row.observation.source: row.scenario for row in baseline_rows()}
    fixed = elsewhere["LAMBDA_Q35_397B"]
    assert (fixed.isl, fixed.osl, fixed.num_prompts) == (8192, 1024, 512)
    assert elsewhere["SGL_PR19952"].num_prompts == 1024
    old = next(row for row in old_rows() if row.scenario.method == "dflash")
    assert old.scenario.acceptance == f"al:{old.observation.metrics['accept_length']}"
    assert all(row.scenario.dataset != "mt-bench" for row in old_rows())


# -- changed priors


def test_answers_are_stretched() -> None:
    dataset = load_dataset("humaneval")
    longer = stretched(dataset, 2.0)
    assert replace(longer, osl=dataset.osl) == dataset
    for mode, lengths in dataset.osl.items():
        assert longer.osl[mode].mean.si == 2 * lengths.mean.si
        assert longer.osl[mode].sd.si == 2 * lengths.sd.si


def test_variants_change_the_answer() -> None:
    row = row_of("HF_Q35_397B_seed", method="none")

    def tok_s(variant: Variant, row: Row = row) -> float:
        return evaluate([row], runs=1, variant=variant)[0].predicted

    shipped = tok_s(Variant("as shipped"))
    # Longer answers leave less of the time to prefills.
    assert tok_s(Variant("longer", osl_scale=1.4)) > shipped > tok_s(Variant("x", osl_scale=0.7))
    # Popular experts are shared by more rows, so fewer are read.
    assert tok_s(Variant("skewed", (("expert_skew", 1.0),))) > shipped
    assert tok_s(Variant("v1", engine_mode="v1")) == shipped  # plain decoding has no mode
    drafted = row_of("HF_Q35_397B_seed", block=16)
    v1 = Variant("v1", engine_mode="v1")
    assert tok_s(v1, drafted) < tok_s(Variant("as shipped"), drafted)


def test_processes_do_not_change_the_answer() -> None:
    rows = [row for row in rows_of("SGL_PR23000") if row.scenario.conc == 1]
    seen: list[int] = []
    alone = evaluate(rows, runs=1, on_row=seen.append)
    assert seen == [1, 2]
    both = evaluate(rows, runs=1, jobs=2)
    assert [o.predicted for o in both] == [o.predicted for o in alone]


# -- sums


def outcome(published: float, predicted: float, *, accept: float = 1.0) -> Outcome:
    row = card_rows()[0]
    metrics = {**row.observation.metrics, "output_throughput": published}
    row = replace(row, observation=replace(row.observation, metrics=metrics))
    return Outcome(row, "", predicted, accept)


def test_a_configuration_is_called_as_on_the_cards() -> None:
    errors = show.errors_of([Outcome(row, "", 1.0) for row in card_rows()])
    named = dict(zip(errors["config"], errors["method"] + " " + errors["block"], strict=True))
    assert named == {
        "none": "none none",
        **{f"dflash-{b}": f"dflash {b}" for b in (4, 8, 16)},
        **{f"mtp-{b - 1}": f"mtp {b}" for b in (4, 8, 16)},
    }
    assert set(errors["mode"]) == {"none", "spec_v1", "spec_v2"}
    assert set(errors["model"]) == {"8B", "35B", "397B"}


def test_tables_of_errors_by_hand() -> None:
    """Four rows that are off by -10, 30, 0 and 20 %."""
    found = [outcome(100, 90), outcome(100, 130), outcome(200, 200), outcome(10, 12)]
    errors = show.errors_of(found)
    table = show.headline(errors)
    assert table.head == ("source", "rows", "MAPE", "bias", "median", "p95")
    assert table.rows[0] == ("all", "4", "15.0 %", "+10.0 %", "15.0 %", "28.5 %")
    assert [row[0] for row in table.rows] == ["all", card_rows()[0].observation.source]
    assert show.by_config(errors).rows[0][-2:] == ("-10.0 %", "+30.0 %")
    furthest = [row[-2] for row in show.worst(errors, 3).rows]
    assert furthest == ["+30.0 %", "+20.0 %", "-10.0 %"]


def test_longer_accept_lengths_are_the_control_of_the_ranking() -> None:
    found = [outcome(100, 1, accept=3.0), outcome(120, 2, accept=2.0)]
    lines = show.ranking(show.errors_of(found)).rows
    shares = {line[0]: line[-1] for line in lines if line[1] == "all"}
    assert shares == {"predicted throughput": "100.0 %", "longer accept length": "0.0 %"}


def test_every_known_failure_has_rows() -> None:
    """A rule that selects nothing would drop out of the table unseen."""
    rows = FOUND["known failures"].rows
    assert [row[0] for row in rows] == list(show.FAILURES)
    errors = show.errors_of([Outcome(row, "", 1.0) for row in card_rows()])
    counts = {name: len(errors.query(rule)) for name, rule in show.FAILURES.items()}
    assert counts == {row[0]: int(row[1]) for row in rows}
    assert min(counts.values()) > 0


def test_headline_is_the_mean_of_the_printed_rows() -> None:
    table = FOUND["every row"]
    published, predicted = table.head.index("published"), table.head.index("predicted")
    errors = [float(row[predicted]) / float(row[published]) - 1 for row in table.rows]
    assert len(errors) == 112
    mape = FOUND["headline"].cell("all", "MAPE")
    assert mape == f"{100 * np.mean(np.abs(errors)):.1f} %"
