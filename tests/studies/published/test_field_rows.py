"""What people publish, asked row by row: each is answered, or refused for a reason in one line."""

import csv
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from dflash_sim.calibrate.observations.names import Names
from dflash_sim.studies.published import field_rows as study
from dflash_sim.studies.published.field_rows import FieldRow, engine_of, field_cells, refusal
from dflash_sim.studies.published.findings import Findings

WRITTEN = Path(__file__).parents[3] / "studies/gallery/14_field_rows.json"
PLAIN = {
    **{"source_id": "X", "engine": "sglang 0.5.16", "build": "0.5.16", "model": "Qwen3-8B"},
    **{"quantization": "", "kv_cache_dtype": "", "gpu": "H200", "num_gpus": "1", "tp": "1"},
    **{"method": "baseline", "drafter": "", "block_or_steps": "", "dataset": "GSM8K"},
    **{"isl": "", "osl": "", "max_new_tokens": "256", "conc": "8", "temperature": "0"},
    **{"assumed": "", "output_tok_s": "1"},
}


def test_the_file_has_conditions_of_every_row() -> None:
    cells = field_cells()
    assert len(cells) == 604
    text = files("dflash_sim.profiles").joinpath("published/sources.csv").read_text("utf-8")
    known = {row["source_id"] for row in csv.DictReader(text.splitlines())}
    assert {row["source_id"] for row in cells} <= known
    for row in cells:
        assert row["model"]
        assert float(row["output_tok_s"] or 1) > 0
        assert bool(row["dataset"]) != bool(row["isl"] and row["osl"]), row
    assert Counter(map(engine_of, cells)) == {
        **{"SGLang": 241, "other engines": 315, "Apple": 28, "GPU not stated": 20}
    }


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({}, None),
        ({"method": "mtp", "model": "Qwen3.6-27B", "block_or_steps": "3"}, None),
        ({"model": "Nobody-7B"}, "unknown model 'Nobody-7B'"),
        ({"gpu": "Voodoo 2"}, "unknown GPU 'Voodoo 2'"),
        ({"method": "oracle-of-delphi"}, "unknown method 'oracle-of-delphi'"),
        ({"model": "llama-3.3-70b", "gpu": "RTX 4090"}, "rtx_4090"),  # fits on no eight of them
        ({"tp": "7", "num_gpus": "7"}, "tp 7"),
        ({"quantization": "none-of-this-world"}, "quantization"),
    ],
)
def test_a_row_is_answered_or_refused_by_name(changed: dict[str, str], named: str | None) -> None:
    why = refusal(PLAIN | changed, Names(), {})
    if named is None:
        assert why is None
    else:
        assert why is not None
        assert named in why
        assert "\n" not in why


def test_a_question_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that differ in what was measured are one question; another load is another."""
    asked = []

    def noted(cells: study.Cells, names: Names, read: object) -> None:
        asked.append(cells["conc"])

    rows = (PLAIN, PLAIN | {"output_tok_s": "2", "source_id": "Y"}, PLAIN | {"conc": "9"})
    monkeypatch.setattr(study, "field_cells", lambda: rows)
    monkeypatch.setattr(study, "refusal", noted)
    assert len(study.field_rows()) == 3
    assert asked == ["8", "9"]


def test_shares_are_of_rows_and_reasons_are_counted() -> None:
    reason = "unknown model 'A'. Have: a, b"
    rows = (
        FieldRow(PLAIN, None),
        FieldRow(PLAIN | {"model": "A"}, reason),
        FieldRow(PLAIN | {"model": "B", "engine": "vllm 0.25"}, reason.replace("'A'", "'B'")),
        FieldRow(PLAIN | {"gpu": "Apple M4"}, "unknown GPU 'Apple M4'"),
    )
    found = study.findings(rows)
    kinds, _, reasons = found.tables
    assert found.words["field rows of SGLang answered"] == "50.0 %"
    assert found.words["field rows asked of SGLang answered"] == "33.3 %"
    assert ("engine", "Apple", "1", "0.0 %") in kinds.rows
    assert reasons.rows == (("2", "unknown model 'A'."),)


def test_the_study_counts_every_row() -> None:
    """What 14_field_rows wrote adds up to the file, whatever could be answered then."""
    found = Findings.read(WRITTEN)
    kinds = found.tables[0]
    sizes = {by: sum(int(row[2]) for row in kinds.rows if row[0] == by) for by, *_ in kinds.rows}
    assert sizes == {"engine": 604, "quantization": 556, "GPU": 556, "method": 556}
    assert found.words["field rows of SGLang"] == "241"
