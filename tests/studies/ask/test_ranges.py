"""Numbers as people type them: shares in percent, and what may be either of two."""

import doctest

import pytest

import dflash_sim as ds
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask import ranges
from dflash_sim.studies.ask.ranges import real_numbers, shares, whole_numbers


def test_examples() -> None:
    assert doctest.testmod(ranges).failed == 0


def test_a_share_may_be_in_percent() -> None:
    assert shares("--cache-hit", "0,90%,0.95") == [0.0, 0.9, 0.95]
    assert shares("--cache-hit", "12.5 %") == [0.125]
    with pytest.raises(UsageError, match="not a number"):
        real_numbers("--rate", "90%")


@pytest.mark.parametrize(("typed", "either"), [("32k", "32000 or 32768"), ("1.5K", "1500 or 1536")])
def test_a_thousand_may_be_either(typed: str, either: str) -> None:
    with pytest.raises(UsageError, match=f"may be either; give {either}"):
        whole_numbers("--isl", f"4096,{typed}")


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"temperature": "70%"}, "give 0.7"), ({"mem_fraction_static": "85%"}, "give 0.85"),
     ({"cache_hit": 90, "isl": 10, "osl": 5}, "from 0 to 1, such as 0.9")],
)  # fmt: skip
def test_a_value_that_is_no_share_says_what_is(fields: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Scenario.parse(**fields)


def test_a_confidence_is_no_percentage() -> None:
    with pytest.raises(ds.UsageError, match=r"such as 0\.9 for 90 %"):
        ds.plan(model="qwen3-8b", isl=10, osl=5, rate=1, tpot=50, confidence="90%")
