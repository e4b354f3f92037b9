"""Rows that name no release are run as the one that launches prefills as they say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dflash_sim.calibrate.fit.fit import fit
from dflash_sim.calibrate.fit.held_out import predicted
from dflash_sim.calibrate.fit.rows import Row, rows_of
from dflash_sim.calibrate.fit.unstated import launching, likeliest_release, marked, run_as
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.profiles.releases.calibration import load_calibration
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine
from dflash_sim.profiles.releases.server_levels import UNSTATED
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.simulator.slopes import METRICS
from dflash_sim.studies.compare.fit_page import remarks
from dflash_sim.studies.compare.validate_question import Rows

ENGINE = load_engine(HOME)
SHIPPED = load_calibration("shipped", ENGINE)
EAGER = "sglang-0.5.9"
MEASURED = ("output_throughput", "mean_tpot_ms", "median_ttft_ms")


def measured(release: str, isl: int, conc: int) -> Observation:
    """A row of a server with that release, which it does not name."""
    fields = {"model": "qwen3-8b", "method": "none", "gpu": "b200", "tp": 1, "isl": isl, "osl": 64,
              "conc": conc, "num_prompts": 4 * conc}  # fmt: skip
    where = Observation(row=f"t:{isl}x{conc}", source="T", fields=fields, metrics={})
    seen = replace(where, fields=fields | {"engine": release}, metrics={"output_throughput": 1.0})
    ((row,), _) = rows_of([seen], ENGINE)
    assert SHIPPED is not None
    answer = np.exp(row.response(ENGINE, {}).answer(SHIPPED.values, runs=1))
    units = {"output_throughput": 1.0}
    metrics = {m: float(answer[METRICS.index(m)]) * units.get(m, 1e3) for m in MEASURED}
    return replace(where, metrics=metrics)


def rows(release: str) -> list[Row]:
    seen = [measured(release, isl, conc) for isl in (256, 4096) for conc in (1, 8)]
    named, number = marked(seen)
    assert number == len(seen)
    return rows_of(named, ENGINE)[0]


def test_a_release_for_each_way_to_launch_prefills() -> None:
    ways = launching()
    assert next(iter(ways.values())) == HOME
    assert ways["disabled"] == EAGER
    assert len(set(ways.values())) == len(ways)
    assert all(load_engine(name).prefill.backend == way for way, name in ways.items())


def test_prefills_without_graphs_are_known_by_their_rows() -> None:
    old = rows(EAGER)
    assert likeliest_release(old, ENGINE, SHIPPED, jobs=1) == EAGER
    assert [row.scenario.engine for row in run_as(old, EAGER, ENGINE)] == [EAGER] * len(old)
    assert likeliest_release(old, ENGINE, None, jobs=1) is None  # the sheet's priors are home's

    found = fit(old, engine=ENGINE, name="mine", known=SHIPPED)
    assert (found.calibration.about["build"], found.calibration.about["release"]) == (
        UNSTATED,
        EAGER,
    )
    assert max(np.abs(found.errors)) < 0.05
    plain, drafts = (
        resolve(
            Scenario.parse(model="qwen3-8b", tp=1, method=method), calibration=found.calibration
        )
        for method in ("none", "dflash")
    )
    assert plain.engine.name == EAGER  # its predictions are of that server
    assert "build=unstated" in plain.server.keys
    assert drafts.engine.name == HOME  # which has no DFlash, and may be of another release


def test_a_row_that_the_release_cannot_run_stays_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """DFlash is younger than the release: none is dropped, and the page says so."""
    plain = rows(EAGER)
    fields = {**plain[0].observation.fields, "method": "dflash", "acceptance": "al:3"}
    drafted = replace(plain[0].observation, row="t:drafted", fields=fields, build=UNSTATED)
    mixed = [*plain, *rows_of([drafted], ENGINE)[0]]
    assert [row.scenario.engine for row in run_as(mixed, EAGER, ENGINE)] == [
        *[EAGER] * len(plain),
        HOME,
    ]
    monkeypatch.setattr("dflash_sim.calibrate.fit.fit.likeliest_release", lambda *_, **__: EAGER)
    found = fit(mixed, engine=ENGINE, name="mine", known=SHIPPED, iterations=0)
    assert [row.observation.row for row in found.rows] == [row.observation.row for row in mixed]
    assert found.calibration.about["release"] == EAGER
    said = f"{EAGER} cannot run 1 of them, run as {HOME}, such as t:drafted"
    assert any(line.startswith(said) for line in remarks(found))
    outcomes = predicted(mixed, found.calibration, engine=ENGINE, jobs=1, runs=1, interval=False)
    assert len(outcomes) == len(mixed)


def test_rows_of_home_stay_at_home() -> None:
    """The control, and rows that say what they are."""
    new = rows(HOME)
    assert likeliest_release(new, ENGINE, SHIPPED, jobs=1) is None
    stated, number = marked([replace(row.observation, build="0.5.9") for row in new])
    assert number == 0
    assert likeliest_release(rows_of(stated, ENGINE)[0], ENGINE, SHIPPED, jobs=1) is None


@pytest.mark.parametrize(("build", "release"), [("0.5.6", "sglang-0.5.6"), ("0.5.14", HOME)])
def test_a_calibration_is_of_the_release_of_its_rows(build: str, release: str) -> None:
    assert SHIPPED is not None
    known = replace(SHIPPED, about={**SHIPPED.about, "build": build})
    asked = Scenario.parse(model="qwen3-8b", tp=1, method="none")
    assert resolve(asked, calibration=known).engine.name == release
    told = Scenario.parse(model="qwen3-8b", tp=1, method="none", build="0.5.10")
    assert resolve(told, calibration=known).engine.name == "sglang-0.5.10"  # who asks decides


def test_a_validation_reads_them_as_a_fit_does(tmp_path: Path) -> None:
    file = tmp_path / "bench.csv"
    cells = "qwen3-8b,none,b200,1,64,64"
    lines = [f"{cells},{conc},{tok_s}" for conc, tok_s in ((1, 200), (2, 390))]
    file.write_text("\n".join(("model,method,gpu,tp,isl,osl,conc,output_tok_s", *lines)))
    builds = {
        engine: [row.scenario.build for row in Rows.read([file], engine=engine).rows]
        for engine in (None, HOME)
    }
    assert builds == {None: [UNSTATED] * 2, HOME: [None] * 2}
