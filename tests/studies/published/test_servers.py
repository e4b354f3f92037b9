"""Servers away from home: their rows, those that are fitted, and lines for what is left out."""

from dataclasses import replace

import numpy as np
import pytest

from dflash_sim.calibrate.fit.prior import Prior
from dflash_sim.calibrate.fit.rows import THROUGHPUT, Row, rows_of
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.servers import TEST, role_of
from dflash_sim.profiles.releases.calibration import Parameter, load_calibration
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine
from dflash_sim.profiles.releases.server_levels import FACTORS
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.slopes import METRICS
from dflash_sim.studies.published import servers
from dflash_sim.studies.published.level_spread import spread_of_levels
from dflash_sim.studies.published.servers_judged import Asked, Judge, judged
from dflash_sim.studies.published.serving_rows import rows_that_test

ENGINE = load_engine(HOME)
FEW = 3
SPEED = {"output_throughput": 200.0}


@pytest.mark.slow
def test_rows_elsewhere_are_open_and_not_of_home() -> None:
    rows = servers.elsewhere(ENGINE)
    assert len(servers.by_server(rows)) > 12
    assert all(row.elsewhere for row in rows)
    assert all(role_of(row.observation) != TEST for row in rows)
    tests = {o.row for o in rows_that_test()}
    assert not tests & {row.observation.row for row in rows}
    given = [row for row in rows if row.observation.fields.get("acceptance")]
    assert given
    assert all("accept_length" not in row.observation.metrics for row in given)


@pytest.mark.slow
def test_the_three_rows_are_first_middle_and_last() -> None:
    rows = servers.elsewhere(ENGINE)
    for own in servers.by_server(rows).values():
        told = servers.first_rows(own)
        assert len(told) == min(FEW, len(own))
        concs = [row.scenario.conc or 0 for row in own]
        assert told[0].scenario.conc == min(concs)
        assert told[-1].scenario.conc == max(concs)
    some = servers.picked(rows, 4)
    counts = [len(own) for own in servers.by_server(some).values()]
    assert max(counts) == 4
    assert len({row.observation.row for row in some}) == len(some)


def test_home_is_what_is_left_without_servers() -> None:
    shipped = load_calibration("shipped", ENGINE)
    assert shipped is not None
    home = servers.of_home(shipped)
    assert all(p.kind not in FACTORS for p in home.parameters)
    assert len(home.mean) == len(home.parameters) == len(home.covariance)
    assert "server_sources" not in home.about


def test_lines_go_through_their_point() -> None:
    rng = np.random.default_rng(0)
    f, s = rng.standard_normal((5, len(METRICS))), rng.standard_normal((5, len(METRICS), 3))
    lines = servers.Straight(np.ones(3), f, s)
    assert np.array_equal(lines.answers(np.ones(3)), f)
    part = lines.of([1, 4], [0, 2])
    x = np.array([2.0, 1.0])
    assert np.allclose(part.answers(x), f[[1, 4]] + s[[1, 4]][:, :, 0])
    assert part.slopes(x).shape == (2, len(METRICS), 2)


def test_a_release_is_left_out_by_its_level() -> None:
    fields = {"model": "qwen3-8b", "method": "none", "gpu": "b200", "tp": 1, "isl": 64, "osl": 64}
    seen = [
        Observation(row=f"t:{i}", source="T", fields=fields, metrics=SPEED, build=build)
        for i, build in enumerate(("0.5.6", "first release", None, "0.5.7"))
    ]
    rows, _ = rows_of(seen, ENGINE)
    kinds = {kind: servers.by_kind(rows, kind) for kind in servers.KINDS}
    assert {level: len(own) for level, own in kinds["release"].items()} == {
        "release=sglang-0.5.6": 2,
        "build=first release": 1,
    }
    assert {level: len(own) for level, own in kinds["GPU"].items()} == {"b200": 4}


def test_what_was_asked_twice_is_answered_once() -> None:
    """The same rows with the same knowledge, in two parts; and other knowledge in a third."""
    fields = {"model": "qwen3-8b", "method": "none", "gpu": "h200", "tp": 1, "isl": 64, "osl": 64}
    rows, _ = rows_of([Observation(row="t:1", source="T", fields=fields, metrics=SPEED)], ENGINE)
    shipped = load_calibration("shipped", ENGINE)
    assert shipped is not None
    home = servers.of_home(shipped)
    with Judge(ENGINE, jobs=1) as judge:
        one, again, other = judge.each(
            [[Asked(shipped, rows)], [Asked(shipped, rows), None], [Asked(home, rows)]]
        )
    assert one.equals(again)
    assert one["error"][0] != other["error"][0]
    assert one.equals(judged(shipped, rows, engine=ENGINE, jobs=1))


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_spread_of_levels_is_found(scale: float) -> None:
    """Forty servers whose levels lie half, or twice, as far apart as the sheet says."""
    rng = np.random.default_rng(5)
    sds = {"time": 0.1, "kernel": 1.0}
    parameters = [
        Parameter(kind, f"server={i}", FACTORS[kind].scale, 0.0, sd)
        for kind, sd in sds.items()
        for i in range(40)
    ]
    prior = replace(Prior.independent(parameters), discrepancy=(0.01, 0.01, 0.5))
    truth = scale * prior.sd * rng.standard_normal(80)
    slopes = np.zeros((120, len(METRICS), 80))
    shares = np.array([0.4, 0.2, 0.05])
    for row in range(120):
        slopes[row, THROUGHPUT, row // 3] = -1.0
        slopes[row, THROUGHPUT, 40 + row // 3] = -shares[row % 3]
    f = np.zeros((120, len(METRICS)))
    logs = slopes @ truth + 0.01 * rng.standard_normal((120, 1))
    scenarios = [
        Scenario.parse(model="qwen3-8b", method="none", isl=64, osl=64, conc=1 + row % 3)
        for row in range(120)
    ]
    rows = []
    for row, scenario in enumerate(scenarios):
        measured, errors = np.full(len(METRICS), np.nan), np.full(len(METRICS), 0.01)
        measured[THROUGHPUT] = logs[row, THROUGHPUT]
        where = Observation(row=f"t:{row}", source="T", fields={}, metrics={})
        rows.append(Row(where, scenario, measured, errors))
    found = spread_of_levels(rows, prior, np.zeros(80), f, slopes)
    for kind in sds:
        assert found[kind].low < scale < found[kind].high or found[kind].value == pytest.approx(
            scale, rel=0.3
        )
    assert found["host"].value == 1.0  # nothing speaks of it
