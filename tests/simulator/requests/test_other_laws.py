"""Laws of another accept length or width: the mean is the one asked for, the kind stays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.other_laws import accept_length, truncated, with_accept_length
from dflash_sim.simulator.requests.parse import parse_acceptance

LAWS = [
    "al:6.6",
    "geometric:0.8",
    "weibull:q=0.9,beta=1.2,theta=0.3",
    "table:0.9,0.7,0.4,0.2",
    "histogram:0=10,1=5,2=9,4=3",
    "vllm-synthetic:3.4",
    "fixed:4",
    "sglang-simulated:3.2",
]


def law(text: str) -> Expectation:
    block = 5 if text.startswith(("table", "histogram")) else 16
    found = parse_acceptance(text, block=block, priors=load_acceptance_priors())
    return Expectation(found, text, "assumed", 0.0)


@settings(max_examples=60)
@given(st.sampled_from(LAWS), st.floats(0.02, 0.98))
def test_a_law_of_another_length(text: str, share: float) -> None:
    own = law(text)
    block = own.acceptance.block
    length = 1 + share * (block - 1)
    other = with_accept_length(own, length)
    assert accept_length(other) == pytest.approx(length, rel=1e-6)
    assert other.acceptance.block == block
    assert other.acceptance.shared_batch_draw == own.acceptance.shared_batch_draw


@pytest.mark.parametrize("text", LAWS)
def test_a_law_of_its_own_length_is_itself(text: str) -> None:
    own = law(text)
    same = with_accept_length(own, accept_length(own))
    if not text.startswith("sglang"):
        np.testing.assert_allclose(
            same.acceptance.survival().s, own.acceptance.survival().s, atol=1e-6
        )
    with pytest.raises(UsageError, match="outside"):
        with_accept_length(own, own.acceptance.block + 0.1)


@pytest.mark.parametrize("text", LAWS)
def test_a_smaller_width_truncates(text: str) -> None:
    own, few = law(text), truncated(law(text), 3)
    assert few.acceptance.block == 3
    np.testing.assert_allclose(
        few.acceptance.survival().s, own.acceptance.survival().s[:2], rtol=1e-12
    )
