"""The accuracy study: what it compares, how it sums up, and that its page is current."""

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.profiles.engine_sheet import load_engine
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import ENV, require_sheet
from dflash_sim.profiles.load import load_dataset
from dflash_sim.profiles.sheets import PublishedPoint
from dflash_sim.studies.published.cards import (
    AS_SHIPPED,
    CARD_SOURCES,
    Outcome,
    Task,
    Variant,
    baseline_rows,
    card_rows,
    error_stats,
    evaluate,
    evaluate_all,
    old_rows,
    predict_row,
    ranked_right,
    scenario_of,
    stretch,
)
from dflash_sim.studies.published.page_slots import refresh
from dflash_sim.studies.published.serving_latency import serving_points
from dflash_sim.studies.show.plain_table import Table, parse_tables, text_of

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/explanation/accuracy.md").read_text(encoding="utf-8")
OUT = (ROOT / "studies/gallery/01_published_cards.out").read_text(encoding="utf-8")
PRINTED = {table.title: table for table in parse_tables(OUT)}


def row_of(source: str, **fields: object) -> PublishedPoint:
    rows = (p for p in card_rows() if p.source_id == source)
    return next(p for p in rows if all(getattr(p, k) == v for k, v in fields.items()))


# -- which rows, and what is asked about them


def test_every_open_row_is_there() -> None:
    count = Counter(p.source_id for p in card_rows())
    assert count == dict(zip(CARD_SOURCES, (70, 35, 3, 4), strict=True))
    assert not {p.source_id for p in (*old_rows(), *baseline_rows())} & set(CARD_SOURCES)


def test_a_fitted_row_is_refused() -> None:
    fitted = replace(card_rows()[0], fitted_what=("cycle_residue",))
    with pytest.raises(UsageError, match="cycle_residue"):
        evaluate([fitted], runs=1)
    with pytest.raises(UsageError, match="cannot enter an accuracy table"):
        scenario_of(fitted, runs=1)


def test_no_constant_is_from_a_row_of_the_tables() -> None:
    """Engine constants name their sources; the tables' throughputs are not among them."""
    tested = re.compile(r"HF_Q3|PR ?23000|PAPER_T5|PR ?19952|LAMBDA|silicon_sample", re.IGNORECASE)
    sources = {name: q.source for name, q in load_engine("sglang-0.5.13").constants.items()}
    assert not [name for name, source in sources.items() if tested.search(source)]
    assert tested.search("SGLang PR 23000, c=32")
    assert "20547" in sources["v1_accept_per_request"]  # so that source is in no table
    assert not [p for p in (*card_rows(), *old_rows(), *baseline_rows()) if "20547" in p.source_id]


def test_each_harness_is_followed() -> None:
    card = scenario_of(row_of("HF_Q35_397B", method="dflash", block=8), runs=2)
    assert (card.thinking, card.max_new_tokens, card.num_prompts) == (True, 4096, None)
    assert (card.tp, card.block, card.engine_mode, card.runs) == (8, 8, "v2", 2)
    sweep = scenario_of(row_of("SGL_PR23000", engine_mode="spec_v1", conc=32), runs=1)
    assert (sweep.thinking, sweep.max_new_tokens, sweep.num_prompts) == (False, 2048, 1024)
    assert sweep.engine_mode == "v1"
    assert scenario_of(row_of("SGL_PR23000", conc=1), runs=1).num_prompts == 128
    random = next(p for p in baseline_rows() if p.source_id == "LAMBDA_Q35_397B")
    fixed = scenario_of(random, runs=1)
    assert (fixed.isl, fixed.osl, fixed.num_prompts) == (8192, 1024, 512)
    old = next(p for p in old_rows() if p.method == "dflash")
    assert scenario_of(old, runs=1).acceptance == f"al:{old.accept_len}"


def test_serving_points() -> None:
    points = serving_points()
    assert len({p.id for p in points}) == len(points) == 15
    assert all(f"_{p.isl}x{p.osl}_c{p.conc}_" in p.id for p in points)


# -- changed priors


def test_answers_are_stretched() -> None:
    sheet = require_sheet("datasets", "humaneval").read_text(encoding="utf-8")
    assert stretch(sheet, 1.0).splitlines()[:10] == sheet.splitlines()[:10]
    values = [float(x) for x in re.findall(r"value = ([0-9.]+)", sheet)]
    longer = [float(x) for x in re.findall(r"value = ([0-9.]+)", stretch(sheet, 2.0))]
    ratio = [b / a for a, b in zip(values, longer, strict=True)]
    assert ratio == [1.0] * (len(ratio) - 4) + [2.0] * 4  # mean and sd, thinking and not
    assert load_dataset("humaneval").osl[True].mean.si == values[-4]


def test_variants_change_the_answer_and_leave_nothing_behind() -> None:
    row = row_of("HF_Q35_397B_seed", method="none")
    before = os.environ.get(ENV)
    shipped = predict_row(row, runs=1).predicted_tok_s
    longer = predict_row(row, runs=1, variant=Variant("longer", osl_scale=1.4)).predicted_tok_s
    skewed = Variant("skewed", (("expert_skew", 1.0),))
    assert longer != shipped
    assert (
        predict_row(row, runs=1, variant=skewed).predicted_tok_s > shipped
    )  # fewer experts to read
    assert predict_row(row, runs=1, variant=AS_SHIPPED).predicted_tok_s == shipped
    assert os.environ.get(ENV) == before
    slower = Variant("v1", engine_mode="v1")
    drafted = row_of("HF_Q35_397B_seed", block=16)
    fast, slow = evaluate_all([Task(drafted, 1), Task(drafted, 1, slower)])
    assert slow.predicted_tok_s < fast.predicted_tok_s


def test_processes_do_not_change_the_answer() -> None:
    rows = [p for p in card_rows() if p.source_id == "SGL_PR23000" and p.conc == 1]
    seen: list[int] = []
    alone = evaluate(rows, runs=1, on_row=seen.append)
    assert seen == [1, 2]
    assert evaluate(rows, runs=1, jobs=2) == alone


# -- sums


ANY_ROW = card_rows()[0]


def outcome(published: float, predicted: float, *, conc: int = 1) -> Outcome:
    row = replace(ANY_ROW, output_tok_s=published, conc=conc)
    return Outcome(row, predicted, accept_length=1.0)


def test_error_statistics() -> None:
    outcomes = [outcome(100, 90), outcome(100, 130), outcome(200, 200), outcome(10, 12)]
    stats = error_stats(outcomes)
    assert stats.n == 4
    assert stats.mape == pytest.approx((0.1 + 0.3 + 0 + 0.2) / 4)
    assert stats.bias == pytest.approx((-0.1 + 0.3 + 0 + 0.2) / 4)
    assert stats.median == pytest.approx(0.15)
    assert stats.p95 == pytest.approx(0.2 + 0.85 * 0.1)


def test_pairs_ranked_right() -> None:
    """Of 100, 102, 120 and 150 the pair closer than 3 % does not count, nor does another c."""
    right = [outcome(100, 1), outcome(102, 0), outcome(120, 2), outcome(150, 3)]
    assert ranked_right(right) == (5, 5)
    assert ranked_right(right, by=lambda o: -o.predicted_tok_s) == (0, 5)
    assert ranked_right([outcome(100, 1), outcome(150, 3, conc=32)]) == (0, 0)
    assert ranked_right([outcome(100, 1), outcome(150, 1)]) == (0, 1)  # a tie names no winner


def test_ranking_by_luck_is_half_right() -> None:
    """Control for the share of pairs: shuffled predictions get half of them."""
    rng = np.random.default_rng(0)
    shuffled = [
        [outcome(100 * 1.1**i, x) for i, x in enumerate(rng.permutation(20))] for _ in range(50)
    ]
    right, pairs = np.sum([ranked_right(group) for group in shuffled], axis=0)
    assert pairs == 50 * 190
    assert right / pairs == pytest.approx(0.5, abs=0.05)


# -- tables and the page

WORDS = st.from_regex(r"[A-Za-z+-]+( [A-Za-z0-9.%]+)?", fullmatch=True)
CELLS = st.one_of(WORDS, st.floats(-99, 99).map("{:+.1f} %".format))


@given(
    st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[CELLS] * n), min_size=2, max_size=5))
)
def test_tables_parse_back(lines: list[tuple[str, ...]]) -> None:
    table = Table("a title", lines[0], tuple(lines[1:]))
    assert list(parse_tables(text_of([table, table]))) == [table, table]


def test_headline_is_the_mean_of_the_printed_rows() -> None:
    table = PRINTED["every row"]
    published, predicted = table.head.index("published"), table.head.index("predicted")
    errors = [float(row[predicted]) / float(row[published]) - 1 for row in table.rows]
    assert len(errors) == 112
    mape = PRINTED["headline"].cell("all", "MAPE")
    assert mape == f"{100 * np.mean(np.abs(errors)):.1f} %"


def test_page_is_current() -> None:
    assert refresh(PAGE, OUT) == PAGE, "run python studies/gallery/01_published_cards.py --write"
    mape = PRINTED["headline"].cell("all", "MAPE")
    assert refresh(PAGE, OUT.replace(mape, "99.9 %")) != PAGE


def test_page_shows_every_table_but_the_rows() -> None:
    missing = [title for title, table in PRINTED.items() if table.markdown() not in PAGE]
    assert missing == ["conditions", "every row"]
    assert "--><!--" not in PAGE.replace(" ", ""), "a slot is empty"
