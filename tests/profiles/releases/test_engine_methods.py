"""Which release has which method: versions that can be compared, with a source each."""

import pytest

from dflash_sim.profiles.releases.engine_methods import arrivals
from dflash_sim.profiles.releases.engine_versions import match_engine
from dflash_sim.simulator.cost.methods import METHODS


def test_each_is_a_method_that_some_release_lacks() -> None:
    assert set(arrivals()) <= set(METHODS)
    for name, arrival in arrivals().items():
        last, first = match_engine(arrival.lacking), match_engine(arrival.since)
        assert last is not None
        assert first is not None
        assert last.version < first.version, name
        assert arrival.engine.exact, "the sheet is of that very release"
        assert len(arrival.source) > 20


@pytest.mark.parametrize(
    ("build", "before"),
    [
        ("sglang-0.5.14", True),
        ("0.5.17", True),
        ("2026-08", False),  # a build of August is taken for 0.5.18, which may have it
        ("2026-07", True),
        ("0.5.20", False),
        ("v0.5.23-cu130", False),
        ("my own branch", False),
    ],
)
def test_a_build_is_before_it_or_may_have_it(build: str, before: bool) -> None:
    assert arrivals()["dflash2"].is_before(build) == before
