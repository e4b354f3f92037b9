"""Many scenarios: in order, whoever answers them."""

import pytest

from dflash_sim.profiles.errors import MissingProfileError, UsageError
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.answers import WORTH_A_PROCESS, answers, worthwhile

SMALL = {"gpu": "h200", "model": "qwen3-8b", "isl": 64, "osl": 32, "num_prompts": 6, "runs": 2}


def asked() -> list[Scenario]:
    fits = [Scenario.parse(**SMALL, block=b, conc=c) for c in (1, 2) for b in (8, 16)]
    return [fits[0], Scenario.parse(**{**SMALL, "model": "qwen3-32b"}), *fits[1:]]


def test_several_processes_answer_as_one_does() -> None:
    """Same values, intervals and order; what has no answer stays in its place."""
    ran: list[int] = []
    apart = list(answers(asked(), jobs=2, on_run=ran.append))
    together = list(answers(asked()))
    assert [a.scenario for a in apart] == [a.scenario for a in together] == asked()
    assert isinstance(apart[1].error, MissingProfileError)
    assert str(apart[1].error) == str(together[1].error)
    for one, other in zip(apart, together, strict=True):
        if one.result is None:
            continue
        assert other.result is not None
        assert one.result.values == other.result.values
        assert one.result.intervals == other.result.intervals
        assert one.result.speedup == other.result.speedup
    assert len(ran) == 4 * SMALL["runs"]


def test_a_process_has_to_be_worth_its_beginning() -> None:
    assert worthwhile(1, 64) == worthwhile(2 * WORTH_A_PROCESS - 1, 64) == 1
    assert worthwhile(2 * WORTH_A_PROCESS, 64) == 2
    assert worthwhile(1000, 3) == 3


def test_what_is_malformed_is_refused_before_any_process_begins() -> None:
    wrong = Scenario.parse(**SMALL).model_copy(update={"gpu": "b2000"})
    with pytest.raises(UsageError, match="b2000"):
        next(iter(answers([*asked(), wrong], jobs=2)))
