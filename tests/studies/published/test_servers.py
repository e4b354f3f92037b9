"""Servers away from home: their rows, those that are fitted, and lines for what is left out."""

import numpy as np
import pytest

from dflash_sim.calibrate.observations.servers import TEST, role_of
from dflash_sim.profiles.releases.calibration import load_calibration
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine
from dflash_sim.profiles.releases.server_levels import FACTORS
from dflash_sim.simulator.slopes import METRICS
from dflash_sim.studies.published import servers
from dflash_sim.studies.published.serving_rows import rows_that_test

ENGINE = load_engine(HOME)
FEW = 3


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
