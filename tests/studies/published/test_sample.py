"""The cleaned sample: its sets are those of other tools, and tables say what frames hold."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from dflash_sim.profiles.one_look import one_look
from dflash_sim.profiles.releases.calibration import load_calibration
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine
from dflash_sim.studies.published import sample as study
from dflash_sim.studies.published.findings import Findings
from dflash_sim.studies.published.servers import of_home

WRITTEN = Path(__file__).parents[3] / "studies/gallery/15_sample.json"
TOOLS = (study.US, "aiconfigurator 0.12.0", "AISimulate 0.13.0.dev1027")
FASTEST = "q397b-fp8-b200-t8-1024x1024-c4-260324"


def test_sets_are_those_that_others_were_judged_on() -> None:
    rows = study.sample_rows()
    sizes = Counter(name for row in rows for name in study.sets_of(row))
    assert sizes == {study.MATCHED: 70, study.CORE: 249, study.ALL: 488, study.SPECULATIVE: 57}
    assert len(rows) == 549


def test_precisions_are_those_of_the_checkpoints() -> None:
    with one_look():
        found = Counter(study.precision_of(row) for row in study.sample_rows())
    assert found == {"FP8": 293, "NVFP4": 136, "bf16": 120}


def test_one_row_beside_other_tools() -> None:
    """Three tools and three metrics of a row; ours is no fit, and within reach of it."""
    engine = load_engine(HOME)
    shipped = load_calibration("shipped", engine)
    assert shipped is not None
    found = study.answers(of_home(shipped), engine, jobs=1, only=lambda o: o.about["id"] == FASTEST)
    assert found.refused == ()
    assert set(found.errors["tool"]) == set(TOOLS)
    assert len(found.errors) == len(TOOLS) * len(study.METRICS)
    ours = found.errors[found.errors["tool"] == study.US].set_index("metric")["error"]
    assert -0.6 < ours["tpot_ms"] < 0.6


def line(error: float, **changed: object) -> dict[str, object]:
    about: dict[str, object] = {
        **{"id": "a", "model": "m", "precision": "FP8", "GPU": "b200", "build": "1"},
        **{"lengths": "1/2", "sets": (study.ALL, study.CORE), "tool": study.US},
        "metric": "tpot_ms",
    }
    return about | {"error": error} | changed


def test_one_factor_is_taken_from_the_other_models() -> None:
    """Twice too slow everywhere is no error after a factor; on one model alone it stays."""
    models = ("m", "n", "o")
    slow = pd.DataFrame([line(1.0, model=model, id=model) for model in models])
    row = study.left_out(slow).rows[0]
    assert row == ("TPOT", "0.0 %")
    alone = pd.DataFrame([line(1.0 if m == "m" else 0.0, model=m, id=m) for m in models])
    held = study.left_out(alone).rows[0]
    other = 1 - 0.5**0.5  # of n and o, whose factor is that of m and the other one
    assert held == ("TPOT", f"{100 * (1 + 2 * other) / 3:.1f} %")


def test_implied_accept_lengths_are_what_the_times_ask_for() -> None:
    rows = [line(e, id=str(e), sets=(study.SPECULATIVE,)) for e in (0.1, 0.2, 0.3)]
    found = study.implied(pd.DataFrame(rows)).rows
    assert found == (("m", "b200", "1/2", "3", "2.40", "2.20 to 2.60", "5.6 %"),)


def test_speculating_rows_are_asked_with_one_length() -> None:
    row = next(row for row in study.sample_rows() if study.SPECULATIVE in study.sets_of(row))
    assert study._with_length(row).fields["acceptance"] == f"al:{study.LENGTH}"
    said = replace(row, fields={**row.fields, "acceptance": "al:3"})
    assert study._with_length(said) is said


@pytest.mark.skipif(not WRITTEN.is_file(), reason="the study was not run yet")
def test_the_study_judged_every_set() -> None:
    """What 15_sample wrote has all rows of the sets, or says why rows are missing."""
    found = Findings.read(WRITTEN)
    sets = {(row[0], row[1]): int(row[2]) for row in found.tables[0].rows}
    missing = sum(int(row[0]) for row in found.tables[-1].rows)
    for name, size in ((study.MATCHED, 70), (study.CORE, 249), (study.ALL, 488)):
        for word in study.METRICS.values():
            assert size - missing <= sets[name, word] <= size
